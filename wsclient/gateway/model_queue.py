"""A backend whose models take only so many generations at a time; the others wait for their turn.

Ollama's own limit cannot be relied on (ollama_api.md section 7): it does not bound what waits for a loaded model, and
knows no clients to be fair to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from ..errors import ErrorCode
from .backends import Backend, BackendError, Final, GenerateRequest, Piece
from .fair_queue import Entry, FairQueue

__all__ = ["QueueingBackend", "queue_name"]

# Long enough for some turns to end, short enough that nobody waits without need.
_RETRY_AFTER = 5.0

# Where Ollama gets a model from unless its name says otherwise.
_DEFAULT_PLACES = ("registry.ollama.ai/", "library/")


class QueueingBackend:
    """A backend with a bounded, fair queue for each of its models. It belongs to the event loop.

    Waiting is no part of a model server's deadlines: it hears of a generation when its turn has come, and a generation
    that is cancelled while it waits never reaches it.

    Args:
        backend: the model server; started and closed with this one.
        max_running: generations of one model at the same time.
        max_waiting: generations that may wait for one model.
        max_wait: seconds that one may wait.
    """

    def __init__(self, backend: Backend, *, max_running: int, max_waiting: int, max_wait: float) -> None:
        self._backend = backend
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._queues: dict[str, FairQueue[asyncio.Future[bool]]] = {}

    @property
    def running(self) -> int:
        """How many generations the model server works at."""
        return sum(queue.running for queue in self._queues.values())

    @property
    def waiting(self) -> int:
        """How many generations wait for their turn."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def name(self) -> str:
        """The backend's."""
        return self._backend.name

    async def start(self) -> None:
        """Start the model server; see `Backend`."""
        await self._backend.start()

    async def close(self) -> None:
        """Close the model server; see `Backend`."""
        await self._backend.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models; see `Backend`."""
        return await self._backend.list_models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation when its turn has come; see `Backend`.

        Raises:
            BackendError: `SERVER_BUSY` when too many wait already or the turn did not come in time; and the backend's.
        """
        async with (
            self._turn(queue_name(request.model), request.client_id),
            aclosing(self._backend.generate(request)) as lists,
        ):
            async for pieces in lists:
                yield pieces

    @asynccontextmanager
    async def _turn(self, name: str, client: str) -> AsyncIterator[None]:
        queue = self._queues.setdefault(name, FairQueue(self._max_running, self._max_waiting))
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            entry, dropped = queue.enter(turn, client)
            if dropped is not None:
                dropped.set_result(False)
            if entry is Entry.REFUSED:
                raise _busy(f"{queue.waiting} requests wait for this model already")
            if entry is Entry.WAITS:
                # Not asyncio.timeout: a turn that comes at the last moment must be had or passed on, never lost.
                await asyncio.wait([turn], timeout=self._max_wait)
                if not turn.done():
                    raise _busy(f"this model had no turn within {self._max_wait:g} s")
                if not turn.result():
                    raise _busy("too many requests of this client wait for this model")
            yield
        finally:
            if (following := queue.leave(turn, client)) is not None:
                following.set_result(True)
            if not queue.running and self._queues.get(name) is queue:
                del self._queues[name]


def queue_name(model: str) -> str:
    """Return one name for all names of a model, such as `llama2`, `Llama2:latest` and `library/llama2`."""
    # Ollama leaves off a scheme before the name: with it a model would have further queues.
    name = model.lower().rpartition("://")[2]
    for place in _DEFAULT_PLACES:
        name = name.removeprefix(place)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _busy(why: str) -> BackendError:
    return BackendError(f"server busy: {why}", ErrorCode.SERVER_BUSY, _RETRY_AFTER)
