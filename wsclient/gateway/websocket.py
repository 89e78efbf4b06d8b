"""An upgraded connection: bytes in, text messages out, and the other way round with backpressure.

aiohttp hands over what it reads (`RequestHandler.set_parser`); `core/frames.py` cuts it. What is sent within one turn
of the event loop leaves in one write: with many generations on a connection, and at high token rates, the system calls
are most of the cost.

Memory is bounded twice. Token text waits in turn (`send_in_turn`) while the client is behind by `_HIGH_WATER` bytes, so
that its generations come to rest. Everything else, which is small, is sent at once, and a client that lets
`max_unsent_bytes` of it pile up, or reads hardly anything for `write_timeout` seconds, is cut off.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from aiohttp.abc import AbstractStreamWriter

from ..core.frames import CLOSE, PING, PONG, FrameParser, close_payload, encode_frame, encode_texts
from .settings import GatewaySettings

__all__ = ["WebSocket"]

_log = logging.getLogger(__name__)

_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024

# A client that is behind must take so many bytes a second, some eight tokens: whoever takes a byte now and then would
# keep its generations' places at the model for as long as it likes.
_LEAST_RATE = 1024

# One read may hold forty thousand frames, 0.1 s of work and more: after this many seconds the others have their turn.
_SLICE_TIME, _SLICE_BYTES = 0.005, 4 * 1024

# Pings, pongs and small fragments: so many at once, and so many more a second. They cost 3 microseconds each.
_SMALL_FRAMES, _SMALL_FRAMES_PER_SECOND = 256, 64


class _State(Enum):
    OPEN = "open"
    # Our close frame is on its way; the peer's, or the end of the line, is waited for.
    CLOSING = "closing"
    LOST = "lost"


class _Turn:
    """Data that waits for the client to catch up, and who waits with it."""

    __slots__ = ("data", "done")

    def __init__(self, data: bytes, done: asyncio.Future[None]) -> None:
        self.data = data
        self.done = done


class WebSocket:
    """One client's connection, from the upgrade to its end. It belongs to the event loop that it was made in.

    Args:
        transport: the connection.
        writer: aiohttp's writer of the same connection; only waited on.
        settings: the gateway's.
        on_texts: gets the text messages of each read, in order, never an empty list.
        on_close: called once, when no message can come in or go out any more.

    Attributes:
        closed: done when the connection is lost.
        close_code: why it ended: the code that was sent or received first, 1006 while there is none.
        received_bytes: from the client, frames included.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        settings: GatewaySettings,
        on_texts: Callable[[list[bytes]], None],
        on_close: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._writer = writer
        self._settings = settings
        self._on_texts = on_texts
        self._on_close: Callable[[], None] | None = on_close
        limit = settings.max_message_size_before_login
        self._parser = FrameParser(masked=True, max_message_size=limit)
        self._parser.small_frames_left = _SMALL_FRAMES
        self._refilled_at = time.monotonic()
        # What was read and waits for its turn; nothing is read meanwhile.
        self._unread = b""
        self._is_paused = False
        self._state = _State.OPEN
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._written_bytes = 0
        self.received_bytes = 0
        self._turns: deque[_Turn] = deque()
        self._drainer: asyncio.Task[None] | None = None
        self._progress_check: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.close_code = 1006
        transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)

    @property
    def is_open(self) -> bool:
        """Whether messages are still exchanged."""
        return self._state is _State.OPEN

    @property
    def unsent_bytes(self) -> int:
        """How much the client has still to read, as far as this process knows."""
        return self._unwritten_bytes + self._transport.get_write_buffer_size()

    @property
    def sent_bytes(self) -> int:
        """How much was handed to the system for the client, frames included."""
        return self._written_bytes

    @property
    def max_message_size(self) -> int:
        """Bytes that a message may have; few until somebody who has logged in may send more."""
        return self._parser.max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        self._parser.max_message_size = size

    # --- in ---------------------------------------------------------------------------------------------------------

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what was read; aiohttp calls this. Never raises, for that would end in a traceback in the log."""
        self.received_bytes += len(data)
        if self._unread:
            self._unread += data
        else:
            self._unread = data
            self._read_on()
        return False, b""

    def _read_on(self) -> None:
        self._refill()
        data, position = self._unread, 0
        slice_end = time.monotonic() + _SLICE_TIME
        while position < len(data) and not self._parser.is_done and self._state is not _State.LOST:
            self._take(data[position : position + _SLICE_BYTES])
            position += _SLICE_BYTES
            if position < len(data) and time.monotonic() > slice_end:
                self._unread = data[position:]
                self._loop.call_soon(self._read_on)
                if not self._is_paused:
                    self._is_paused = True
                    self._transport.pause_reading()
                return
        self._unread = b""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _refill(self) -> None:
        now = time.monotonic()
        more = int((now - self._refilled_at) * _SMALL_FRAMES_PER_SECOND)
        if more and self._parser.small_frames_left is not None:
            self._parser.small_frames_left = min(_SMALL_FRAMES, self._parser.small_frames_left + more)
            self._refilled_at = now

    def _take(self, data: bytes) -> None:
        texts = self._parser.feed(data)
        if texts and self._state is _State.OPEN:
            self._on_texts(texts)
        self._answer_controls()
        if self._parser.violation is not None:
            self.close(self._parser.violation.code, self._parser.violation.reason)
        elif self._parser.close is not None:
            self._answer_close(self._parser.close.code)

    def feed_eof(self) -> None:
        """Take note that the connection is lost; aiohttp calls this."""
        if self._state is _State.LOST:
            return
        self._state = _State.LOST
        self._forget_unwritten()
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._progress_check is not None:
            self._progress_check.cancel()
        self._end()
        if not self.closed.done():
            self.closed.set_result(None)

    def _answer_controls(self) -> None:
        controls = self._parser.controls
        if not controls:
            return
        if self._state is _State.OPEN:
            # RFC 6455 section 5.5.3: of several pings only the last need be answered.
            pings = [control.payload for control in controls if control.opcode == PING]
            if pings:
                self._put(encode_frame(PONG, pings[-1]))
        controls.clear()

    def _answer_close(self, code: int) -> None:
        if self._state is _State.OPEN:
            self.close_code = code
            self._begin_closing(b"" if code == 1005 else close_payload(code))
        # RFC 6455 section 7.1.1: both have said it now, and it is the server that closes the connection.
        self._transport.close()

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, texts: list[str]) -> None:
        """Send messages at once, whatever waits; for answers, which are small."""
        if self._state is _State.OPEN:
            self._put(encode_texts(texts))

    async def send_in_turn(self, texts: list[str]) -> int:
        """Send messages when the client has caught up, one caller after the other; for text, which is endless.

        When it is cancelled, none of them is sent.

        Returns:
            How many bytes they were.
        """
        if self._state is not _State.OPEN:
            return 0
        data = encode_texts(texts)
        if not self._turns and not self._is_behind():
            self._put(data)
            return len(data)
        turn = _Turn(data, self._loop.create_future())
        self._turns.append(turn)
        try:
            await turn.done
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if turn.done.cancelled() or task is None:
                raise
            # Sent in the same moment: the caller takes note of that first, and is cancelled where it waits next.
            task.uncancel()
            task.cancel()
        return len(data)

    def _is_behind(self) -> bool:
        return self.unsent_bytes > _HIGH_WATER

    def _put(self, data: bytes) -> None:
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)

    def _write(self) -> None:
        if self._transport.is_closing():
            self._forget_unwritten()
            return
        if self._unwritten:
            data = b"".join(self._unwritten)
            self._forget_unwritten()
            self._written_bytes += len(data)
            self._transport.write(data)
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._settings.max_unsent_bytes:
            self._cut_off(f"let {unsent} bytes pile up")
        elif unsent <= _HIGH_WATER:
            self._grant_turns()
        elif self._drainer is None:
            self._drainer = self._loop.create_task(self._drain())
            self._progress_check = self._loop.call_later(
                self._settings.write_timeout, self._check_progress, self._taken_bytes()
            )

    def _grant_turns(self) -> None:
        while self._turns and not self._is_behind():
            turn = self._turns.popleft()
            if not turn.done.done():
                turn.done.set_result(None)
                self._put(turn.data)

    async def _drain(self) -> None:
        # Never cancelled: whoever waits for aiohttp shares one future, and a cancelled one would stay for the next.
        try:
            await self._writer.drain()
        except ConnectionError:
            # The loss itself is reported through `feed_eof`.
            return
        finally:
            self._drainer = None
            if self._progress_check is not None:
                self._progress_check.cancel()
        self._write()

    def _check_progress(self, taken_before: int) -> None:
        """Cut off a client that has taken too little since the last look."""
        taken = self._taken_bytes()
        timeout = self._settings.write_timeout
        if taken - taken_before < _LEAST_RATE * timeout:
            self._cut_off(f"took {taken - taken_before} bytes in {timeout:g} s")
            return
        self._progress_check = self._loop.call_later(timeout, self._check_progress, taken)

    def _taken_bytes(self) -> int:
        """Return how much has reached the client's side, as far as the system tells.

        What the kernel has taken from us says nothing: it asks for more only when a third of its buffer is free, and a
        client that reads 20 kB/s may take a minute for that.
        """
        queued = 0
        connected = self._transport.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError, ValueError):
                answer = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
                queued = int.from_bytes(answer, sys.byteorder)
        return self._written_bytes - self._transport.get_write_buffer_size() - queued

    def _cut_off(self, why: str) -> None:
        _log.warning("a client %s; its connection is dropped", why)
        self.abort()

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; what was sent before still goes out. Does nothing the second time."""
        if self._state is not _State.OPEN:
            return
        self.close_code = code
        self._begin_closing(close_payload(code, reason))
        # The peer sees the end at once, while its answer is still read: closing with unread data in the socket would
        # reset the connection, and the close frame could be lost with it.
        if self._transport.can_write_eof() and not self._transport.is_closing():
            # It fails when the peer has gone already; then `feed_eof` is about to be called.
            with suppress(OSError):
                self._transport.write_eof()

    def abort(self) -> None:
        """Drop the connection as it is, without a close frame; does nothing once it is lost."""
        # A transport closed with data still to write, which it then wrote, raises in abort() (CPython 3.11 to 3.13).
        if self._state is not _State.LOST:
            self._transport.abort()
            self.feed_eof()

    def _begin_closing(self, payload: bytes) -> None:
        self._state = _State.CLOSING
        self._close_timer = self._loop.call_later(self._settings.close_timeout, self.abort)
        # First nobody waits any more: nothing may follow the close frame.
        self._end()
        self._put(encode_frame(CLOSE, payload))
        self._write()

    def _end(self) -> None:
        for turn in self._turns:
            turn.done.cancel()
        self._turns.clear()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def _forget_unwritten(self) -> None:
        self._unwritten.clear()
        self._unwritten_bytes = 0
