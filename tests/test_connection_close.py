"""The connection with its threads but without sockets: closing, from anywhere and at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import (
    ClientClosedError,
    ConnectionFailedError,
    ConnectionStatus,
    WSClient,
)
from wsclient.core.frames import CLOSE, close_payload

from .support.calls import Call, connected
from .support.fake_transport import FakeNetwork
from .support.waiting import wait_until

MakeClient = Callable[..., WSClient]
REFUSED = ConnectionFailedError("refused")
SHORT = 0.05


# --- close ------------------------------------------------------------------------------------------------------------


def test_a_close_says_goodbye_and_ends_the_threads(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    client.close()
    assert line.controls[0] == (CLOSE, close_payload(1000))
    assert line.is_closed
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("wsclient-")] == []
    assert client.status is ConnectionStatus.DISCONNECTED


def test_a_close_stops_what_runs_on_servers_that_do_not_mind_who_hangs_up(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    running = [client.stream("x"), client.stream("y")]
    client.close()
    assert [line.sent_message("stop", number)["requestId"] for number in (0, 1)] == [one.id for one in running]
    assert client.stats().messages_sent == len(line.sent)


def test_a_close_does_not_wait_long_for_a_server_that_says_nothing(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    line.says_goodbye = False
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 2
    assert line.is_closed


def test_a_close_tells_every_waiter_at_once(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    generation = client.stream("x")
    waiting = Call(client.ping)
    line.sent_message("ping")
    line.may_send.clear()
    line.says_goodbye = False
    sending = Call(client.list_models)
    assert sending.is_waiting()
    closing = Call(client.close)
    assert isinstance(waiting.end(0.4), ClientClosedError)
    with pytest.raises(ClientClosedError):
        generation.result(0.4)
    assert isinstance(sending.end(), ClientClosedError)
    assert closing.end() is None


def test_requests_after_a_close_say_so_until_connect(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    connected(client, fake_network)
    client.close()
    batch = [{"type": "ping"}]
    for request in (client.list_models, client.ping, lambda: client.generate("x"), lambda: client.send_batch(batch)):
        with pytest.raises(ClientClosedError):
            request()
    assert len(fake_network.lines) == 1
    connected(client, fake_network, 1)
    assert client.stats().reconnects == 0


def test_a_close_during_an_attempt_tells_who_waits_and_lets_the_dial_go(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    calls = [Call(client.connect), Call(client.list_models)]
    line = fake_network.line()
    assert all(call.is_waiting() for call in calls)
    client.close()
    assert {type(call.end()) for call in calls} == {ClientClosedError}
    assert line.is_aborted


def test_a_close_does_not_wait_for_a_dial_that_is_stuck(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client()
    Call(client.connect)
    line = fake_network.line()
    monkeypatch.setattr(line, "abort", lambda: None)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 0.4
    # When the name is resolved at last, the thread closes its socket and hurts nobody.
    line.accept()
    wait_until(lambda: line.is_closed)
    assert client.status is ConnectionStatus.DISCONNECTED


def test_a_close_during_the_pause_of_a_reconnect_ends_the_schedule(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(reconnect_delay=0.2)
    connected(client, fake_network).arrive(b"")
    wait_until(lambda: client.status is ConnectionStatus.RECONNECTING)
    client.close()
    threading.Event().wait(0.3)
    assert len(fake_network.lines) == 1


def test_a_close_can_be_repeated_and_called_from_many_threads(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    client.close()
    connected(client, fake_network)
    calls = [Call(client.close) for _ in range(5)]
    for call in calls:
        assert call.end() is None
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("wsclient-")] == []
    client.close()


def test_a_connect_while_a_close_is_under_way_makes_a_new_connection(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    line.says_goodbye = False
    closing = Call(client.close)
    wait_until(lambda: line.controls)
    connected(client, fake_network, 1)
    assert closing.end() is None
    assert client.is_ready()


def test_a_close_from_a_callback_works(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    closed = threading.Event()

    def close(status: ConnectionStatus) -> None:
        if status is ConnectionStatus.AUTHENTICATED:
            client.close()
            closed.set()

    client.on_connection_change(close)
    connected(client, fake_network)
    assert closed.wait(5)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("wsclient-")])


def test_statuses_come_in_order_and_before_what_follows_from_them(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    seen: list[ConnectionStatus] = []
    client.on_connection_change(seen.append)
    connected(client, fake_network).arrive(b"")
    fake_network.line(1).log_in()
    assert client.wait_ready(5)
    client.close()
    names = "connecting connected authenticated disconnected reconnecting connecting connected authenticated"
    assert seen == [*names.split(), "disconnected"]


# --- noted by finalizers ----------------------------------------------------------------------------------------------


def test_a_generation_that_nobody_reads_is_cancelled_and_stopped(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    generation = client.stream("x")
    generation.close()
    assert line.sent_message("stop")["requestId"] == generation.id
    assert generation.result(5).is_cancelled
    assert client.stats().open_generations == 0


def test_a_generation_that_was_left_ends_only_after_the_server_was_told(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    generation = client.stream("x")
    post, ended_before = line.post, []

    def look_and_post(opcode: int, payload: bytes) -> None:
        ended_before.append(generation.is_done)
        post(opcode, payload)

    line.post = look_and_post  # type: ignore[method-assign]
    generation.close()
    assert generation.result(5).is_cancelled
    assert ended_before == [False]


def test_a_close_that_interrupts_a_request_before_its_dial_keeps_it_from_dialling(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client()
    use = client._connection._use

    def interrupted() -> None:
        # As a signal handler would: below it there is a call of the library.
        client.close()
        use()

    monkeypatch.setattr(client._connection, "_use", interrupted)
    with pytest.raises(ClientClosedError):
        client.list_models()
    assert fake_network.lines == []


def test_a_close_that_interrupts_a_dial_before_there_is_a_watchdog_is_not_lost(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client()
    watchdog = client._connection.watchdog
    ensure_started = watchdog.ensure_started

    def interrupted(line: Any) -> None:
        client.close()
        ensure_started(line)

    monkeypatch.setattr(watchdog, "ensure_started", interrupted)
    call = Call(client.connect)
    assert isinstance(call.end(), ClientClosedError)
    assert client.status is ConnectionStatus.DISCONNECTED


def test_failing_requests_without_a_connection_leave_nothing_behind(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    client.close()
    for _ in range(50):
        with pytest.raises(ClientClosedError):
            client.stream("x")
    assert client._connection.watchdog._notes.empty()
