"""Events come out of a stream as the WHATWG's standard says, however the bytes were cut."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.backends.reading import MAX_LINE_BYTES
from wsclient.gateway.backends.server_sent_events import EventCutter


def read(*parts: bytes) -> list[tuple[bytes, bytes]]:
    cutter = EventCutter()
    return [event for part in parts for event in cutter.feed(part)] + cutter.finish()


def data_of(*parts: bytes) -> list[bytes]:
    return [data for _, data in read(*parts)]


def test_events_that_came_together_are_told_apart() -> None:
    assert EventCutter().feed(b"data: a\n\ndata: b\n\ndata: c\n") == [(b"", b"a"), (b"", b"b")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_three_ways(end: bytes) -> None:
    assert data_of(end.join([b"data: a", b"", b"data: b", b"data: c", b"", b""])) == [b"a", b"b\nc"]


def test_a_line_end_of_two_characters_may_be_cut_between_them() -> None:
    assert data_of(b"data: a\r", b"\n", b"\r", b"\ndata: b\r", b"\n\r\n") == [b"a", b"b"]
    assert data_of(b"data: a\r", b"", b"\ndata: b\r\n\r\n") == [b"a\nb"]


def test_lone_returns_end_lines_where_the_read_ends_too() -> None:
    assert data_of(b"data: a\r", b"\r", b"data: b\r\r") == [b"a", b"b"]


def test_comments_and_unknown_fields_are_skipped() -> None:
    stream = b": ping\n\nid: 7\nretry: 5\nnonsense\n: x\ndata: a\nnonsense: 1\n\n"
    assert read(stream) == [(b"", b"a")]


def test_one_space_after_the_colon_is_no_data() -> None:
    assert data_of(b"data:a\n\n", b"data:  a\n\n", b"data\n\n", b"data: b:c\n\n") == [b"a", b" a", b"", b"b:c"]


def test_an_event_has_the_name_given_in_it_and_no_other() -> None:
    assert read(b"event: error\ndata: a\n\ndata: b\n\nevent: x\n\ndata: c\n\n") == [
        (b"error", b"a"),
        (b"", b"b"),
        (b"", b"c"),
    ]


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_field() -> None:
    assert data_of(b"\xef", b"\xbb", b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [b"a"]


def test_the_last_event_counts_without_the_empty_line_after_it() -> None:
    for end in (b"", b"\n", b"\n\n"):
        assert data_of(b"data: a\n\ndata: [DONE]" + end) == [b"a", b"[DONE]"]


def test_a_stream_of_nothing_holds_no_event() -> None:
    assert read() == read(b"") == read(b"\n\n\r\n") == []


def test_a_line_without_an_end_is_noticed_after_what_came_before() -> None:
    cutter = EventCutter()
    assert cutter.feed(b"data: a\n\ndata: " + b"x" * (MAX_LINE_BYTES - 6)) == [(b"", b"a")]
    assert not cutter.is_too_long
    cutter.feed(b"x")
    assert cutter.is_too_long


def test_an_event_without_an_end_is_noticed_too() -> None:
    cutter = EventCutter()
    line = b"data: " + b"x" * (1 << 20) + b"\n"
    for number in range(9):
        assert cutter.is_too_long is (number > 8)
        cutter.feed(line)
    assert cutter.is_too_long


def test_what_is_under_way_is_known() -> None:
    cutter = EventCutter()
    for part, expected in ((b"da", True), (b"ta: a\n", True), (b"\n", False), (b": x\n", False)):
        cutter.feed(part)
        assert cutter.has_partial is expected


LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8).map(lambda text: f"data: {text}"),
        st.sampled_from(["", "", ": comment", "event: e", "other: x"]),
    ),
    max_size=12,
)


@settings(deadline=None, database=None, max_examples=300)
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=10))
def test_wherever_the_bytes_are_cut_the_events_are_the_same(lines: list[str], end: str, places: list[int]) -> None:
    stream = "".join(line + end for line in lines).encode()
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    assert read(*(stream[start:stop] for start, stop in pairwise(cuts))) == read(stream.replace(end.encode(), b"\n"))


def test_a_long_line_that_trickles_in_is_read_in_linear_time() -> None:
    stream = b"data: " + b"x" * (MAX_LINE_BYTES - 10) + b"\n\n"
    started = time.thread_time()
    assert len(read(*(stream[start : start + 1024] for start in range(0, len(stream), 1024)))) == 1
    assert time.thread_time() - started < 3
