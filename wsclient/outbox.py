"""The frames on their way out of one connection, whoever sends them.

Whole frames leave one at a time: whoever holds the send lock writes from the head of the queue. What an interrupted or
stalled writer leaves at the head is finished by the next one, so no half frame is ever followed by another.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Protocol

from .core.frames import CLOSE, PONG, TEXT, encode_frame
from .core.wire_errors import reason_of
from .errors import ConnectionLostError, RequestTimeoutError

__all__ = ["Outbox"]

# Pongs that may wait for a peer that pings without reading. RFC 6455 section 5.5.3 asks for the last one only.
_MAX_WAITING = 1000


class _Socket(Protocol):
    def write(self, data: memoryview, sizes: list[int]) -> bool:
        """Write once, as much as the socket takes; append how much that was, or return `False`."""

    def wait(self, event: int, timeout: float | None = None) -> bool:
        """Wait for an event of `select.poll`."""

    def abort(self) -> None:
        """End the connection."""


class Outbox:
    """The queue of frames to send. `send` blocks its caller, `post` and `flush` never do; any thread may call them.

    Args:
        socket: where the frames go.
        stall_timeout: seconds without progress after which the connection is ended.
        keeps_tries: whether the socket keeps what it was asked to send and could not, as OpenSSL does: it then wants
            the very same bytes again, and nothing else.
    """

    def __init__(self, socket: _Socket, stall_timeout: float, *, keeps_tries: bool) -> None:
        self._socket = socket
        self._stall_timeout = stall_timeout
        self._keeps_tries = keeps_tries
        # Only who holds the lock takes from the queue; anybody may append. Nothing is taken inside it but the I/O lock.
        self._lock = threading.Lock()
        # A list: an empty deque takes 0.7 KiB, and few frames ever wait.
        self._frames: list[_Outgoing] = []
        self._has_posted_close = False

    @property
    def is_waiting(self) -> bool:
        """Whether frames wait for the socket to take them."""
        return bool(self._frames)

    def send(self, text: str, deadline: float) -> None:
        """Send a text message; blocks until it is written, other frames before it included.

        Progress is life: it may take as long as the deadline allows, but `stall_timeout` seconds in which the socket
        takes nothing end the connection.

        Args:
            text: the message.
            deadline: monotonic time until which to try.

        Raises:
            RequestTimeoutError: the deadline passed first; what is out of the message by then is finished by whoever
                sends next.
            ConnectionLostError: the connection broke or stalled; the message may be out in part.
        """
        frame = _Outgoing(TEXT, text.encode())
        self._frames.append(frame)
        while not frame.is_written:
            taken: list[bool] = []
            try:
                # One step for Ctrl-C: a lock that was taken, and not yet noted as taken, would never be released.
                taken.extend(map(self._lock.acquire, (False,)))
                if not taken[0]:
                    taken.clear()
                    taken.extend(map(self._lock.acquire, (True,), (max(0.0, deadline - time.monotonic()),)))
                if not taken[0]:
                    # Who holds the lock may be writing this very frame; if not, it is skipped when its turn comes.
                    frame.is_withdrawn = True
                    raise RequestTimeoutError("the request could not be sent in time: other messages took the line")
                self._write_until(frame, deadline)
            finally:
                if taken and taken[0]:
                    self._lock.release()
        self.flush()

    def post(self, opcode: int, payload: bytes) -> None:
        """Send a frame as soon as the line takes it, without ever blocking.

        What the socket does not take now is written by the next sender, or by the reader when it next wakes; a line on
        which neither happens is dead, and the watchdog ends it.

        Args:
            opcode: `TEXT`, `PONG`, `PING` or `CLOSE`.
            payload: the frame's payload.
        """
        if self._has_posted_close or (opcode == PONG and len(self._frames) >= _MAX_WAITING):
            return
        # RFC 6455 section 5.5.1: nothing follows a close frame, not even another one.
        self._has_posted_close = self._has_posted_close or opcode == CLOSE
        self._frames.append(_Outgoing(opcode, payload))
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes without waiting."""
        # Asked again after the release: a frame appended while the lock was held would otherwise stay behind.
        while self._frames:
            taken: list[bool] = []
            try:
                # As in `send`.
                taken.extend(map(self._lock.acquire, (False,)))
                if not taken[0]:
                    return
                while self._frames:
                    if not self._write_head():
                        return
            except OSError:
                # The reader sees the broken socket too, and tells everyone why.
                self._socket.abort()
                return
            finally:
                if taken and taken[0]:
                    self._lock.release()

    def _write_until(self, frame: _Outgoing, deadline: float) -> None:
        """Write until the frame is out. The caller holds the lock."""
        try:
            if not frame.is_written:
                # Nearly always this is all: nothing waited, and the socket takes it whole, so nobody needs a clock.
                self._write_head()
            stalls_at = 0.0 if frame.is_written else time.monotonic() + self._stall_timeout
            while not frame.is_written:
                now = time.monotonic()
                if self._write_head():
                    stalls_at = now + self._stall_timeout
                elif now >= stalls_at:
                    raise TimeoutError(f"the server took nothing for {self._stall_timeout:g} s")
                elif now >= deadline:
                    break
                else:
                    self._socket.wait(select.POLLOUT, min(stalls_at, deadline) - now)
        except OSError as error:
            # Half a frame may be out, so nothing can follow it.
            self._socket.abort()
            raise ConnectionLostError(f"the connection broke while sending: {reason_of(error)}") from error
        if not frame.is_written:
            frame.is_withdrawn = True
            raise RequestTimeoutError("the request could not be sent in time: the server takes it too slowly")

    def _write_head(self) -> bool:
        """Write what the socket takes now of the frame at the head; return whether it took anything."""
        frame = self._frames[0]
        if frame.note_written() if frame.sizes else frame.is_withdrawn and not frame.is_begun:
            self._frames.pop(0)
            return True
        frame.is_begun = frame.is_begun or self._keeps_tries
        has_progressed = self._socket.write(frame.rest(), frame.sizes)
        if frame.note_written():
            self._frames.pop(0)
        return has_progressed


class _Outgoing:
    """A frame on its way out. It is masked when its turn comes: a queue of large prompts is not kept twice."""

    __slots__ = ("_bytes", "_opcode", "_payload", "is_begun", "is_withdrawn", "is_written", "sizes")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self._opcode = opcode
        self._payload = payload
        self._bytes: memoryview | None = None
        # The sizes of the pieces that are out. Their sum is where the rest begins; a number that is counted up after
        # each piece would miss one when Ctrl-C comes between.
        self.sizes: list[int] = []
        self.is_begun = self.is_withdrawn = self.is_written = False

    def rest(self) -> memoryview:
        if self._bytes is None:
            self._bytes = memoryview(encode_frame(self._opcode, self._payload, os.urandom(4)))
            self._payload = b""
        return self._bytes[sum(self.sizes) :] if self.sizes else self._bytes

    def note_written(self) -> bool:
        # Ctrl-C may come between the writing and this; then whoever sends next comes here first.
        self.is_written = self._bytes is not None and sum(self.sizes) == len(self._bytes)
        return self.is_written
