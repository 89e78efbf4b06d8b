"""How the fake model servers send the lines of a generation, and how they misbehave while doing so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from aiohttp import web

from .ollama_answers import Answer, encode_line

__all__ = ["NDJSON", "Framing", "RecordedRequest", "Shape", "send_stream"]

_BLOCK_BYTES = 64 * 1024

# Text and thinking -> the fields of a line that carry them; generate and chat differ in these only.
Shape = Callable[[str, str], dict[str, Any]]


@attrs.frozen
class Framing:
    """What the lines of a stream look like.

    Attributes:
        content_type: of HTTP.
        start: what a line begins with.
        end: what it ends with.
        error: a text -> the record of an error.
    """

    content_type: str
    start: bytes
    end: bytes
    error: Callable[[str], dict[str, Any]]

    def frame(self, payload: bytes) -> bytes:
        """Return a payload as a line."""
        return self.start + payload + self.end


NDJSON = Framing("application/x-ndjson", b"", b"\n", lambda text: {"error": text})

_HALF_A_CHARACTER = b'{"half":"\xc3"}'


@attrs.define(eq=False)
class RecordedRequest:
    """A request that came in.

    Attributes:
        method: the HTTP method.
        path: the path, without the query.
        headers: the headers, as sent.
        raw: the body's bytes.
        body: the body decoded, `None` when it is not JSON.
        lines_sent: how many lines of a streamed answer were handed to the socket.
        is_dropped: whether it was the fake that broke the connection.
        disconnected: set when the client went away before its answer was complete.
        finished: set when nothing more will happen, however it ended.
    """

    method: str
    path: str
    headers: dict[str, str] = attrs.field(repr=False)
    raw: bytes = attrs.field(repr=False)
    body: Any = None
    lines_sent: int = 0
    is_dropped: bool = False
    disconnected: threading.Event = attrs.field(factory=threading.Event, repr=False)
    finished: threading.Event = attrs.field(factory=threading.Event, repr=False)


async def send_stream(
    request: web.BaseRequest,
    recorded: RecordedRequest,
    answer: Answer,
    lines: Iterable[bytes],
    final_line: Callable[[], bytes],
    permits: asyncio.Semaphore,
    framing: Framing = NDJSON,
) -> web.StreamResponse:
    """Send a streamed answer the way it is asked for.

    Args:
        request: to answer.
        recorded: its record.
        answer: how to go about it.
        lines: all lines before the final one.
        final_line: makes that one when its time has come, for the durations in it.
        permits: one is taken by the mode "hold".
        framing: of the lines.
    """
    out = _Stream(request, recorded, answer.split, framing)
    if answer.unlimited:
        await out.send_blocks(list(lines))
        is_complete = True
    else:
        is_complete = await _send_one_by_one(out, answer, lines, permits)
    if is_complete:
        await out.send(final_line())
    return await out.finish()


async def _send_one_by_one(out: _Stream, answer: Answer, lines: Iterable[bytes], permits: asyncio.Semaphore) -> bool:
    """Send the lines, misbehaving where the answer says so; return whether the final line is to follow."""
    has_misbehaved = False
    for number, line in enumerate(lines):
        if number == answer.after:
            has_misbehaved = True
            if not await _misbehave(out, answer, permits):
                return False
        if number:
            await asyncio.sleep(answer.delay)
        await out.send(line)
    return has_misbehaved or await _misbehave(out, answer, permits)


async def _misbehave(out: _Stream, answer: Answer, permits: asyncio.Semaphore) -> bool:
    """Do what the mode says; return whether the stream goes on."""
    if answer.mode == "drop":
        await asyncio.sleep(answer.delay)
        await out.break_off()
    elif answer.mode == "hang":
        await asyncio.Event().wait()
    elif answer.mode == "hold":
        await permits.acquire()
    elif answer.mode == "cut":
        await out.send(out.framing.frame(_HALF_A_CHARACTER).rstrip()[:-2])
        await out.break_off()
    elif answer.mode == "half":
        await out.send(out.framing.frame(_HALF_A_CHARACTER))
    elif answer.mode == "garbage":
        await out.send(out.framing.frame(answer.garbage.encode()))
    elif answer.mode == "error_line":
        await out.send(out.framing.frame(encode_line(out.framing.error(answer.error)).rstrip()))
    elif answer.mode not in ("", "nodone"):
        raise ValueError(f"unknown mode {answer.mode!r}")
    return answer.mode not in ("error_line", "nodone")


class _Stream:
    """The answer under way; as with Ollama, its headers leave with the first line."""

    def __init__(self, request: web.BaseRequest, recorded: RecordedRequest, split: int, framing: Framing) -> None:
        self.framing = framing
        self._request = request
        self._recorded = recorded
        self._split = split
        self._response = web.StreamResponse(headers={"Content-Type": framing.content_type})

    async def send(self, data: bytes) -> None:
        await self._start()
        size = self._split or len(data)
        for start in range(0, len(data), size):
            await self._response.write(data[start : start + size])
            if self._split:
                # A turn of the event loop, so that these are two writes, and may be two reads at the other end.
                await asyncio.sleep(0)
        self._recorded.lines_sent += data.count(self.framing.end)

    async def send_blocks(self, lines: Sequence[bytes]) -> None:
        """Send lines as fast as the socket takes them: many a write, and still an HTTP chunk each, as Ollama does."""
        await self._start()
        writer: Any = await self._response.prepare(self._request)
        writer.chunked = False
        per_block = max(1, _BLOCK_BYTES // len(lines[0])) if lines else 1
        for start in range(0, len(lines), per_block):
            block = lines[start : start + per_block]
            await writer.write(b"".join([b"%x\r\n%b\r\n" % (len(line), line) for line in block]))
            self._recorded.lines_sent += len(block)
        writer.chunked = True

    async def break_off(self) -> None:
        """Close the connection in the middle of the answer."""
        await self._start()
        self._recorded.is_dropped = True
        if self._request.transport is not None:
            self._request.transport.close()
        # The server cancels the handler once the connection is gone.
        await asyncio.Event().wait()

    async def finish(self) -> web.StreamResponse:
        await self._start()
        await self._response.write_eof()
        return self._response

    async def _start(self) -> None:
        if not self._response.prepared:
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)
