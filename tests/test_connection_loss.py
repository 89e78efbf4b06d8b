"""The connection with its threads but without sockets: dead lines, losses, reconnects, and who is told what."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import (
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionStatus,
    ReconnectFailedError,
    SlowConsumerError,
    WSClient,
    WSClientError,
)
from wsclient.watchdog import Wake

from .support.calls import Call, connected
from .support.fake_transport import FakeNetwork
from .support.waiting import wait_until

MakeClient = Callable[..., WSClient]
REFUSED = ConnectionFailedError("refused")
SHORT = 0.05


# --- liveness ---------------------------------------------------------------------------------------------------------


def test_silence_is_probed_and_a_dead_line_is_replaced(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(ping_interval=0.1, pong_timeout=0.1)
    line = connected(client, fake_network)
    generation = client.stream("x")
    started = time.monotonic()
    line.sent_message("ping")
    with pytest.raises(ConnectionLostError, match="silent"):
        generation.result()
    assert time.monotonic() - started < 2
    assert line.is_aborted
    fake_network.line(1).log_in()
    assert client.wait_ready(5)


def test_the_first_probe_is_in_time_although_the_login_could_have_taken_longer(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(ping_interval=0.1, auth_timeout=60.0, connect_timeout=60.0)
    started = time.monotonic()
    line = connected(client, fake_network)
    line.sent_message("ping")
    assert time.monotonic() - started < 2


class Slept:
    """Stands in for the watch of a machine that slept since it was asked last."""

    def __init__(self) -> None:
        self._answers = [True]

    def has_slept(self) -> bool:
        return bool(self._answers) and self._answers.pop()


@pytest.mark.parametrize("what", ["request", "wake-up"])
def test_after_a_sleep_of_the_machine_the_next_request_or_wake_up_has_the_line_probed(
    fake_client: MakeClient, fake_network: FakeNetwork, what: str
) -> None:
    client = fake_client(ping_interval=1000.0, pong_timeout=0.1)
    line = connected(client, fake_network)
    client._connection._sleep_watch = Slept()  # type: ignore[assignment]
    if what == "wake-up":
        client._connection.watchdog.note(Wake())
        waiting = None
    else:
        waiting = Call(client.list_models)
    line.sent_message("ping")
    # The server that was there before the sleep is gone.
    fake_network.line(1).log_in()
    assert client.wait_ready(5)
    assert waiting is None or isinstance(waiting.end(), ConnectionLostError)


def test_an_answer_to_the_probe_keeps_the_line(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(ping_interval=0.05, pong_timeout=5.0)
    line = connected(client, fake_network)
    for number in range(3):
        line.say({"type": "pong", "id": line.sent_message("ping", number)["id"]})
    assert client.is_ready()
    assert client.latency is not None


def test_a_dead_line_is_given_up_although_its_reader_is_stuck(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client(ping_interval=0.1, pong_timeout=0.1)
    line = connected(client, fake_network)
    generation = client.stream("x")
    # The abort does not wake it.
    monkeypatch.setattr(line, "abort", lambda: None)
    with pytest.raises(ConnectionLostError, match="silent"):
        generation.result(5)
    fake_network.line(1).log_in()
    assert client.wait_ready(5)
    monkeypatch.undo()
    line.abort()


# --- loss -------------------------------------------------------------------------------------------------------------


def test_a_loss_tells_every_waiter_with_the_text_so_far(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(auto_reconnect=False)
    line = connected(client, fake_network)
    generations = [client.stream("x") for _ in range(5)]
    pings = [Call(client.ping) for _ in range(5)]
    line.sent_message("ping", 4)
    line.say(*({"type": "stream_token", "id": generation.id, "token": "so far"} for generation in generations))
    wait_until(lambda: all(generation.text for generation in generations))
    line.arrive(b"")
    for generation in generations:
        with pytest.raises(ConnectionLostError) as caught:
            generation.result(5)
        assert (caught.value.text, caught.value.id) == ("so far", generation.id)
    assert {type(ping.end()) for ping in pings} == {ConnectionLostError}
    assert client.status is ConnectionStatus.DISCONNECTED
    assert client.stats().open_requests == client.stats().open_generations == 0


def test_used_up_attempts_tell_those_who_wait(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(max_reconnect_attempts=2)
    connected(client, fake_network).arrive(b"")
    line = fake_network.line(1)
    waiting = [Call(client.list_models), Call(client.wait_ready)]
    assert all(call.is_waiting() for call in waiting)
    line.refuse(REFUSED)
    fake_network.line(2).refuse(REFUSED)
    assert isinstance(waiting[0].end(), ReconnectFailedError)
    assert waiting[1].end() is False
    assert client.status is ConnectionStatus.RECONNECT_FAILED
    connected(client, fake_network, 3)


def test_attempts_that_have_no_room_for_a_thread_count_and_tell_those_who_wait(
    fake_client: MakeClient,
    fake_network: FakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = fake_client(max_reconnect_attempts=2, reconnect_delay=0.2)
    line = connected(client, fake_network)
    start = threading.Thread.start

    def no_room(thread: threading.Thread) -> None:
        if thread.name.startswith("wsclient-reader"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        line.arrive(b"")
        wait_until(lambda: client.status is ConnectionStatus.RECONNECTING)
        waiting = [Call(client.list_models), Call(client.wait_ready)]
        assert isinstance(waiting[0].end(), ReconnectFailedError)
        assert waiting[1].end() is False
    assert not [record for record in caplog.records if record.exc_info]
    connected(client, fake_network, len(fake_network.lines))


def test_wait_ready_does_not_wait_for_what_was_given_up_before(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(max_reconnect_attempts=1)
    connected(client, fake_network).arrive(b"")
    fake_network.line(1).refuse(REFUSED)
    wait_until(lambda: client.status is ConnectionStatus.RECONNECT_FAILED)
    assert Call(client.wait_ready).end() is False
    call = Call(client.connect)
    fake_network.line(2).log_in(success=False, error="Invalid signature")
    call.end()
    assert client.status is ConnectionStatus.AUTH_FAILED
    assert Call(client.wait_ready).end() is False
    client.close()
    assert Call(client.wait_ready).end() is False
    call = Call(client.connect)
    fake_network.line(3).refuse(ConnectionFailedError("not trusted", retryable=False))
    call.end()
    assert Call(client.wait_ready).end() is False
    connected(client, fake_network, 4)


def test_a_gateway_that_drops_every_login_uses_up_the_attempts(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(max_reconnect_attempts=2)
    connected(client, fake_network).arrive(b"")
    for number in (1, 2):
        fake_network.line(number).log_in()
        fake_network.line(number).arrive(b"")
    wait_until(lambda: client.status is ConnectionStatus.RECONNECT_FAILED)
    assert len(fake_network.lines) == 3


def test_one_outage_is_logged_once_and_its_end(
    fake_client: MakeClient, fake_network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsclient")
    client = fake_client()
    connected(client, fake_network).arrive(b"")
    fake_network.line(1).refuse(REFUSED)
    fake_network.line(2).log_in()
    assert client.wait_ready(5)
    wait_until(lambda: len(caplog.records) == 2)
    assert [(record.levelname, record.name) for record in caplog.records] == [
        ("WARNING", "wsclient.connection"),
        ("INFO", "wsclient.connection"),
    ]
    assert "trying again" in caplog.records[0].getMessage()
    client.close()
    connected(client, fake_network, 3)
    assert len(caplog.records) == 2


def test_a_log_handler_may_use_the_client(
    fake_client: MakeClient, fake_network: FakeNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsclient")
    client = fake_client()
    seen: list[Any] = []

    def ask(_: logging.LogRecord) -> bool:
        seen.append((client.stats(), client.status))
        return True

    with caplog.filtering(ask):
        connected(client, fake_network).arrive(b"")
        fake_network.line(1).log_in()
        assert client.wait_ready(5)
        wait_until(lambda: len(seen) >= 3)


def test_a_waiter_gets_its_answer_although_another_ones_cannot_be_told(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client(auto_reconnect=False)
    line = connected(client, fake_network)
    first, second = client.stream("x"), client.stream("x")

    def fail(_: WSClientError) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(first._feed, "fail", fail)
    line.arrive(b"")
    with pytest.raises(ConnectionLostError):
        second.result(5)


@pytest.mark.parametrize("broken", ["push", "finish"])
def test_whoever_meets_a_bug_of_the_client_is_told_and_does_not_wait_for_ever(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    generation = client.stream("x")

    def meet_a_bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(generation._feed, broken, meet_a_bug)
    line.say({"type": "stream_token", "id": generation.id, "token": "a"}, {"type": "stream_end", "id": generation.id})
    with pytest.raises(ConnectionLostError, match="ZeroDivisionError"):
        generation.result(5)
    assert line.sent_message("stop")["requestId"] == generation.id
    assert client.stats().open_generations == 0


def test_a_slow_consumer_fails_alone_and_is_stopped(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(max_unread_bytes=2000)
    line = connected(client, fake_network)
    slow, other = client.stream("x"), client.stream("y")
    line.say(
        {"type": "stream_token", "id": slow.id, "token": "s" * 3000},
        {"type": "stream_token", "id": other.id, "token": "o"},
        {"type": "stream_end", "id": other.id},
        {"type": "stream_end", "id": slow.id},
    )
    assert other.result(5).text == "o"
    with pytest.raises(SlowConsumerError, match="max_unread_bytes=2000") as caught:
        slow.result(5)
    assert len(caught.value.text) == 3000
    assert line.sent_message("stop")["requestId"] == slow.id


@pytest.mark.parametrize("is_silent", [False, True])
def test_everybody_is_told_and_it_is_dialled_again_although_a_log_handler_raises(
    fake_client: MakeClient, fake_network: FakeNetwork, caplog: pytest.LogCaptureFixture, is_silent: bool
) -> None:
    caplog.set_level(logging.DEBUG, "wsclient")

    def refuse(_: logging.LogRecord) -> bool:
        raise OSError("no space left on device")

    with caplog.filtering(refuse):
        # Silence is the watchdog's to report, the end of the stream the reader's.
        client = fake_client(ping_interval=0.1, pong_timeout=0.1) if is_silent else fake_client()
        line = connected(client, fake_network)
        generation = client.stream("x")
        if not is_silent:
            line.arrive(b"")
        with pytest.raises(ConnectionLostError):
            generation.result(5)
        fake_network.line(1).log_in()
        wait_until(lambda: client.stats().reconnects == 1)
