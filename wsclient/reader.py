"""The reader thread of one connection: it dials, reads until the end, and is the only one that closes the socket."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .core.frames import CLOSE, PING, PONG, FrameParser, Violation, close_payload
from .core.json_values import decode_values
from .core.wire_errors import bounded
from .errors import ConnectionLostError, MessageTooBigError, ProtocolError, WSClientError, error_for_close
from .futures import Future
from .logs import Logger
from .transport import TEXT, Transport

if TYPE_CHECKING:
    from .line import Line

__all__ = ["Reader", "join"]

_logger = Logger("wsclient.reader")

# How much is parsed and handed over at once. The objects of a MiB of messages are several MiB, which CPython gives back
# to the system after every read and then faults in again: a fifth of the time (measured). Reading itself stays long,
# because each system call may cost a busy program 5 ms.
_PIECE = 64 * 1024


class Reader:
    """One connection's thread.

    Args:
        line: whom to tell what came in.
        transport: the socket, not dialled yet.
        number: which connection of the client this is, for the thread's name.
        max_message_size: bytes of one incoming message.
    """

    def __init__(self, line: Line, transport: Transport, number: int, max_message_size: int) -> None:
        self._line = line
        self.transport = transport
        self._parser = FrameParser(masked=False, max_message_size=max_message_size)
        # Why the connection ends, when that was decided elsewhere; said before the transport is aborted.
        self.end_error: WSClientError | None = None
        # What the signer makes of the challenge; an error once nobody waits for it any more.
        self.signature: Future[str] = Future()
        # Daemon: a program must be able to end while the thread waits for the server.
        self.thread = threading.Thread(target=self._run, name=f"wsclient-reader-{number}", daemon=True)

    def _run(self) -> None:
        error: WSClientError | None = None
        try:
            target = self.transport.target
            if target.address is None:
                target = self._line.resolved(self, self.transport.resolve())
            self.transport.dial(target.address)
            self._line.opened(self)
            error = self._read()
        except WSClientError as raised:
            error = raised
        except BaseException as raised:
            # A bug of ours: whatever it is, nobody may wait for ever for this connection.
            _logger.exception("the reader thread met an unexpected error")
            error = ConnectionLostError(f"the client met an unexpected error: {type(raised).__name__}")
            error.__cause__ = raised
        finally:
            self.transport.close()
            self._line.lost(self, self.end_error or error or error_for_close(1006))

    def _read(self) -> WSClientError:
        """Read until the end and return why it ended."""
        end = None
        while end is None:
            # A call of its own: a name in this loop would keep the last read, a MiB at times, while the line is idle.
            end = self._take_read(self.transport.receive())
        return end

    def _take_read(self, data: bytes) -> WSClientError | None:
        """Take what one read gave, piece by piece; return why the connection ends, if it does."""
        if len(data) <= _PIECE:
            return self._take(data)
        for start in range(0, len(data), _PIECE):
            end = self._take(data[start : start + _PIECE])
            if end is not None:
                return end
        return None

    def _take(self, data: bytes) -> WSClientError | None:
        if not data:
            return error_for_close(1006)
        parser, transport = self._parser, self.transport
        texts = parser.feed(data)
        is_whole = bool(texts or parser.controls)
        if parser.controls:
            self._answer_pings()
        self._line.receive(self, decode_values(texts) if texts else [], is_whole)
        if parser.close is not None:
            transport.post(CLOSE, close_payload(1000) if parser.close.code == 1005 else self._echo())
            return error_for_close(parser.close.code, bounded(parser.close.reason, 123))
        if parser.violation is not None:
            transport.post(CLOSE, close_payload(parser.violation.code, parser.violation.reason))
            return _violation_error(parser.violation)
        return None

    def end(self, messages: list[bytes], goodbye: float | None) -> None:
        """End the connection. Any thread.

        Args:
            messages: what to say before.
            goodbye: seconds to wait for the server's half of the close handshake, `None` for neither that nor messages.
        """
        try:
            if goodbye is not None:
                for message in messages:
                    self.transport.post(TEXT, message)
                self.transport.post(CLOSE, close_payload(1000))
                join(self.thread, goodbye)
        finally:
            self.transport.abort()

    def _answer_pings(self) -> None:
        for control in self._parser.controls:
            if control.opcode == PING:
                self.transport.post(PONG, control.payload)
        self._parser.controls.clear()

    def _echo(self) -> bytes:
        # RFC 6455 section 5.5.1: the answer typically repeats the code.
        assert self._parser.close is not None
        return close_payload(self._parser.close.code)


def join(thread: threading.Thread, timeout: float) -> None:
    """Wait for a thread to end; this one itself is not waited for."""
    if thread is not threading.current_thread():
        thread.join(max(0.0, timeout))


def _violation_error(violation: Violation) -> WSClientError:
    if violation.code == 1009:
        return MessageTooBigError(f"the server sent too much: {violation.reason}")
    return ProtocolError(f"the server broke RFC 6455: {violation.reason}")
