"""The gateway: connections in front, a model server behind, and the clients file beside."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web

from .addresses import normal_origin
from .administration import Administration
from .backends import Backend, BackendError
from .connection import Connection, Services
from .draining import send_away
from .errors import GatewayError
from .guard import LoginGuard
from .handshake import UpgradeResponse, answer_stopping, is_upgrade, refuse_crowd, refuse_upgrade
from .housekeeping import Housekeeping, look_for_model_server
from .listening import ACCEPTED_AT_ONCE, BACKLOG, open_sockets, port_of, url_for
from .lobby import HttpServer, Lobby
from .login import LoginDesk
from .model_queue import QueueingBackend
from .model_servers import make_backends
from .quotas import Accounts
from .registry import ClientRegistry
from .server_pool import ServerPool
from .settings import GatewaySettings
from .tls import TlsListener

if TYPE_CHECKING:
    from .store.shared import SharedStore

__all__ = ["Gateway", "GatewayError", "GatewayStats", "make_backends", "run_gateway"]

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class GatewayStats:
    """What a gateway does now, and did since it started.

    Attributes:
        connections: open WebSockets.
        clients: those of them that have logged in.
        generations: running now.
        total_connections, total_logins, total_refusals, total_generations, total_tokens: since the start.
    """

    connections: int
    clients: int
    generations: int
    total_connections: int
    total_logins: int
    total_refusals: int
    total_generations: int
    total_tokens: int


class _HttpLog(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log, muted: it writes a traceback for every stranger who does not speak HTTP."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        kwargs.pop("exc_info", None)
        super().log(logging.DEBUG, msg, *args, **kwargs)


class Gateway:
    """A server of WebSocket System's protocol (protocol.md). It belongs to the event loop that starts it.

    Args:
        settings: what it is told; the defaults when left out.
        backend: the model server, when it is not the one that the settings name; it is closed with the gateway, and
            `max_running` holds for it too.
        registry: the registered clients, when they are not those of the settings' clients file.

    Raises:
        GatewayError: the model server's API key or the store's password cannot be read.
    """

    def __init__(
        self,
        settings: GatewaySettings | None = None,
        backend: Backend | None = None,
        registry: ClientRegistry | None = None,
    ) -> None:
        self.settings = settings if settings is not None else GatewaySettings()
        self._store = None if self.settings.store is None else _open_store(self.settings)
        if registry is None and self._store is not None:
            registry = self._store.registry
        if registry is None:
            algorithm = self.settings.default_signature_algorithm
            registry = ClientRegistry(self.settings.clients_path, default_algorithm=algorithm)
        self.registry = registry
        max_running, max_wait = self.settings.max_running, self.settings.max_wait
        backends = [backend] if backend is not None else make_backends(self.settings)
        pool = ServerPool(backends, max_running=max_running, max_wait=max_wait)
        self.backend = QueueingBackend(pool, max_waiting=self.settings.max_waiting, max_wait=max_wait)
        # Several are looked after by the pool.
        urls = self.settings.model_server_urls if backend is None else ()
        self._model_server_url = urls[0] if len(urls) == 1 else ""
        # Strangers get half of the file descriptors, so that there are some for clients and the model server.
        self._lobby = Lobby(self.settings, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        self._origins = frozenset(
            origin if origin == "*" else normal_origin(origin) for origin in self.settings.allow_origin
        )
        self._tls_listeners: list[TlsListener] = []
        self._connections: set[Connection] = set()
        settings = self.settings
        certificate_files = None if settings.tls_cert is None else (settings.tls_cert, settings.tls_key)
        self._housekeeping = Housekeeping(self.registry, self._connections, certificate_files)
        self._sockets: list[socket.socket] = []
        self._url = ""
        self._port = 0
        self._services: Services | None = None
        self._administration: Administration | None = None
        self._runner: web.ServerRunner | None = None
        self._background: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._login_thread = ThreadPoolExecutor(1, "wsclient-gateway-login")

    @property
    def port(self) -> int:
        """The port it listens on, 0 before the start."""
        return self._port

    @property
    def url(self) -> str:
        """The URL under which a client on this machine reaches it, `""` before the start."""
        return self._url

    @property
    def metrics_url(self) -> str:
        """The URL of `/metrics` on the metrics port, `""` when there is none."""
        return self._administration.metrics_url if self._administration is not None else ""

    def stats(self) -> GatewayStats:
        """Return what it does and did; from any thread."""
        counts = self._services.counts if self._services is not None else {}
        # A copy, made in one go: another thread may be asking.
        connections = list(self._connections)
        return GatewayStats(
            connections=len(connections),
            clients=sum(connection.client_id is not None for connection in connections),
            generations=sum(len(connection.generations) for connection in connections),
            total_connections=counts.get("connections", 0),
            total_logins=counts.get("logins", 0),
            total_refusals=counts.get("refusals", 0),
            total_generations=counts.get("generations", 0),
            total_tokens=counts.get("tokens", 0),
        )

    # --- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the clients file, start the backend, listen.

        A model server that does not answer is no failure: it may come later, and requests say so until then.

        Raises:
            GatewayError: the clients file cannot be read, the backend cannot start, or the port cannot be had.
        """
        if self._services is not None or self._stopping is not None:
            raise GatewayError("a gateway starts once; make a new one")
        try:
            await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self.settings
        if self._store is not None:
            await self._housekeeping.run_in_thread(self._store.check)
        clients = await self._housekeeping.begin()
        try:
            await self.backend.start()
        except BackendError as error:
            raise GatewayError(f"the backend {self.backend.name} cannot start: {error.message}") from error
        # Also the first use of Crypto, which takes a while to import.
        desk = await loop.run_in_executor(
            self._login_thread,
            LoginDesk,
            self.registry,
            LoginGuard(max_attempts=settings.max_auth_attempts) if self._store is None else self._store.guard,
            self._login_thread,
            self._housekeeping.look_before_refusing,
        )
        quota_of = self._housekeeping.quota_of
        accounts = Accounts(settings, quota_of) if self._store is None else self._store.accounts(quota_of)
        self._services = Services(settings=settings, backend=self.backend, desk=desk, accounts=accounts)
        self._administration = Administration(
            self._services, self.registry, self._connections, lambda: self._stopping is not None, self.backend.pool
        )
        await self._administration.start()
        self._sockets = await self._housekeeping.run_in_thread(open_sockets, settings.host, settings.port)
        self._port = port_of(self._sockets)
        self._url = url_for(self._sockets, "ws" if self._housekeeping.certificate is None else "wss")
        await self._listen()
        self._background.append(loop.create_task(self._housekeeping.keep()))
        if self._store is not None:
            self._store.begin(self._housekeeping.look_at_clients)
        if self._model_server_url:
            self._background.append(loop.create_task(look_for_model_server(self._model_server_url)))
        _log.info("listening on %s with %d clients and the backend %s", self._url, clients, self.backend.name)

    async def _listen(self) -> None:
        http_log: Any = _HttpLog(logging.getLogger("wsclient.gateway.http"), {})
        # A stranger's compressed body would be inflated, a thousandfold, before anybody has looked at the request.
        server = HttpServer(self._handle, self._lobby, access_log=None, logger=http_log, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        if self._housekeeping.certificate is not None:
            timeout = self.settings.auth_timeout
            self._tls_listeners = [
                TlsListener(listening, self._housekeeping.certificate, self._lobby, server, timeout)
                for listening in self._sockets
            ]
            return
        for listening in self._sockets:
            # So many are also accepted before the others have their turn; each costs 0.2 ms. The queue stays long.
            await web.SockSite(self._runner, listening, backlog=ACCEPTED_AT_ONCE).start()
            listening.listen(BACKLOG)

    # --- connections --------------------------------------------------------------------------------------------------

    def _address_of(self, request: web.BaseRequest) -> str:
        """Return for whom the request speaks, `""` when he is gone already."""
        if request.transport is None:
            return ""
        return self._lobby.client_address(request.transport, request.headers.getall("X-Forwarded-For", ()))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not is_upgrade(request):
            assert self._administration is not None
            return await self._administration.endpoints.answer(request, self._address_of(request))
        refusal = refuse_upgrade(request, self._origins)
        if refusal is not None:
            return refusal
        if self._stopping is not None:
            return answer_stopping()
        address = self._address_of(request)
        if not self._lobby.upgrade(request.protocol, address):
            return refuse_crowd()
        response = UpgradeResponse(request)
        writer = await response.prepare(request)
        transport, protocol = request.transport, request.protocol
        # The client may be gone, or the gateway stopping, by the time the answer is written.
        if writer is None or transport is None or self._services is None or self._stopping is not None:
            return response
        connection = Connection(
            self._services, transport, writer, address, on_login=lambda: self._lobby.leave(protocol)
        )
        self._connections.add(connection)
        counts = self._services.counts
        counts["connections"] += 1
        try:
            protocol.keep_alive(False)
            connection.open()
            protocol.set_parser(connection.socket)  # type: ignore[arg-type]
            await connection.socket.closed
        finally:
            connection.socket.abort()
            self._connections.discard(connection)
            counts["received_bytes"] += connection.socket.received_bytes
            counts["sent_bytes"] += connection.socket.sent_bytes
            _log.debug("a connection from %s ended with %d", address, connection.socket.close_code)
        return response

    # --- stop ---------------------------------------------------------------------------------------------------------

    async def stop(self, drain: float | None = None) -> None:
        """Stop accepting, send the clients away with 1012, let running generations finish, let go of everything.

        Safe to call again: a later call returns when the first one does, and can only shorten its time.

        Args:
            drain: how many seconds running generations have; the settings' when left out.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.settings.drain if drain is None else drain)
        if self._stopping is None:
            self._deadline = deadline
            self._stopping = loop.create_task(self._stop())
        self._deadline = min(self._deadline, deadline)
        await asyncio.shield(self._stopping)

    async def kill(self) -> None:
        """Drop every connection without a word, as the end of the process would; then let go of everything."""
        await self._stop_accepting()
        for connection in list(self._connections):
            connection.socket.abort()
        await self.stop(0)

    async def _stop_accepting(self) -> None:
        if self._runner is not None:
            for site in self._runner.sites:
                await site.stop()
        for listener in self._tls_listeners:
            await listener.stop()
        for listening in self._sockets:
            listening.close()

    async def _stop(self) -> None:
        await self._stop_accepting()
        await send_away(self._connections, lambda: self._deadline)
        self._lobby.abort_all()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._administration is not None:
            await self._administration.close()
        await self.backend.close()
        await self._housekeeping.end()
        if self._store is not None:
            await self._store.close()
        self._login_thread.shutdown(cancel_futures=True)
        if self._url:
            # What failed to start says so itself.
            _log.info("stopped")


def _open_store(settings: GatewaySettings) -> SharedStore:
    # Here, because it needs the extra `redis`.
    from .store.shared import SharedStore

    return SharedStore(settings)


def run_gateway(
    settings: GatewaySettings | None = None,
    backend: Backend | None = None,
    on_ready: Callable[[Gateway], None] | None = None,
) -> None:
    """Run a gateway until SIGTERM or SIGINT ends it in good order; a second signal ends it at once.

    Call it from the main thread: elsewhere no signal is heard.

    Args:
        settings, backend: see `Gateway`.
        on_ready: called when the gateway listens.

    Raises:
        GatewayError: the gateway cannot start.
    """
    _raise_descriptor_limit()
    asyncio.run(_run(Gateway(settings, backend), on_ready))


def _raise_descriptor_limit() -> None:
    """Let the process have as many connections as it may: the usual limit of 1024 is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(gateway: Gateway, on_ready: Callable[[Gateway], None] | None) -> None:
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    hurries: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        if signalled.is_set():
            hurries.add(loop.create_task(gateway.stop(0)))
        signalled.set()

    signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        await gateway.start()
        if on_ready is not None:
            on_ready(gateway)
        await signalled.wait()
        await gateway.stop()
    finally:
        await gateway.stop(0)
        for number in signals:
            loop.remove_signal_handler(number)
