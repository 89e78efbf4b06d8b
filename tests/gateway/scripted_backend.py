"""A model server that does what the prompt says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

from wsclient.errors import ErrorCode
from wsclient.gateway.backends import BackendError, Final, GenerateRequest, Piece

__all__ = ["ScriptedBackend"]


class ScriptedBackend:
    """A backend for tests. The prompt is one of:

        say TEXT       the words of TEXT as one list, then the end
        tokens N       N tokens, a list each
        hang N         N tokens, then nothing, for ever
        hold N         N tokens, then nothing until `release`, then the end
        flood BYTES    lists of ten tokens of that many bytes, for ever, without ever waiting
        think          a thought, then an answer
        fail TEXT      one token, then a `BackendError`
        crash TEXT     one token, then an error that nobody foresaw
        nofinal        one token and no last word

    Attributes:
        requests: what was asked for.
        cancelled: set when a generation was cut short.
        floods: how many lists `flood` has made.
        models: what is listed; an exception is raised.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.models: list[dict[str, Any]] | Exception = [{"name": "tiny:1b", "model": "tiny:1b"}]
        self.cancelled = threading.Event()
        self.floods = 0
        self.is_closed = False
        self._permits: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Let one generation that holds go on; from any thread."""
        assert self._loop is not None
        assert self._permits is not None
        self._loop.call_soon_threadsafe(self._permits.release)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._permits = asyncio.Semaphore(0)

    async def close(self) -> None:
        self.is_closed = True

    async def list_models(self) -> list[dict[str, Any]]:
        if isinstance(self.models, Exception):
            raise self.models
        return self.models

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        self.requests.append(request)
        verb, _, rest = request.prompt.partition(" ")
        is_over = False
        try:
            async for items in self._act(verb, rest):
                is_over = isinstance(items[-1], Final)
                yield items
        except (asyncio.CancelledError, GeneratorExit):
            if not is_over:
                self.cancelled.set()
            raise

    async def _act(self, verb: str, rest: str) -> AsyncGenerator[list[Piece | Final], None]:
        assert self._permits is not None
        end = Final(done_reason="stop", prompt_tokens=3, completion_tokens=7, total_duration=12.5)
        if verb == "say":
            yield [*(Piece(word) for word in rest.split()), end]
        elif verb in ("tokens", "hang", "hold"):
            for number in range(int(rest)):
                yield [Piece(f" t{number:03}")]
                await asyncio.sleep(0)
            if verb == "hang":
                await asyncio.Event().wait()
            if verb == "hold":
                await self._permits.acquire()
            yield [end]
        elif verb == "flood":
            while True:
                self.floods += 1
                yield [Piece("x" * int(rest))] * 10
        elif verb == "think":
            yield [Piece("hm", is_thinking=True), Piece("so", is_thinking=True), Piece(""), Piece("yes"), end]
        elif verb == "fail":
            yield [Piece("some")]
            raise BackendError(rest, ErrorCode.SERVER_BUSY, retry_after=3)
        elif verb == "crash":
            yield [Piece("some")]
            raise RuntimeError(rest)
        elif verb == "nofinal":
            yield [Piece("some")]
        else:
            raise AssertionError(f"no such script: {verb}")
