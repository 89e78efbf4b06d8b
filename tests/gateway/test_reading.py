"""Lines come out of a stream whole, however it was cut, and none is longer than it may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.backends.reading import MAX_LINE_BYTES, LineCutter, count_of, is_utf8, whole_characters


@settings(deadline=None, database=None, max_examples=200)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_lines_and_the_rest_are_the_stream_wherever_it_was_cut(stream: bytes, places: list[int]) -> None:
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    cutter = LineCutter()
    lines = [line for start, end in pairwise(cuts) for line in cutter.feed(stream[start:end])]
    assert cutter.has_partial is (not stream.endswith(b"\n") and stream != b"")
    assert [*lines, cutter.take_rest()] == stream.split(b"\n")
    assert not cutter.is_too_long


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_is_noticed_and_what_came_before_it_is_kept(end: bytes) -> None:
    cutter = LineCutter()
    assert cutter.feed(b"a\nb\n" + b"x" * (MAX_LINE_BYTES + 1) + end) == [b"a", b"b"]
    assert cutter.is_too_long


def test_the_longest_line_is_no_longer_than_that() -> None:
    cutter = LineCutter()
    assert len(cutter.feed(b"x" * MAX_LINE_BYTES + b"\n")[0]) == MAX_LINE_BYTES
    assert not cutter.is_too_long


def test_halves_of_surrogate_pairs_are_replaced_and_whole_ones_joined() -> None:
    assert whole_characters("a\ud83db\ud83d\ude00\ude00") == "a\ufffdb\U0001f600\ufffd"


def test_text_is_what_can_be_decoded() -> None:
    assert is_utf8("é".encode())
    assert not is_utf8(b"\xc3")


def test_only_whole_numbers_are_counts() -> None:
    record = {"a": 1, "b": True, "c": 1.0, "d": "1", "e": None}
    assert [count_of(record, name) for name in "abcdef"] == [1, None, None, None, None, None]
