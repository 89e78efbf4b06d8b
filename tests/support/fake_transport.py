"""A transport in memory, with the face of `wsclient.transport.Transport`: the threads run, no socket does.

network = FakeNetwork()
monkeypatch.setattr("wsclient.line.Transport", network.make)
client.connect()                     # another thread
line = network.next_line()           # what the client dialled
line.log_in()
line.say({"type": "pong", "id": ...})
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from typing import Any

from wsclient.core.addresses import Target
from wsclient.core.frames import CLOSE, TEXT, encode_frame
from wsclient.errors import ConnectionLostError, WSClientError

from .waiting import wait_until

__all__ = ["FakeNetwork", "FakeTransport"]


class FakeTransport:
    """One connection in memory. The upper half is the client's, the lower half is the test's.

    Args:
        options: the client's options.
        target: where to.
        hosts: the addresses of URLs whose host has several.

    Attributes:
        target: see above.
        address: the address of its host that is dialled, if it has several.
        sent: messages that the client sent, posted ones included.
        controls: opcode and payload of everything else that it posted.
        is_dialled, is_aborted, is_closed: how far it got.
        may_send: cleared by a test, `send` blocks until it is set or the line is aborted.
        says_goodbye: whether a close frame is answered with one.
    """

    def __init__(
        self, options: Any, target: Target | None = None, hosts: Mapping[str, list[str]] | None = None
    ) -> None:
        self.options = options
        self.target = target or Target("ws://localhost/")
        self.address: str | None = None
        self._hosts = hosts or {}
        self.sent: list[dict[str, Any]] = []
        self.controls: list[tuple[int, bytes]] = []
        self.is_dialled = self.is_aborted = self.is_closed = False
        self.may_send = threading.Event()
        self.may_send.set()
        self.says_goodbye = True
        self.bytes_received = self.bytes_sent = 0
        self._outcome: queue.SimpleQueue[WSClientError | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()

    # --- what the client calls ----------------------------------------------------------------------------------------

    def resolve(self) -> list[str]:
        return self._hosts.get(self.target.url, [])

    def dial(self, address: str | None = None) -> None:
        self.address = address
        self.is_dialled = True
        error = self._outcome.get()
        if error is not None:
            raise error

    def receive(self) -> bytes:
        item = self._incoming.get()
        if self.is_aborted:
            return b""
        if isinstance(item, BaseException):
            raise item
        self.bytes_received += len(item)
        return item

    def send(self, text: str, deadline: float) -> None:
        while not self.may_send.wait(0.005):
            if self.is_aborted:
                raise ConnectionLostError("the connection broke while sending")
        if self.is_aborted:
            raise ConnectionLostError("the connection broke while sending")
        self.bytes_sent += len(text)
        self.sent.append(json.loads(text))

    def has_moved_on(self) -> bool:
        """Nothing waits here: whole frames leave at once."""
        return False

    def post(self, opcode: int, payload: bytes) -> None:
        if self.is_aborted:
            return
        if opcode == TEXT:
            self.bytes_sent += len(payload)
            self.sent.append(json.loads(payload))
        else:
            self.controls.append((opcode, payload))
            if opcode == CLOSE and self.says_goodbye:
                self.arrive(encode_frame(CLOSE, payload))

    def abort(self) -> None:
        self.is_aborted = True
        self._outcome.put(ConnectionLostError("the attempt was given up"))
        self._incoming.put(b"")

    def close(self) -> None:
        self.is_aborted = self.is_closed = True

    def forget(self) -> None:
        """Belongs to a parent process."""

    # --- what the test calls ------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Let the dial succeed."""
        self._outcome.put(None)

    def refuse(self, error: WSClientError) -> None:
        """Let the dial fail."""
        self._outcome.put(error)

    def say(self, *messages: dict[str, Any] | str) -> None:
        """Have messages, or any texts, arrive in one read."""
        texts = (message if isinstance(message, str) else json.dumps(message) for message in messages)
        self.arrive(b"".join(encode_frame(TEXT, text.encode()) for text in texts))

    def arrive(self, data: bytes) -> None:
        """Have bytes arrive; `b""` is the end of the stream."""
        self._incoming.put(data)

    def break_off(self, error: BaseException) -> None:
        """Have the next read raise."""
        self._incoming.put(error)

    def log_in(self, **verdict: Any) -> dict[str, Any]:
        """Accept the dial and take the client through its login; return its authenticate message."""
        self.accept()
        self.say({"type": "challenge", "challenge": "c" * 64})
        answer = self.sent_message("authenticate")
        self.say({"type": "auth_result", "success": True} | verdict)
        return answer

    def sent_message(self, type: str, index: int = 0) -> dict[str, Any]:
        """Wait for a message of this type that the client sent and return it, the first one unless told otherwise."""

        def found() -> list[dict[str, Any]]:
            return [message for message in list(self.sent) if message["type"] == type][index:]

        return wait_until(found)[0]


class FakeNetwork:
    """Makes the transports of a client under test.

    Attributes:
        lines: every transport so far, in order.
        hosts: the addresses of URLs whose host has several.
    """

    def __init__(self) -> None:
        self.lines: list[FakeTransport] = []
        self.hosts: dict[str, list[str]] = {}

    def make(self, options: Any, target: Target | None = None) -> FakeTransport:
        """Stand in for the class `Transport`."""
        line = FakeTransport(options, target, self.hosts)
        self.lines.append(line)
        return line

    def line(self, number: int = 0) -> FakeTransport:
        """Wait until the client has dialled this often and return that line, from 0."""
        wait_until(lambda: len(self.lines) > number and self.lines[number].is_dialled)
        return self.lines[number]
