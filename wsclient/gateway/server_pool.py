"""The model servers behind a gateway, one or several: which of them works at a generation, and which are left out.

A generation has a place at one server; `max_running` bounds the places of a *line*, which is a model's queue, at each
server. One server alone is never left out: its own errors say more than ours could.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from ..errors import ErrorCode
from .backends import Backend, BackendError, GenerateRequest, SilentError, UnreachableError
from .backends.openai import DEFAULT_MODEL
from .pooled_server import PooledServer, names_of, queue_name

__all__ = ["OTHER_LINE", "ServerPool", "busy"]

_log = logging.getLogger(__name__)

OTHER_LINE = ""
"""The line of all models that no server lists: a name that clients make up must not get them further places."""

# Long enough for some turns to end, short enough that nobody waits without need.
_RETRY_AFTER = 5.0

# Seconds between two looks at a server that answers, and at one that does not.
_CHECK_EVERY, _PROBE_EVERY = 10.0, 2.0
# How old a list of models may be that has the model asked for, and one that has not.
_LIST_AGE, _UNKNOWN_AGE = 60.0, 5.0
# When nobody is left a server is asked whatever it said before this many seconds.
_LAST_RESORT_AGE = 1.0
# A server that fails at once is always the least busy one: for so long, or as long as it said, others come first.
_AVOID_FOR, _MOST_AVOIDED = 5.0, 30.0

# What another server may do better. Not its silence: the client has waited long enough by then.
_FAILURES = frozenset(
    {ErrorCode.SERVER_ERROR, ErrorCode.SERVER_BUSY, ErrorCode.GENERATION_INCOMPLETE, ErrorCode.MODEL_NOT_FOUND}
)


@attrs.define(eq=False)
class _Waiting:
    """A generation that has lost its server and waits for a place at another one."""

    line: str
    tried: set[PooledServer]
    server: asyncio.Future[PooledServer | None]


class ServerPool:
    """The model servers of one gateway. It belongs to the event loop.

    Args:
        backends: the servers, all of one kind, at least one.
        max_running: generations of one line at each server at the same time.
        max_wait: seconds that a generation may wait for a place at another server.

    Attributes:
        servers: in the order of the settings.
        on_change: called when a line may have more places than before.
    """

    def __init__(self, backends: Sequence[Backend], *, max_running: int, max_wait: float) -> None:
        self.servers = [PooledServer(backend) for backend in backends]
        self.on_change: Callable[[], None] = lambda: None
        self._max_running = max_running
        self._max_wait = max_wait
        self._turn = 0
        self._waiting: list[_Waiting] = []
        self._checks: list[asyncio.Task[None]] = []

    @property
    def is_several(self) -> bool:
        """Whether there is more than one server."""
        return len(self.servers) > 1

    @property
    def name(self) -> str:
        """The backends' name."""
        return self.servers[0].backend.name

    async def start(self) -> None:
        """Start the servers; look after them, if there are several."""
        for server in self.servers:
            await server.backend.start()
        if self.is_several:
            loop = asyncio.get_running_loop()
            for number, server in enumerate(self.servers, 1):
                # Staggered: the servers are often one machine's, or behind one line.
                first_pause = _CHECK_EVERY * number / len(self.servers)
                self._checks.append(loop.create_task(self._look_after(server, first_pause)))
        elif not self.servers[0].url:
            # In this process it costs nothing, and no generation waits for the first list.
            self.servers[0].watch.ask(0)

    async def close(self) -> None:
        """Close all of them; safe to call twice."""
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        for server in self.servers:
            server.watch.close()
        await asyncio.gather(*(server.backend.close() for server in self.servers))

    # --- models -------------------------------------------------------------------------------------------------------

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models of all servers that answer, each name once as the first of them has it.

        Raises:
            BackendError: none answers.
        """
        if not self.is_several:
            return await self.servers[0].backend.list_models()
        await self._check_all(self._up() or self.servers, _LAST_RESORT_AGE)
        if not self._up():
            raise self._nobody()
        return self._merged()

    async def line_of(self, model: str) -> str:
        """Return the line of a model; takes three seconds at most, and those only for a name that nobody lists."""
        line = self._line_of(model)
        if line == OTHER_LINE:
            await self._check_all(self._up(), _UNKNOWN_AGE)
            return self._line_of(model)
        if not self.is_several:
            self.servers[0].watch.ask(_LIST_AGE)
        return line

    def adapt(self, request: GenerateRequest) -> GenerateRequest:
        """Return a request with the same model for every server: `default` would be each one's own first."""
        if self.is_several and self._is_default(request.model) and (models := self._merged()):
            return attrs.evolve(request, model=models[0]["name"])
        return request

    def _line_of(self, model: str) -> str:
        line = queue_name(model)
        if any(line in server.lines for server in self.servers):
            return line
        if self._is_default(model) and (names := names_of(self._merged())):
            return queue_name(names[0])
        return OTHER_LINE

    def _is_default(self, model: str) -> bool:
        if self.name != "openai" or model != DEFAULT_MODEL:
            return False
        return not any(queue_name(model) in server.lines for server in self.servers)

    def _merged(self) -> list[dict[str, Any]]:
        models: dict[str, dict[str, Any]] = {}
        for server in self._up():
            for model in server.watch.models:
                # Strangers' JSON: a name may be anything, or missing.
                if isinstance(name := model.get("name"), str):
                    models.setdefault(name, model)
        return list(models.values())

    # --- places -------------------------------------------------------------------------------------------------------

    def places(self, line: str) -> int:
        """Return how many generations of a line may run now."""
        # With nobody there to run them they have their turn all the same, and hear so.
        return self._max_running * max(1, len(self._usable(line)))

    @asynccontextmanager
    async def place(self, line: str, tried: set[PooledServer]) -> AsyncIterator[PooledServer]:
        """Have a place at the least busy server that has the model; among equals they take turns.

        One that failed a generation a moment ago has its turn when no other has a place.

        Args:
            line: of a generation whose turn it is.
            tried: servers that have failed it.

        Raises:
            BackendError: `SERVER_BUSY`, because no server answers, or none had a place in time.
        """
        server = self._choose(line, tried)
        if server is None and not self._usable(line, tried):
            # It may have come back a moment ago.
            await self._check_all(self._holders(line), _LAST_RESORT_AGE)
            server = self._choose(line, tried)
        if server is None:
            server = await self._wait(line, tried)
        try:
            yield server
        finally:
            self._release(server, line)

    def judge(
        self, server: PooledServer, line: str, tried: set[PooledServer], error: BackendError, *, is_begun: bool
    ) -> BackendError | None:
        """Take note that a generation failed; return the error for the client, `None` when another server may try.

        Args:
            server: where it failed.
            line: the generation's.
            tried: the servers that have failed it, this one included.
            error: what went wrong.
            is_begun: whether the client has seen anything of it: shown text is never replaced.
        """
        if not self.is_several or error.code not in _FAILURES:
            return error
        if isinstance(error, UnreachableError):
            self._note_health(server, is_up=False, why=error.message)
        if error.code is not ErrorCode.MODEL_NOT_FOUND:
            # Its next look may be ten seconds away.
            server.doubt.set()
        if is_begun or isinstance(error, SilentError):
            return error
        if error.code is not ErrorCode.MODEL_NOT_FOUND:
            server.avoided_until = time.monotonic() + min(error.retry_after or _AVOID_FOR, _MOST_AVOIDED)
        if not self._usable(line, tried):
            return error if self._usable(line) else self._nobody(line)
        server.failovers += 1
        # Only what kind it is: a model server's words may be the prompt's.
        _log.info("the model server at %s failed a generation, which goes on to another: %s", server.url, error.code)
        return None

    def _up(self) -> list[PooledServer]:
        return [server for server in self.servers if server.is_up]

    def _holders(self, line: str) -> list[PooledServer]:
        """Return the servers that have a model; any may have one that none of them lists."""
        return [server for server in self.servers if line in server.lines] or self.servers

    def _usable(self, line: str, tried: Iterable[PooledServer] = ()) -> list[PooledServer]:
        return [server for server in self._holders(line) if server.is_up and server not in tried]

    def _choose(self, line: str, tried: set[PooledServer]) -> PooledServer | None:
        free = [server for server in self._usable(line, tried) if server.running[line] < self._max_running]
        now = time.monotonic()
        server = min(free, key=lambda one: (one.avoided_until > now, one.total_running, one.turn), default=None)
        if server is not None:
            self._turn += 1
            server.turn = self._turn
            server.running[line] += 1
        return server

    def _release(self, server: PooledServer, line: str) -> None:
        server.running[line] -= 1
        if not server.running[line]:
            del server.running[line]
        self._serve_waiting()

    async def _wait(self, line: str, tried: set[PooledServer]) -> PooledServer:
        waiting = _Waiting(line, tried, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._serve_waiting()
        try:
            await asyncio.wait([waiting.server], timeout=self._max_wait)
        except asyncio.CancelledError:
            # It may have got a place in the same moment.
            if waiting.server.done() and (server := waiting.server.result()) is not None:
                self._release(server, line)
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if not waiting.server.done():
            raise busy(f"no model server had a place within {self._max_wait:g} s")
        if (server := waiting.server.result()) is None:
            raise self._nobody(line)
        return server

    def _serve_waiting(self) -> None:
        for waiting in self._waiting.copy():
            server = self._choose(waiting.line, waiting.tried)
            if server is not None or not self._usable(waiting.line, waiting.tried):
                self._waiting.remove(waiting)
                waiting.server.set_result(server)

    def _nobody(self, line: str = OTHER_LINE) -> BackendError:
        which = "no model server" if self._holders(line) == self.servers else "no model server that has this model"
        return BackendError(f"{which} answers; please try again later", ErrorCode.SERVER_BUSY, _RETRY_AFTER)

    # --- health -------------------------------------------------------------------------------------------------------

    async def _look_after(self, server: PooledServer, pause: float) -> None:
        while True:
            await self._check(server, _LAST_RESORT_AGE)
            await server.wait(pause if server.is_up else _PROBE_EVERY)
            pause = _CHECK_EVERY

    async def _check_all(self, servers: Iterable[PooledServer], max_age: float) -> None:
        await asyncio.gather(*(self._check(server, max_age) for server in servers))

    async def _check(self, server: PooledServer, max_age: float) -> None:
        """Ask a server for its models, three seconds at most, unless it was asked so many seconds ago."""
        lines, was_up = server.lines, server.is_up
        is_up = await server.watch.is_answering(max_age)
        # Unless a generation could not connect meanwhile: that is newer than the answer, and the next look decides.
        if self.is_several and not (is_up and was_up and not server.is_up):
            self._note_health(server, is_up=is_up, why=server.watch.failure)
            if server.lines != lines:
                self._changed()

    def _note_health(self, server: PooledServer, *, is_up: bool, why: str) -> None:
        if server.is_up is is_up:
            return
        server.is_up = is_up
        if is_up:
            _log.info("the model server at %s answers again", server.url)
        else:
            _log.warning("the model server at %s does not answer and is left out until it does: %s", server.url, why)
            # What it said before is no longer true.
            server.watch.expire()
        self._changed()

    def _changed(self) -> None:
        self._serve_waiting()
        self.on_change()


def busy(why: str) -> BackendError:
    """Return the error of a generation for which there is no room."""
    return BackendError(f"server busy: {why}", ErrorCode.SERVER_BUSY, _RETRY_AFTER)
