"""Callbacks that do things: calls of their own client, subscribing, raising, blocking, in every kind of callback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import ConnectionStatus, WSClient
from wsclient.core.frames import PING, encode_frame
from wsclient.testing.scripted_server import Peer, ScriptedServer, polite

from ..support.waiting import wait_until
from .conftest import MakeClient

KINDS = ["connection_change", "token", "generation_start", "generation_end", "error"]


def bring_about(client: WSClient, kind: str) -> None:
    """Have an event of a kind come; callbacks for it are subscribed already."""
    client.connect()
    if kind != "connection_change":
        client.generate("fail" if kind == "error" else "a b c")


def subscribe(client: WSClient, kind: str, callback: Callable[[Any], object]) -> Callable[[], None]:
    unsubscribe: Callable[[], None] = getattr(client, f"on_{kind}")(callback)
    return unsubscribe


class Once:
    """A callback that acts at the first event, of statuses the first "authenticated", and notes what came of it."""

    def __init__(self, act: Callable[[], Any] = lambda: None) -> None:
        self._act = act
        self.outcome: Any = None
        self._has_begun = False
        self.has_acted = threading.Event()
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        if not self._has_begun and (not isinstance(event, ConnectionStatus) or event == "authenticated"):
            # Acting may bring about more events, but those come later.
            self._has_begun = True
            try:
                self.outcome = self._act()
            except BaseException as error:
                self.outcome = error
                raise
            finally:
                self.has_acted.set()


CALLS: dict[str, tuple[Callable[[WSClient], Any], Any]] = {
    "list_models": (lambda client: [model.name for model in client.list_models()], ["llama2:latest"]),
    "complete": (lambda client: client.complete("x y").text, "x y"),
    "stream": (lambda client: list(client.stream("x y")), ["x", " y"]),
    "ping": (lambda client: client.ping() >= 0, True),
    "stop_generation": (lambda client: client.stop_generation("gen_unknown"), False),
    "generate": (lambda client: client.generate("x y").startswith("gen_"), True),
    "close": (lambda client: client.close(), None),
    "close and connect": (lambda client: (client.close(), client.connect())[1], None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_inside_a_callback_does_what_it_does_outside_and_the_other_callbacks_run(
    call: str, kind: str, make_client: MakeClient
) -> None:
    act, expected = CALLS[call]
    with ScriptedServer(polite) as server:
        client = make_client(server.url)
        first, second = Once(lambda: act(client)), Once()
        subscribe(client, kind, first)
        subscribe(client, kind, second)

        bring_about(client, kind)

        assert first.has_acted.wait(10)
        assert first.outcome == expected
        assert second.has_acted.wait(10)
        count = min(len(first.events), len(second.events))
        assert first.events[:count] == second.events[:count]
        client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_raises_is_logged_with_its_traceback_and_the_others_run(
    kind: str, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("the user's own")

    with ScriptedServer(polite) as server:
        client = make_client(server.url)
        first, second = Once(fail), Once()
        subscribe(client, kind, first)
        subscribe(client, kind, second)

        bring_about(client, kind)

        assert second.has_acted.wait(10)
        client.close()
    assert second.events == first.events
    (record,) = [record for record in caplog.records if record.name == "wsclient.callbacks"]
    assert (record.levelname, record.getMessage()) == ("ERROR", f"an on_{kind} callback raised")
    assert 'raise KeyError("the user\'s own")' in str(record.exc_text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_unsubscribes_itself_and_the_next_one_is_the_last_one_called(
    kind: str, make_client: MakeClient
) -> None:
    with ScriptedServer(polite) as server:
        client = make_client(server.url)
        first = Once(lambda: [unsubscribe() for unsubscribe in unsubscribes])
        second, third = Once(), Once()
        unsubscribes = [subscribe(client, kind, first), subscribe(client, kind, second)]
        subscribe(client, kind, third)

        bring_about(client, kind)

        assert third.has_acted.wait(10)
        # Of statuses, "connecting" and "connected" came before the one at which it acted.
        called = 3 if kind == "connection_change" else 1
        client.close()
        bring_about(client, kind)
        wait_until(lambda: len(third.events) > called)
        client.close()
    assert len(first.events) == called
    assert len(second.events) == called - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_subscribed_inside_a_callback_hears_of_what_comes_next(kind: str, make_client: MakeClient) -> None:
    with ScriptedServer(polite) as server:
        client = make_client(server.url)
        late = Once()
        first = Once(lambda: subscribe(client, kind, late))
        subscribe(client, kind, first)
        bring_about(client, kind)
        assert first.has_acted.wait(10)

        if kind == "connection_change":
            client.close()
            client.connect()
        else:
            bring_about(client, kind)

        assert late.has_acted.wait(10)
        client.close()
    assert late.events == first.events[-len(late.events) :]


def test_events_keep_their_order_while_every_callback_makes_calls_of_its_own(make_client: MakeClient) -> None:
    said: list[str] = []
    is_ended = threading.Event()
    with ScriptedServer(polite) as server:
        client = make_client(server.url)
        client.connect()

        def say(word: str) -> None:
            said.append(word)
            assert client.list_models()[0].name == "llama2:latest"
            assert client.complete("x y").text == "x y"

        client.on_generation_start(lambda event: say("start"))
        client.on_token(lambda event: say(event.token))
        client.on_generation_end(lambda event: (say("end"), is_ended.set()))
        client.generate("a b c d e")

        assert is_ended.wait(20)
        client.close()
    assert said == ["start", "a", " b", " c", " d", " e", "end"]


def test_a_callback_that_blocks_delays_neither_pongs_nor_pings_nor_other_streams(make_client: MakeClient) -> None:
    may_go_on, is_blocked = threading.Event(), threading.Event()
    ponged, pings = threading.Event(), 0

    def ping_while_it_blocks(peer: Peer) -> None:
        nonlocal pings
        peer.login()
        generate = peer.expect("generate")
        peer.send_all([{"id": generate["id"], "type": "stream_start"}, token(generate["id"], "a")])
        assert is_blocked.wait(10)
        peer.send_frame(encode_frame(PING, b"are you there?"))
        while not peer.controls or pings < 2:
            message = peer.receive()
            pings += message["type"] == "ping"
            peer.send({"id": message["id"], "type": "pong"})
        ponged.set()
        other = peer.receive()
        while other["type"] == "ping":
            other = peer.receive()
        end = {"id": other["id"], "type": "stream_end"}
        peer.send_all([*(token(other["id"], f"{number} ") for number in range(1000)), end])
        peer.wait_until_gone()

    def block(event: Any) -> None:
        is_blocked.set()
        may_go_on.wait()

    with ScriptedServer(ping_while_it_blocks) as server:
        client = make_client(server.url, ping_interval=0.1)
        client.on_token(block)
        client.generate("hi")
        try:
            assert ponged.wait(10)
            assert client.complete("hi").text == "".join(f"{number} " for number in range(1000))
            assert client.stats().connects == 1
        finally:
            may_go_on.set()
        client.close()


def token(id: str, text: str) -> dict[str, Any]:
    return {"id": id, "type": "stream_token", "token": text}
