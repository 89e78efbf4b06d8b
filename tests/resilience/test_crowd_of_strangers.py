"""Strangers by the hundred, who dawdle or guess, beside honest clients: these keep their rate."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest

from wsclient import WSClient

from ..support.fake_ollama import Answer, FakeOllama
from ..support.gateway_peers import RawPeer
from ..support.lines import in_thread
from ..support.waiting import wait_until
from .conftest import MakeClient, StartProcess
from .gateway_process import GatewayProcess

HONEST = 20
DAWDLERS = 1000
FLOODERS = 10
LOGINS = 500
# 40 tokens a second for each: no machine is too slow for that, so that only being held up makes it less.
DELAY = 0.025
WINDOW = 5.0
ROUNDS = 3
# Seconds more than on the same machine without strangers; 0.1 as a rule.
MORE_SILENCE = 0.5


class Streams:
    """Honest clients that stream on and on, and how many tokens they have received; a context manager."""

    def __init__(self, clients: list[WSClient]) -> None:
        self._clients = clients
        self._counts = [0] * len(clients)
        self._longest = 0.0
        self._is_over = threading.Event()
        self._failures: list[BaseException] = []

    def __enter__(self) -> Streams:
        self._threads = [in_thread(partial(self._run, number)) for number in range(len(self._clients))]
        wait_until(lambda: all(self._counts), 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a stream hangs"
        assert self._failures == []

    def _run(self, number: int) -> None:
        try:
            last = time.monotonic()
            while not self._is_over.is_set():
                for _ in self._clients[number].stream("go on", "llama2"):
                    self._counts[number] += 1
                    now = time.monotonic()
                    # Two threads at once may lose the shorter one's word, which nobody misses for long.
                    self._longest = max(self._longest, now - last)
                    last = now
                    if self._is_over.is_set():
                        break
        except BaseException as error:
            self._failures.append(error)

    def rates(self, is_enough: Callable[[], bool] = lambda: True) -> tuple[list[float], float]:
        """Measure for a while, and until there was enough.

        Returns:
            The tokens a second that each of them received, and the longest silence that any of them heard, in seconds.
        """
        self._longest = 0.0
        before, began = list(self._counts), time.monotonic()
        # A rate is of a time, so this takes its time on purpose.
        wait_until(lambda: time.monotonic() - began > WINDOW and is_enough(), 60)
        lasted = time.monotonic() - began
        return [(now - then) / lasted for now, then in zip(self._counts, before, strict=True)], self._longest


def sources() -> Iterator[str]:
    """Return loopback addresses that are not the honest ones', over and over."""
    return itertools.cycle(f"127.0.0.{number}" for number in range(2, 12))


@contextmanager
def dawdlers(port: int) -> Iterator[None]:
    """Hold sockets open that send a header now and then, and new ones for those that are dropped."""
    is_over = threading.Event()
    head = b"GET / HTTP/1.1\r\nHost: gateway\r\n"
    address = sources()

    def dial() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(next(address), 0))
        sock.sendall(head)
        return sock

    def dawdle(sockets: list[socket.socket]) -> None:
        while not is_over.wait(1.0):
            for number, sock in enumerate(sockets):
                try:
                    sock.sendall(b"X-Slow: yes\r\n")
                except OSError:
                    sock.close()
                    with suppress(OSError):
                        sockets[number] = dial()

    sockets = [dial() for _ in range(DAWDLERS)]
    thread = in_thread(lambda: dawdle(sockets))
    try:
        yield
    finally:
        is_over.set()
        thread.join(20)
        for sock in sockets:
            sock.close()


class Flood:
    """Strangers that try one wrong login after the other, each from an address of his own; a context manager."""

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self._client_id = client_id
        self._is_over = threading.Event()
        self.attempts = 0

    def __enter__(self) -> Flood:
        from_where = itertools.islice(sources(), FLOODERS)
        self._threads = [in_thread(partial(self._run, source)) for source in from_where]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, source: str) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            with suppress(OSError, AssertionError), RawPeer(self._url, source=source) as peer:
                # Another id each time, or the guard would turn most of them away unchecked.
                peer.send(type="authenticate", clientId=f"{self._client_id}{number}", signature="A" * 344)
                peer.read_to_end()
                self.attempts += 1


def kept(streams: Streams, gateway: GatewayProcess, client_id: str) -> tuple[float, float, float]:
    """Return the share of its rate that everybody keeps, that the worst one keeps, and the seconds of silence added."""
    alone, quiet = streams.rates()
    with dawdlers(gateway.port), Flood(gateway.url, client_id) as flood:
        beside, silence = streams.rates(lambda: flood.attempts >= LOGINS)
    return sum(beside) / sum(alone), min(now / then for now, then in zip(beside, alone, strict=True)), silence - quiet


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_1000_dawdlers_and_500_logins_leave_20_honest_clients_their_rate(
    start_process: StartProcess, make_client: MakeClient, client_id: str
) -> None:
    measured = []
    with FakeOllama(default=Answer(tokens=400, delay=DELAY)) as ollama, ExitStack() as stack:
        gateway = start_process(f"--ollama-url={ollama.url}", f"--max-running={HONEST}", "--log-level=error")
        clients = [make_client(gateway.url) for _ in range(HONEST)]
        for client in clients:
            client.connect()
        streams = stack.enter_context(Streams(clients))
        # Other programs may take the machine in one of the rounds; a gateway that is held up is so in all of them.
        for _ in range(ROUNDS):
            measured.append(kept(streams, gateway, client_id))
            together, worst, silence = measured[-1]
            if min(together, worst) >= 0.8 and silence < MORE_SILENCE:
                return
    raise AssertionError(measured)
