"""Clients of a gateway for tests that look at the wire: one that speaks the protocol, one that speaks only bytes."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections import deque
from typing import Any, Self
from urllib.parse import urlsplit

import websocket

from wsclient.core.auth import Key, sign_challenge
from wsclient.core.frames import CLOSE, ControlFrame, FrameParser, close_payload, encode_frame
from wsclient.core.json_values import decode_values

__all__ = ["Peer", "RawPeer"]

TIMEOUT = 10.0


class Peer:
    """A client that speaks the protocol message by message; a context manager.

    Args:
        url: the gateway's.

    Attributes:
        challenge: what the gateway said first.
    """

    def __init__(self, url: str) -> None:
        self.socket = websocket.create_connection(url, timeout=TIMEOUT, suppress_origin=True)
        first = self.receive()
        assert first["type"] == "challenge"
        self.challenge: str = first["challenge"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_in(self, client_id: str, key: Key, algorithm: str = "SHA256") -> Self:
        """Log in, which must succeed."""
        result = self.try_login(client_id, sign_challenge(key, self.challenge, algorithm))
        assert result["success"] is True, result
        return self

    def try_login(self, client_id: Any, signature: Any) -> dict[str, Any]:
        """Send an authenticate message and return the answer."""
        self.send(type="authenticate", clientId=client_id, signature=signature)
        return self.receive()

    def send(self, **message: Any) -> None:
        """Send a message."""
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        """Send a text frame."""
        self.socket.send(text)

    def receive(self) -> dict[str, Any]:
        """Return the next message; a close frame fails the test."""
        opcode, data = self.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, data)
        message: dict[str, Any] = json.loads(data)
        return message

    def receive_until(self, *types: str) -> list[dict[str, Any]]:
        """Return messages up to the first of one of these types."""
        messages = [self.receive()]
        while messages[-1]["type"] not in types:
            messages.append(self.receive())
        return messages

    def generate(self, prompt: str, id: Any = "g1", **fields: Any) -> list[dict[str, Any]]:
        """Ask for a generation and return everything up to its end."""
        self.send(type="generate", id=id, prompt=prompt, **fields)
        return self.receive_until("stream_end", "error")

    def receive_close(self) -> tuple[int, str]:
        """Read up to the close frame and return its code and reason; 1006 when the line just ends."""
        try:
            while True:
                opcode, data = self.socket.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    return (int.from_bytes(data[:2], "big"), data[2:].decode()) if data else (1005, "")
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return 1006, ""

    def close(self) -> None:
        """Say goodbye and close."""
        try:
            self.socket.close(timeout=0)
        finally:
            self.socket.shutdown()


class RawPeer:
    """A client that sends bytes of the test's choosing after a correct upgrade; a context manager.

    Args:
        url: the gateway's.
        headers: further lines of the upgrade request.
        receive_buffer: the size of the kernel's buffer, to be a slow reader with.
        source: the address to come from.
    """

    def __init__(
        self,
        url: str,
        headers: tuple[str, ...] = (),
        receive_buffer: int | None = None,
        source: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect((parts.hostname, parts.port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET / HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.parser = FrameParser(masked=False, max_message_size=1 << 30)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(1)
        self.response = head.decode()
        if not self.response.startswith("HTTP/1.1 101 "):
            self.socket.close()
            raise AssertionError(self.response)
        self._messages: deque[dict[str, Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def log_in(self, client_id: str, key: Key) -> Self:
        """Log in, which must succeed."""
        signature = sign_challenge(key, self.receive()["challenge"], "SHA256")
        self.send(type="authenticate", clientId=client_id, signature=signature)
        assert self.receive()["success"] is True
        return self

    def send(self, **message: Any) -> None:
        """Send a message, correctly framed."""
        self.send_frame(0x1, json.dumps(message).encode())

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a correct frame."""
        self.socket.sendall(encode_frame(opcode, payload, os.urandom(4)))

    def send_close(self, code: int = 1000) -> None:
        """Send a close frame."""
        self.send_frame(CLOSE, close_payload(code))

    def read(self, size: int = 65536) -> bytes:
        """Read once; `b""` is the end of the line."""
        try:
            data = self.socket.recv(size)
        except ConnectionError:
            data = b""
        self._messages += decode_values(self.parser.feed(data))
        return data

    def receive(self) -> dict[str, Any]:
        """Return the next message."""
        while not self._messages:
            assert self.read(), "the line ended"
        return self._messages.popleft()

    def receive_control(self) -> ControlFrame:
        """Return the next ping or pong."""
        while not self.parser.controls:
            assert self.read(), "the line ended"
        return self.parser.controls.pop(0)

    def read_to_end(self) -> int:
        """Read until the line ends and return the close code, 1006 when there was none."""
        while self.read():
            pass
        return self.parser.close.code if self.parser.close is not None else 1006
