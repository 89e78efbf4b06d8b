"""The pool of model servers alone: places, failures and health at moments that no real server hits.

Takes two seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from wsclient.errors import ErrorCode
from wsclient.gateway import backend_watch, server_pool
from wsclient.gateway.backends import (
    Backend,
    BackendError,
    Final,
    GenerateRequest,
    Piece,
    SilentError,
    UnreachableError,
)
from wsclient.gateway.model_queue import QueueingBackend
from wsclient.gateway.server_pool import OTHER_LINE, ServerPool

LINE = "m:latest"


class Server:
    """A model server with one model, that fails as it is told and notes what it is asked."""

    name = "ollama"

    def __init__(self, url: str = "http://a", failure: BackendError | None = None, chance: float = 1.0) -> None:
        self.url = url
        self.failure = failure
        self.chance = chance
        self.models: list[dict[str, Any]] = [{"name": "m:latest"}]
        self.is_hanging = False
        self.lists = 0
        self.lists_at_once = 0
        self.asked = 0
        self.now = 0
        self.most = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def list_models(self) -> list[dict[str, Any]]:
        self.lists += 1
        self.lists_at_once += 1
        assert self.lists_at_once == 1
        try:
            if self.is_hanging:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if isinstance(self.failure, UnreachableError):
                raise self.failure
            return self.models
        finally:
            self.lists_at_once -= 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(random.random() * 0.002)
            if self.failure is not None and random.random() < self.chance:
                raise self.failure
            yield [Final()]
        finally:
            self.now -= 1


def make_pool(*servers: Backend, max_running: int = 1, max_wait: float = 5.0) -> ServerPool:
    return ServerPool(servers, max_running=max_running, max_wait=max_wait)


async def run(backend: QueueingBackend, model: str = "m") -> BackendError | None:
    try:
        async for _ in backend.generate(GenerateRequest(model=model, prompt="x", client_id=random.choice("abc"))):
            pass
    except BackendError as error:
        return error
    return None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def test_no_place_is_lost_or_given_twice_whatever_fails_and_is_cancelled() -> None:
    random.seed(7)

    async def scenario() -> None:
        busy = BackendError("no", ErrorCode.SERVER_BUSY)
        servers = [Server("http://a", busy, 0.3), Server("http://b", busy, 0.3), Server("http://c", busy, 0.3)]
        pool = make_pool(*servers, max_running=2, max_wait=0.02)
        backend = QueueingBackend(pool, max_waiting=50, max_wait=0.02)
        results: list[BackendError | None] = []
        for round in range(100):
            tasks = [asyncio.create_task(run(backend)) for _ in range(16)]
            for _ in range(round % 25):
                await asyncio.sleep(0)
            for task in tasks[round % 3 :: 3]:
                task.cancel()
            await asyncio.wait(tasks)
            results += [task.result() for task in tasks if not task.cancelled()]
            assert (backend.running, backend.waiting) == (0, 0)
            assert [server.total_running for server in pool.servers] == [0, 0, 0]
        assert [server.most for server in servers] == [2, 2, 2]
        assert results.count(None) > len(results) / 2

    asyncio.run(scenario())


def test_a_place_that_comes_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    async def scenario() -> None:
        pool = make_pool(Server("http://a"), Server("http://b"))
        a, b = pool.servers
        async with pool.place(LINE, {b}) as first:
            assert first is a
            waiting = [asyncio.create_task(pool.place(LINE, {b}).__aenter__()) for _ in range(2)]
            await until(lambda: len(pool._waiting) == 2)
        # The place is the first one's now, who has not heard of it yet.
        waiting[0].cancel()
        assert await waiting[1] is a
        assert waiting[0].cancelled()
        assert a.total_running == 1

    asyncio.run(scenario())


def test_who_waits_too_long_for_a_place_at_another_server_is_told_so() -> None:
    async def scenario() -> None:
        pool = make_pool(Server("http://a"), Server("http://b"), max_wait=0.05)
        async with pool.place(LINE, set()) as first:
            other = {server for server in pool.servers if server is not first}
            with pytest.raises(BackendError, match=r"no model server had a place within 0\.05 s") as caught:
                async with pool.place(LINE, other):
                    pass
        assert (caught.value.code, caught.value.retry_after) == (ErrorCode.SERVER_BUSY, 5)
        assert pool.servers[0].total_running == 0

    asyncio.run(scenario())


def test_who_waits_for_a_place_at_a_server_that_dies_is_told_so() -> None:
    async def scenario() -> None:
        pool = make_pool(Server("http://a"), Server("http://b"))
        a, b = pool.servers
        async with pool.place(LINE, {b}):
            waiting = asyncio.create_task(pool.place(LINE, {b}).__aenter__())
            await until(lambda: pool._waiting)
            pool.judge(a, LINE, {a}, UnreachableError("gone"), is_begun=False)
            with pytest.raises(BackendError, match="no model server answers"):
                await waiting

    asyncio.run(scenario())


def test_a_servers_silence_is_not_tried_elsewhere_and_has_it_looked_at() -> None:
    async def scenario() -> None:
        silent, other = Server("http://a", SilentError("nothing")), Server("http://b")
        pool = make_pool(silent, other)
        backend = QueueingBackend(pool, max_waiting=1, max_wait=1)
        error = await run(backend)
        assert error is silent.failure
        assert (other.asked, pool.servers[0].doubt.is_set()) == (0, True)

    asyncio.run(scenario())


def test_one_server_alone_is_never_left_out_and_its_own_words_reach_the_client() -> None:
    async def scenario() -> None:
        alone = Server("http://a", UnreachableError("Cannot connect to Ollama: Connection refused"))
        backend = QueueingBackend(make_pool(alone), max_waiting=1, max_wait=1)
        for _ in range(2):
            assert await run(backend) is alone.failure
        assert alone.asked == 2
        with pytest.raises(UnreachableError):
            await backend.list_models()

    asyncio.run(scenario())


def test_one_server_alone_is_asked_for_its_models_once_a_minute_and_sooner_for_a_name_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        alone = Server("http://a")
        pool = make_pool(alone, max_running=10)
        await pool.start()
        for _ in range(5):
            assert await pool.line_of("M") == LINE
            assert await pool.line_of("made up") == OTHER_LINE
        assert alone.lists == 1
        monkeypatch.setattr(server_pool, "_UNKNOWN_AGE", 0.0)
        alone.models = [*alone.models, {"name": "new:1b"}]
        assert await pool.line_of("new:1b") == "new:1b"
        assert alone.lists == 2
        await pool.close()

    asyncio.run(scenario())


def test_a_model_that_clients_get_who_name_none_is_in_the_queue_of_its_own_name() -> None:
    async def scenario() -> None:
        server = Server("http://a")
        server.name = "openai"
        pool = make_pool(server)
        assert await pool.line_of("default") == LINE
        assert await make_pool(Server("http://a")).line_of("default") == OTHER_LINE

    asyncio.run(scenario())


def test_a_server_that_hangs_is_asked_once_at_a_time_left_out_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_watch, "_TIMEOUT", 0.02)
    for name in ("_CHECK_EVERY", "_PROBE_EVERY", "_LAST_RESORT_AGE"):
        monkeypatch.setattr(server_pool, name, 0.01)

    async def scenario() -> None:
        good, hanging = Server("http://a"), Server("http://b")
        pool = make_pool(good, hanging)
        changes: list[int] = []
        pool.on_change = lambda: changes.append(pool.places(LINE))
        await pool.start()
        await until(lambda: pool.places(LINE) == 2 and hanging.lists)
        hanging.is_hanging = True
        await until(lambda: not pool.servers[1].is_up)
        assert pool.servers[1].watch.failure == "no answer within 0.02 s"
        assert pool.places(LINE) == 1
        before = hanging.lists
        await until(lambda: hanging.lists > before + 2)
        hanging.is_hanging = False
        await until(lambda: pool.servers[1].is_up)
        assert changes[-2:] == [1, 2]
        await pool.close()
        lists = (good.lists, hanging.lists)
        await asyncio.sleep(0.05)
        assert (good.lists, hanging.lists) == lists

    asyncio.run(scenario())


def test_looks_at_the_servers_are_spread_over_the_time_between_two(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: dict[str, list[float]] = {"http://a": [], "http://b": [], "http://c": []}

    async def wait(server: Any, seconds: float) -> None:
        pauses[server.url].append(seconds)
        await asyncio.sleep(0 if len(pauses[server.url]) < 3 else 60)

    monkeypatch.setattr("wsclient.gateway.pooled_server.PooledServer.wait", wait)
    monkeypatch.setattr(server_pool, "_CHECK_EVERY", 9.0)

    async def scenario() -> None:
        pool = make_pool(*(Server(url) for url in pauses))
        await pool.start()
        async with asyncio.timeout(10):
            while any(len(waited) < 3 for waited in pauses.values()):
                await asyncio.sleep(0)
        await pool.close()

    asyncio.run(scenario())
    assert pauses == {"http://a": [3, 9, 9], "http://b": [6, 9, 9], "http://c": [9, 9, 9]}


def test_a_server_that_fails_at_once_is_not_the_first_choice_for_a_while() -> None:
    async def scenario() -> None:
        bad, good = Server("http://a", BackendError("out of memory")), Server("http://b")
        pool = make_pool(bad, good)
        backend = QueueingBackend(pool, max_waiting=1, max_wait=1)
        assert [await run(backend) for _ in range(10)] == [None] * 10
        assert (bad.asked, pool.servers[0].failovers) == (1, 1)
        # It still is one of two: what the other has no place for goes to it.
        async with pool.place(LINE, set()) as first, pool.place(LINE, set()) as second:
            assert [first, second] == [pool.servers[1], pool.servers[0]]
        pool.servers[0].avoided_until = time.monotonic()
        assert [await run(backend) for _ in range(2)] == [None] * 2
        assert bad.asked == 2

    asyncio.run(scenario())


def test_a_server_is_not_avoided_for_longer_than_half_a_minute_whatever_it_asks_for() -> None:
    async def scenario() -> None:
        busy = BackendError("full", ErrorCode.SERVER_BUSY, retry_after=3600)
        pool = make_pool(Server("http://a", busy), Server("http://b"))
        assert await run(QueueingBackend(pool, max_waiting=1, max_wait=1)) is None
        assert 20 < pool.servers[0].avoided_until - time.monotonic() <= 30

    asyncio.run(scenario())


def test_a_server_whose_models_have_no_proper_names_does_not_spoil_the_list_of_the_others() -> None:
    async def scenario() -> None:
        odd, good = Server("http://a"), Server("http://b")
        odd.models = [{"name": ["m"]}, {"model": "m"}, {"name": "n"}]
        pool = make_pool(odd, good)
        assert [model["name"] for model in await pool.list_models()] == ["n", LINE]
        assert await pool.line_of("made up") == OTHER_LINE

    asyncio.run(scenario())


def test_what_a_server_said_of_a_generation_that_goes_on_to_another_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "wsclient")

    async def scenario() -> None:
        echoing = Server("http://a", BackendError("cannot tokenize: my secret prompt"))
        assert await run(QueueingBackend(make_pool(echoing, Server("http://b")), max_waiting=1, max_wait=1)) is None

    asyncio.run(scenario())
    assert "the model server at http://a failed a generation, which goes on to another: server_error" in caplog.messages
    assert "secret" not in caplog.text


def test_a_list_that_was_asked_for_before_a_connection_was_refused_does_not_take_the_server_back() -> None:
    async def scenario() -> None:
        pool = make_pool(Server("http://a"), Server("http://b"))
        a = pool.servers[0]
        asking = asyncio.create_task(pool._check(a, 1.0))
        await asyncio.sleep(0)
        pool.judge(a, LINE, {a}, UnreachableError("refused"), is_begun=False)
        await asking
        assert (a.watch.models, a.is_up) == ([{"name": LINE}], False)

    asyncio.run(scenario())
