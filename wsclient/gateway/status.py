"""`GET /api/status`: what an administrator wants to know of a running gateway, in one JSON object.

`/metrics` is for programs that draw curves and names nobody; this is for somebody who looks, and needs no
prometheus_client.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .clients import iso_time
from .registry import ClientRegistry

if TYPE_CHECKING:
    from .backend_watch import BackendWatch
    from .connection import Connection, Services

__all__ = ["Status"]

_TOTALS = ("connections", "logins", "refusals", "generations", "tokens")


class Status:
    """Answers what the gateway is doing now; belongs to the event loop.

    Args:
        services: the gateway's.
        registry: its clients, read before.
        connections: those that are open.
        watch: knows the models.
        not_ready: returns why nobody can be served now, nothing when everything is well.
    """

    def __init__(
        self,
        services: Services,
        registry: ClientRegistry,
        connections: Collection[Connection],
        watch: BackendWatch,
        not_ready: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._services = services
        self._registry = registry
        self._connections = connections
        self._watch = watch
        self._not_ready = not_ready
        self._started_at = time.time()
        self._started = time.monotonic()

    async def describe(self) -> dict[str, Any]:
        """Return it; asks the model server for its models at times, and takes three seconds at most."""
        reasons = await self._not_ready()
        connections = list(self._connections)
        generations = [generation for connection in connections for generation in connection.generations]
        waiting = sum(generation.first_token_after is None for generation in generations)
        settings, counts = self._services.settings, self._services.counts
        return {
            "server": {"name": "wsclient-gateway", "version": __version__, "python": platform.python_version()},
            "startedAt": iso_time(self._started_at),
            "uptime": round(time.monotonic() - self._started, 3),
            "ready": not reasons,
            "reasons": reasons,
            "backend": {"name": self._services.backend.name, "defaultModel": settings.default_model or None},
            "models": sorted(self._watch.names),
            "store": self._registry.place if self._registry.kind == "store" else None,
            "connections": len(connections),
            "registered": len(self._registry.list()),
            "clients": self._clients(connections),
            "generations": {"running": len(generations) - waiting, "waiting": waiting},
            "totals": {name: counts[name] for name in _TOTALS},
        }

    def _clients(self, connections: list[Connection]) -> list[dict[str, Any]]:
        """Return who is connected, each client once."""
        open_connections: Counter[str] = Counter()
        generations: Counter[str] = Counter()
        for connection in connections:
            if connection.client_id is not None:
                open_connections[connection.client_id] += 1
                generations[connection.client_id] += len(connection.generations)
        found = []
        for client_id, number in open_connections.items():
            client = self._registry.get(client_id)
            name = None if client is None else client.name
            facts = {"connections": number, "generations": generations[client_id]}
            found.append({"id": client_id, "name": name, **facts})
        return found
