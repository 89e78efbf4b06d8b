"""The sockets that have not logged in yet: few enough per address, none for longer than it takes.

They are counted from the first byte on, not from the upgrade: a stranger who opens sockets and sends nothing, or one
header a minute, costs as much as one who sends challenges back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from aiohttp import web

from .addresses import TrustedProxies
from .settings import GatewaySettings

__all__ = ["HttpServer", "Lobby", "peer_address"]

# What is read of a socket up to its upgrade, headers and all; aiohttp by itself would take 128 headers of 8 KiB.
_MAX_HEAD_BYTES = 64 * 1024
# What it may send after a head: who is cut off in the middle of a body never sees the answer that says it is too long.
_MAX_HEARD_BYTES = 256 * 1024
_END_OF_HEAD = b"\r\n\r\n"


@attrs.define(slots=True)
class _Guest:
    address: str | None
    transport: asyncio.Transport | None = None
    timer: asyncio.TimerHandle | None = None
    head_bytes: int = 0
    has_head: bool = False
    last_bytes: bytes = b""
    is_upgraded: bool = False


class Lobby:
    """Keeps account of the sockets that have not logged in.

    A socket of a trusted proxy belongs to no address until its request says for whom it speaks.

    Args:
        settings: the gateway's.
        capacity: how many there may be in all.
    """

    def __init__(self, settings: GatewaySettings, capacity: int = 1_000_000) -> None:
        self._limit = settings.max_sockets_before_login_per_address
        self._timeout = settings.auth_timeout
        self._capacity = capacity
        self._proxies = TrustedProxies(settings.trusted_proxy)
        self._per_address: Counter[str] = Counter()
        self._guests: dict[object, _Guest] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def knock(self, key: object, address: str) -> bool:
        """Take in a socket that still shakes hands, or tell that there is no room.

        Args:
            key: by which it enters or leaves. Its peer's port will not do: another one can have that at once.
            address: its peer's.
        """
        return self._add(key, address)

    def enter(self, key: object, transport: asyncio.Transport) -> None:
        """Take in a new socket, or drop it when its address, or everybody together, has too many already.

        Args:
            key: by which it leaves again.
            transport: the socket.
        """
        # It may have knocked.
        self.leave(key)
        if not self._add(key, peer_address(transport)):
            transport.abort()
            return
        guest = self._guests[key]
        guest.transport = transport
        guest.timer = asyncio.get_running_loop().call_later(self._timeout, transport.abort)

    def count_head(self, key: object, data: bytes) -> int | None:
        """Count what a socket sends; until its upgrade it may send little.

        Returns:
            How many bytes of it are to be read, `None` when the socket is to be dropped.
        """
        guest = self._guests.get(key)
        if guest is None or guest.is_upgraded:
            return len(data)
        left = max(0, _MAX_HEAD_BYTES - guest.head_bytes)
        guest.head_bytes += len(data)
        if not guest.has_head:
            guest.has_head = _END_OF_HEAD in guest.last_bytes + data[:left]
            guest.last_bytes = data[-3:]
        limit = _MAX_HEARD_BYTES if guest.has_head else _MAX_HEAD_BYTES
        return min(len(data), left) if guest.head_bytes <= limit else None

    def client_address(self, transport: asyncio.BaseTransport, forwarded_for: Sequence[str]) -> str:
        """Return whose socket it is; see `TrustedProxies`."""
        return self._proxies.client_address(peer_address(transport), forwarded_for)

    def upgrade(self, key: object, address: str) -> bool:
        """Take note that the socket is to be a WebSocket, whose login has a time limit of its own.

        Args:
            key: whose.
            address: whose it is, now that its request has said so.

        Returns:
            Whether that address has not too many already.
        """
        guest = self._guests.get(key)
        if guest is None:
            return True
        if guest.address != address:
            if self._per_address[address] >= self._limit:
                return False
            self._release(guest)
            self._per_address[address] += 1
            guest.address = address
        if guest.timer is not None:
            guest.timer.cancel()
        guest.is_upgraded = True
        return True

    def leave(self, key: object) -> None:
        """Take note that the socket has logged in, or is gone."""
        guest = self._guests.pop(key, None)
        if guest is None:
            return
        if guest.timer is not None:
            guest.timer.cancel()
        self._release(guest)

    def abort_all(self) -> None:
        """Drop all of them."""
        for guest in list(self._guests.values()):
            if guest.transport is not None:
                guest.transport.abort()

    def _add(self, key: object, address: str) -> bool:
        is_proxy = address in self._proxies
        if len(self._guests) >= self._capacity or (not is_proxy and self._per_address[address] >= self._limit):
            return False
        if not is_proxy:
            self._per_address[address] += 1
        self._guests[key] = _Guest(None if is_proxy else address)
        return True

    def _release(self, guest: _Guest) -> None:
        if guest.address is None:
            return
        self._per_address[guest.address] -= 1
        if not self._per_address[guest.address]:
            del self._per_address[guest.address]


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the other side's address, `""` when it is gone already."""
    peer = transport.get_extra_info("peername")
    return peer[0] if peer else ""


class _Handler(web.RequestHandler):
    """aiohttp's half of a connection, with an ear for how much comes in."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        manager: Any = self._manager
        size = len(data) if manager is None else manager.count_head(self, data)
        if size is None:
            if self.transport is not None:
                self.transport.abort()
        elif size:
            super().data_received(data[:size])


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

    def __call__(self) -> web.RequestHandler:
        """Return what will talk to one connection; asyncio calls this."""
        return _Handler(self, loop=self._loop, **self._kwargs)

    def count_head(self, handler: web.RequestHandler, data: bytes) -> int | None:
        """See `Lobby`."""
        return self._lobby.count_head(handler, data)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Let a connection into the lobby; aiohttp calls this."""
        super().connection_made(handler, transport)
        self._lobby.enter(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Strike a connection off; aiohttp calls this."""
        super().connection_lost(handler, exc)
        self._lobby.leave(handler)
