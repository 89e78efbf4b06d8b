"""Clients with several addresses, with their threads but without sockets: who waits, what is dialled, what is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsclient import (
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionStatus,
    ConnectionTimeoutError,
    InvalidAuthError,
    ReconnectFailedError,
    ServerBusyError,
    WSClient,
)

from .support.calls import Call
from .support.fake_transport import FakeNetwork
from .support.waiting import wait_until

MakeClient = Callable[..., WSClient]
A, B = "wss://a/", "wss://b/"


def refused(url: str) -> ConnectionFailedError:
    return ConnectionFailedError(f"cannot reach {url}: refused")


def dialled(network: FakeNetwork) -> list[str]:
    return [line.target.url for line in network.lines]


def test_connect_goes_from_one_address_to_the_next(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.connect)
    fake_network.line(0).refuse(refused(A))
    second = fake_network.line(1)
    assert call.is_waiting()
    second.log_in()
    assert call.end() is None
    assert dialled(fake_network) == [A, B]
    wait_until(lambda: fake_network.line(0).is_closed)


def test_connect_raises_what_every_address_said(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.connect)
    fake_network.line(0).refuse(refused(A))
    fake_network.line(1).refuse(refused(B))
    error = call.end()
    assert type(error) is ConnectionFailedError
    assert A in error.message
    assert B in error.message
    assert client.status is ConnectionStatus.DISCONNECTED


def test_a_silent_address_costs_its_own_time_to_connect(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B], connect_timeout=0.05)
    call = Call(client.connect)
    fake_network.line(1).log_in()
    assert call.end() is None
    assert fake_network.line(0).is_aborted


def test_the_time_that_connect_is_given_holds_for_all_addresses(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(server_url=[A, B], connect_timeout=60.0)
    call = Call(client.connect, timeout=0.2)
    fake_network.line(0).refuse(refused(A))
    fake_network.line(1)
    error = call.end()
    assert isinstance(error, ConnectionTimeoutError)
    assert B in error.message
    assert len(fake_network.lines) == 2


def test_a_wrong_key_is_not_tried_at_the_next_address(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.connect)
    line = fake_network.line(0)
    line.accept()
    line.say({"type": "challenge", "challenge": "c" * 64})
    line.sent_message("authenticate")
    line.say({"type": "auth_result", "success": False})
    assert isinstance(call.end(), InvalidAuthError)
    assert dialled(fake_network) == [A]


def test_after_a_loss_the_next_address_is_dialled(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.connect)
    line = fake_network.line(0)
    line.log_in()
    call.end()
    line.break_off(ConnectionLostError("gone"))
    fake_network.line(1).log_in()
    assert client.wait_ready(5)
    assert dialled(fake_network) == [A, B]


def test_a_request_waits_through_a_whole_round(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.ping)
    fake_network.line(0).refuse(ServerBusyError("full"))
    line = fake_network.line(1)
    line.log_in()
    line.say({"type": "pong", "id": line.sent_message("ping")["id"]})
    assert isinstance(call.end(), float)


def test_attempts_are_counted_by_rounds(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B], max_reconnect_attempts=2, auto_connect=True)
    call = Call(client.ping)
    for number in range(6):
        fake_network.line(number).refuse(refused(fake_network.line(number).target.url))
    assert isinstance(call.end(), ReconnectFailedError)
    assert dialled(fake_network) == [A, B] * 3


def test_a_status_is_told_once_however_many_addresses_were_dialled(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(server_url=[A, B])
    seen: list[ConnectionStatus] = []
    client.on_connection_change(seen.append)
    call = Call(client.connect)
    fake_network.line(0).refuse(refused(A))
    fake_network.line(1).log_in()
    call.end()
    expected = [ConnectionStatus.CONNECTING, ConnectionStatus.CONNECTED, ConnectionStatus.AUTHENTICATED]
    wait_until(lambda: len(seen) >= len(expected))
    assert seen == expected


def test_a_close_between_two_addresses_ends_it(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(server_url=[A, B])
    call = Call(client.connect)
    fake_network.line(0).refuse(refused(A))
    fake_network.line(1)
    client.close()
    assert call.end().code == "client_closed"
    assert len(fake_network.lines) == 2


# --- names with several addresses -------------------------------------------------------------------------------------


def test_the_addresses_of_a_name_are_dialled_one_after_the_other(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    fake_network.hosts[A] = ["10.0.0.1", "10.0.0.2"]
    client = fake_client(server_url=A)
    call = Call(client.connect)
    fake_network.line(0).refuse(ConnectionTimeoutError("silent"))
    fake_network.line(1).log_in()
    assert call.end() is None
    assert [(line.target.url, line.address) for line in fake_network.lines] == [(A, "10.0.0.1"), (A, "10.0.0.2")]


def test_after_a_loss_the_other_address_of_the_name_is_dialled(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    fake_network.hosts[A] = ["10.0.0.1", "10.0.0.2"]
    client = fake_client(server_url=A)
    call = Call(client.connect)
    fake_network.line(0).log_in()
    call.end()
    fake_network.line(0).break_off(ConnectionLostError("gone"))
    fake_network.line(1).log_in()
    assert client.wait_ready(5)
    assert fake_network.line(1).address == "10.0.0.2"


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_thread_that_cannot_be_started_ends_the_round(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    client = fake_client(server_url=[A, B])

    def start(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    for _ in range(attempts):
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", start)
            with pytest.raises(ConnectionFailedError, match="can't start new thread"):
                client.connect()
    call = Call(client.connect)
    fake_network.lines[-1].log_in()
    assert call.end() is None
