"""What a running gateway looks after by itself: changes of the clients file, last logins, a renewed certificate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from .connection import Connection
from .errors import GatewayError
from .quotas import ClientQuota
from .registry import ClientRegistry, RegisteredClient, RegistryError
from .tls import Certificate

__all__ = ["Housekeeping", "look_for_model_server"]

_log = logging.getLogger(__name__)

# How often the clients file is looked at; a revocation must work within a second (design.md section 6).
_PAUSE = 0.25
_REVOKED = 4003
# How long a refusal may wait for a change of the clients file that this process is making.
_REFUSALS_WAIT = 0.5
# How long the clients file may keep a stop waiting.
_LAST_FLUSH = 2.0

_T = TypeVar("_T")


class Housekeeping:
    """Keeps a gateway in step with its files; belongs to the event loop.

    Args:
        registry: the registered clients.
        connections: those that are open.
        certificate_files: those of the TLS certificate and its key, if there is one.

    Attributes:
        certificate: the TLS certificate, once it was read.
    """

    def __init__(
        self,
        registry: ClientRegistry,
        connections: Collection[Connection],
        certificate_files: tuple[Path, Path | None] | None,
    ) -> None:
        self._registry = registry
        self._connections = connections
        self._certificate_files = certificate_files
        self.certificate: Certificate | None = None
        self._told_problems: tuple[str, ...] = ()
        self._applied_limits: object = None
        # The clients at this gateway's last look, and when that was.
        self._clients: dict[str, RegisteredClient] = {}
        self._compared: object = None
        # One of its own: a flood of logins must not keep a revocation waiting.
        self._thread = ThreadPoolExecutor(1, "wsclient-gateway-files")
        self._is_over = False

    async def run_in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run something that waits for the disk or for another process, one thing after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def begin(self) -> int:
        """Read the clients file and the certificate; return how many clients there are.

        Raises:
            GatewayError: one of them cannot be read.
        """
        try:
            clients = await self.run_in_thread(self._registry.list)
            await self.run_in_thread(self._compare_logins)
        except RegistryError as error:
            raise GatewayError(f"the clients cannot be read: {error}") from error
        self._report_problems()
        if self._certificate_files is not None:
            self.certificate = await self.run_in_thread(Certificate, *self._certificate_files)
        return len(clients)

    async def keep(self) -> None:
        """Look after everything, until it is cancelled."""
        told = ""
        while True:
            try:
                await self._look_after_files()
            except Exception as error:
                # Whatever it is: without this task no revocation would be noticed any more.
                failure = f"{type(error).__name__}: {error}"
                if failure != told:
                    _log.error("looking after the files failed with %s", failure)
                told = failure
            await asyncio.sleep(_PAUSE)

    async def _look_after_files(self) -> None:
        await self.look_at_clients()
        self._report_problems()
        self._apply_limits()
        try:
            await self._renew_certificate()
            await self.run_in_thread(self._registry.flush_logins, time.time())
        except RegistryError as error:
            _log.warning("the %s gives trouble: %s", self._registry.kind, error)
            self._told_problems = self._registry.problems
        except GatewayError as error:
            _log.warning("%s; the one before it stays in use", error)

    async def look_before_refusing(self) -> None:
        """Look at the clients file again: somebody may have registered this client a moment ago."""
        await self.look_at_clients(wait=_REFUSALS_WAIT)

    async def look_at_clients(self, wait: float = 0.0) -> None:
        """Read the clients file if it is another one than before, and throw out whoever is no longer in it.

        Args:
            wait: how many seconds to wait for another thread that changes the file.
        """
        if self._is_over:
            return
        try:
            self._throw_out(await self.run_in_thread(self._find_outdated, wait))
        except RegistryError as error:
            _log.warning("the %s gives trouble: %s", self._registry.kind, error)
            self._told_problems = self._registry.problems

    def _find_outdated(self, wait: float) -> set[str]:
        """Return whose connections must end."""
        outdated = self._registry.reload_if_changed(wait)
        # It tells each change once: another gateway that has the same registry may have heard of it.
        return outdated | self._compare_logins()

    def _compare_logins(self) -> set[str]:
        """Return who is gone, or has another login, since this gateway's last look."""
        stamp = self._registry.stamp
        if stamp == self._compared:
            return set()
        before, self._clients = self._clients, {client.id: client for client in self._registry.list()}
        self._compared = stamp
        outdated = {id for id, client in before.items() if not client.outlives(self._clients.get(id))}
        # Who came and went between two looks may have logged in.
        connected = {connection.client_id for connection in list(self._connections)}
        return outdated | {id for id in connected if id is not None and id not in self._clients}

    def quota_of(self, client_id: str) -> ClientQuota | None:
        """Return what the clients file says of a client's limits now, `None` when it is not in it."""
        client = self._registry.get(client_id)
        return None if client is None else client.quota

    async def end(self) -> None:
        """Write the last logins down, and let go of the thread."""
        flush = asyncio.get_running_loop().run_in_executor(self._thread, self._flush_last)
        _, late = await asyncio.wait([flush], timeout=_LAST_FLUSH)
        self._is_over = True
        self._thread.shutdown(wait=not late, cancel_futures=True)

    def _flush_last(self) -> None:
        try:
            self._registry.flush_logins(time.time(), force=True)
        except RegistryError as error:
            _log.warning("the last logins are not in the %s: %s", self._registry.kind, error)

    def _throw_out(self, client_ids: set[str]) -> None:
        for connection in list(self._connections):
            if connection.client_id in client_ids:
                _log.info("client %s was revoked or changed; its connection is closed", connection.client_id)
                connection.socket.close(_REVOKED, "revoked")

    def _report_problems(self) -> None:
        """Log what is newly wrong with the clients file."""
        problems = self._registry.problems
        for problem in problems:
            if problem not in self._told_problems:
                _log.warning("%s: %s", self._registry.place, problem)
        self._told_problems = problems

    def _apply_limits(self) -> None:
        stamp = self._registry.stamp
        if stamp != self._applied_limits:
            self._applied_limits = stamp
            for connection in self._connections:
                connection.apply_limits()

    async def _renew_certificate(self) -> None:
        if self.certificate is not None and await self.run_in_thread(self.certificate.check_files):
            self.certificate.take_over()
            _log.info("the TLS certificate was read again")


async def look_for_model_server(url: str) -> None:
    """Log a warning when no model server answers at a URL."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(5):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        _log.warning("no model server answers at %s; requests fail until one does", url)
    else:
        writer.close()
