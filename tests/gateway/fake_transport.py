"""A connection without a socket, for what only the order of the event loop's steps decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.websocket import WebSocket

__all__ = ["FakeTransport", "make_socket"]


class FakeTransport(asyncio.Transport):
    """A transport whose peer reads when it is told to; its own writer too."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = b""
        self.buffer = b""
        self.is_reading = True
        self._resumed = asyncio.Event()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.buffer += data
        if self.is_reading:
            self.read_all()

    def read_all(self) -> None:
        self.taken, self.buffer = self.taken + self.buffer, b""
        self._resumed.set()

    async def drain(self) -> None:
        self._resumed.clear()
        await self._resumed.wait()

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.buffer = b""


def make_socket(transport: FakeTransport, on_texts: Callable[[list[bytes]], None] = lambda _: None) -> WebSocket:
    return WebSocket(transport, transport, GatewaySettings(), on_texts, lambda: None)  # type: ignore[arg-type]
