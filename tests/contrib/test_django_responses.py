"""Answers of Django views that stream a generation, through Django's own WSGI and ASGI handlers.

Takes 2 s.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

pytest.importorskip("django")

import django
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import AsyncClient, Client, RequestFactory, override_settings

from wsclient import ConnectionFailedError, ServerBusyError
from wsclient.contrib.django import error_facts, stream_response
from wsclient.contrib.server_sent_events import HEADERS
from wsclient.testing import FakeClient, Gateway

from ..support.waiting import wait_until
from .django_site import VIEWS
from .test_server_sent_events import told

PATIENCE = 10
GZIP = "django.middleware.gzip.GZipMiddleware"
views = pytest.mark.parametrize("view", VIEWS)
needs_disconnects = pytest.mark.skipif(
    django.VERSION < (5, 0), reason="Django 4.2 does not hear from ASGI servers that somebody left"
)


class Steps:
    """An answer of which each token is said when the test says so."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(0)
        self.is_over = False

    def __call__(self, _: Any) -> Iterator[str]:
        while not self.is_over:
            assert self._turns.acquire(timeout=PATIENCE)
            yield "step "

    def go(self) -> None:
        self._turns.release()


@contextmanager
def fake(answers: Any = "One two", **settings: Any) -> Iterator[FakeClient]:
    """Have the site use a client without a network."""
    client = FakeClient(answers)
    with override_settings(WSCLIENT={"default": {"CLIENT": client}}, **settings):
        yield client


@contextmanager
def served(model: Any, **settings: Any) -> Iterator[Gateway]:
    """Have the site use a real gateway: what is asked of a client without one is written by who asks."""
    with (
        Gateway(model) as gateway,
        override_settings(WSCLIENT={"default": {"CONFIG": gateway.config_path}}, **settings),
    ):
        yield gateway


def endless(_: Any) -> Iterator[str]:
    """Say the same for ever."""
    return itertools.repeat("on and ")


# --- WSGI -------------------------------------------------------------------------------------------------------------


def wsgi(view: str) -> tuple[Any, dict[str, str]]:
    """Ask as a WSGI server does; return what it iterates, and the headers."""
    headers: dict[str, str] = {}
    environ = RequestFactory(HTTP_ACCEPT_ENCODING="gzip").get(view, {"prompt": "Hi"}).environ
    response = WSGIHandler()(environ, lambda status, given: headers.update(given))
    return response, headers


@views
def test_under_wsgi_each_token_goes_out_when_it_comes(view: str) -> None:
    steps = Steps()
    with served(steps, MIDDLEWARE=[GZIP]):
        response, headers = wsgi(view)
        # A slow machine has comments in between.
        events = filter(None, map(told, response))
        assert next(events)[0][0] == "start"
        for _ in range(3):
            steps.go()
            assert next(events) == [("token", {"text": "step "})]
        response.close()
        steps.is_over = True
        steps.go()
    assert headers.items() >= HEADERS.items()


@views
def test_under_wsgi_an_answer_is_whole(view: str) -> None:
    with fake():
        events = told(b"".join(wsgi(view)[0]))
    assert (events[0][0], events[-1][0]) == ("start", "end")
    assert "".join(data["text"] for name, data in events if name == "token") == "One two"


@views
def test_under_wsgi_a_response_that_is_closed_stops_its_generation(view: str) -> None:
    with fake(endless) as client:
        response, _ = wsgi(view)
        next(iter(response))
        response.close()
        assert [request.outcome for request in client.requests] == ["stopped"]


def test_a_response_that_nobody_read_stops_its_generation_when_it_is_closed() -> None:
    client = FakeClient()
    generation = client.stream("Hi")
    stream_response(generation).close()
    assert client.requests[0].outcome == "stopped"
    # Not by being dropped.
    assert generation.result().is_cancelled


# --- ASGI -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def asgi(view: str) -> AsyncIterator[ApplicationCommunicator]:
    """Ask as an ASGI server does; the block ends when the application has."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": view,
        "query_string": b"prompt=Hi",
        "headers": [(b"host", b"testserver"), (b"accept-encoding", b"gzip")],
    }
    server = ApplicationCommunicator(ASGIHandler(), scope)
    await server.send_input({"type": "http.request"})
    yield server
    # Until then it has its request's body open.
    await server.wait(PATIENCE)


async def receive(server: ApplicationCommunicator) -> list[tuple[str, Any]]:
    """Return the events that are sent next; a slow machine has comments in between."""
    events: list[tuple[str, Any]] = []
    while not events:
        message = await server.receive_output(PATIENCE)
        assert message["type"] == "http.response.body", message
        events = told(message.get("body", b""))
    return events


@views
def test_under_asgi_each_token_goes_out_when_it_comes(view: str) -> None:
    steps = Steps()

    async def read() -> None:
        async with asgi(view) as server:
            start = await server.receive_output(PATIENCE)
            headers = {name.decode(): value.decode() for name, value in start["headers"]}
            assert headers.items() >= HEADERS.items()
            assert (await receive(server))[0][0] == "start"
            for _ in range(3):
                steps.go()
                assert await receive(server) == [("token", {"text": "step "})]
            steps.is_over = True
            steps.go()
            while (await receive(server))[-1][0] != "end":
                pass

    with served(steps, MIDDLEWARE=[GZIP]):
        asyncio.run(read())


@views
def test_under_asgi_an_answer_that_fails_ends_with_the_error(view: str) -> None:
    async def read() -> list[tuple[str, Any]]:
        async with asgi(view) as server:
            await server.receive_output(PATIENCE)
            events = await receive(server)
            while events[-1][0] not in ("end", "error"):
                events += await receive(server)
            return events

    error = ServerBusyError("no room", retry_after=3.0)
    with fake(["One", error]):
        events = asyncio.run(read())
    assert [name for name, _ in events] == ["start", "token", "error"]
    assert events[-1][1] == error_facts(error)


async def leave(view: str, after: str, gateway: Gateway) -> None:
    """Read an answer until an event, and disconnect."""
    async with asgi(view) as server:
        await server.receive_output(PATIENCE)
        while (await receive(server))[0][0] != after:
            pass
        await asyncio.to_thread(wait_until, lambda: gateway.generations == 1, PATIENCE)
        await server.send_input({"type": "http.disconnect"})


@needs_disconnects
@views
def test_under_asgi_who_leaves_while_tokens_come_stops_the_generation(view: str) -> None:
    with served(endless) as gateway:
        asyncio.run(leave(view, "token", gateway))
        wait_until(lambda: gateway.requests[0].outcome == "stopped", PATIENCE)


@needs_disconnects
@views
def test_under_asgi_who_leaves_before_the_first_token_stops_the_generation(view: str) -> None:
    is_over = threading.Event()

    def mute(_: Any) -> Iterator[str]:
        is_over.wait(PATIENCE)
        yield "late"

    with served(mute) as gateway:
        asyncio.run(leave(view, "start", gateway))
        wait_until(lambda: gateway.requests[0].outcome == "stopped", PATIENCE)
        is_over.set()


# --- middleware -------------------------------------------------------------------------------------------------------


def shout(get_response: Any) -> Any:
    """Middleware that changes what is streamed, in the way that Django's documentation shows."""

    def loud(request: Any) -> Any:
        response = get_response(request)
        content = response.streaming_content
        response.streaming_content = louder_async(content) if response.is_async else (c.upper() for c in content)
        return response

    return loud


async def louder_async(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in content:
        yield chunk.upper()


SHOUT = f"{__name__}.shout"


def test_middleware_may_wrap_what_a_view_of_its_servers_kind_streams() -> None:
    async def read() -> bytes:
        async with asgi("/coroutine") as server:
            await server.receive_output(PATIENCE)
            body = b""
            while chunk := (await server.receive_output(PATIENCE)).get("body"):
                body += chunk
            return body

    with fake(MIDDLEWARE=[SHOUT]):
        assert b'"ONE' in b"".join(wsgi("/plain")[0])
        assert b'"ONE' in asyncio.run(read())


@pytest.mark.parametrize("view", ["/plain", "/later"])
def test_djangos_own_test_client_reads_the_answer(view: str) -> None:
    with fake():
        body = b"".join(Client().get(view, {"prompt": "Hi"}))
    assert [name for name, _ in told(body)] == ["start", "token", "token", "end"]


def test_djangos_own_test_client_for_async_views_reads_the_answer() -> None:
    async def read() -> bytes:
        response = await AsyncClient().get("/coroutine", {"prompt": "Hi"})
        return b"".join([chunk async for chunk in response])

    with fake():
        assert told(asyncio.run(read()))[-1][0] == "end"


def test_what_goes_wrong_at_the_beginning_is_an_event() -> None:
    client = FakeClient(connect_error=ConnectionFailedError("nobody there"))
    events = told(b"".join(stream_response(lambda: client.stream("Hi"))))
    assert [(name, data["code"]) for name, data in events] == [("error", "connection_failed")]


def test_a_heartbeat_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat is 0"):
        stream_response(FakeClient().stream("Hi"), heartbeat=0)
