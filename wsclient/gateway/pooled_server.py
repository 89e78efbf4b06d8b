"""One of the model servers behind a gateway: what it has, whether it answers, what it works at."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .backend_watch import BackendWatch
from .backends import Backend

__all__ = ["PooledServer", "names_of", "queue_name"]

# Where Ollama gets a model from unless its name says otherwise.
_DEFAULT_PLACES = ("registry.ollama.ai/", "library/")


class PooledServer:
    """A model server as the pool sees it. It belongs to the event loop.

    Args:
        backend: what speaks to it.

    Attributes:
        url: where it is, `""` when it is nowhere in particular.
        watch: asks it for its models.
        is_up: whether generations are sent to it.
        running: how many it works at, by line.
        turn: when it was chosen last, in the order of all choices.
        avoided_until: monotonic time until which others come first, because it failed a generation at once.
        failovers: how many generations went on to another server after it had failed them.
        doubt: set to have it looked at soon.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.url: str = getattr(backend, "url", "")
        self.watch = BackendWatch(backend)
        self.is_up = True
        self.running: Counter[str] = Counter()
        self.turn = 0
        self.avoided_until = float("-inf")
        self.failovers = 0
        self.doubt = asyncio.Event()
        self._listed: list[dict[str, Any]] = []
        self._lines: frozenset[str] = frozenset()

    @property
    def lines(self) -> frozenset[str]:
        """The lines of the models that it listed last."""
        if self._listed is not self.watch.models:
            self._listed = self.watch.models
            self._lines = frozenset(map(queue_name, names_of(self._listed)))
        return self._lines

    @property
    def total_running(self) -> int:
        """How many generations it works at."""
        return sum(self.running.values())

    async def wait(self, seconds: float) -> None:
        """Wait until its answers are in doubt, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.doubt.wait()
        self.doubt.clear()


def queue_name(model: str) -> str:
    """Return one name for all names of a model, such as `llama2`, `Llama2:latest` and `library/llama2`."""
    # Ollama leaves off a scheme before the name: with it a model would have further queues.
    name = model.lower().rpartition("://")[2]
    for place in _DEFAULT_PLACES:
        name = name.removeprefix(place)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def names_of(models: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names in a list of models; what is none is left out."""
    return [name for model in models if isinstance(name := model.get("name"), str) and name]
