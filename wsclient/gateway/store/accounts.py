"""Quotas, counted by the store for all gateways together.

What a gateway counts by itself goes on beside it: it is asked first, since a client that has too much here has too
much everywhere, and it alone is asked while the store does not answer. So a limit is exact while the store runs, and
holds for each gateway by itself otherwise; and nobody who has no limits ever waits for the store.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

from ...errors import ErrorCode
from ..backends import Backend, BackendError, Final, GenerateRequest, Piece
from ..guard import CannotCountError
from ..quotas import Accounts, ClientQuota, Limits, crowd_message, rate_message
from ..settings import GatewaySettings
from . import scripts
from .link import StoreLink

__all__ = ["SharedAccounts"]

# Seconds after which an open generation counts no longer unless its gateway says that it runs: so long does one that
# was killed keep its clients' room.
_LEASE = 20.0
_RENEW_EVERY = 5.0
_TRY_AGAIN = 1.0
# A generation has ended for its client before the store knows: one more look before anybody is refused for it.
_LOOK_AGAIN = 0.1


class SharedAccounts(Accounts):
    """What clients may use and use, over all gateways that share a store (`Accounts`).

    Args:
        settings, quota_of: see `Accounts`.
        link: to the store.
    """

    def __init__(
        self, settings: GatewaySettings, quota_of: Callable[[str], ClientQuota | None], link: StoreLink
    ) -> None:
        super().__init__(settings, quota_of)
        self._link = link
        self._gateway = secrets.token_hex(8)
        self._number = 0
        # The client and the name of each running generation that is counted, by its request's identity.
        self._leases: dict[int, tuple[str, str]] = {}
        # By client: the names of those that the store has to forget, and until when it would remember.
        self._ended: dict[str, dict[str, float]] = {}
        self._has_ended = asyncio.Event()

    def admit(self, client_id: str, limits: Limits, now: float) -> int | None:
        """Admit it: whether the request is one too many is asked where it can be waited for (`over`)."""
        return None

    def over(self, backend: Backend, client_id: Callable[[], str | None]) -> Backend:
        """Return the backend with the clients' limits in front of it; see `Accounts`."""
        return _CountedBackend(backend, self, client_id)

    async def count_request(self, client_id: str, limits: Limits) -> None:
        """Count a request.

        Raises:
            BackendError: it is one too many.
        """
        if limits.requests_per_minute is None:
            return
        seconds = None
        try:
            left = await self._link.call(scripts.ADMIT, [f"requests:{client_id}"], [limits.requests_per_minute])
            if left:
                seconds = max(1, math.ceil((left - 1) / 1000))
            else:
                # Counted here too, for when the store fails.
                super().admit(client_id, limits, time.monotonic())
        except CannotCountError:
            seconds = super().admit(client_id, limits, time.monotonic())
        if seconds is not None:
            self.refused["requests_per_minute"] += 1
            raise BackendError(rate_message(limits, seconds), ErrorCode.RATE_LIMITED, seconds)

    async def enter(self, request: GenerateRequest, limits: Limits) -> None:
        """Count a generation as open, until `let_go`.

        Raises:
            BackendError: the client has too many.
        """
        most = limits.max_open_generations
        if most is None:
            return
        client_id = request.client_id
        self._number += 1
        name = f"{self._gateway}:{self._number}"
        self._leases[id(request)] = (client_id, name)
        with suppress(CannotCountError):
            if not await self._has_room(client_id, name, most):
                await asyncio.sleep(_LOOK_AGAIN)
                if not await self._has_room(client_id, name, most):
                    self.refused["max_open_generations"] += 1
                    raise BackendError(crowd_message(most), ErrorCode.SERVER_BUSY)

    async def _has_room(self, client_id: str, name: str, most: int) -> bool:
        ended = self._ended.get(client_id, ())
        arguments: list[str | int] = [most, round(_LEASE * 1000), name, *ended]
        return bool(await self._link.call(scripts.ENTER, [_open_key(client_id)], arguments))

    def let_go(self, request: GenerateRequest) -> None:
        """Take note that a generation counts no longer; see `Accounts`."""
        client_id, name = self._leases.pop(id(request), ("", ""))
        if name:
            self._ended.setdefault(client_id, {})[name] = time.monotonic() + _LEASE
            self._has_ended.set()

    async def keep(self) -> None:
        """Tell the store what runs and what has ended, until this is cancelled."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + _RENEW_EVERY
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at):
                    await self._has_ended.wait()
            self._has_ended.clear()
            is_due = loop.time() >= renew_at
            try:
                await self.tell(is_due)
            except CannotCountError:
                renew_at = loop.time()
                await asyncio.sleep(_TRY_AGAIN)
            else:
                if is_due:
                    renew_at = loop.time() + _RENEW_EVERY

    async def tell(self, is_due: bool = False) -> None:
        """Tell the store which generations have ended.

        Args:
            is_due: whether it is time to tell also which ones run.

        Raises:
            CannotCountError: the store does not answer; the next time tells it.
        """
        running: dict[str, list[str]] = {}
        for client_id, name in self._leases.values() if is_due else ():
            running.setdefault(client_id, []).append(name)
        # Who is not renewed is forgotten by the store itself.
        self._drop_expired()
        for client_id in {*running, *self._ended}:
            names, ended = running.get(client_id, []), list(self._ended.get(client_id, ()))
            arguments: list[str | int] = [round(_LEASE * 1000), len(names), *names, *ended]
            await self._link.call(scripts.RENEW, [_open_key(client_id)], arguments)
            self._forget(client_id, ended)

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for client_id, names in list(self._ended.items()):
            self._forget(client_id, [name for name, expires in names.items() if expires < now])

    def _forget(self, client_id: str, names: list[str]) -> None:
        left = self._ended.get(client_id, {})
        for name in names:
            left.pop(name, None)
        if not left:
            self._ended.pop(client_id, None)


class _CountedBackend:
    """A model server that a client's limits stand in front of."""

    def __init__(self, backend: Backend, accounts: SharedAccounts, client_id: Callable[[], str | None]) -> None:
        self._backend = backend
        self._accounts = accounts
        self._client_id = client_id
        self.name = backend.name

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models unless the client has asked too often; see `Backend`."""
        client_id = self._client_id() or ""
        await self._accounts.count_request(client_id, self._accounts.limits_of(client_id))
        return await self._backend.list_models()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation unless the client has too much; see `Backend`."""
        limits = self._accounts.limits_of(request.client_id)
        if limits.requests_per_minute is None and limits.max_open_generations is None:
            return self._backend.generate(request)
        return self._generate_counted(request, limits)

    async def _generate_counted(
        self, request: GenerateRequest, limits: Limits
    ) -> AsyncGenerator[list[Piece | Final], None]:
        try:
            await self._accounts.count_request(request.client_id, limits)
            await self._accounts.enter(request, limits)
            async with aclosing(self._backend.generate(request)) as stream:
                async for items in stream:
                    yield items
        finally:
            self._accounts.let_go(request)


def _open_key(client_id: str) -> str:
    return f"open:{client_id}"
