"""A generation as Server-Sent Events: what is said, in which order, and what leaving does; with the feed alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wsclient.contrib.server_sent_events import AsyncEventStream, EventStream
from wsclient.errors import ServerBusyError
from wsclient.testing import FakeClient

from ..support.lines import in_thread
from ..test_generation import Source

SOON = 0.01
LONG = 30.0


def told(chunk: bytes) -> list[tuple[str, Any]]:
    """Return the events of what was sent, as a browser reads them."""
    events = []
    for block in chunk.decode("ascii").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def everything(generation: Any) -> list[tuple[str, Any]]:
    return told(b"".join(EventStream(generation)))


async def everything_async(generation: Any) -> list[tuple[str, Any]]:
    return told(b"".join([chunk async for chunk in AsyncEventStream(generation)]))


READERS = [everything, lambda generation: asyncio.run(everything_async(generation))]
both = pytest.mark.parametrize("read", READERS, ids=["thread", "event loop"])
Read = Callable[[Any], list[tuple[str, Any]]]


@both
def test_an_answer_is_a_start_its_text_and_an_end(read: Read) -> None:
    start, *tokens, end = read(FakeClient({"Hi": ["One", " two"]}).stream("Hi", "llama2"))
    assert start[0] == "start"
    assert start[1]["model"] == "llama2"
    assert [name for name, _ in tokens] == ["token"] * len(tokens)
    assert "".join(data["text"] for _, data in tokens) == "One two"
    assert end == ("end", end[1] | {"id": start[1]["id"], "total_tokens": 2, "is_cancelled": False})


@both
def test_text_with_line_ends_of_every_kind_comes_through_as_it_is(read: Read) -> None:
    text = "a\nb\r\nc\rd\u2028e\x00\N{SNOWMAN}\N{GRINNING FACE}"
    events = read(FakeClient({"Hi": text}).stream("Hi"))
    assert "".join(data["text"] for name, data in events if name == "token") == text


@both
def test_thinking_is_told_apart_from_the_answer_and_once(read: Read) -> None:
    source = Source()
    source.push("hm", is_thinking=True)
    source.push("a", "b")
    source.push("!", is_thinking=True)
    source.finish()
    events = read(source.generation())
    assert [event for event in events if event[0] in ("thinking", "token")] == [
        ("thinking", {"text": "hm!"}),
        ("token", {"text": "ab"}),
    ]


@both
def test_an_error_is_the_last_event_and_comes_after_the_text(read: Read) -> None:
    source = Source()
    source.push("half")
    source.feed.fail(ServerBusyError("all places are taken", retry_after=3.0))
    _, token, error = read(source.generation())
    assert token == ("token", {"text": "half"})
    assert error[0] == "error"
    assert error[1]["code"] == "server_busy"
    assert error[1]["retry_after"] == 3.0
    assert error[1]["retryable"] is True


@both
def test_what_goes_wrong_at_the_beginning_is_an_event_too(read: Read) -> None:
    def begin() -> Any:
        raise ServerBusyError("nobody is free")

    assert [(name, data["message"]) for name, data in read(begin)] == [("error", "nobody is free")]


@both
def test_what_begins_a_generation_is_called_when_the_first_event_is_asked_for(read: Read) -> None:
    client = FakeClient({"Hi": "there"})
    EventStream(lambda: client.stream("Hi"))
    assert client.calls == []
    assert read(lambda: client.stream("Hi"))[-1][0] == "end"


@both
def test_a_stopped_generation_ends_as_cancelled(read: Read) -> None:
    source = Source()
    source.finish(is_cancelled=True)
    assert read(source.generation())[-1][1]["is_cancelled"] is True


def test_a_comment_is_sent_while_there_is_nothing_to_say() -> None:
    source = Source()
    stream = EventStream(source.generation(), heartbeat=SOON)
    assert told(next(stream))[0][0] == "start"
    assert [next(stream), next(stream)] == [b":\n\n", b":\n\n"]
    source.push("late")
    assert told(next(stream)) == [("token", {"text": "late"})]


def test_an_event_loop_is_sent_comments_too_and_goes_on_meanwhile() -> None:
    async def read() -> list[bytes]:
        source = Source()
        stream = AsyncEventStream(source.generation(), heartbeat=SOON)
        chunks = [await anext(stream), await anext(stream)]
        waiting = asyncio.ensure_future(anext(AsyncEventStream(source.generation(), heartbeat=LONG)))
        await waiting
        source.push("late")
        return [*chunks, await anext(stream)]

    _, comment, token = asyncio.run(read())
    assert comment == b":\n\n"
    assert told(token) == [("token", {"text": "late"})]


def test_text_wakes_an_event_loop_at_once() -> None:
    async def read() -> bytes:
        source = Source()
        stream = AsyncEventStream(source.generation(), heartbeat=LONG)
        await anext(stream)
        writer = threading.Timer(SOON, source.push, ["soon"])
        writer.start()
        return await asyncio.wait_for(anext(stream), 10)

    assert told(asyncio.run(read())) == [("token", {"text": "soon"})]


def test_closing_stops_the_generation() -> None:
    source = Source()
    stream = EventStream(source.generation(), heartbeat=SOON)
    next(stream)
    stream.close()
    assert source.abandoned == ["gen_1"]
    assert list(stream) == []


def test_closing_stops_a_generation_of_which_no_event_was_asked_for() -> None:
    source = Source()
    generation = source.generation()
    stream = EventStream(generation)
    stream.close()
    # Not by being dropped: both are still held.
    assert source.abandoned == ["gen_1"]


def test_closing_an_answer_that_ended_stops_nothing() -> None:
    source = Source()
    source.finish()
    stream = EventStream(source.generation())
    list(stream)
    stream.close()
    assert source.abandoned == []


def test_a_cancelled_task_stops_the_generation() -> None:
    source = Source()

    async def leave() -> None:
        stream = AsyncEventStream(source.generation(), heartbeat=LONG)
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.abandoned == ["gen_1"]

    asyncio.run(leave())


def test_a_task_cancelled_while_it_begins_stops_what_is_begun_later() -> None:
    source = Source()
    begins, may_end = threading.Event(), threading.Event()

    def begin() -> Any:
        begins.set()
        assert may_end.wait(10)
        return source.generation()

    async def leave() -> None:
        task = asyncio.ensure_future(anext(AsyncEventStream(begin)))
        assert await asyncio.to_thread(begins.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()

    # asyncio.run() waits for the executor's threads.
    asyncio.run(leave())
    assert source.abandoned == ["gen_1"]


def test_a_stream_blocks_no_longer_than_a_heartbeat() -> None:
    source = Source()
    stream = EventStream(source.generation(), heartbeat=SOON)
    next(stream)
    reader = in_thread(lambda: next(stream))
    reader.join(5)
    assert not reader.is_alive()


@pytest.mark.parametrize("heartbeat", [0, -1, float("nan")])
def test_a_heartbeat_that_is_no_time_is_refused(heartbeat: float) -> None:
    with pytest.raises(ValueError, match="heartbeat is"):
        EventStream(Source().generation(), heartbeat=heartbeat)
