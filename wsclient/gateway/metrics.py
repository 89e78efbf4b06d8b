"""What a gateway does, in figures for Prometheus.

Nothing here runs for a token: connections and generations count for themselves, once a batch, and are asked when
somebody reads the figures; a generation is entered once, when it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..version import __version__

if TYPE_CHECKING:
    from .backend_watch import BackendWatch
    from .connection import Connection
    from .generations import Generation
    from .pooled_server import PooledServer

__all__ = ["Metrics"]

_PREFIX = "wsclient_gateway_"
_FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GENERATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The figures of one gateway; has a registry of its own, so that several gateways can be in one process.

    Args:
        counts: what happened since the start (`Services.counts`).
        refused: how many requests each limit has turned away (`Accounts.refused`).
        connections: those that are open; asked when the figures are read.
        watch: knows the models, and whether the model server answers.
        servers: the model servers, when there are several.

    Attributes:
        content_type: of what `render` returns.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        counts: Counter[str],
        refused: Counter[str],
        connections: Collection[Connection],
        watch: BackendWatch,
        servers: Sequence[PooledServer] = (),
    ) -> None:
        self._counts = counts
        self._refused = refused
        self._connections = connections
        self._watch = watch
        self._servers = servers
        self._is_backend_up = False
        # Of generations that have ended, by model.
        self._tokens: Counter[str] = Counter()
        self._told_tokens: Counter[str] = Counter()
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._ended = PrometheusCounter(
            _PREFIX + "generations", "Generations that ended, and how.", ("model", "outcome"), registry=self.registry
        )
        self._first_token = Histogram(
            _PREFIX + "first_token_seconds",
            "From a generation's request to its first token.",
            ("model",),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._duration = Histogram(
            _PREFIX + "generation_seconds",
            "From a generation's request to its end.",
            ("model",),
            buckets=_GENERATION_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def enter(self, generation: Generation) -> None:
        """Count a generation that has just ended."""
        model = self._watch.label(generation.model)
        self._ended.labels(model, generation.outcome).inc()
        self._tokens[model] += generation.tokens
        if generation.first_token_after is not None:
            self._first_token.labels(model).observe(generation.first_token_after)
        self._duration.labels(model).observe(generation.elapsed)

    async def render(self) -> bytes:
        """Return the figures in Prometheus's text format; asks the model server for its models at times."""
        self._is_backend_up = await self._watch.is_answering(max_age=15.0)
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Return nothing: without it the registry would collect once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what is counted elsewhere; prometheus_client calls this."""
        connections = list(self._connections)
        generations = [generation for connection in connections for generation in connection.generations]
        waiting = sum(generation.first_token_after is None for generation in generations)
        counts = self._counts
        yield _gauge("info", "The gateway's version.", 1, version=__version__)
        yield _gauge("backend_up", "Whether the model server answered lately.", self._is_backend_up)
        yield _gauge("connections", "Open WebSockets.", len(connections))
        logged_in = sum(connection.client_id is not None for connection in connections)
        yield _gauge("clients", "Open WebSockets whose client has logged in.", logged_in)
        yield _gauge("generations_running", "Generations that have had a token.", len(generations) - waiting)
        yield _gauge("generations_waiting", "Generations that wait for their first token.", waiting)
        yield _counter("connections", "WebSockets since the start.", counts["connections"])
        yield _counter("logins", "Logins since the start.", counts["logins"])
        refusals = CounterMetricFamily(_PREFIX + "refusals", "Logins that were refused.", labels=("reason",))
        blocked = counts["blocked"]
        refusals.add_metric(("invalid",), counts["refusals"] - blocked)
        refusals.add_metric(("blocked",), blocked)
        refusals.add_metric(("postponed",), counts["postponed"])
        yield refusals
        over_limit = CounterMetricFamily(
            _PREFIX + "requests_over_limit", "Requests that a client's limits turned away.", labels=("limit",)
        )
        for limit, count in self._refused.items():
            over_limit.add_metric((limit,), count)
        yield over_limit
        received = sum(connection.socket.received_bytes for connection in connections)
        sent = sum(connection.socket.sent_bytes for connection in connections)
        yield _counter("received_bytes", "From clients, frames included.", counts["received_bytes"] + received)
        yield _counter("sent_bytes", "To clients, frames included.", counts["sent_bytes"] + sent)
        yield self._tokens_so_far(generations)
        if self._servers:
            yield from self._of_servers()

    def _of_servers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(_PREFIX + "model_server_up", "Whether it answered lately.", labels=("server",))
        running = GaugeMetricFamily(
            _PREFIX + "model_server_running", "Generations that it works at.", labels=("server",)
        )
        failovers = CounterMetricFamily(
            _PREFIX + "model_server_failovers", "Generations that it failed and another took over.", labels=("server",)
        )
        for server in self._servers:
            up.add_metric((server.url,), server.is_up)
            running.add_metric((server.url,), server.total_running)
            failovers.add_metric((server.url,), server.failovers)
        yield from (up, running, failovers)

    def _tokens_so_far(self, generations: list[Generation]) -> Metric:
        tokens = self._tokens.copy()
        for generation in generations:
            tokens[self._watch.label(generation.model)] += generation.tokens
        # Never less than before, which Prometheus would take for a restart: a generation that was stopped is in neither
        # for a moment, and a model that the watch has just got to know was "other" until now.
        self._told_tokens |= tokens
        family = CounterMetricFamily(_PREFIX + "tokens", "Tokens sent to clients.", labels=("model",))
        for model, count in self._told_tokens.items():
            family.add_metric((model,), count)
        return family


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, text, value)
