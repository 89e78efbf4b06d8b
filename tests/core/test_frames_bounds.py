"""What a peer can make the frame parser spend: sizes, memory, time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from wsclient.core.frames import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ControlFrame,
    FrameParser,
    Violation,
    encode_frame,
)

from .streams import (
    KEY,
    MIB,
    MODES,
    Outcome,
    feed_in,
    feed_whole,
    frame,
    parser_for,
)

# --- size limits ------------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("limit", [0, 1, 125, 126, 1000, 65535, 65536, 70000])
def test_a_message_of_the_limit_passes_and_one_byte_more_does_not(masked: bool, limit: int) -> None:
    assert feed_whole(frame(TEXT, b"a" * limit, masked=masked), masked, limit).texts == [b"a" * limit]
    too_big = frame(TEXT, b"a" * (limit + 1), masked=masked)
    assert feed_whole(frame(TEXT, b"", masked=masked) + too_big, masked, limit) == Outcome(texts=[b""], violation=1009)


@MODES
@pytest.mark.parametrize("size", [1001, 65536, (1 << 63) - 1])
def test_a_frame_over_the_limit_is_refused_from_its_header_alone(masked: bool, size: int) -> None:
    header = frame(TEXT, claimed=size, masked=False)
    if masked:
        header = header[:1] + bytes([header[1] | 0x80]) + header[2:]
    parser = parser_for(masked, 1000)
    assert parser.feed(header[:-1]) == []
    assert parser.violation is None
    parser.feed(header[-1:])
    assert parser.violation == Violation(1009, f"message of {size} bytes is over the limit of 1000")


@MODES
def test_the_limit_counts_all_fragments_together(masked: bool) -> None:
    start = frame(TEXT, b"a" * 600, fin=False, masked=masked)
    exact = start + frame(CONTINUATION, b"b" * 400, masked=masked)
    assert feed_whole(exact, masked, 1000).texts == [b"a" * 600 + b"b" * 400]
    parser = parser_for(masked, 1000)
    parser.feed(start)
    parser.feed(frame(CONTINUATION, b"b" * 401, masked=masked)[:4])
    assert parser.violation == Violation(1009, "message of 1001 bytes is over the limit of 1000")


@MODES
def test_the_limit_starts_afresh_with_each_message(masked: bool) -> None:
    message = frame(TEXT, b"a" * 600, fin=False, masked=masked) + frame(CONTINUATION, b"b" * 400, masked=masked)
    assert len(feed_whole(message * 3, masked, 1000).texts) == 3


@MODES
def test_control_frames_do_not_count_against_the_limit(masked: bool) -> None:
    stream = (
        frame(TEXT, b"a" * 10, fin=False, masked=masked)
        + frame(PING, b"p" * 125, masked=masked)
        + frame(CONTINUATION, masked=masked)
    )
    assert feed_whole(stream, masked, 10) == Outcome([b"a" * 10], [ControlFrame(PING, b"p" * 125)])


@MODES
def test_a_limit_raised_after_the_login_holds_for_the_next_message(masked: bool) -> None:
    parser = parser_for(masked, 10)
    assert parser.feed(frame(TEXT, b"a" * 10, masked=masked)) == [b"a" * 10]
    parser.max_message_size = 1000
    assert parser.feed(frame(TEXT, b"a" * 1000, masked=masked)) == [b"a" * 1000]


# --- small frames -----------------------------------------------------------------------------------------------------

TOO_MANY = Violation(1008, "too many control frames or small fragments")


@MODES
@pytest.mark.parametrize(
    "stream",
    [
        lambda masked: frame(PING, masked=masked) * 11,
        lambda masked: frame(PONG, b"x" * 125, masked=masked) * 11,
        lambda masked: frame(TEXT, b"5", fin=False, masked=masked) + frame(CONTINUATION, fin=False, masked=masked) * 10,
        lambda masked: frame(TEXT, b"5", fin=False, masked=masked) + frame(PING, masked=masked) * 10,
        lambda masked: (
            (frame(TEXT, b"5", fin=False, masked=masked) + frame(CONTINUATION, masked=masked)) * 5
            + frame(PING, masked=masked)
        ),
    ],
    ids=["pings", "pongs", "fragments", "both", "short messages"],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_so_many_small_frames_and_no_more_wherever_they_are_cut(
    masked: bool, stream: Callable[[bool], bytes], size: int
) -> None:
    data = stream(masked)
    for allowed, violation in ((11, None), (10, TOO_MANY)):
        parser = parser_for(masked)
        parser.small_frames_left = allowed
        feed_in(parser, [data[i : i + size] for i in range(0, len(data), size)])
        assert parser.violation == violation


@MODES
def test_whole_messages_large_fragments_and_a_close_are_no_small_frames(masked: bool) -> None:
    parser = parser_for(masked)
    parser.small_frames_left = 0
    parser.feed(frame(TEXT, b"5", masked=masked) * 100)
    parser.feed(frame(TEXT, b"a" * 1024, fin=False, masked=masked) + frame(CONTINUATION, b"a" * 1024, masked=masked))
    parser.feed(frame(CLOSE, masked=masked))
    assert parser.violation is None
    assert parser.close is not None


# --- memory and time --------------------------------------------------------------------------------------------------


def peak_of(parser: FrameParser, pieces: list[bytes], times: int = 1) -> int:
    tracemalloc.start()
    try:
        for _ in range(times):
            for piece in pieces:
                parser.feed(piece)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@MODES
def test_many_tiny_fragments_cost_no_more_memory_than_their_bytes(masked: bool) -> None:
    parser = parser_for(masked)
    parser.feed(frame(TEXT, b"ab", fin=False, masked=masked))
    fragments = frame(CONTINUATION, b"ab", fin=False, masked=masked) * 1000
    assert peak_of(parser, [fragments], times=10) < 60_000
    assert parser.feed(frame(CONTINUATION, masked=masked)) == [b"ab" * 10_001]


@MODES
def test_empty_fragments_without_end_cost_no_memory(masked: bool) -> None:
    parser = parser_for(masked)
    parser.feed(frame(TEXT, fin=False, masked=masked))
    fragments = frame(CONTINUATION, fin=False, masked=masked) * 1000
    assert peak_of(parser, [fragments], times=10) < 20_000


@MODES
def test_a_frame_that_trickles_in_costs_no_more_memory_than_its_bytes(masked: bool) -> None:
    stream = frame(TEXT, b"a" * 100_000, masked=masked)
    parser = parser_for(masked)
    pieces = [stream[i : i + 2] for i in range(0, len(stream) - 2, 2)]
    assert peak_of(parser, pieces) < 300_000
    assert parser.feed(stream[-2:]) == [b"a" * 100_000]


@MODES
def test_a_promised_length_reserves_no_memory(masked: bool) -> None:
    parser = FrameParser(masked=masked, max_message_size=1 << 40)
    header = frame(TEXT, claimed=1 << 39, masked=masked)
    assert peak_of(parser, [header, b"a" * 1000]) < 50_000


@MODES
def test_a_message_delivered_leaves_nothing_behind(masked: bool) -> None:
    stream = frame(TEXT, b"a" * MIB, masked=masked)
    fragmented = frame(TEXT, b"a" * MIB, fin=False, masked=masked) + frame(CONTINUATION, masked=masked)
    pieces = [s[i : i + 65536] for s in (stream, fragmented) for i in range(0, len(s), 65536)]
    parser = parser_for(masked)
    tracemalloc.start()
    try:
        assert [len(text) for piece in pieces for text in parser.feed(piece)] == [MIB, MIB]
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


@MODES
@pytest.mark.parametrize("fragmented", [False, True], ids=["one frame", "fragments"])
def test_16_mib_in_reads_of_4_kib_take_linear_time(masked: bool, fragmented: bool) -> None:
    # 0.03 s in client mode, 0.1 s unmasking; copying what is there at each read takes 3 s and more.
    text = b"a" * (16 * MIB)
    if fragmented:
        parts = [text[i : i + 2_000] for i in range(0, len(text), 2_000)]
        key = KEY if masked else None
        frames = [bytearray(encode_frame(TEXT if i == 0 else CONTINUATION, part, key)) for i, part in enumerate(parts)]
        for unfinished in frames[:-1]:
            unfinished[0] &= 0x7F
        stream = b"".join(frames)
    else:
        stream = encode_frame(TEXT, text, KEY if masked else None)
    parser = parser_for(masked, 16 * MIB)
    began = time.process_time()
    texts = [t for i in range(0, len(stream), 4096) for t in parser.feed(stream[i : i + 4096])]
    assert time.process_time() - began < 1.5
    assert texts == [text]
