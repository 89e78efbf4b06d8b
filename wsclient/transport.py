"""One connection's socket: handshake, TLS and proxies by websocket-client, receiving and sending in bulk by us.

This is the only file that imports `websocket`. Who calls what: `dial`, `receive` and `close` belong to the connection's
reader thread; `send` blocks its caller; `post` and `abort` never block and may be called from any thread.

Two rules were measured and shape the rest. Two threads that read and write one TLS socket at the same time corrupt it
(bad record MAC, a false end of stream), so on TLS every single recv or send call holds one I/O lock; waiting is done by
`poll()` without it. And a close from another thread hangs or hands the reader ciphertext, so only the reader closes;
everyone else shuts the plain socket down, which wakes the reader within a millisecond.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import weakref
from typing import Any
from urllib.parse import unquote, urlsplit

import websocket
from websocket._http import proxy_info
from websocket._url import get_proxy_info, parse_url

from .core.addresses import Target
from .core.frames import CLOSE, PING, PONG, TEXT
from .core.wire_errors import bounded, reason_of
from .errors import (
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    WSClientError,
)
from .options import ClientOptions
from .outbox import Outbox

__all__ = ["CLOSE", "PING", "PONG", "TEXT", "Transport", "proxy_of"]

_MIN_READ = 64 * 1024
_MAX_READ = 1024 * 1024
# A TLS record carries at most 16 KiB (RFC 8446 section 5.1): one send call holds the I/O lock for one record.
_TLS_CHUNK = 16 * 1024
_PLAIN_CHUNK = 1024 * 1024

_DIGITS = re.compile(r"[0-9]{1,9}")
_MAX_RETRY_AFTER = 86_400.0


class Transport:
    """A WebSocket on its way from dial to close.

    Args:
        options: the client's options.
        target: where to; the first of their URLs when left out.
    """

    def __init__(self, options: ClientOptions, target: Target | None = None) -> None:
        self._options = options
        self.target = target or Target(options.server_urls[0])
        self._url = self.target.url
        self._is_tls = self._url.startswith("wss:")
        self._socket: Any = None
        # Made once, with the socket: the reader, which alone closes it, waits here for data.
        self._readable: Any = None
        # It exists before it connects, so that a dial under way can be given up.
        self._ws: Any = websocket.WebSocket()
        self._is_aborted = False
        # Guards abort against close: a descriptor number that was closed may already be somebody else's.
        self._close_lock = threading.Lock()
        self._io_lock: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self._is_tls else contextlib.nullcontext()
        )
        self._outbox = Outbox(self, options.pong_timeout, keeps_tries=self._is_tls)
        self._read_size = _MIN_READ
        self._may_have_more = True
        self.bytes_received = 0
        self.bytes_sent = 0
        self._bytes_sent_before = 0

    # --- dialling -----------------------------------------------------------------------------------------------------

    def resolve(self) -> list[str]:
        """Return the addresses of the host, in the resolver's order; none where a proxy is to find it. Blocks.

        websocket-client would go on to a name's second address only when the first one refuses, not when it is silent
        or its gateway is busy.

        Raises:
            ConnectionFailedError: the name is unknown.
        """
        try:
            if proxy_of(self._options, self._url):
                return []
            host, port, _, _ = parse_url(self._url)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:
            raise _dial_error(error, self._url, self._options) from error
        # A link-local address says nothing without its zone, which no URL can carry: websocket-client dials the name.
        addresses = [str(place[0]) for *_, place in found if not any(place[3:])]
        return list(dict.fromkeys(addresses))

    def dial(self, address: str | None = None) -> None:
        """Connect: TCP, proxy, TLS, upgrade. Blocks; the caller's deadline is kept by whoever waits for it.

        Args:
            address: the IP address to dial; left out, that of the URL's host.

        Raises:
            ConnectionFailedError, ConnectionTimeoutError: it did not come about, or was given up meanwhile.
        """
        if self._is_aborted:
            raise ConnectionFailedError("the connection attempt was given up")
        try:
            self._upgrade(address)
        except Exception as error:
            with self._close_lock:
                sock, self._ws = self._ws.sock, None
            self._discard(sock)
            raise _dial_error(error, self._url, self._options) from error
        with self._close_lock:
            # What dialled is not needed any more, and would keep 5 KiB.
            self._socket, self._ws = self._ws.sock, None
            self._readable = select.poll()
            self._readable.register(self._socket, select.POLLIN)
            was_given_up = self._is_aborted
        if was_given_up:
            self.close()
            raise ConnectionFailedError("the connection attempt was given up")

    def _upgrade(self, address: str | None) -> None:
        options, url = self._options, self._url
        proxy = _proxy_arguments("" if address else options.proxy, options.connect_timeout)
        if self._is_tls:
            context = options.ssl_context or _default_context()
            # The certificate is for the name, whatever address is dialled.
            self._ws.sock_opt.sslopt = {"context": context, "server_hostname": urlsplit(url).hostname}
        # websocket-client would send a name beyond ASCII as it is, and leave the other scheme's port out.
        host = _wire_host(url)
        proxy["host"] = _host_header(url, host)
        url = _with_host(url, address or host)
        error: Exception | None = None
        try:
            self._ws.connect(
                url,
                redirect_limit=0,
                suppress_origin=True,
                header=dict(options.headers),
                timeout=options.connect_timeout,
                **proxy,
            )
        except websocket.WebSocketException as raised:
            error = raised
        # The one answer besides 101 that websocket-client keeps; some versions raise "redirect limit" on top of it.
        response = self._ws.handshake_response
        if response is not None and response.status != 101:
            raise ConnectionFailedError(
                f"{self._url} answered HTTP {response.status} instead of 101; redirects are not followed",
                description="Give the URL that it leads to as server_url",
                retryable=False,
            ) from error
        if error is not None:
            raise error
        self._ws.sock.setblocking(False)

    # --- receiving (reader thread) ------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """Wait for data and return what is there; `b""` at the end of the stream or after an abort.

        Blocks without a time-out: the watchdog ends a line that stays silent, by `abort`.

        Raises:
            ConnectionLostError: the connection broke.
        """
        try:
            while True:
                self._outbox.flush()
                if self._may_have_more:
                    data = self._read()
                    if data is not None:
                        self.bytes_received += len(data)
                        # Nothing is parsed after an abort: on TLS it may not even be plain text any more.
                        return b"" if self._is_aborted else data
                self._readable.poll()
                self._may_have_more = True
        except OSError as error:
            if self._is_aborted:
                return b""
            raise ConnectionLostError(f"the connection broke: {reason_of(error)}") from error

    def _read(self) -> bytes | None:
        """Read once, or several TLS records; `None` when nothing is there."""
        try:
            with self._io_lock:
                data: bytes = self._open_socket().recv(self._read_size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self.wait(select.POLLOUT)
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
            except OSError:
                # Nothing more now, or the end: the next call says which. What is here is delivered first.
                break
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
        # OpenSSL may hold decrypted bytes that poll() cannot see, so on TLS a recv always comes first.
        self._may_have_more = True
        return data if len(chunks) == 1 else b"".join(chunks)

    def wait(self, event: int, timeout: float | None = None) -> bool:
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
        """Send a text message; blocks until it is written, see `Outbox.send`."""
        self._outbox.send(text, deadline)

    def post(self, opcode: int, payload: bytes) -> None:
        """Send a frame as soon as the line takes it, without ever blocking; see `Outbox.post`."""
        self._outbox.post(opcode, payload)

    def has_moved_on(self) -> bool:
        """Return whether frames wait, and the socket took some bytes since this was asked last. Watchdog thread."""
        before, self._bytes_sent_before = self._bytes_sent_before, self.bytes_sent
        return self._outbox.is_waiting and self._bytes_sent_before > before

    def write(self, data: memoryview, sizes: list[int]) -> bool:
        """Write once, as much as the socket takes; append how much that was, or return `False`."""
        if self._is_aborted:
            raise BrokenPipeError("the connection was ended")
        size = _TLS_CHUNK if self._is_tls else _PLAIN_CHUNK
        chunk = data[:size] if len(data) > size else data
        try:
            with self._io_lock:
                # One step for Ctrl-C: either nothing was sent, or its size is in the list. Bytes that are out and not
                # counted would be sent twice.
                sizes.extend(map(self._open_socket().send, (chunk,)))
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        except OSError:
            raise
        except BaseException:
            # CPython looks for Ctrl-C right after OpenSSL's write, and then nobody can tell whether it did write.
            if self._is_tls:
                self.abort()
            raise
        self.bytes_sent += sizes[-1]
        return sizes[-1] > 0

    # --- ending -------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the connection without ceremony: the reader wakes and closes. Any thread, never blocks, idempotent."""
        with self._close_lock:
            self._is_aborted = True
            sock = self._any_socket()
            if sock is not None:
                # The plain socket's shutdown, on TLS too: SSLSocket.shutdown drops the TLS state first, and the
                # reader would then get ciphertext as data.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Reader thread only, idempotent."""
        with self._close_lock:
            self._is_aborted = True
            sock, self._socket, self._ws = self._socket, None, None
            if sock is not None:
                # A sender that waits for the socket to take more would sleep on: closing alone does not end a poll().
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._discard(sock)

    def forget(self) -> None:
        """Close a forked child's copy of the descriptor; no shutdown and no TLS farewell, the parent uses the line."""
        # No lock: in the child it may be held by a thread that does not exist there.
        self._is_aborted = True
        sock, self._socket, self._ws = self._any_socket(), None, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _any_socket(self) -> Any:
        """Return the socket, the one of a dial under way too."""
        return self._ws.sock if self._ws is not None else self._socket

    def _discard(self, sock: Any) -> None:
        if sock is not None:
            with self._io_lock, contextlib.suppress(OSError):
                sock.close()


# The default context, for as long as some socket uses it: with Debian's 144 authorities it costs 18 ms and 0.9 MiB. Not
# for ever, so that a client that connects anew sees authorities that were added meanwhile. By its class: one made
# before gevent's monkey-patching cannot be used after it.
_contexts: weakref.WeakValueDictionary[type[ssl.SSLContext], ssl.SSLContext] = weakref.WeakValueDictionary()


def _default_context() -> ssl.SSLContext:
    kind = ssl.SSLContext
    context = _contexts.get(kind)
    if context is None:
        context = _contexts[kind] = ssl.create_default_context()
    return context


def _proxy_arguments(proxy: str | None, timeout: float) -> dict[str, Any]:
    if proxy is None:
        return {}
    if proxy == "":
        # websocket-client looks at `http_no_proxy` only when a proxy is named, and at the environment otherwise.
        return {"http_proxy_host": "none", "http_proxy_port": 1, "http_no_proxy": ["*"]}
    parts = urlsplit(proxy)
    arguments: dict[str, Any] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or (3128 if parts.scheme == "http" else 1080),
        "http_proxy_timeout": timeout,
        "proxy_type": parts.scheme,
        # An empty list would mean the environment's, and that could name this very server. No host is called this.
        "http_no_proxy": ["-"],
    }
    if parts.username is not None:
        arguments["http_proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    return arguments


def proxy_of(options: ClientOptions, url: str) -> str | None:
    """Return the proxy, `host:port`, that a dial of this URL goes through, `None` for none."""
    host, _, _, is_secure = parse_url(url)
    given = proxy_info(**_proxy_arguments(options.proxy, options.connect_timeout))  # type: ignore[no-untyped-call]
    proxy, port, _ = get_proxy_info(host, is_secure, given.proxy_host, given.proxy_port, given.auth, given.no_proxy)
    return f"{proxy}:{port or 80}" if proxy else None


def _wire_host(url: str) -> str:
    """Return the host of a URL as DNS and HTTP have it."""
    host = urlsplit(url).hostname or ""
    return host if host.isascii() else host.encode("idna").decode()


def _host_header(url: str, host: str) -> str:
    """Return the `Host` of a request to a URL (RFC 9110 section 7.2)."""
    parts = urlsplit(url)
    host = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "wss" else 80
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _with_host(url: str, host: str) -> str:
    """Return a URL with another host, a name or an IP address."""
    parts = urlsplit(url)
    host = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()


def _dial_error(error: Exception, url: str, options: ClientOptions) -> WSClientError:
    """Return what a failed dial means, in one of our errors."""
    host = urlsplit(url).hostname
    if isinstance(error, WSClientError):
        return error
    if isinstance(error, TimeoutError | websocket.WebSocketTimeoutException):
        return ConnectionTimeoutError(f"no connection to {url} within {options.connect_timeout:g} s")
    if isinstance(error, websocket.WebSocketBadStatusException):
        return _status_error(error, url)
    if isinstance(error, socket.gaierror | UnicodeError | websocket.WebSocketAddressException):
        return ConnectionFailedError(f"cannot resolve host {host!r} of {url}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"the TLS certificate of {host} is not trusted: {bounded(error.verify_message, 200).rstrip('.')}",
            description=_certificate_advice(error.verify_code),
            retryable=False,
        )
    if isinstance(error, ssl.SSLError):
        reason = re.sub(r" \(_ssl\.c:\d+\)$", "", reason_of(error))
        advice = "Check that this port speaks TLS, as wss:// wants; ws:// is for ports without it"
        return ConnectionFailedError(f"no TLS connection to {url}: {reason}", description=advice)
    if isinstance(error, OSError):
        return ConnectionFailedError(f"cannot reach {url}: {reason_of(error)}")
    if isinstance(error, websocket.WebSocketProxyException):
        return ConnectionFailedError(f"cannot reach {url} through the proxy: {reason_of(error)}")
    return ConnectionFailedError(f"no WebSocket at {url}: {reason_of(error)}")


def _certificate_advice(verify_code: int) -> str:
    # OpenSSL's x509_vfy.h: dates that are not yet or not any more, and names of hosts or addresses.
    if verify_code in (9, 10):
        return "Renew it on the server, and check this machine's clock"
    if verify_code in (62, 64):
        return "Use a host name that the certificate is for in server_url, or have one made for this name"
    return "Use a certificate that this machine trusts, or pass an ssl_context that trusts its issuer"


def _status_error(error: Any, url: str) -> WSClientError:
    status = error.status_code
    retry_after = (error.resp_headers or {}).get("retry-after", "")
    # 408, 425 and 429 pass; any other 4xx says that the request itself is wrong, and it will be the same next time.
    retryable = not 400 <= status < 500 or status in (408, 425, 429)
    return ConnectionFailedError(
        f"{url} answered HTTP {status} instead of 101",
        description=_status_advice(status),
        retryable=retryable,
        retry_after=min(float(retry_after), _MAX_RETRY_AFTER) if _DIGITS.fullmatch(retry_after) else None,
    )


def _status_advice(status: int) -> str:
    if status in (401, 403, 407):
        return "Something in front of the gateway wants a login of its own, or forbids this one; ask who runs it"
    if status >= 500:
        return "The gateway is stopping, or not running behind its proxy; try again, or see its log"
    if status == 429:
        return "Too many connections from this address; try again in a moment"
    return "Something else than a gateway answers there; check the host, port and path of server_url"
