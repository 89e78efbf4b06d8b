"""Reconnecting without a storm: a bad server is not hammered, a refusal is final, and a crowd comes back spread out."""

from __future__ import annotations

import bisect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient import ConnectionStatus, InvalidAuthError, RateLimitedError, WSClient, WSClientError
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import generate_key, public_pem
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.holdings import Holdings
from ..support.waiting import wait_until
from .conftest import MakeClient, MakeProxy, StartGateway

DELAY = 0.05
CROWD = 200


class Dropper:
    """A script that logs the client in and drops it at once, and notes when."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.drops: list[float] = []

    def __call__(self, peer: Peer) -> None:
        self.arrivals.append(time.monotonic())
        peer.login()
        self.drops.append(time.monotonic())
        peer.drop()

    def pauses(self) -> list[float]:
        """Return how long after each drop the client came again."""
        return [came - dropped for dropped, came in zip(self.drops, self.arrivals[1:], strict=False)]


def is_on_the_schedule(pauses: list[float]) -> bool:
    return all(pause >= 0.8 * DELAY * 2**attempt for attempt, pause in enumerate(pauses))


def test_a_server_that_logs_in_and_drops_at_once_is_tried_on_the_schedule_and_then_left(
    make_client: MakeClient,
) -> None:
    script = Dropper()
    with ScriptedServer(script) as server:
        client = make_client(server.url, reconnect_delay=DELAY, max_reconnect_attempts=5)
        client.connect()
        wait_until(lambda: client.status == "reconnect_failed", 20)

        assert len(server.peers) == 6
    assert is_on_the_schedule(script.pauses()), script.pauses()


def test_requests_do_not_hurry_the_schedule(make_client: MakeClient) -> None:
    script = Dropper()
    is_over = threading.Event()

    def ask(_: int) -> None:
        while not is_over.is_set():
            with suppress(WSClientError):
                client.list_models()

    with ScriptedServer(script) as server, ThreadPoolExecutor(4) as pool:
        client = make_client(server.url, reconnect_delay=DELAY, max_reconnect_attempts=None)
        client.connect()
        asking = [pool.submit(ask, number) for number in range(4)]
        wait_until(lambda: len(script.arrivals) == 6, 20)
        is_over.set()
        client.close()
        for future in asking:
            future.result(5)

    assert is_on_the_schedule(script.pauses()[:5]), script.pauses()


def nothing_tries(before: Holdings) -> None:
    """Wait until no thread of a client is left: then nobody is there who could dial again."""
    wait_until(lambda: not any(name.startswith(("wsclient-watchdog", "wsclient-reader")) for name in before.gained()))


@pytest.mark.parametrize("auto_connect", [False, True], ids=["connect", "auto_connect"])
def test_a_login_that_is_refused_for_good_is_tried_once(
    start_gateway: StartGateway, make_client: MakeClient, other_rsa_key: RsaKey, auto_connect: bool
) -> None:
    gateway = start_gateway()
    before = Holdings.now()
    client = make_client(
        gateway.url,
        private_key=other_rsa_key,
        reconnect_delay=0.01,
        max_reconnect_attempts=None,
        auto_connect=auto_connect,
    )
    if not auto_connect:
        with pytest.raises(InvalidAuthError):
            client.connect()
    wait_until(lambda: client.status == "auth_failed")
    nothing_tries(before)

    with pytest.raises(InvalidAuthError):
        client.list_models()

    assert gateway.gateway.stats().total_connections == 1


def test_a_client_that_is_revoked_while_connected_tries_once_more_and_then_never_again(
    start_gateway: StartGateway, make_client: MakeClient, registry: ClientRegistry, client_id: str
) -> None:
    gateway = start_gateway()
    before = Holdings.now()
    client = make_client(gateway.url, reconnect_delay=0.01, max_reconnect_attempts=None)
    client.connect()

    registry.revoke(client_id)
    wait_until(lambda: client.status == "auth_failed", 10)
    nothing_tries(before)

    assert gateway.gateway.stats().total_connections <= 2


def test_a_rate_limited_login_waits_as_long_as_the_server_says(
    start_gateway: StartGateway, make_client: MakeClient, make_proxy: MakeProxy, other_rsa_key: RsaKey
) -> None:
    # The second failure in a row blocks for 2 s.
    gateway = start_gateway(max_auth_attempts=2)
    proxy = make_proxy(gateway.port)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", reconnect_delay=0.01, max_reconnect_attempts=None)
    client.connect()
    for error in (InvalidAuthError, RateLimitedError):
        with pytest.raises(error) as caught:
            make_client(gateway.url, private_key=other_rsa_key).connect()
    blocked = time.monotonic()
    retry_after = caught.value.retry_after
    assert retry_after is not None

    proxy.cut()
    wait_until(lambda: client.stats().connects == 2, 10)

    assert time.monotonic() - blocked >= retry_after - 0.1
    # The one that was cut, the one that was told to wait, and the one that did.
    assert len(proxy.connections) == 3


def test_a_login_that_is_told_to_wait_waits_that_long_and_no_other_pause(make_client: MakeClient) -> None:
    times: list[float] = []

    def refuse(peer: Peer) -> None:
        peer.login(success=False, error="Too many failed attempts", retryAfter=1)
        times.append(time.monotonic())

    def accept(peer: Peer) -> None:
        times.append(time.monotonic())
        peer.login()
        peer.accept_and_say_nothing()

    with ScriptedServer(Dropper(), refuse, accept) as server:
        client = make_client(server.url, reconnect_delay=0.01)
        client.connect()
        wait_until(lambda: client.stats().connects == 2, 10)

    refused, came = times
    assert came - refused >= 1.0
    assert len(server.peers) == 3


# --- a crowd ----------------------------------------------------------------------------------------------------------


class Arrivals:
    """When a client dialled, as it tells its callbacks."""

    def __init__(self) -> None:
        self.dials: list[float] = []

    def __call__(self, status: ConnectionStatus) -> None:
        if status is ConnectionStatus.CONNECTING:
            self.dials.append(time.monotonic())


def most_within(times: list[float], seconds: float) -> int:
    """Return how many of the times fall into the fullest window of this length."""
    times = sorted(times)
    return max(bisect.bisect_right(times, start + seconds) - index for index, start in enumerate(times))


@pytest.mark.slow
def test_200_clients_whose_gateway_restarts_all_come_back_and_not_all_at_once(
    start_gateway: StartGateway, make_client: MakeClient, registry: ClientRegistry
) -> None:
    keys = [generate_key("ec") for _ in range(CROWD)]
    ids = [registry.register(f"client {number}", public_pem(key)).id for number, key in enumerate(keys)]
    gateway = start_gateway()
    clients = [make_client(gateway.url, client_id=id, private_key=key) for id, key in zip(ids, keys, strict=True)]
    for client in clients:
        client.connect()
    arrivals = [Arrivals() for _ in clients]
    for client, arrival in zip(clients, arrivals, strict=True):
        client.on_connection_change(arrival)

    gateway.stop()
    # Down until everybody has knocked once in vain: a restart takes a moment.
    wait_until(lambda: all(arrival.dials for arrival in arrivals), 20)
    wait_until(lambda: all(client.status == "reconnecting" for client in clients), 20)
    gateway.start()
    wait_until(lambda: all(client.is_ready() for client in clients), 30)

    assert gateway.gateway.stats().clients == CROWD
    assert [client.stats().reconnects for client in clients] == [1] * CROWD
    at_once = most_within([arrival.dials[-1] for arrival in arrivals], 0.1)
    assert at_once <= CROWD / 4, at_once
    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(WSClient.list_models, clients))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(WSClient.close, clients))
