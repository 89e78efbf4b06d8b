"""Wrong logins, counted by the store for all gateways together."""

from __future__ import annotations

import hashlib
import math

from ..guard import Refusal
from . import scripts
from .link import StoreLink

__all__ = ["StoreGuard"]

_INDEX = "failures"


class StoreGuard:
    """Counts failed logins per address and client id as `LoginGuard` does, by the store's clock (`Guard`).

    Args:
        link: to the store.
        max_attempts: the failure that blocks first.
        max_block: the longest block, in seconds.
        max_entries: how many pairs of address and client id are remembered; who is forgotten soonest anyway goes first.
    """

    def __init__(
        self, link: StoreLink, max_attempts: int = 5, max_block: float = 1800.0, max_entries: int = 100_000
    ) -> None:
        self._link = link
        self._max_attempts = max_attempts
        self._max_block = max_block
        self._max_entries = max_entries

    async def blocked_for(self, address: str, client_id: str) -> int | None:
        """Return how many seconds this login is still blocked, `None` when it is not; see `Guard`."""
        return _seconds(await self._link.call(scripts.BLOCKED_FOR, [_key(_name(address, client_id))], []))

    async def failure(self, address: str, client_id: str) -> Refusal:
        """Count a failed login and return what to tell it; see `Guard`."""
        name = _name(address, client_id)
        limits = (self._max_attempts, round(self._max_block * 1000), self._max_entries)
        arguments = (name, self._link.prefix + _key(""), *limits)
        failures, left = await self._link.call(scripts.FAILURE, [_key(name), _INDEX], arguments)
        return Refusal(max(0, self._max_attempts - failures) if failures else 0, _seconds(left))

    async def success(self, address: str, client_id: str) -> None:
        """Clear what was counted against this login; see `Guard`."""
        name = _name(address, client_id)
        await self._link.call(scripts.SUCCESS, [_key(name), _INDEX], [name])


def _key(name: str) -> str:
    return f"failures:{name}"


def _name(address: str, client_id: str) -> str:
    # The id is a stranger's, as long as a frame and of any characters.
    return hashlib.sha256(f"{address} {client_id}".encode(errors="surrogatepass")).hexdigest()[:32]


def _seconds(milliseconds: int) -> int | None:
    return max(1, math.ceil((milliseconds - 1) / 1000)) if milliseconds > 0 else None
