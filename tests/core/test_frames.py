"""Frames in, messages out: RFC 6455 section 5 in both modes, whatever the cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsclient.core.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    CloseFrame,
    ControlFrame,
    Violation,
    encode_frame,
)

from .streams import (
    MIB,
    MIXED,
    MODES,
    Outcome,
    cut_at,
    fast,
    feed_bytewise,
    feed_in,
    feed_whole,
    frame,
    mixed_stream,
    parser_for,
)

# --- good frames ------------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, MIB])
def test_a_text_of_any_length_arrives_as_sent(masked: bool, size: int) -> None:
    text = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    out = feed_whole(frame(TEXT, text, masked=masked), masked)
    assert out == Outcome(texts=[text])


@MODES
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_what_follows_a_text_of_any_length_is_not_lost(masked: bool, size: int) -> None:
    stream = frame(TEXT, b"a" * size, masked=masked) + frame(TEXT, b"next", masked=masked)
    assert feed_whole(stream, masked).texts == [b"a" * size, b"next"]


@MODES
def test_texts_come_out_in_order_and_empty_ones_count(masked: bool) -> None:
    texts = [b"one", b"", b"two", b"", b"", "drei ü".encode(), b"x" * 300]
    stream = b"".join(frame(TEXT, text, masked=masked) for text in texts)
    assert feed_whole(stream, masked).texts == texts


@MODES
def test_fragments_make_one_message(masked: bool) -> None:
    stream = (
        frame(TEXT, b"Hel", fin=False, masked=masked)
        + frame(CONTINUATION, b"", fin=False, masked=masked)
        + frame(CONTINUATION, b"lo", fin=False, masked=masked)
        + frame(CONTINUATION, b"", masked=masked)
        + frame(TEXT, b"after", masked=masked)
    )
    assert feed_whole(stream, masked).texts == [b"Hello", b"after"]


@MODES
def test_a_fragmented_message_may_be_empty(masked: bool) -> None:
    stream = frame(TEXT, fin=False, masked=masked) + frame(CONTINUATION, masked=masked)
    assert feed_whole(stream, masked).texts == [b""]


@MODES
def test_control_frames_between_fragments_are_delivered_at_once(masked: bool) -> None:
    parser = parser_for(masked)
    assert parser.feed(frame(TEXT, b"a", fin=False, masked=masked) + frame(PING, b"?", masked=masked)) == []
    assert parser.controls == [ControlFrame(PING, b"?")]
    assert parser.feed(frame(PONG, b"!", masked=masked) + frame(CONTINUATION, b"b", masked=masked)) == [b"ab"]
    assert parser.controls == [ControlFrame(PING, b"?"), ControlFrame(PONG, b"!")]


@MODES
@pytest.mark.parametrize("opcode", [PING, PONG], ids=["ping", "pong"])
@pytest.mark.parametrize("size", [0, 1, 125])
def test_pings_and_pongs_carry_up_to_125_arbitrary_bytes(masked: bool, opcode: int, size: int) -> None:
    payload = bytes(range(131, 256))[:size]
    assert feed_whole(frame(opcode, payload, masked=masked), masked) == Outcome(
        controls=[ControlFrame(opcode, payload)]
    )


@MODES
def test_a_close_frame_inside_a_fragmented_message_drops_that_message(masked: bool) -> None:
    stream = frame(TEXT, b"half", fin=False, masked=masked) + frame(CLOSE, b"\x03\xe8", masked=masked)
    assert feed_whole(stream, masked) == Outcome(close=CloseFrame(1000, ""))


def test_the_mask_may_be_zero() -> None:
    assert parser_for(True).feed(b"\x81\x82\x00\x00\x00\x00hi") == [b"hi"]


def test_each_frame_has_a_mask_of_its_own() -> None:
    stream = encode_frame(TEXT, b"hello", b"\x01\x02\x03\x04") + encode_frame(TEXT, b"world", b"\xff\xfe\xfd\xfc")
    assert parser_for(True).feed(stream) == [b"hello", b"world"]


# --- cuts -------------------------------------------------------------------------------------------------------------


@MODES
def test_a_stream_byte_by_byte_gives_what_it_gives_whole(masked: bool) -> None:
    stream = mixed_stream(masked)
    assert feed_whole(stream, masked) == MIXED
    assert feed_bytewise(stream, masked) == MIXED


@MODES
def test_a_stream_may_be_cut_at_any_place(masked: bool) -> None:
    stream = mixed_stream(masked)
    for place in range(len(stream) + 1):
        assert feed_in(parser_for(masked), [stream[:place], stream[place:]]) == MIXED, place


@MODES
def test_a_stream_may_be_cut_at_any_two_places_near_each_other(masked: bool) -> None:
    stream = mixed_stream(masked)
    for place in range(len(stream)):
        for width in (1, 2, 3, 9):
            pieces = [stream[:place], stream[place : place + width], stream[place + width :]]
            assert feed_in(parser_for(masked), pieces) == MIXED, (place, width)


@MODES
@pytest.mark.parametrize("size", [126, 65536])
def test_a_long_header_may_be_cut_at_any_place(masked: bool, size: int) -> None:
    stream = frame(TEXT, b"x" * size, masked=masked) + frame(PING, masked=masked)
    for place in range(20):
        out = feed_in(parser_for(masked), [stream[:place], stream[place:]])
        assert out == Outcome(texts=[b"x" * size], controls=[ControlFrame(PING, b"")]), place


@MODES
def test_empty_reads_change_nothing(masked: bool) -> None:
    stream = mixed_stream(masked)
    pieces = [piece for i in range(len(stream)) for piece in (stream[i : i + 1], b"")]
    assert feed_in(parser_for(masked), pieces) == MIXED


@MODES
@given(data=st.data())
@fast
def test_random_cuts_never_matter(masked: bool, data: st.DataObject) -> None:
    stream = mixed_stream(masked)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    assert feed_in(parser_for(masked), cut_at(stream, places)) == MIXED


@MODES
def test_a_message_is_delivered_by_the_read_that_completes_it_not_later(masked: bool) -> None:
    stream = frame(TEXT, b"x" * 200, masked=masked)
    parser = parser_for(masked)
    assert parser.feed(stream[:-1]) == []
    assert parser.feed(stream[-1:]) == [b"x" * 200]


# --- broken rules -----------------------------------------------------------------------------------------------------


def broken(masked: bool) -> dict[str, tuple[bytes, int]]:
    """Return streams that break one rule each, with the close code that answers it."""

    def f(opcode: int, payload: bytes = b"", **wrong: object) -> bytes:
        return frame(opcode, payload, **{"masked": masked, **wrong})  # type: ignore[arg-type]

    start = f(TEXT, b"a", fin=False)
    cases: dict[str, tuple[bytes, int]] = {
        "continuation of nothing": (f(CONTINUATION, b"a"), 1002),
        "unfinished continuation of nothing": (f(CONTINUATION, b"a", fin=False), 1002),
        "text inside a message": (start + f(TEXT, b"b"), 1002),
        "binary inside a message": (start + f(BINARY, b"b"), 1002),
        "binary": (f(BINARY, b"a"), 1003),
        "unfinished binary": (f(BINARY, b"a", fin=False), 1003),
        "wrong mask bit on text": (frame(TEXT, b"a", masked=not masked), 1002),
        "wrong mask bit on a ping": (frame(PING, masked=not masked), 1002),
        "wrong mask bit on a close": (frame(CLOSE, masked=not masked), 1002),
        "wrong mask bit on a continuation": (start + frame(CONTINUATION, b"b", masked=not masked), 1002),
        "fragmented ping": (f(PING, fin=False), 1002),
        "fragmented pong": (f(PONG, fin=False), 1002),
        "fragmented close": (f(CLOSE, fin=False), 1002),
        "ping of 126 bytes": (f(PING, b"a" * 126), 1002),
        "pong of 126 bytes": (f(PONG, b"a" * 126), 1002),
        "close of 126 bytes": (f(CLOSE, b"\x03\xe8" + b"a" * 124), 1002),
        "ping with a 64-bit length": (f(PING, b"a", width=64), 1002),
        "125 in 16 bits": (f(TEXT, b"a" * 125, width=16), 1002),
        "0 in 16 bits": (f(TEXT, width=16), 1002),
        "125 in 64 bits": (f(TEXT, b"a" * 125, width=64), 1002),
        "65535 in 64 bits": (f(TEXT, b"a" * 65535, width=64), 1002),
        "negative length": (f(TEXT, claimed=1 << 63), 1002),
        "negative length, all ones": (f(TEXT, claimed=(1 << 64) - 1), 1002),
        "close of one byte": (f(CLOSE, b"\x03"), 1002),
        "close reason not UTF-8": (f(CLOSE, b"\x03\xe8\xff"), 1007),
        "close reason ends inside a character": (f(CLOSE, b"\x03\xe8\xe2\x82"), 1007),
        "text not UTF-8": (f(TEXT, b"\xff"), 1007),
        "fragments not UTF-8": (start + f(CONTINUATION, b"\xff"), 1007),
    }
    for bits in range(1, 8):
        for opcode in (TEXT, PING, CLOSE):
            cases[f"reserved bits {bits:03b} on opcode {opcode}"] = (f(opcode, reserved=bits), 1002)
        cases[f"reserved bits {bits:03b} inside a message"] = (start + f(CONTINUATION, b"b", reserved=bits), 1002)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        cases[f"opcode {opcode}"] = (f(opcode, b"a"), 1002)
        cases[f"opcode {opcode} inside a message"] = (start + f(opcode, b"a"), 1002)
    return cases


CASES = [(masked, name) for masked in (False, True) for name in broken(False)]


@pytest.mark.parametrize(("masked", "name"), CASES)
def test_a_broken_rule_is_reported_with_its_close_code_after_the_messages_before_it(masked: bool, name: str) -> None:
    stream, code = broken(masked)[name]
    before = frame(TEXT, b"before", masked=masked) + frame(PING, b"p", masked=masked)
    after = frame(TEXT, b"after", masked=masked) + frame(PING, b"q", masked=masked) + frame(CLOSE, masked=masked)
    expected = Outcome([b"before"], [ControlFrame(PING, b"p")], None, code)
    assert feed_whole(before + stream + after, masked) == expected
    assert feed_bytewise(before + stream + after, masked) == expected


@MODES
def test_after_a_violation_nothing_is_parsed_or_kept(masked: bool) -> None:
    parser = parser_for(masked)
    parser.feed(frame(TEXT, reserved=1, masked=masked))
    violation = parser.violation
    assert violation == Violation(1002, "reserved bits are set")
    assert parser.is_done
    for piece in (frame(TEXT, b"a", masked=masked), frame(PING, masked=masked), frame(CLOSE, masked=masked), b"\xff"):
        assert parser.feed(piece) == []
    assert (parser.violation, parser.controls, parser.close) == (violation, [], None)


@MODES
def test_a_violation_names_the_rule_in_words(masked: bool) -> None:
    said = set()
    for stream, _ in broken(masked).values():
        parser = parser_for(masked)
        parser.feed(stream)
        assert parser.violation is not None
        said.add(parser.violation.reason)
    assert said == {
        "reserved bits are set",
        *(f"unknown opcode {opcode}" for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        "frame is not masked" if masked else "frame is masked",
        "control frame is fragmented",
        "control frame is longer than 125 bytes",
        "continuation frame without a message",
        "new message inside a fragmented one",
        "binary messages are not part of the protocol",
        "frame length is not encoded in the shortest way",
        "frame length is negative",
        "invalid close code",
        "close reason is not valid UTF-8",
        "text message is not valid UTF-8",
    }


@MODES
def test_a_wrong_first_two_bytes_are_refused_before_anything_else_came(masked: bool) -> None:
    for name, stream in {
        "reserved bits": frame(TEXT, b"a" * 200, reserved=4, masked=masked),
        "opcode": frame(3, b"a" * 200, masked=masked),
        "mask": frame(TEXT, b"a" * 200, masked=not masked),
        "binary": frame(BINARY, b"a" * 200, masked=masked),
    }.items():
        parser = parser_for(masked)
        parser.feed(stream[:2])
        assert parser.violation is not None, name


# --- UTF-8 ------------------------------------------------------------------------------------------------------------

NOT_UTF8 = {
    "a lone continuation byte": b"\x80",
    "a first byte without its rest": b"\xc3",
    "two of three bytes": b"\xe2\x82",
    "three of four bytes": b"\xf0\x9f\x98",
    "overlong slash in two": b"\xc0\xaf",
    "overlong slash in three": b"\xe0\x80\xaf",
    "overlong slash in four": b"\xf0\x80\x80\xaf",
    "overlong NUL": b"\xc0\x80",
    "high surrogate": b"\xed\xa0\x80",
    "low surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a five-byte sequence": b"\xf8\x88\x80\x80\x80",
    "0xFE": b"\xfe",
    "0xFF": b"\xff",
}


@MODES
@pytest.mark.parametrize("name", NOT_UTF8)
def test_text_that_is_not_utf8_ends_the_stream_with_1007(masked: bool, name: str) -> None:
    for text in (NOT_UTF8[name], b"good " + NOT_UTF8[name], NOT_UTF8[name] + b" good"):
        stream = frame(TEXT, b"ok", masked=masked) + frame(TEXT, text, masked=masked) + frame(TEXT, b"x", masked=masked)
        assert feed_whole(stream, masked) == Outcome(texts=[b"ok"], violation=1007)


@MODES
@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_two_halves_of_a_character_in_two_messages_never_make_a_whole(masked: bool, character: str) -> None:
    whole = character.encode()
    for place in range(1, len(whole)):
        stream = (
            frame(TEXT, b"ok", masked=masked)
            + frame(TEXT, b"a" + whole[:place], masked=masked)
            + frame(TEXT, whole[place:] + b"b", masked=masked)
        )
        assert feed_whole(stream, masked) == Outcome(texts=[b"ok"], violation=1007)


@MODES
@pytest.mark.parametrize("character", ["é", "€", "😀", "\ufeff", "\uffff", "\U0010ffff", "\0"])
def test_a_character_cut_between_fragments_of_one_message_is_whole(masked: bool, character: str) -> None:
    whole = character.encode()
    for place in range(len(whole) + 1):
        stream = frame(TEXT, whole[:place], fin=False, masked=masked) + frame(
            CONTINUATION, whole[place:], masked=masked
        )
        assert feed_whole(stream, masked) == Outcome(texts=[whole])


@MODES
@pytest.mark.parametrize("later", ["ping", "close", "violation", "too big"])
def test_invalid_text_is_reported_even_when_something_else_ends_the_same_read(masked: bool, later: str) -> None:
    ends = {
        "ping": frame(PING, b"late", masked=masked),
        "close": frame(CLOSE, b"\x03\xe8", masked=masked),
        "violation": frame(TEXT, reserved=1, masked=masked),
        "too big": frame(TEXT, claimed=1 << 40, masked=masked),
    }
    stream = (
        frame(PING, b"early", masked=masked)
        + frame(TEXT, b"ok", masked=masked)
        + frame(PONG, b"", masked=masked)
        + frame(TEXT, b"\xff", masked=masked)
        + ends[later]
    )
    expected = Outcome([b"ok"], [ControlFrame(PING, b"early"), ControlFrame(PONG, b"")], None, 1007)
    assert feed_whole(stream, masked) == expected
    assert feed_bytewise(stream, masked) == expected


# --- close frames -----------------------------------------------------------------------------------------------------


@MODES
def test_a_close_frame_without_a_code_means_1005(masked: bool) -> None:
    assert feed_whole(frame(CLOSE, masked=masked), masked) == Outcome(close=CloseFrame(1005, ""))


@MODES
def test_exactly_the_codes_that_may_be_sent_are_taken(masked: bool) -> None:
    taken = set()
    for code in [*range(5100), 9999, 32767, 65535]:
        out = feed_whole(frame(CLOSE, code.to_bytes(2, "big") + b"why", masked=masked), masked)
        if out.close:
            assert out == Outcome(close=CloseFrame(code, "why"))
            taken.add(code)
        else:
            assert out == Outcome(violation=1002)
    assert taken == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


@MODES
def test_a_close_reason_may_fill_the_frame(masked: bool) -> None:
    reason = "€" * 41
    out = feed_whole(frame(CLOSE, b"\x03\xf3" + reason.encode(), masked=masked), masked)
    assert out.close == CloseFrame(1011, reason)


@MODES
def test_data_after_a_close_frame_is_ignored(masked: bool) -> None:
    close = frame(CLOSE, b"\x03\xe8", masked=masked)
    junk = frame(TEXT, b"late", masked=masked) + frame(TEXT, reserved=7, masked=masked) + b"\xff\xff"
    assert feed_whole(frame(TEXT, b"a", masked=masked) + close + junk, masked) == Outcome(
        texts=[b"a"], close=CloseFrame(1000, "")
    )
    parser = parser_for(masked)
    parser.feed(close)
    assert parser.feed(junk) == []
    assert parser.is_done
    assert parser.violation is None
