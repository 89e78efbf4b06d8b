"""Ollama's lines become pieces, however the bytes were cut."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.backends import Final, Piece
from wsclient.gateway.backends.ollama_stream import OllamaStream
from wsclient.gateway.backends.reading import MAX_LINE_BYTES


def line(**record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def read(*parts: bytes) -> list[Piece | Final]:
    stream = OllamaStream()
    pieces = [piece for part in parts for piece in stream.feed(part).pieces]
    return pieces + stream.finish(is_broken=False).pieces


def test_lines_that_came_together_are_one_reading() -> None:
    reading = OllamaStream().feed(line(response="a", done=False) + line(response=" b", done=False) + b'{"resp')
    assert reading.pieces == [Piece("a"), Piece(" b")]
    assert not reading.is_final


def test_empty_pieces_are_left_out() -> None:
    assert read(line(response="", done=False), line(response=None), line(thinking="", response="")) == []


def test_thinking_comes_before_the_text_of_its_line() -> None:
    assert read(line(response="yes", thinking="hm")) == [Piece("hm", True), Piece("yes")]


def test_the_final_line_has_its_own_text_first_and_milliseconds() -> None:
    final = line(
        response=" end",
        done=True,
        done_reason="length",
        total_duration=2_500_000,
        load_duration=1_000_000,
        prompt_eval_count=3,
        eval_count=4,
        eval_duration=1_500_000,
    )
    assert read(final) == [Piece(" end"), Final("length", 3, 4, 2.5, 1.0, 1.5)]


@pytest.mark.parametrize("extra", [{}, {"eval_count": None, "done_reason": 5, "total_duration": "x"}])
def test_what_the_final_line_does_not_say_is_unknown(extra: dict[str, Any]) -> None:
    assert read(line(done=True, **extra)) == [Final()]


def test_nothing_counts_after_the_final_line() -> None:
    assert read(line(done=True) + line(response="late")) == [Final()]


def test_a_single_answer_without_a_line_end_is_read_at_the_end() -> None:
    assert read(line(response="a", done=True)[:-1]) == [Piece("a"), Final()]


def test_an_error_line_keeps_what_came_before_and_nothing_after() -> None:
    reading = OllamaStream().feed(line(response="a") + line(error="out of memory") + line(response="b"))
    assert (reading.pieces, str(reading.error)) == ([Piece("a")], "Ollama error: out of memory")


@pytest.mark.parametrize("garbage", [b"nonsense\n", b"[1]\n", b'"text"\n', b"5\n", b'{"response":\n'])
def test_a_line_that_is_no_object_is_skipped_and_counted(garbage: bytes) -> None:
    stream = OllamaStream()
    assert stream.feed(line(response="a") + garbage + line(response="b")).pieces == [Piece("a"), Piece("b")]
    assert stream.unreadable == 1


def test_a_line_that_is_no_text_is_an_error_not_a_gap_in_the_text() -> None:
    reading = OllamaStream().feed(line(response="a") + b'{"response":"\xc3"}\n' + line(response="b"))
    assert (reading.pieces, str(reading.error)) == ([Piece("a")], "Ollama sent text that is not UTF-8")


def test_what_is_cut_off_at_the_end_is_not_read_when_the_connection_broke() -> None:
    for is_broken, pieces in ((False, [Piece("a"), Final()]), (True, [])):
        stream = OllamaStream()
        stream.feed(line(response="a", done=True)[:-1])
        assert stream.finish(is_broken=is_broken).pieces == pieces


def test_half_a_character_at_the_end_is_only_a_line_cut_off() -> None:
    stream = OllamaStream()
    stream.feed(b'{"response":"\xc3')
    assert stream.finish(is_broken=False).error is None


def test_blank_lines_and_windows_line_ends_are_harmless() -> None:
    stream = OllamaStream()
    assert stream.feed(b"\n\r\n" + line(response="a")[:-1] + b"\r\n \n").pieces == [Piece("a")]
    assert stream.unreadable == 0


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    pieces = read(b'{"response":"x\\ud83d"}\n{"response":"\\uDE00y"}\n{"response":"\\ud83d\\ude00"}\n')
    assert pieces == [Piece("x\ufffd"), Piece("\ufffdy"), Piece("\U0001f600")]


def test_half_a_surrogate_pair_cut_by_the_network_is_replaced_too() -> None:
    assert read(b'{"response":"x\\', b'ud83d"}\n') == [Piece("x\ufffd")]


TEXTS = st.lists(st.text(min_size=1, max_size=6), max_size=8)


@settings(deadline=None, database=None, max_examples=200)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=8))
def test_bytes_may_be_cut_anywhere_inside_a_character_too(texts: list[str], places: list[int]) -> None:
    data = b"".join(line(response=text, done=False) for text in texts) + line(done=True)
    cuts = sorted({0, len(data), *(place for place in places if place < len(data))})
    parts = [data[start:end] for start, end in pairwise(cuts)]
    assert read(*parts) == [*map(Piece, texts), Final()]


def test_a_very_long_line_that_trickles_in_is_read_in_linear_time() -> None:
    data = line(done=True, context=[123456] * 900_000)
    assert MAX_LINE_BYTES - 2_000_000 < len(data) < MAX_LINE_BYTES
    started = time.thread_time()
    assert read(*(data[start : start + 4096] for start in range(0, len(data), 4096))) == [Final()]
    assert time.thread_time() - started < 3


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_longer_than_ollamas_own_client_takes_is_refused(end: bytes) -> None:
    stream = OllamaStream()
    before = stream.feed(line(response="a") + b"x" * (MAX_LINE_BYTES - 10))
    assert (before.pieces, before.error) == ([Piece("a")], None)
    assert str(stream.feed(b"x" * 20 + end).error) == "Ollama sent a line without an end"


def test_what_came_before_a_line_that_is_too_long_counts() -> None:
    reading = OllamaStream().feed(line(response="a") + b"x" * (MAX_LINE_BYTES + 1) + b"\n" + line(done=True))
    assert (reading.pieces, str(reading.error)) == ([Piece("a")], "Ollama sent a line without an end")


def test_the_longest_allowed_line_is_read() -> None:
    short = line(response="a", done=False)
    assert read(short[:-2] + b" " * (MAX_LINE_BYTES - len(short) + 1) + b"}\n") == [Piece("a")]
