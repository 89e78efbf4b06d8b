"""A gateway in a thread of its own, for programs that are not asynchronous: demonstrations and tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import attrs

from .backends import Backend
from .registry import ClientRegistry
from .server import Gateway
from .settings import GatewaySettings

__all__ = ["GatewayThread"]

_NAME = "wsclient-gateway"


class GatewayThread:
    """A gateway that runs beside its caller; a context manager.

    It can be started again after it was stopped or killed, and then listens on the port that it had before.

    Args:
        settings: the gateway's; port 0 suits tests.
        backend: see `Gateway`; one object serves every start.
        registry: see `Gateway`.
    """

    def __init__(
        self,
        settings: GatewaySettings | None = None,
        backend: Backend | None = None,
        registry: ClientRegistry | None = None,
    ) -> None:
        self.settings = settings if settings is not None else GatewaySettings()
        self._backend = backend
        self._registry = registry
        self._gateway: Gateway | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Event | None = None
        # Held while the gateway is ended: of two callers the second finds nothing left to end.
        self._ending = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def gateway(self) -> Gateway:
        """The gateway of the latest start; only `stats`, `port` and `url` may be used from another thread.

        Raises:
            RuntimeError: it was never started.
        """
        if self._gateway is None:
            raise RuntimeError("the gateway was not started; use it in a with statement or call start()")
        return self._gateway

    @property
    def url(self) -> str:
        """The URL under which a client reaches it."""
        return self.gateway.url

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.gateway.port

    def start(self) -> None:
        """Start it, and return when it listens.

        Raises:
            GatewayError: it cannot start.
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("the gateway runs already")
        started = threading.Event()
        failures: list[BaseException] = []
        # A daemon, so that a forgotten gateway does not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._run, args=(started, failures), name=_NAME, daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            self._join()
            raise failures[0]
        self.settings = attrs.evolve(self.settings, port=self.port)

    def stop(self, drain: float = 0.0) -> None:
        """Stop it in good order and wait until nothing is left of it; does nothing when it does not run.

        Args:
            drain: how many seconds running generations have.
        """
        self._finish(lambda gateway: gateway.stop(drain))

    def kill(self) -> None:
        """Drop all connections without a close frame, as if the process had been killed."""
        self._finish(lambda gateway: gateway.kill())

    def restart(self, drain: float = 0.0) -> None:
        """Stop it and start it again on the same port.

        Args:
            drain: how many seconds running generations have.

        Raises:
            GatewayError: it cannot start again.
        """
        self.stop(drain)
        self.start()

    def _finish(self, how: Callable[[Gateway], Coroutine[Any, Any, None]]) -> None:
        with self._ending:
            if self._thread is None or self._loop is None:
                return
            asyncio.run_coroutine_threadsafe(self._leave(how(self.gateway)), self._loop).result()
            self._join()

    async def _leave(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            await ending
        finally:
            assert self._end is not None
            self._end.set()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, started: threading.Event, failures: list[BaseException]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._gateway = Gateway(self.settings, self._backend, self._registry)
        await self._gateway.start()
        started.set()
        await self._end.wait()
