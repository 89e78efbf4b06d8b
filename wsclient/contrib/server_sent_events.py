"""A generation as Server-Sent Events (the HTML standard, section 9.2), for whatever serves web pages.

    event: start     data: {"id": "gen_...", "model": "llama2"}
    event: thinking  data: {"text": "..."}          what the model thinks, when it says so
    event: token     data: {"text": "..."}          all text that came since the last one
    event: end       data: {"id": ..., "model": ..., "total_tokens": 12, "elapsed_time": 0.8, ...}
    event: error     data: {"code": "connection_lost", "message": ..., "description": ..., "retryable": true, ...}

An `end` or an `error` is the last one. While there is nothing to say, a comment goes out every `heartbeat` seconds: a
server notices that the browser left only by a write that fails.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ..errors import WSClientError
from ..events import GenerationResult
from ..generation import Generation

__all__ = ["HEADERS", "HEARTBEAT", "AsyncEventStream", "EventStream", "error_facts"]

# The first write to who has left is answered with a reset, the second one fails: leaving is noticed within two
# heartbeats, which makes less than 2 s.
HEARTBEAT = 0.75
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx holds answers back until 4 KiB are together, unless it is told (its ngx_http_proxy_module).
    "X-Accel-Buffering": "no",
}
_COMMENT = b":\n\n"


def error_facts(error: WSClientError) -> dict[str, Any]:
    """Return what an `error` event says, ready for JSON; for answers that are no event stream as well."""
    return {name: getattr(error, name) for name in ("code", "message", "description", "retryable", "retry_after")}


class _Events:
    """What both streams share: what there is to say of a generation, in order.

    Args:
        generation: the generation, or what begins one, such as `lambda: client.stream(prompt)`: it is called when the
            first event is asked for, and what goes wrong there is an event like any other.
        heartbeat: seconds without an event after which a comment is sent.

    Raises:
        ValueError: `heartbeat` is not above 0.
    """

    def __init__(self, generation: Generation | Callable[[], Generation], *, heartbeat: float = HEARTBEAT) -> None:
        if not heartbeat > 0:
            raise ValueError(f"heartbeat is {heartbeat!r}; it is a number of seconds above 0")
        # One that is running already is stopped by `close()` even if nobody ever asked for an event.
        self._generation = generation if isinstance(generation, Generation) else None
        self._begin: Callable[[], Generation] = (
            (lambda: generation) if isinstance(generation, Generation) else generation
        )
        self._heartbeat = heartbeat
        self._has_started = self._is_over = False
        self._told_thinking = 0

    def _start(self, generation: Generation) -> bytes:
        self._generation, self._has_started = generation, True
        return _event("start", {"id": generation.id, "model": generation.model})

    def _next(self, generation: Generation, text: str | None) -> bytes:
        """Return what to send after a `read()`."""
        events = []
        if thinking := generation.thinking[self._told_thinking :]:
            self._told_thinking += len(thinking)
            events.append(_event("thinking", {"text": thinking}))
        if text:
            events.append(_event("token", {"text": text}))
        elif text is None:
            self._is_over = True
            events.append(_end(generation.result()))
        return b"".join(events) or _COMMENT

    def _fail(self, error: WSClientError) -> bytes:
        self._is_over = True
        return _event("error", error_facts(error))

    def close(self) -> None:
        """Stop the generation if it is still running, without waiting; idempotent. Web servers call it at the end."""
        self._is_over = True
        if self._generation is not None:
            self._generation.close()


class EventStream(_Events):
    """A generation's events, for servers that give a request a thread: an iterator of bytes. See `_Events`."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next events, or a comment; blocks for `heartbeat` seconds at most, at first until it is begun."""
        if self._is_over:
            raise StopIteration
        try:
            if self._generation is None or not self._has_started:
                return self._start(self._begin())
            return self._next(self._generation, self._generation.read(self._heartbeat))
        except WSClientError as error:
            return self._fail(error)


class AsyncEventStream(_Events):
    """The same for an event loop, which it never blocks: an asynchronous iterator of bytes. See `_Events`.

    What begins a generation runs in a thread of the loop's executor, because it may have to connect first.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next events, or a comment after `heartbeat` seconds."""
        if self._is_over:
            raise StopAsyncIteration
        import asyncio

        try:
            if self._generation is None or not self._has_started:
                # One that is begun after a cancellation is dropped, and so stopped.
                return self._start(await asyncio.to_thread(self._begin))
            return self._next(self._generation, await self._generation.aread(self._heartbeat))
        except WSClientError as error:
            return self._fail(error)
        except asyncio.CancelledError:
            self.close()
            raise


def _event(name: str, data: dict[str, Any]) -> bytes:
    # As ASCII, so that no line end of Unicode's is in it: a line end would end the field.
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode("ascii")


def _end(result: GenerationResult) -> bytes:
    names = ("id", "model", "total_tokens", "elapsed_time", "is_cancelled", "done_reason")
    return _event("end", {name: getattr(result, name) for name in names})
