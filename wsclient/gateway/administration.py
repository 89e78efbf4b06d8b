"""What operators and administrators have of a gateway: its endpoints, its figures, and the port of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from .admin_token import AdminToken
from .backend_watch import BackendWatch
from .connection import Connection, Services
from .endpoints import Endpoints
from .errors import GatewayError
from .guard import LoginGuard
from .listening import open_sockets, url_for
from .registration import AdminDesk
from .registry import ClientRegistry
from .server_pool import ServerPool
from .status import Status

__all__ = ["Administration"]

_log = logging.getLogger(__name__)


class Administration:
    """Puts together what is asked over plain HTTP; belongs to the event loop.

    Args:
        services: the gateway's.
        registry: its clients.
        connections: those that are open.
        is_stopping: whether it is about to end.
        pool: its model servers.

    Attributes:
        endpoints: the answers; there after `start`.
        metrics_url: where `/metrics` is on the port of its own, `""` when there is none.
    """

    endpoints: Endpoints

    def __init__(
        self,
        services: Services,
        registry: ClientRegistry,
        connections: Collection[Connection],
        is_stopping: Callable[[], bool],
        pool: ServerPool,
    ) -> None:
        self._services = services
        self._settings = services.settings
        self._registry = registry
        self._connections = connections
        self._is_stopping = is_stopping
        # One alone is what the gateway's own health already says.
        self._servers = pool.servers if pool.is_several else []
        self._watch = BackendWatch(services.backend, services.settings.default_model)
        self._thread = ThreadPoolExecutor(1, "wsclient-gateway-admin")
        self._runner: web.ServerRunner | None = None
        self._first_look: asyncio.Task[bool] | None = None
        self.metrics_url = ""

    async def start(self) -> None:
        """Read the admin token, and listen on the metrics port.

        Raises:
            GatewayError: the token cannot be read, or the port cannot be had.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        try:
            token = await loop.run_in_executor(self._thread, settings.read_admin_token)
        except OSError as error:
            reason = f"{settings.admin_token_file}: {error.strerror}"
            raise GatewayError(f"the admin token cannot be read: {reason}") from error
        except ValueError as error:
            raise GatewayError(f"the admin token cannot be used: {error}") from error
        desk = None
        if token is not None:
            guard = LoginGuard(max_attempts=settings.max_auth_attempts)
            algorithm = settings.default_signature_algorithm
            desk = AdminDesk(self._registry, AdminToken(token), guard, self._thread, algorithm)
        metrics = None
        if token is not None or settings.metrics_port is not None:
            # Here, because most gateways need neither the module nor its registry.
            from .metrics import Metrics

            services = self._services
            refused = services.accounts.refused
            metrics = Metrics(services.counts, refused, self._connections, self._watch, self._servers)
            self._services.on_generation_end = metrics.enter
            # So that the first generations are counted under their models' names.
            self._first_look = loop.create_task(self._watch.is_answering())
        status = Status(self._services, self._registry, self._connections, self._watch, self._not_ready)
        self.endpoints = Endpoints(self._not_ready, self._is_stopping, desk, metrics, status, self._servers)
        if settings.metrics_port is not None:
            await self._listen(settings.metrics_host, settings.metrics_port)

    async def _listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        sockets = await loop.run_in_executor(self._thread, open_sockets, host, port)
        server = web.Server(self.endpoints.answer_operator, access_log=None)
        # Without a limit, half a request would hold a stop up for ten seconds and more.
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        for listening in sockets:
            await web.SockSite(self._runner, listening).start()
        self.metrics_url = url_for(sockets).replace("ws://", "http://") + "/metrics"
        _log.info("figures are at %s", self.metrics_url)

    async def _not_ready(self) -> list[str]:
        reasons = []
        if self._is_stopping():
            reasons.append("the gateway is stopping")
        if not self._registry.is_readable:
            reasons.append(f"the {self._registry.kind} cannot be read")
        if not await self._watch.is_answering():
            reasons.append("the model server does not answer")
        return reasons

    async def close(self) -> None:
        """Let go of everything."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._first_look is not None:
            self._first_look.cancel()
        self._watch.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
