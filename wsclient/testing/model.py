"""The model server behind the gateway of a test: scripted or real, and watched."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from ..errors import ErrorCode, ServerError, WSClientError
from ..gateway.backends import Backend, BackendError, Final, GenerateRequest, Piece
from .answers import Request, Script, Thinking

__all__ = ["ScriptedModel", "WatchedModel"]

# The gateway speaks Ollama's names, a test those that it gave.
_OUR_NAMES = {"num_predict": "max_tokens"}
_END = object()


class ScriptedModel:
    """A backend that says what a test wrote.

    Args:
        script: the answers.

    Attributes:
        faults: what functions of the test's raised: bugs, of which the client only hears that there was one.
    """

    name = "scripted"

    def __init__(self, script: Script) -> None:
        self._script = script
        self.faults: list[BaseException] = []

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the script's models."""
        return self._script.models

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Say the answer, a token a piece.

        Raises:
            BackendError: the script's error.
        """
        count = 0
        try:
            with _Steps(self._script.tokens(as_request(request))) as steps:
                while (token := await steps.next()) is not _END:
                    count += 1
                    yield [Piece(str(token), is_thinking=isinstance(token, Thinking))]
        except ServerError as error:
            raise BackendError(error.message, error.code, error.retry_after) from error
        except WSClientError as error:
            hint = "use the faults of the Gateway, such as drop(), for what is not the model server's"
            self.faults.append(TypeError(f"a gateway cannot say {type(error).__name__}; {hint}"))
            raise self.faults[-1] from error
        except Exception as error:
            self.faults.append(error)
            raise
        yield [Final(done_reason="stop", completion_tokens=count)]


class _Steps:
    """Steps through an iterator that may block, each step in a thread of its own; a context manager.

    A daemon: nobody waits for a function of a test's that never comes back, and so not for one of an executor either.
    """

    def __init__(self, iterator: Iterator[str]) -> None:
        self._iterator = iterator
        self._wanted: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wsclient-testing-model", daemon=True)

    def __enter__(self) -> _Steps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted.put(None)

    async def next(self) -> Any:
        """Return the next item, `_END` after the last; raise what the iterator raises."""
        future = asyncio.get_running_loop().create_future()
        self._wanted.put(future)
        return await future

    def _run(self) -> None:
        for future in iter(self._wanted.get, None):
            item, error = _END, None
            try:
                item = next(self._iterator, _END)
            except BaseException as raised:
                error = raised
            # The gateway may be gone, and its loop with it.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_settle, future, item, error)
        if hasattr(self._iterator, "close"):
            self._iterator.close()


def _settle(future: asyncio.Future[Any], item: Any, error: BaseException | None) -> None:
    # The generation may be over by then.
    if not future.done():
        if error is None:
            future.set_result(item)
        else:
            future.set_exception(error)


class WatchedModel:
    """Any backend, with a note of what it was asked for.

    Args:
        backend: the model server.

    Attributes:
        requests: what arrived, in order.
        is_busy: whether generations are refused with `server_busy`.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.requests: list[Request] = []
        self.is_busy = False

    async def start(self) -> None:
        """Start the backend."""
        await self._backend.start()

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the backend's models."""
        return await self._backend.list_models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Generate, unless the test says that the model server has no room.

        Raises:
            BackendError: it has none, or what the backend raises.
        """
        asked = as_request(request)
        self.requests.append(asked)
        try:
            if self.is_busy:
                raise BackendError("the model server is busy", ErrorCode.SERVER_BUSY)
            async with aclosing(self._backend.generate(request)) as stream:
                async for items in stream:
                    if items and isinstance(items[-1], Final):
                        asked.outcome = "done"
                    yield items
        except Exception:
            asked.outcome = "failed"
            raise
        finally:
            # Left, cancelled or closed in the middle.
            asked.outcome = asked.outcome or "stopped"


def as_request(request: GenerateRequest) -> Request:
    """Return what the gateway asks a model server for as a test sees it."""
    options = {_OUR_NAMES.get(name, name): value for name, value in (request.fields | request.options).items()}
    return Request(prompt=request.prompt, model=request.model, options=options, id=str(request.id))
