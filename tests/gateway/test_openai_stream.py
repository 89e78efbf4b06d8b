"""The events of OpenAI's API become pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wsclient.gateway.backends import Final, Piece
from wsclient.gateway.backends.openai_stream import OpenAIStream, message_of
from wsclient.gateway.backends.reading import MAX_LINE_BYTES

DONE = b"data: [DONE]\n\n"


def event(**record: Any) -> bytes:
    return b"data: " + json.dumps(record, ensure_ascii=False).encode() + b"\n\n"


def chunk(reason: str | None = None, **delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": reason}])


def read(*parts: bytes, is_broken: bool = False) -> tuple[list[Piece | Final], str]:
    """Return the pieces of a whole stream, and the error in it."""
    stream = OpenAIStream()
    pieces: list[Piece | Final] = []
    for reading in [*(stream.feed(part) for part in parts), stream.finish(is_broken=is_broken)]:
        pieces += reading.pieces
        if reading.error is not None:
            return pieces, str(reading.error)
        if reading.is_final:
            break
    return pieces, ""


def test_a_chat_is_its_texts_and_the_final_word_with_what_is_known() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}, timings={"predicted_ms": 7.5})
    stream = chunk(role="assistant", content=None) + chunk(content="a") + chunk(content="é") + chunk("stop") + usage
    assert read(stream + DONE) == ([Piece("a"), Piece("é"), Final("stop", 3, 2, None, None, 7.5)], "")


def test_a_completion_is_its_texts() -> None:
    texts = [
        event(choices=[{"index": 0, "text": "a", "finish_reason": None}]),
        event(choices=[{"text": "", "finish_reason": "length"}], usage={"prompt_tokens": 1, "completion_tokens": 1}),
    ]
    assert read(*texts, DONE) == ([Piece("a"), Final("length", 1, 1)], "")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_thinking_under_either_name(name: str) -> None:
    stream = chunk(**{name: "hm"}) + chunk(content="yes", **{name: "so"}) + chunk("stop") + DONE
    assert read(stream)[0] == [Piece("hm", True), Piece("so", True), Piece("yes"), Final("stop")]


def test_reasoning_under_both_names_is_not_read_twice() -> None:
    assert read(chunk(reasoning="hm", reasoning_content="hm") + DONE)[0] == [Piece("hm", True), Final()]


def test_a_refusal_is_text() -> None:
    assert read(chunk(refusal="No.") + chunk("stop") + DONE)[0] == [Piece("No."), Final("stop")]


@pytest.mark.parametrize(
    "odd",
    [
        event(),
        event(choices=None),
        event(choices=[None]),
        event(choices=[{"delta": None}]),
        chunk(content=5, reasoning=[]),
        chunk(content=[{"type": "text"}]),
        chunk(tool_calls=[{"index": 0}]),
        event(choices=[], usage=None, timings=[]),
    ],
)
def test_what_has_no_text_in_it_is_no_piece(odd: bytes) -> None:
    assert read(odd + chunk(content="a") + odd + chunk("stop") + DONE) == ([Piece("a"), Final("stop")], "")


@pytest.mark.parametrize("value", [None, "7", True, -1, 1e300, []])
def test_figures_that_are_none_are_unknown(value: Any) -> None:
    figures = event(choices=[], usage={"prompt_tokens": "x"}, timings={"prompt_ms": value, "predicted_ms": 1})
    assert read(chunk("stop") + figures + DONE)[0] == [Final("stop", eval_duration=1.0)]


def test_the_usage_may_come_with_the_reason_or_after_it_and_nothing_counts_after_the_end() -> None:
    late = event(choices=[], usage={"completion_tokens": 9})
    assert read(chunk("stop") + DONE + late + chunk(content="late"))[0] == [Final("stop")]


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_stream_that_ends_after_its_reason_is_whole(is_broken: bool) -> None:
    assert read(chunk(content="a"), chunk("stop"), is_broken=is_broken) == ([Piece("a"), Final("stop")], "")


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_stream_that_ends_without_reason_and_end_has_no_final_word(is_broken: bool) -> None:
    assert read(chunk(content="a"), is_broken=is_broken) == ([Piece("a")], "")


@pytest.mark.parametrize(
    "error",
    [
        event(error={"message": "out of memory", "code": 500}),
        event(error="out of memory"),
        event(object="error", message="out of memory", code=500),
        b"event: error\n" + event(message="out of memory"),
        b"event: error\n" + event(detail="out of memory"),
    ],
)
def test_an_error_in_mid_stream_keeps_what_came_before_and_nothing_after(error: bytes) -> None:
    stream = chunk(content="a") + error + chunk(content="b") + DONE
    assert read(stream) == ([Piece("a")], "Model server error: out of memory")


@pytest.mark.parametrize(
    ("answer", "text"),
    [({}, "{}"), ({"error": {}}, '{"error": {}}'), ({"detail": [1]}, "[1]"), ("plain", "plain"), (None, "null")],
)
def test_an_error_of_no_known_shape_is_shown_as_it_is(answer: Any, text: str) -> None:
    assert message_of(answer) == text


def test_garbage_is_skipped_and_counted() -> None:
    stream = OpenAIStream()
    reading = stream.feed(chunk(content="a") + b"data: nonsense\n\ndata: 5\n\n" + chunk(content="b"))
    assert (reading.pieces, stream.unreadable) == ([Piece("a"), Piece("b")], 2)


def test_text_that_is_no_utf8_is_an_error_not_a_gap_in_the_text() -> None:
    broken = b'data: {"choices":[{"delta":{"content":"\xc3"}}]}\n\n'
    assert read(chunk(content="a") + broken + DONE) == ([Piece("a")], "The model server sent text that is not UTF-8")


def test_characters_may_be_cut_anywhere() -> None:
    stream = chunk(content="é\U0001f600") + chunk("stop") + DONE
    assert read(*(bytes([byte]) for byte in stream)) == ([Piece("é\U0001f600"), Final("stop")], "")


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"x\\ud83d"}}]}\n\n'
    assert read(stream + DONE)[0] == [Piece("x\ufffd"), Final()]


def test_a_line_without_an_end_is_an_error_after_what_came_before() -> None:
    stream = chunk(content="a") + b"data: " + b"x" * MAX_LINE_BYTES
    assert read(stream) == ([Piece("a")], "The model server sent a line without an end")


def test_comments_are_no_life_and_events_are() -> None:
    stream = OpenAIStream()
    assert stream.feed(b": keep-alive\n\n").is_life is False
    assert stream.feed(chunk(role="assistant")).is_life is True
    assert stream.feed(b"data: {").is_life is True


def test_the_answer_begins_with_its_first_text() -> None:
    stream = OpenAIStream()
    stream.feed(chunk(role="assistant", content=""))
    assert not stream.is_begun
    stream.feed(chunk(reasoning="hm"))
    assert stream.is_begun
