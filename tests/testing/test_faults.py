"""Each fault of a gateway's is what its name says to the client, and `heal()` ends it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsclient import (
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionStatus,
    Generation,
    InvalidAuthError,
    ProtocolError,
    ReconnectFailedError,
    RequestTimeoutError,
    ServerBusyError,
    WSClient,
    WSClientError,
)
from wsclient.testing import Gateway, Request

from ..support.waiting import wait_until
from .conftest import MakeGateway


@pytest.fixture
def gateway(make_gateway: MakeGateway) -> Gateway:
    """A gateway with an answer that ends, and one that does not."""

    def endless(request: Request) -> Iterator[str]:
        for number in itertools.count():
            yield f"{number} "
            time.sleep(0.001)

    return make_gateway({"Hello": "Hi there", "endless": endless})


@pytest.fixture
def client(gateway: Gateway) -> WSClient:
    """A client that is connected to it."""
    client = gateway.client()
    client.connect()
    return client


def error_of(generation: Generation) -> WSClientError:
    with pytest.raises(WSClientError) as caught:
        generation.result(20)
    return caught.value


def assert_well(client: WSClient) -> None:
    assert client.wait_ready(20)
    assert client.complete("Hello").text == "Hi there"


@pytest.mark.parametrize("reset", [False, True])
def test_a_drop_loses_what_is_under_way_once(gateway: Gateway, client: WSClient, reset: bool) -> None:
    generation = client.stream("endless")
    assert next(generation) == "0 "

    gateway.drop(reset=reset)

    error = error_of(generation)
    assert isinstance(error, ConnectionLostError)
    assert error.text.startswith("0 ")
    assert_well(client)
    assert client.stats().reconnects == 1


@pytest.mark.parametrize("fault", ["drop", "garbage"])
def test_a_client_is_used_again_right_after_a_fault_that_is_over(gateway: Gateway, fault: str) -> None:
    # Connections that hold for less than a second make the pauses grow otherwise.
    client = gateway.client(max_reconnect_delay=0.05)

    for _ in range(10):
        assert client.complete("Hello").text == "Hi there"
        getattr(gateway, fault)()

    assert client.complete("Hello").text == "Hi there"
    assert client.stats().connects == 11


def test_garbage_breaks_the_protocol_once(gateway: Gateway, client: WSClient) -> None:
    generation = client.stream("endless")
    assert next(generation) == "0 "

    gateway.garbage()

    error = error_of(generation)
    assert isinstance(error, ProtocolError)
    assert error.text.startswith("0 ")
    assert_well(client)
    assert client.stats().reconnects == 1


def test_a_stall_is_noticed_by_silence_and_healed(gateway: Gateway) -> None:
    client = gateway.client(ping_interval=0.3, pong_timeout=0.7, connect_timeout=2.0, auth_timeout=2.0)
    client.connect()
    generation = client.stream("endless")
    assert next(generation) == "0 "

    gateway.stall()

    error = error_of(generation)
    assert isinstance(error, ConnectionLostError)
    assert "silent" in error.message
    gateway.heal()
    assert_well(client)


def test_a_stall_that_is_resumed_in_time_loses_nothing(gateway: Gateway) -> None:
    client = gateway.client()
    client.connect()
    generation = client.stream("endless")
    assert next(generation) == "0 "
    gateway.stall()
    # What was on its way when the line stalled has come by then.
    with pytest.raises(RequestTimeoutError):
        client.complete("Hello", timeout=0.2)
    before = len(generation.text)

    gateway.resume()

    wait_until(lambda: len(generation.text) > before, 20)
    generation.stop()
    assert "".join(generation) == "".join(f"{number} " for number in range(1, generation.result().total_tokens))
    assert client.stats().connects == 1


def test_a_delay_makes_every_answer_late(gateway: Gateway, client: WSClient) -> None:
    gateway.delay(0.5)
    assert client.ping() >= 1.0

    gateway.delay(0)
    assert client.ping() < 1.0


def test_a_delay_beyond_a_deadline_is_a_time_out(gateway: Gateway) -> None:
    client = gateway.client(request_timeout=0.2)
    client.connect(20)
    gateway.delay(0.5)

    with pytest.raises(RequestTimeoutError):
        client.list_models()


def test_a_wrong_login_is_final_until_the_client_is_told_to_connect(gateway: Gateway, client: WSClient) -> None:
    gateway.wrong_login()
    newcomer = gateway.client()

    # More often than what makes a gateway block an address.
    for _ in range(7):
        with pytest.raises(InvalidAuthError):
            newcomer.connect()
    assert newcomer.status is ConnectionStatus.AUTH_FAILED
    assert client.complete("Hello").text == "Hi there"

    gateway.heal()
    with pytest.raises(InvalidAuthError):
        newcomer.list_models()
    newcomer.connect()
    assert_well(newcomer)


def test_a_client_that_is_dropped_meets_the_wrong_login_too(gateway: Gateway, client: WSClient) -> None:
    gateway.wrong_login()
    gateway.drop()

    wait_until(lambda: client.status is ConnectionStatus.AUTH_FAILED, 20)
    with pytest.raises(InvalidAuthError):
        client.complete("Hello")


def test_a_busy_model_server_refuses_generations_and_nothing_else(gateway: Gateway, client: WSClient) -> None:
    running = client.stream("endless")
    assert next(running) == "0 "
    gateway.busy()

    with pytest.raises(ServerBusyError) as caught:
        client.complete("Hello")

    assert caught.value.retryable
    assert client.list_models()
    assert next(running) == "1 "
    assert [request.outcome for request in gateway.requests] == [None, "failed"]
    gateway.heal()
    assert_well(client)


def test_a_gateway_that_is_down_refuses_connections_until_it_is_up_again(gateway: Gateway, client: WSClient) -> None:
    url = gateway.url
    generation = client.stream("endless")
    assert next(generation) == "0 "

    gateway.stop()

    assert isinstance(error_of(generation), ConnectionLostError)
    newcomer = gateway.client(auto_reconnect=False)
    with pytest.raises(ConnectionFailedError, match="refused"):
        newcomer.connect()
    assert (gateway.connections, gateway.generations) == (0, 0)

    gateway.start()

    assert gateway.url == url
    assert_well(client)
    assert_well_after_connecting(newcomer)


def assert_well_after_connecting(client: WSClient) -> None:
    client.connect()
    assert_well(client)


def test_a_stop_ends_connections_of_a_line_that_is_stalled_too(gateway: Gateway, client: WSClient) -> None:
    gateway.stall()

    gateway.stop()

    assert not client.is_ready()


def test_a_request_waits_for_a_gateway_that_comes_back(gateway: Gateway) -> None:
    client = gateway.client(max_reconnect_attempts=None, max_reconnect_delay=0.1)
    client.connect()
    gateway.stop()
    wait_until(lambda: client.status is ConnectionStatus.RECONNECTING, 20)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.complete, "Hello")
        gateway.start()
        assert asking.result(20).text == "Hi there"


def test_a_client_gives_up_on_a_gateway_that_stays_down(gateway: Gateway) -> None:
    client = gateway.client(max_reconnect_attempts=2, reconnect_delay=0.01)
    errors = []
    client.on_error(errors.append)
    client.connect()

    gateway.stop()

    wait_until(lambda: client.status is ConnectionStatus.RECONNECT_FAILED, 20)
    wait_until(lambda: [error.code for error in errors] == ["connection_lost", ReconnectFailedError.code], 20)


def test_starting_and_stopping_twice_does_nothing_more(gateway: Gateway) -> None:
    gateway.start()
    gateway.stop()
    gateway.stop()
    gateway.start()

    assert_well_after_connecting(gateway.client())


def test_heal_ends_everything_at_once(gateway: Gateway) -> None:
    gateway.stall()
    gateway.delay(60)
    gateway.wrong_login()
    gateway.busy()
    gateway.stop()

    gateway.heal()

    assert_well_after_connecting(gateway.client())
