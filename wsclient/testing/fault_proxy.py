"""A bad network on command: a real TCP proxy between a client and a server, both on loopback.

    with FaultProxy(port_of_the_server) as proxy:
        client = WSClient(f"ws://127.0.0.1:{proxy.port}", ...)
        proxy.stall(TO_CLIENT)      # half-open: nothing arrives any more, and nobody is told
        proxy.resume()
        proxy.cut(reset=True)       # RST on both sides

Faults apply to all connections, those to come included, until `heal()`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal, Self

import attrs

__all__ = ["TO_CLIENT", "TO_SERVER", "Direction", "FaultProxy", "ProxiedConnection"]

Direction = Literal["to_client", "to_server"]
TO_CLIENT: Direction = "to_client"
TO_SERVER: Direction = "to_server"

_CHUNK = 64 * 1024


@attrs.define
class _Faults:
    """What is done to the bytes of one direction."""

    delay: float = 0.0
    bytes_per_second: float | None = None
    is_stalled: bool = False
    is_split: bool = False
    # Bytes still forwarded before the connection is cut, and whether it is reset then.
    remaining: int | None = None
    is_reset_after: bool = False
    # Positions, counted from the next byte on, whose bits are flipped.
    corrupted: set[int] = attrs.field(factory=set)


class ProxiedConnection:
    """One connection through the proxy: a socket to the client, one to the server, and a thread a direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket | None) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ends = [end for end in (client, server) if end is not None]
        self._threads: list[threading.Thread] = []
        self.forwarded: dict[Direction, int] = {TO_CLIENT: 0, TO_SERVER: 0}
        self.is_over = False

    def start(self) -> None:
        """Begin to forward, unless there is no server to forward to."""
        if self._server is not None:
            self._start(self._server, self._client, TO_CLIENT)
            self._start(self._client, self._server, TO_SERVER)

    def _start(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        thread = threading.Thread(
            target=self._pump, args=(source, target, direction), name=f"fault-proxy-{direction}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        try:
            while self._proxy._may_read(self, direction):
                data = source.recv(_CHUNK)
                if not data:
                    break
                arrived = time.monotonic()
                for chunk in self._proxy._distort(self, direction, data, arrived):
                    target.sendall(chunk)
                    self.forwarded[direction] += len(chunk)
        except OSError:
            pass
        # The other side hears of the end as it happened: a FIN for a FIN. A stalled line hears nothing.
        if self._proxy._may_read(self, direction):
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def cut(self, *, reset: bool = False) -> None:
        """End both sides at once, with FIN, or with RST."""
        self.is_over = True
        self._proxy._wake()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        if reset:
            # The kernel sends the RST when the last user of the socket is gone, and a pump that reads is one.
            self._join()
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.close()

    def _join(self) -> None:
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def close(self) -> None:
        """Cut it and wait until its threads are gone."""
        self.cut()
        self._join()
        for end in self._ends:
            end.close()


class FaultProxy:
    """The proxy; a context manager.

    Args:
        target_port: where the server listens on 127.0.0.1.
        port: where to listen; 0 is any free one.

    Attributes:
        connections: those that came in, in order, the ended ones too.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.target_port = target_port
        self.connections: list[ProxiedConnection] = []
        self._faults: dict[Direction, _Faults] = {TO_CLIENT: _Faults(), TO_SERVER: _Faults()}
        # Guards the faults, and wakes the pumps that wait on them.
        self._changed = threading.Condition()
        self._is_silent = False
        self._is_closed = False
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = self._start_accepting(self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- faults -------------------------------------------------------------------------------------------------------

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Forward each piece this much later."""
        self._set(directions, delay=seconds)

    def throttle(self, bytes_per_second: float | None, *directions: Direction) -> None:
        """Forward no faster than this."""
        self._set(directions, bytes_per_second=bytes_per_second)

    def stall(self, *directions: Direction) -> None:
        """Forward nothing any more, and say nothing: a half-open line."""
        self._set(directions, is_stalled=True)

    def resume(self, *directions: Direction) -> None:
        """Forward what a stall held back, and go on."""
        self._set(directions, is_stalled=False)

    def split(self, *directions: Direction) -> None:
        """Forward every byte in a write of its own."""
        self._set(directions, is_split=True)

    def truncate(self, after: int, *directions: Direction, reset: bool = False) -> None:
        """Forward this many bytes more, then cut the connection, in the middle of a frame or wherever that is."""
        self._set(directions, remaining=after, is_reset_after=reset)

    def corrupt(self, *positions: int, direction: Direction = TO_CLIENT) -> None:
        """Flip the bits of bytes, counted from the next one on."""
        self._set((direction,), corrupted=set(positions))

    def cut(self, *, reset: bool = False) -> None:
        """Cut all connections, with FIN, or with RST."""
        for connection in list(self.connections):
            connection.cut(reset=reset)

    def inject(self, data: bytes) -> None:
        """Send bytes of nobody's to the clients of all connections, between two pieces or within one."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection._client.sendall(data)

    def refuse(self) -> None:
        """Refuse new connections; the present ones stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # The shutdown wakes the accept that waits in the other thread.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._acceptor.join(5)

    def accept(self) -> None:
        """Accept new connections again, on the same port."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._acceptor = self._start_accepting(self._listener)

    def silence(self, is_silent: bool = True) -> None:
        """Accept new connections, and say nothing on them."""
        self._is_silent = is_silent

    def heal(self) -> None:
        """End all faults."""
        with self._changed:
            self._faults = {TO_CLIENT: _Faults(), TO_SERVER: _Faults()}
            self._changed.notify_all()
        self.silence(False)
        self.accept()

    def close(self) -> None:
        """End everything; no thread and no socket is left."""
        self.refuse()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for connection in self.connections:
            connection.close()

    def _set(self, directions: tuple[Direction, ...], **changes: object) -> None:
        with self._changed:
            for direction in directions or (TO_CLIENT, TO_SERVER):
                for name, value in changes.items():
                    setattr(self._faults[direction], name, value)
            self._changed.notify_all()

    # --- the proxy's threads ------------------------------------------------------------------------------------------

    def _start_accepting(self, listener: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(listener,), name="fault-proxy-accept", daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = None
            if not self._is_silent:
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:
                    # As a dead server looks from the other side of a proxy.
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ProxiedConnection(self, client, server)
            # Before anything comes through: whoever has had an answer can cut the connection that it came by.
            self.connections.append(connection)
            connection.start()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _may_read(self, connection: ProxiedConnection, direction: Direction) -> bool:
        """Wait out a stall; return whether the connection goes on."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or connection.is_over or not self._faults[direction].is_stalled
            )
            return not self._is_closed and not connection.is_over

    def _wait(self, connection: ProxiedConnection, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or connection.is_over, timeout=seconds)

    def _distort(
        self, connection: ProxiedConnection, direction: Direction, data: bytes, arrived: float
    ) -> list[bytes] | tuple[bytes, ...]:
        """Return what to forward of a piece, in how many writes; delays happen in here."""
        if not self._may_read(connection, direction):
            return []
        with self._changed:
            faults = self._faults[direction]
            delay, rate, is_split = faults.delay, faults.bytes_per_second, faults.is_split
            hit = {position for position in faults.corrupted if position < len(data)}
            faults.corrupted = {position - len(data) for position in faults.corrupted - hit}
            is_last = faults.remaining is not None and faults.remaining <= len(data)
            reset = faults.is_reset_after
            if faults.remaining is not None:
                data = data[: faults.remaining]
                faults.remaining = None if is_last else faults.remaining - len(data)
        if hit:
            data = bytes(byte ^ 0xFF if index in hit else byte for index, byte in enumerate(data))
        pause = max(delay - (time.monotonic() - arrived), len(data) / rate if rate else 0.0)
        if pause > 0:
            self._wait(connection, pause)
        pieces = [bytes((byte,)) for byte in data] if is_split else [data]
        if is_last:
            target = connection._client if direction == TO_CLIENT else connection._server
            if target is not None:
                with contextlib.suppress(OSError):
                    target.sendall(data)
            connection.cut(reset=reset)
            return []
        return pieces
