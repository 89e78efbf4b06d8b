"""Connect, stream, close, two hundred times and in every way: what is left afterwards is what was there before."""

from __future__ import annotations

import gc
import logging
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import attrs
import pytest
from Crypto.PublicKey.ECC import EccKey

from wsclient import ClientClosedError, WSClient
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import public_pem
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.holdings import Holdings
from ..support.waiting import wait_until
from .conftest import StartProcess

CYCLES = 200
ENDLESS = 1_000_000_000


@attrs.frozen
class Place:
    """Where the cycles go: a gateway, one that never answers, one that drops whoever logged in; and as whom."""

    gateway: str
    silent: str
    dropping: str
    options: dict[str, Any]

    def client(self, url: str, **options: Any) -> WSClient:
        return WSClient(url, **self.options, **options)


def close_at_the_end(place: Place) -> None:
    with place.client(place.gateway) as client:
        assert len(list(client.stream("hi", max_tokens=20))) == 20


def close_in_mid_stream(place: Place) -> None:
    client = place.client(place.gateway)
    generation = client.stream("hi", max_tokens=ENDLESS)
    next(generation)
    client.close()
    with pytest.raises(ClientClosedError):
        generation.result(5)


def close_from_a_callback(place: Place) -> None:
    client = place.client(place.gateway)
    is_closed = threading.Event()

    def close(_: object) -> None:
        client.close()
        is_closed.set()

    client.on_token(close)
    client.generate("hi", max_tokens=ENDLESS)
    assert is_closed.wait(10)


def close_from_another_thread(place: Place) -> None:
    client = place.client(place.gateway)
    generation = client.stream("hi", max_tokens=ENDLESS)
    closing = threading.Thread(target=client.close)
    next(generation)
    closing.start()
    with pytest.raises(ClientClosedError):
        for _ in generation:
            pass
    closing.join()


def close_while_connecting(place: Place) -> None:
    client = place.client(place.silent)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(client.connect)
        wait_until(lambda: client.status == "connecting")
        client.close()
        assert isinstance(connecting.exception(10), ClientClosedError)


def close_while_waiting_to_reconnect(place: Place) -> None:
    client = place.client(place.dropping, reconnect_delay=60.0, max_reconnect_delay=60.0)
    client.connect()
    wait_until(lambda: client.status == "reconnecting")
    client.close()


def drop_without_a_close(place: Place) -> None:
    next(place.client(place.gateway).stream("hi", max_tokens=ENDLESS))


WAYS: tuple[Callable[[Place], None], ...] = (
    close_at_the_end,
    close_in_mid_stream,
    close_from_a_callback,
    close_from_another_thread,
    close_while_connecting,
    close_while_waiting_to_reconnect,
    drop_without_a_close,
)


def log_in_and_drop(peer: Peer) -> None:
    peer.login()
    peer.drop()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing is logged."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def forget(server: ScriptedServer) -> None:
    """Have a server of the test's let go of the connections that are over."""
    server.peers.clear()
    server.sockets.clear()
    server._threads[:] = [thread for thread in server._threads if thread.is_alive()]


def held() -> tuple[int, int]:
    """Return how many threads and descriptors the process has."""
    return threading.active_count(), len(os.listdir("/dev/fd"))


@pytest.mark.slow
@pytest.mark.timeout(240)
# Each loss is logged, and pytest would keep the records.
@pytest.mark.usefixtures("quiet")
def test_200_cycles_leave_no_thread_no_descriptor_and_no_memory(
    start_process: StartProcess, registry: ClientRegistry, ec_key: EccKey
) -> None:
    id = registry.register("cycles", public_pem(ec_key)).id
    with ExitStack() as stack:
        # In a process of its own: here only the client's doings count.
        gateway = start_process("--backend=builtin")
        silent = stack.enter_context(ScriptedServer(Peer.accept_and_say_nothing, upgrade=False))
        dropping = stack.enter_context(ScriptedServer(log_in_and_drop))
        place = Place(gateway.url, silent.url, dropping.url, {"client_id": id, "private_key": ec_key})
        before, held_before = Holdings.now(), held()
        # What the allocator of C does with a thread's memory is its own affair; what Python holds is counted exactly.
        tracemalloc.start()
        stack.callback(tracemalloc.stop)

        def turn(count: int) -> int:
            for number in range(count):
                WAYS[number % len(WAYS)](place)
            gc.collect()
            before.wait_until_none_gained(10)
            wait_until(lambda: held() == held_before, 10)
            forget(silent)
            forget(dropping)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        # The first cycles fill caches and import the rest.
        warm = turn(len(WAYS))
        after = turn(CYCLES)

    assert after - warm < 2 * 1024 * 1024
