"""The sockets that have not logged in yet: few enough per address, none for longer than it takes.

They are counted from the first byte on, not from the upgrade: a stranger who opens sockets and sends nothing, or one
header a minute, costs as much as one who sends challenges back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .settings import GatewaySettings

__all__ = ["HttpServer", "Lobby"]


class Lobby:
    """Keeps account of the sockets that have not logged in.

    Args:
        settings: the gateway's.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._limit = settings.max_sockets_before_login_per_address
        self._timeout = settings.auth_timeout
        self._per_address: Counter[str] = Counter()
        self._waiting: dict[object, tuple[str, asyncio.Transport, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, key: object, transport: asyncio.Transport) -> None:
        """Take in a new socket, or drop it when its address has too many already.

        Args:
            key: by which it leaves again.
            transport: the socket.
        """
        address = peer_address(transport)
        if self._per_address[address] >= self._limit:
            transport.abort()
            return
        self._per_address[address] += 1
        timer = asyncio.get_running_loop().call_later(self._timeout, transport.abort)
        self._waiting[key] = (address, transport, timer)

    def upgrade(self, key: object) -> None:
        """Take note that the socket is a WebSocket now, whose login has a time limit of its own."""
        if key in self._waiting:
            self._waiting[key][2].cancel()

    def leave(self, key: object) -> None:
        """Take note that the socket has logged in, or is gone."""
        if key not in self._waiting:
            return
        address, _, timer = self._waiting.pop(key)
        timer.cancel()
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def abort_all(self) -> None:
        """Drop all of them."""
        for _, transport, _ in list(self._waiting.values()):
            transport.abort()


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the other side's address, `""` when it is gone already."""
    peer = transport.get_extra_info("peername")
    return peer[0] if peer else ""


class HttpServer(web.Server):
    """aiohttp's server, with a lobby.

    Args:
        handler: answers the requests.
        lobby: where every connection begins.
        **options: of aiohttp's request handler.
    """

    def __init__(self, handler: Callable[[web.BaseRequest], Any], lobby: Lobby, **options: Any) -> None:
        super().__init__(handler, **options)
        self._lobby = lobby

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Let a connection into the lobby; aiohttp calls this."""
        super().connection_made(handler, transport)
        self._lobby.enter(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Strike a connection off; aiohttp calls this."""
        super().connection_lost(handler, exc)
        self._lobby.leave(handler)
