"""One connection's socket: handshake, TLS and proxies by websocket-client, receiving and sending in bulk by us.

This is the only file that imports `websocket`. Who calls what: `dial`, `receive` and `close` belong to the connection's
reader thread; `send` blocks its caller; `post` and `abort` never block and may be called from any thread.

Two rules were measured and shape the rest. Two threads that read and write one TLS socket at the same time corrupt it
(bad record MAC, a false end of stream), so on TLS every single recv or send call holds one I/O lock; waiting is done by
`poll()` without it. And a close from another thread hangs or hands the reader ciphertext, so only the reader closes;
everyone else shuts the plain socket down, which wakes the reader within a millisecond.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import websocket

from .core.frames import CLOSE, PING, PONG, TEXT
from .core.wire_errors import bounded
from .errors import (
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    RequestTimeoutError,
    WSClientError,
)
from .options import ClientOptions

__all__ = ["CLOSE", "PING", "PONG", "TEXT", "Transport"]

_MIN_READ = 64 * 1024
_MAX_READ = 1024 * 1024
# A TLS record carries at most 16 KiB (RFC 8446 section 5.1): one send call holds the I/O lock for one record.
_TLS_CHUNK = 16 * 1024
_PLAIN_CHUNK = 1024 * 1024


class Transport:
    """A WebSocket on its way from dial to close.

    Args:
        options: the client's options.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._is_tls = options.server_url.startswith("wss:")
        self._socket: Any = None
        # It exists before it connects, so that a dial under way can be given up.
        self._ws: Any = websocket.WebSocket()
        self._is_aborted = False
        # Guards abort against close: a descriptor number that was closed may already be somebody else's.
        self._close_lock = threading.Lock()
        self._io_lock: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self._is_tls else contextlib.nullcontext()
        )
        # Whole frames leave one at a time: whoever holds the send lock writes from the head of the outbox. What an
        # interrupted or stalled writer leaves at the head is finished by the next one, so no half frame is followed
        # by another.
        self._send_lock = threading.Lock()
        self._outbox: collections.deque[_Outgoing] = collections.deque()
        self._read_size = _MIN_READ
        self._may_have_more = True
        self.bytes_received = 0
        self.bytes_sent = 0

    # --- dialling -----------------------------------------------------------------------------------------------------

    def dial(self) -> None:
        """Connect: DNS, TCP, proxy, TLS, upgrade. Blocks; the caller's deadline is kept by whoever waits for it.

        Raises:
            ConnectionFailedError, ConnectionTimeoutError: it did not come about, or was given up meanwhile.
        """
        options = self._options
        arguments: dict[str, Any] = {"timeout": options.connect_timeout, **_proxy_arguments(options.proxy)}
        if self._is_tls:
            self._ws.sock_opt.sslopt = {"context": options.ssl_context or ssl.create_default_context()}
        try:
            self._ws.connect(
                options.server_url,
                redirect_limit=0,
                suppress_origin=True,
                header=dict(options.headers),
                **arguments,
            )
            status = self._ws.handshake_response.status
            if status != 101:
                raise ConnectionFailedError(
                    f"{options.server_url} answered HTTP {status} instead of 101; redirects are not followed",
                    retryable=False,
                )
            self._ws.sock.setblocking(False)
        except Exception as error:
            self._discard(self._ws.sock)
            self._ws.sock = None
            raise _dial_error(error, options) from error
        with self._close_lock:
            self._socket = self._ws.sock
            was_given_up = self._is_aborted
        if was_given_up:
            self.close()
            raise ConnectionFailedError("the connection attempt was given up")

    # --- receiving (reader thread) ------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """Wait for data and return what is there; `b""` at the end of the stream or after an abort.

        Blocks without a time-out: the watchdog ends a line that stays silent, by `abort`.

        Raises:
            ConnectionLostError: the connection broke.
        """
        try:
            while True:
                if self._outbox:
                    self._flush_posted()
                if self._may_have_more:
                    data = self._read()
                    if data is not None:
                        self.bytes_received += len(data)
                        # Nothing is parsed after an abort: on TLS it may not even be plain text any more.
                        return b"" if self._is_aborted else data
                self._wait(select.POLLIN)
                self._may_have_more = True
        except OSError as error:
            if self._is_aborted:
                return b""
            raise ConnectionLostError(f"the connection broke: {_reason(error)}") from error

    def _read(self) -> bytes | None:
        """Read once, or several TLS records; `None` when nothing is there."""
        try:
            with self._io_lock:
                data: bytes = self._open_socket().recv(self._read_size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._wait(select.POLLOUT)
            return None
        if self._is_tls:
            return self._read_more_records(data)
        # A short read emptied the socket: going straight to poll() saves a recv() that finds nothing. A full one asks
        # for more at once: with a busy thread in the process each call costs up to 5 ms, however much it brings.
        self._may_have_more = len(data) == self._read_size
        self._read_size = min(self._read_size * 4, _MAX_READ) if self._may_have_more else _MIN_READ
        return data

    def _read_more_records(self, data: bytes) -> bytes:
        chunks, size = [data], len(data)
        while len(chunks[-1]) == _TLS_CHUNK and size < _MAX_READ:
            try:
                with self._io_lock:
                    chunk = self._open_socket().recv(_TLS_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
        # OpenSSL may hold decrypted bytes that poll() cannot see, so on TLS a recv always comes first.
        self._may_have_more = True
        return data if len(chunks) == 1 else b"".join(chunks)

    def _wait(self, event: int, timeout: float | None = None) -> bool:
        poll = select.poll()
        try:
            poll.register(self._open_socket(), event)
        except ValueError as error:
            raise BrokenPipeError("the connection was ended") from error
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def _open_socket(self) -> Any:
        # A sender can still be at it when the reader closes.
        sock = self._socket
        if sock is None:
            raise BrokenPipeError("the connection was ended")
        return sock

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, text: str, deadline: float) -> None:
        """Send a text message; blocks until it is written, other frames before it included.

        Progress is life: it may take as long as the deadline allows, but `pong_timeout` seconds in which the socket
        takes nothing end the connection.

        Args:
            text: the message.
            deadline: monotonic time until which to try.

        Raises:
            RequestTimeoutError: the deadline passed before its turn came.
            ConnectionLostError: the connection broke or stalled; the message may be out in part.
        """
        frame = _Outgoing(TEXT, text.encode())
        self._outbox.append(frame)
        while not frame.is_written:
            if not self._send_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                # The one that holds the lock may be writing this very frame; if not, it is skipped when its turn comes.
                frame.is_withdrawn = True
                raise RequestTimeoutError("the request could not be sent in time: other messages took the line")
            try:
                self._write_until(frame)
            finally:
                self._send_lock.release()
        self._flush_posted()

    def post(self, opcode: int, payload: bytes) -> None:
        """Send a frame as soon as the line takes it, without ever blocking.

        What the socket does not take now is written by the next sender, or by the reader when it next wakes; a line on
        which neither happens is dead, and the watchdog ends it.

        Args:
            opcode: `TEXT`, `PONG`, `PING` or `CLOSE`.
            payload: the frame's payload.
        """
        self._outbox.append(_Outgoing(opcode, payload))
        self._flush_posted()

    def _flush_posted(self) -> None:
        # Asked again after the release: a frame appended while the lock was held would otherwise stay behind.
        while self._outbox and self._send_lock.acquire(blocking=False):
            try:
                while self._outbox:
                    if not self._write_some(self._outbox[0]):
                        return
            except OSError:
                # The reader sees the broken socket too, and tells everyone why.
                self.abort()
                return
            finally:
                self._send_lock.release()

    def _write_until(self, frame: _Outgoing) -> None:
        """Write from the outbox until the frame is out. The caller holds the send lock."""
        stall_timeout = self._options.pong_timeout
        try:
            while not frame.is_written:
                if not self._write_some(self._outbox[0]) and not self._wait(select.POLLOUT, stall_timeout):
                    raise TimeoutError(f"the server took nothing for {stall_timeout:g} s")
        except OSError as error:
            # Half a frame may be out, so nothing can follow it.
            self.abort()
            raise ConnectionLostError(f"the connection broke while sending: {_reason(error)}") from error

    def _write_some(self, frame: _Outgoing) -> bool:
        """Write what the socket takes now of the frame at the outbox's head; return whether it took anything."""
        if frame.is_withdrawn and frame.position == 0:
            self._outbox.popleft()
            return True
        rest = frame.rest()
        chunk = rest[: _TLS_CHUNK if self._is_tls else _PLAIN_CHUNK]
        if self._is_aborted:
            raise BrokenPipeError("the connection was ended")
        try:
            with self._io_lock:
                sent = self._open_socket().send(chunk)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            # OpenSSL wants the very same bytes again, and gets them: the frame stays at the head, cut alike.
            return False
        self.bytes_sent += sent
        frame.position += sent
        if frame.is_written:
            self._outbox.popleft()
        return True

    # --- ending -------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the connection without ceremony: the reader wakes and closes. Any thread, never blocks, idempotent."""
        with self._close_lock:
            self._is_aborted = True
            sock = self._socket if self._socket is not None else self._ws.sock
            if sock is not None:
                # The plain socket's shutdown, on TLS too: SSLSocket.shutdown drops the TLS state first, and the
                # reader would then get ciphertext as data.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Reader thread only, idempotent."""
        with self._close_lock:
            self._is_aborted = True
            sock, self._socket, self._ws.sock = self._socket, None, None
        # The outbox stays as it is: only who holds the send lock takes from it, and a sender may be at it right now.
        self._discard(sock)

    def forget(self) -> None:
        """Close a forked child's copy of the descriptor; no shutdown and no TLS farewell, the parent uses the line."""
        # No lock: in the child it may be held by a thread that does not exist there.
        self._is_aborted = True
        sock, self._socket, self._ws.sock = self._socket or self._ws.sock, None, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _discard(self, sock: Any) -> None:
        if sock is not None:
            with self._io_lock, contextlib.suppress(OSError):
                sock.close()


class _Outgoing:
    """A frame on its way out. It is masked when its turn comes: a queue of large prompts is not kept twice."""

    __slots__ = ("_bytes", "_opcode", "_payload", "is_withdrawn", "position")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self._opcode = opcode
        self._payload = payload
        self._bytes: memoryview | None = None
        self.position = 0
        self.is_withdrawn = False

    def rest(self) -> memoryview:
        if self._bytes is None:
            frame = websocket.ABNF.create_frame(self._payload, self._opcode).format()
            self._payload = b""
            self._bytes = memoryview(frame)
        return self._bytes[self.position :]

    @property
    def is_written(self) -> bool:
        return self._bytes is not None and self.position == len(self._bytes)


def _proxy_arguments(proxy: str | None) -> dict[str, Any]:
    if proxy is None:
        return {}
    if proxy == "":
        return {"http_no_proxy": ["*"]}
    parts = urlsplit(proxy)
    arguments: dict[str, Any] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or (3128 if parts.scheme == "http" else 1080),
        "proxy_type": parts.scheme,
        "http_no_proxy": [],
    }
    if parts.username is not None:
        arguments["http_proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    return arguments


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return bounded(str(text), 200)


def _dial_error(error: Exception, options: ClientOptions) -> WSClientError:
    """Return what a failed dial means, in one of our errors."""
    url = options.server_url
    host = urlsplit(url).hostname
    if isinstance(error, WSClientError):
        return error
    if isinstance(error, TimeoutError | websocket.WebSocketTimeoutException):
        return ConnectionTimeoutError(f"no connection to {url} within {options.connect_timeout:g} s")
    if isinstance(error, websocket.WebSocketBadStatusException):
        return _status_error(error, url)
    if isinstance(error, websocket.WebSocketAddressException):
        return ConnectionFailedError(f"cannot resolve host {host!r} of {url}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"the TLS certificate of {host} is not trusted: {bounded(error.verify_message, 200)}",
            description="Check the certificate and the host name, or pass an ssl_context that trusts its issuer",
            retryable=False,
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionFailedError(f"no TLS connection to {url}: {_reason(error)}")
    if isinstance(error, OSError):
        return ConnectionFailedError(f"cannot reach {url}: {_reason(error)}")
    if isinstance(error, websocket.WebSocketProxyException):
        return ConnectionFailedError(f"cannot reach {url} through the proxy: {_reason(error)}")
    return ConnectionFailedError(f"no WebSocket at {url}: {_reason(error)}")


def _status_error(error: Any, url: str) -> WSClientError:
    status = error.status_code
    retry_after = (error.resp_headers or {}).get("retry-after", "")
    # 408, 425 and 429 pass; any other 4xx says that the request itself is wrong, and it will be the same next time.
    retryable = not 400 <= status < 500 or status in (408, 425, 429)
    return ConnectionFailedError(
        f"{url} answered HTTP {status} instead of 101",
        retryable=retryable,
        retry_after=float(retry_after) if retry_after.isdigit() else None,
    )
