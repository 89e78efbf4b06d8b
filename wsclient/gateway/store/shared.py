"""Everything that one gateway has of the store, put together; imports `redis` by its parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..clients_file import RegistryError
from ..errors import GatewayError
from ..guard import CannotCountError
from ..quotas import ClientQuota
from ..settings import GatewaySettings
from .accounts import SharedAccounts
from .address import StoreAddress
from .connecting import check_store
from .guard import StoreGuard
from .link import StoreLink
from .notices import listen
from .registry import StoreRegistry

__all__ = ["SharedStore"]

_log = logging.getLogger(__name__)


class SharedStore:
    """The store of one gateway; belongs to the event loop.

    Args:
        settings: the gateway's, which name a store.

    Raises:
        GatewayError: the password's file cannot be used.

    Attributes:
        registry: the registered clients.
        guard: counts wrong logins.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        address = _find(settings)
        self._link = StoreLink(address, settings.store_prefix)
        self.registry = StoreRegistry(
            address, settings.store_prefix, default_algorithm=settings.default_signature_algorithm
        )
        self.guard = StoreGuard(self._link, settings.max_auth_attempts)
        self._accounts: SharedAccounts | None = None
        self._background: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        """See that the store can be used; blocks for a few seconds at most, so call it in a thread.

        Raises:
            GatewayError: it cannot; the text says why and what to do.
        """
        try:
            danger = check_store(self.registry.client, self.registry.address, self._settings.store_prefix)
        except RegistryError as error:
            raise GatewayError(error.message) from error
        if danger is not None:
            _log.warning("%s", danger)

    def accounts(self, quota_of: Callable[[str], ClientQuota | None]) -> SharedAccounts:
        """Return what clients may use and use; see `Accounts`."""
        self._accounts = SharedAccounts(self._settings, quota_of, self._link)
        return self._accounts

    def begin(self, on_notice: Callable[[], Awaitable[None]]) -> None:
        """Begin what goes on in the background, until `close`.

        Args:
            on_notice: called when clients have changed.
        """
        assert self._accounts is not None
        loop = asyncio.get_running_loop()
        self._background = {
            loop.create_task(listen(self._link.client, self.registry.channel, on_notice)),
            loop.create_task(self._accounts.keep()),
        }

    async def close(self) -> None:
        """Tell the store what has ended, and let go of it; takes a few seconds at most."""
        while self._background:
            for task in self._background:
                # More than once: a cancellation can be lost on its way through the package (`StoreLink`).
                task.cancel()
            _, self._background = await asyncio.wait(self._background, timeout=0.1)
        if self._accounts is not None:
            with suppress(CannotCountError):
                await self._accounts.tell()
        await self._link.close()
        self.registry.close()


def _find(settings: GatewaySettings) -> StoreAddress:
    try:
        address = settings.find_store()
    except OSError as error:
        reason = f"{settings.store_password_file}: {error.strerror}"
        raise GatewayError(f"the store's password cannot be read: {reason}") from error
    except ValueError as error:
        raise GatewayError(f"the store's password cannot be used: {error}") from error
    assert address is not None
    return address
