"""The bad network does what it is told, so that what is tested over it means something."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient.testing.fault_proxy import TO_CLIENT, TO_SERVER, FaultProxy, ProxiedConnection


class _Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _echo(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    echo = _Echo()
    with FaultProxy(echo.port) as proxy:
        yield proxy
    echo.close()


@pytest.fixture
def peer(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        yield peer


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := peer.recv(size - len(data))):
        data += more
    return data


def test_what_is_injected_comes_besides(proxy: FaultProxy, peer: socket.socket) -> None:
    peer.sendall(b"one")
    assert peer.recv(100) == b"one"

    proxy.inject(b"two")

    assert peer.recv(100) == b"two"


def test_without_faults_bytes_pass_unchanged(peer: socket.socket) -> None:
    sent = bytes(range(256)) * 4096
    threading.Thread(target=peer.sendall, args=(sent,)).start()

    assert _read(peer, len(sent)) == sent


def test_delay_holds_each_piece_back(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.delay(0.2, TO_CLIENT)
    begin = time.monotonic()
    peer.sendall(b"x")

    assert _read(peer, 1) == b"x"
    assert time.monotonic() - begin >= 0.2


def test_throttle_bounds_the_rate(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.throttle(50_000, TO_CLIENT)
    begin = time.monotonic()
    peer.sendall(bytes(10_000))

    assert len(_read(peer, 10_000)) == 10_000
    assert time.monotonic() - begin >= 0.2


def test_stall_forwards_nothing_and_closes_nothing(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.stall(TO_CLIENT)
    peer.sendall(b"held")
    peer.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.recv(1)

    proxy.resume()
    peer.settimeout(5)
    assert _read(peer, 4) == b"held"


def test_cut_ends_the_stream(proxy: FaultProxy, peer: socket.socket) -> None:
    peer.sendall(b"a")
    _read(peer, 1)
    proxy.cut()

    assert peer.recv(1) == b""


def test_cut_with_reset_is_an_error(proxy: FaultProxy, peer: socket.socket) -> None:
    peer.sendall(b"a")
    _read(peer, 1)
    proxy.cut(reset=True)

    with pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_truncate_forwards_so_many_bytes_and_no_more(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.truncate(3, TO_CLIENT)
    peer.sendall(b"abcdef")

    assert _read(peer, 6) == b"abc"


def test_corrupt_flips_the_bytes_named(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.corrupt(1)
    peer.sendall(b"\x00\x00\x00")

    assert _read(peer, 3) == b"\x00\xff\x00"


def test_split_keeps_the_bytes(proxy: FaultProxy, peer: socket.socket) -> None:
    proxy.split()
    peer.sendall(b"one by one")

    assert _read(peer, 10) == b"one by one"


def test_refuse_leaves_the_port_closed_until_accept(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)

    proxy.accept()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        peer.sendall(b"a")
        assert _read(peer, 1) == b"a"


def test_silence_accepts_and_says_nothing(proxy: FaultProxy) -> None:
    proxy.silence()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as peer:
        peer.sendall(b"a")
        with pytest.raises(TimeoutError):
            peer.recv(1)


def test_heal_ends_all_faults(proxy: FaultProxy) -> None:
    proxy.stall()
    proxy.refuse()
    proxy.heal()

    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        peer.sendall(b"a")
        assert _read(peer, 1) == b"a"


def test_close_leaves_no_thread(proxy: FaultProxy, peer: socket.socket) -> None:
    peer.sendall(b"a")
    _read(peer, 1)
    proxy.stall(TO_CLIENT, TO_SERVER)
    proxy.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fault-proxy")]


def test_a_connection_is_known_before_anything_comes_through(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    pump = ProxiedConnection._pump

    def note_and_pump(self: ProxiedConnection, *arguments: Any) -> None:
        known.append(proxy.connections.count(self))
        pump(self, *arguments)

    monkeypatch.setattr(ProxiedConnection, "_pump", note_and_pump)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        peer.sendall(b"a")
        _read(peer, 1)

    assert known == [1, 1]
