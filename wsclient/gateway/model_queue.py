"""A backend whose models take only so many generations at a time; the others wait for their turn.

Ollama's own limit cannot be relied on (ollama_api.md section 7): it does not bound what waits for a loaded model, and
knows no clients to be fair to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from .backends import BackendError, Final, GenerateRequest, Piece
from .backends.allowed import unknown_model
from .fair_queue import Entry, FairQueue
from .pooled_server import PooledServer
from .server_pool import ServerPool, busy

__all__ = ["QueueingBackend"]


class QueueingBackend:
    """A backend with a bounded, fair queue for each of its models. It belongs to the event loop.

    Models that no server lists share one: whoever makes names up would have as many places as names.

    Waiting is no part of a model server's deadlines: it hears of a generation when its turn has come, and a generation
    that is cancelled while it waits never reaches it.

    Args:
        pool: the model servers; started and closed with this one.
        max_waiting: generations that may wait for one model.
        max_wait: seconds that one may wait.

    Attributes:
        pool: the same.
    """

    def __init__(self, pool: ServerPool, *, max_waiting: int, max_wait: float) -> None:
        self.pool = pool
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._queues: dict[str, FairQueue[asyncio.Future[bool]]] = {}
        pool.on_change = self._grant_turns

    @property
    def running(self) -> int:
        """How many generations have their turn."""
        return sum(queue.running for queue in self._queues.values())

    @property
    def waiting(self) -> int:
        """How many generations wait for their turn."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def name(self) -> str:
        """The backend's."""
        return self.pool.name

    async def start(self) -> None:
        """Start the model servers; see `Backend`."""
        await self.pool.start()

    async def close(self) -> None:
        """Close the model servers; see `Backend`."""
        await self.pool.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models; see `Backend`."""
        return await self.pool.list_models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation when its turn has come; see `Backend`.

        A server that fails before its first piece is replaced by the next one, each tried once.

        Raises:
            BackendError: `SERVER_BUSY` when too many wait already, the turn did not come in time, or no model server
                answers; and the backend's.
        """
        line = await self.pool.line_of(request.model)
        async with self._turn(line, request.client_id):
            tried: set[PooledServer] = set()
            while True:
                async with self.pool.place(line, tried) as server:
                    tried.add(server)
                    if not request.is_allowed():
                        raise unknown_model(self.name, request.model)
                    is_begun = False
                    try:
                        async with aclosing(server.backend.generate(self.pool.adapt(request))) as lists:
                            async for pieces in lists:
                                is_begun = True
                                yield pieces
                        return
                    except BackendError as failure:
                        error = self.pool.judge(server, line, tried, failure, is_begun=is_begun)
                        if error is failure:
                            raise
                        if error is not None:
                            raise error from failure

    @asynccontextmanager
    async def _turn(self, line: str, client: str) -> AsyncIterator[None]:
        queue = self._queues.setdefault(line, FairQueue(0, self._max_waiting))
        queue.max_running = self.pool.places(line)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            entry, dropped = queue.enter(turn, client)
            if dropped is not None:
                dropped.set_result(False)
            if entry is Entry.REFUSED:
                raise busy(f"{queue.waiting} requests wait for this model already")
            if entry is Entry.WAITS:
                # Not asyncio.timeout: a turn that comes at the last moment must be had or passed on, never lost.
                await asyncio.wait([turn], timeout=self._max_wait)
                if not turn.done():
                    raise busy(f"this model had no turn within {self._max_wait:g} s")
                if not turn.result():
                    raise busy("too many requests of this client wait for this model")
            yield
        finally:
            queue.max_running = self.pool.places(line)
            if (following := queue.leave(turn, client)) is not None:
                following.set_result(True)
            if not queue.running and self._queues.get(line) is queue:
                del self._queues[line]

    def _grant_turns(self) -> None:
        """Let more generations begin: there is another server, or one has got the model."""
        for line, queue in self._queues.items():
            queue.max_running = self.pool.places(line)
            while (following := queue.next_turn()) is not None:
                following.set_result(True)
