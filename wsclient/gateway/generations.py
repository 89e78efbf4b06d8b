"""One generation on its way from the backend to the client: pieces in, frames out, and exactly one last word."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import attrs

from ..core.messages import ErrorMessage, StreamEndMessage, encode_tokens
from ..errors import ErrorCode
from .backends import Backend, BackendError, Final, GenerateRequest, Piece
from .websocket import WebSocket

__all__ = ["Generation", "now_ms"]

_log = logging.getLogger(__name__)

# A backend that always has more at hand would keep the event loop and the connection's buffer for itself: after this
# many seconds or bytes the others have their turn.
_SLICE_TIME, _SLICE_BYTES = 0.005, 16 * 1024

_USAGE = {
    "promptTokens": "prompt_tokens",
    "completionTokens": "completion_tokens",
    "doneReason": "done_reason",
    "totalDuration": "total_duration",
    "loadDuration": "load_duration",
    "evalDuration": "eval_duration",
}


def now_ms() -> int:
    """Return the time for a message's `timestamp`: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Generation:
    """A generation whose `stream_start` was sent.

    Its last word is a `stream_end` or an `error`; nothing follows it. Without a connection there is none.

    Args:
        id: as the client gave it, any JSON value.
        request: what to generate.
        backend: by whom.
        socket: for whom.
        on_end: called once, right after the last word or the cancellation.

    Attributes:
        request: what to generate.
        tokens: how many were sent.
        first_token_after: seconds until the first one was sent, `None` before.
        outcome: how it ended: `done`, `stopped`, `gone` (the client was) or an error's code.
    """

    def __init__(
        self, id: Any, request: GenerateRequest, backend: Backend, socket: WebSocket, on_end: Callable[[], None]
    ) -> None:
        self._id = id
        self.request = request
        self._backend = backend
        self._socket = socket
        self._on_end = on_end
        self._task: asyncio.Task[Any] | None = None
        self._started = time.monotonic()
        self.tokens = 0
        self.first_token_after: float | None = None
        self.outcome = "gone"
        self._final: Final | None = None
        self._is_stopped = False
        self._is_over = False

    @property
    def model(self) -> str:
        """The model's name, as the client or the settings have it."""
        return self.request.model

    @property
    def elapsed(self) -> float:
        """How many seconds ago it was asked for."""
        return time.monotonic() - self._started

    def stop(self) -> None:
        """Let go of the backend and end with `isCancelled`; tokens on their way come first."""
        self._is_stopped = True
        # Cancelling a task that has not begun would keep it from saying its last word.
        if self._task is not None and not self._is_over:
            self._task.cancel()

    async def run(self) -> None:
        """Stream it; cancel the task that runs this when the client is gone."""
        self._task = asyncio.current_task()
        try:
            if not self._is_stopped:
                await self._stream()
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
        finally:
            self._finish()

    async def _stream(self) -> None:
        # The last word is said inside: the client need not wait until the model server has been let go of.
        async with aclosing(self._backend.generate(self.request)) as stream:
            try:
                await self._pump(stream)
                if self._final is None:
                    text = "the model server ended the stream without its final message"
                    raise BackendError(text, ErrorCode.GENERATION_INCOMPLETE)
            except asyncio.CancelledError:
                if not self._is_stopped or self._task is None:
                    raise
                # This cancellation has done its work; the backend's own time-outs must not take it for theirs.
                self._task.uncancel()
            except BackendError as error:
                self._fail(error)
                return
            except Exception as error:
                # Only what kind it is: its text may be the prompt's.
                _log.error("the backend %s failed with %s", self._backend.name, type(error).__name__)
                self._fail(BackendError("internal error"))
                return
            self._finish()

    async def _pump(self, stream: AsyncGenerator[list[Piece | Final], None]) -> None:
        slice_end, slice_bytes = time.monotonic() + _SLICE_TIME, 0
        async for items in stream:
            texts = self._encode(items)
            if texts:
                slice_bytes += await self._socket.send_in_turn(texts)
                if self.first_token_after is None:
                    self.first_token_after = self.elapsed
                self.tokens += len(texts)
            if self._final is not None:
                return
            if slice_bytes > _SLICE_BYTES or time.monotonic() > slice_end:
                await asyncio.sleep(0)
                slice_end, slice_bytes = time.monotonic() + _SLICE_TIME, 0

    def _encode(self, items: list[Piece | Final]) -> list[str]:
        texts: list[str] = []
        run: list[str] = []
        is_thinking = False
        timestamp = now_ms()
        for item in items:
            if isinstance(item, Final):
                self._final = item
            elif item.text:
                if item.is_thinking is not is_thinking:
                    texts += encode_tokens(self._id, run, timestamp, is_thinking=is_thinking)
                    run, is_thinking = [], item.is_thinking
                run.append(item.text)
        return texts + encode_tokens(self._id, run, timestamp, is_thinking=is_thinking)

    def _fail(self, error: BackendError) -> None:
        message = ErrorMessage(
            id=self._id,
            error=f"Generation failed: {error.message}",
            code=error.code,
            retry_after=attrs.NOTHING if error.retry_after is None else error.retry_after,  # type: ignore[arg-type]
        )
        self.outcome = error.code
        self._say_last(message.encode(now_ms()))

    def _finish(self) -> None:
        if self._is_over:
            return
        is_cancelled = self._final is None
        if not is_cancelled:
            self.outcome = "done"
        elif self._is_stopped:
            self.outcome = "stopped"
        message = StreamEndMessage(
            id=self._id,
            total_tokens=self.tokens,
            elapsed_time=round(self.elapsed * 1000),
            is_cancelled=is_cancelled,
            usage=attrs.NOTHING if self._final is None else _usage(self._final),  # type: ignore[arg-type]
        )
        self._say_last(message.encode(now_ms()))

    def _say_last(self, text: str) -> None:
        self._is_over = True
        self._socket.send([text])
        self._on_end()


def _usage(final: Final) -> dict[str, Any]:
    values = {name: getattr(final, attribute) for name, attribute in _USAGE.items()}
    return {name: value for name, value in values.items() if value is not None}
