"""The lines of a batch. Takes 0 s."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import IO, Any

import pytest

from wsclient.cli import batch_items
from wsclient.cli.batch_items import BatchItem, PolledInput, read_items


def read(text: str | bytes, model: str | None = None, **options: Any) -> list[BatchItem]:
    raw = text if isinstance(text, bytes) else text.encode()
    items = list(read_items(io.BytesIO(raw), model, options))
    assert None not in items
    return [item for item in items if item is not None]


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def test_a_line_is_a_prompt_with_its_model_id_and_options() -> None:
    (item,) = read(line(prompt="Hi", model="m", id={"any": 1}, options={"num_ctx": 5, "seed": 1}, seed=2))
    assert (item.prompt, item.model, item.given) == ("Hi", "m", {"id": {"any": 1}})
    assert item.options == {"num_ctx": 5, "seed": 2}
    assert item.problem is None


def test_what_a_line_does_not_say_comes_from_the_flags() -> None:
    items = read(line(prompt="a", temperature=1) + line(prompt="b"), "m", temperature=0.5, seed=7)
    assert [(item.model, item.options) for item in items] == [
        ("m", {"temperature": 1, "seed": 7}),
        ("m", {"temperature": 0.5, "seed": 7}),
    ]


def test_empty_lines_count_as_lines_and_are_no_items() -> None:
    items = read("\n" + line(prompt="a") + "  \n" + line(prompt="b").rstrip())
    assert [item.line for item in items] == [2, 4]


def test_the_end_of_an_item_is_where_the_file_has_been_read_to() -> None:
    first, second = line(prompt="a"), line(prompt="漢")
    assert [item.end for item in read(first + second)] == [len(first), len(first) + len(second)]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"{", "the line is not JSON"),
        (b"\xff\xfe", "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b'"text"', "the line must be a JSON object (got str)"),
        (b"{}", "the line needs a prompt"),
        (b'{"prompt": " "}', "the line needs a prompt"),
        (b'{"prompt": 5}', "the line needs a prompt"),
        (b'{"prompt": "x", "model": 5}', "model must be a name"),
        (b'{"prompt": "x", "options": []}', "options must be an object"),
        (b'{"prompt": "x", "temprature": 1}', "unknown field 'temprature'"),
    ],
)
def test_a_line_that_cannot_be_sent_says_why(raw: bytes, problem: str) -> None:
    (item,) = read(raw)
    assert item.problem is not None
    assert item.problem.startswith(problem)


def test_a_line_that_cannot_be_sent_keeps_its_id() -> None:
    (item,) = read(line(id=7))
    assert item.given == {"id": 7}


def test_a_line_that_is_too_long_is_no_end_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_items, "MAX_LINE_BYTES", 30)
    long, short = line(prompt="x" * 100), line(prompt="short")
    items = read(long + short)
    assert [item.line for item in items] == [1, 2]
    assert items[0].problem is not None
    assert (items[1].prompt, items[1].end) == ("short", len(long) + len(short))


def test_a_digest_tells_whether_the_line_or_a_flag_is_another() -> None:
    same = read(line(prompt="a"), "m", seed=1)[0].digest
    assert read(line(prompt="a").rstrip(), "m", seed=1)[0].digest == same
    others = [read(line(prompt="b"), "m", seed=1), read(line(prompt="a"), "n", seed=1), read(line(prompt="a"), "m")]
    assert same not in [items[0].digest for items in others]


def test_lines_are_read_only_as_they_are_asked_for() -> None:
    file = io.BytesIO((line(prompt="a") * 1000).encode())
    items = read_items(file, None, {})
    next(items)
    assert file.tell() == len(line(prompt="a"))


@pytest.fixture
def pipe() -> Iterator[tuple[PolledInput, IO[bytes]]]:
    """A pipe that is read line by line, and its other end."""
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as writer:
        yield PolledInput(reading), writer
    os.close(reading)


Pipe = tuple[PolledInput, IO[bytes]]


def test_lines_of_a_pipe_are_those_of_a_file(pipe: Pipe) -> None:
    lines, writer = pipe
    writer.write(b"one\n\ntwo\nth")
    writer.write(b"ree")
    writer.close()
    assert [lines.readline(100) for _ in range(6)] == [b"one\n", b"\n", b"two\n", b"three", b"", b""]


def test_nobody_waits_long_for_a_pipe_with_half_a_line(pipe: Pipe) -> None:
    lines, writer = pipe
    writer.write(b"one\nhalf")
    assert [lines.readline(100) for _ in range(3)] == [b"one\n", None, None]
    writer.write(b" a line\n")
    assert lines.readline(100) == b"half a line\n"


def test_a_long_line_of_a_pipe_comes_in_parts(pipe: Pipe) -> None:
    lines, writer = pipe
    writer.write(b"x" * 25 + b"\n")
    writer.close()
    assert [lines.readline(10) for _ in range(4)] == [b"x" * 10, b"x" * 10, b"xxxxx\n", b""]


def test_that_there_is_no_item_just_now_is_none(pipe: Pipe) -> None:
    lines, writer = pipe
    items = read_items(lines, None, {})
    assert next(items) is None
    writer.write(line(prompt="a").encode())
    item = next(items)
    assert item is not None
    assert (item.line, item.prompt) == (1, "a")
