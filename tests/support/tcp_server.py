"""A server that does with each connection what a function says: for whatever a gateway would never do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from wsclient.core.frames import TEXT, FrameParser, encode_frame

__all__ = ["TcpServer", "WebSocketEnd"]


class TcpServer:
    """Listens on loopback and hands every connection to a function, each on a thread of its own; a context manager.

    Args:
        talk: what to do with a connection; it is closed when the function returns.
        tls: wrap each connection with this first.

    Attributes:
        port: where it listens.
        connections: how many came in.
        ended: how many of them are over.
    """

    def __init__(self, talk: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> None:
        self._talk = talk
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self.ended = 0
        self._open: list[socket.socket] = []
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept, name="tcp-server", daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"{'ws' if self._tls is None else 'wss'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listening.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._open:
            connection.close()
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            self._open.append(connection)
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), name="tcp-server", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                self._talk(connection)
        except OSError:
            # The other side went, or the test is over.
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            self.ended += 1


class WebSocketEnd:
    """The server's end of a WebSocket, message by message.

    Args:
        connection: one on which nothing was said yet; the upgrade is answered at once.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        head = b""
        while b"\r\n\r\n" not in head:
            head += _some(connection)
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        nonce = fields["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(nonce.encode()).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        connection.sendall("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())
        self._parser = FrameParser(masked=True, max_message_size=1 << 30)
        self._messages: deque[dict[str, Any]] = deque()

    def send(self, **message: Any) -> None:
        """Send a message."""
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        """Send a text frame."""
        self.connection.sendall(encode_frame(TEXT, text.encode()))

    def receive(self) -> dict[str, Any]:
        """Return the next message; raises `ConnectionError` at the end of the line."""
        while not self._messages:
            self._messages += map(json.loads, self._parser.feed(_some(self.connection)))
        return self._messages.popleft()

    def log_in(self) -> None:
        """Let anybody in."""
        self.send(type="challenge", challenge="0123456789abcdef" * 4)
        assert self.receive()["type"] == "authenticate"
        self.send(type="auth_result", success=True)

    def wait_for_end(self) -> None:
        """Read until the other side goes."""
        while self.connection.recv(65536):
            pass


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the other side went")
    return data
