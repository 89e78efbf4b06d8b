"""The frame parser against a second one, slow and simple, and against streams full of faults."""

from __future__ import annotations

import random

from hypothesis import given, settings
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
)

from .streams import (
    MODES,
    Outcome,
    cut_at,
    fast,
    feed_in,
    frame,
    mixed_stream,
    parser_for,
)

# --- a second parser, slow and simple ---------------------------------------------------------------------------------


def reference(stream: bytes, masked: bool, limit: int) -> Outcome:
    """Parse as RFC 6455 is written: one byte string, one frame at a time, no state but the open message."""
    out = Outcome()
    rest = stream
    message: bytes | None = None
    while len(rest) >= 2:
        fin, reserved, opcode = rest[0] >> 7, rest[0] >> 4 & 7, rest[0] & 15
        has_mask, size = rest[1] >> 7, rest[1] & 127
        is_control = opcode >= 8
        is_misplaced = (opcode == CONTINUATION) != (message is not None)
        if reserved or opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15) or has_mask != masked:
            out.violation = 1002
        if (is_control and (not fin or size > 125)) or (not is_control and is_misplaced):
            out.violation = 1002
        if opcode == BINARY and not out.violation:
            out.violation = 1003
        if out.violation:
            return out
        extra = {126: 2, 127: 8}.get(size, 0)
        if len(rest) < 2 + extra:
            return out
        if extra:
            size = int.from_bytes(rest[2 : 2 + extra], "big")
            if size <= (125 if extra == 2 else 65535) or size >= 1 << 63:
                out.violation = 1002
                return out
        if not is_control and len(message or b"") + size > limit:
            out.violation = 1009
            return out
        start = 2 + extra + (4 if masked else 0)
        if len(rest) < start + size:
            return out
        payload, key = rest[start : start + size], rest[start - 4 : start]
        if masked:
            payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        rest = rest[start + size :]
        if opcode == CLOSE:
            finish_close(out, payload)
            return out
        if is_control:
            out.controls.append(ControlFrame(opcode, payload))
            continue
        message = (message or b"") + payload
        if fin:
            if not is_utf8(message):
                out.violation = 1007
                return out
            out.texts.append(message)
            message = None
    return out


def finish_close(out: Outcome, payload: bytes) -> None:
    code = int.from_bytes(payload[:2], "big")
    if payload == b"":
        out.close = CloseFrame(1005, "")
    elif len(payload) == 1 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        out.violation = 1002
    elif not is_utf8(payload[2:]):
        out.violation = 1007
    else:
        out.close = CloseFrame(code, payload[2:].decode())


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# --- against the second parser ----------------------------------------------------------------------------------------

LIMIT = 300
payloads = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.text(max_size=12).map(str.encode),
    st.binary(max_size=8),
    st.integers(0, LIMIT + 3).map(lambda n: b"a" * n),
)
closes = st.one_of(
    st.just(b""),
    st.tuples(st.sampled_from([999, 1000, 1001, 1005, 1006, 1015, 2999, 3000, 4003, 5000]), payloads).map(
        lambda pair: pair[0].to_bytes(2, "big") + pair[1][:130]
    ),
)


@st.composite
def frames(draw: st.DrawFn, masked: bool) -> bytes:
    opcode = draw(st.sampled_from([TEXT] * 6 + [CONTINUATION] * 4 + [PING, PONG, CLOSE, BINARY, 3, 11]))
    return frame(
        opcode,
        draw(closes if opcode == CLOSE else payloads),
        masked=masked if draw(st.integers(0, 40)) else not masked,
        fin=draw(st.sampled_from([True, True, False])),
        reserved=0 if draw(st.integers(0, 40)) else draw(st.integers(1, 7)),
    )


@st.composite
def conversations(draw: st.DrawFn, masked: bool) -> bytes:
    """Draw a stream that keeps the rules for a while, so that what comes after them is reached."""
    stream = b""
    is_open = False
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["text", "text", "control", "any"]))
        if kind == "text":
            fin = draw(st.booleans())
            stream += frame(CONTINUATION if is_open else TEXT, draw(payloads), fin=fin, masked=masked)
            is_open = not fin
        elif kind == "control":
            stream += frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=4)), masked=masked)
        else:
            stream += draw(frames(masked))
            is_open = draw(st.booleans())
    return stream


@MODES
@given(data=st.data())
@settings(parent=fast, max_examples=250)
def test_any_conversation_in_any_cuts_is_parsed_as_the_reference_does(masked: bool, data: st.DataObject) -> None:
    stream = data.draw(conversations(masked))
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert feed_in(parser_for(masked, LIMIT), cut_at(stream, places)) == reference(stream, masked, LIMIT)


@MODES
@given(stream=st.binary(max_size=60), places=st.lists(st.integers(0, 60), max_size=4))
@fast
def test_any_bytes_are_parsed_as_the_reference_does(masked: bool, stream: bytes, places: list[int]) -> None:
    assert feed_in(parser_for(masked, LIMIT), cut_at(stream, places)) == reference(stream, masked, LIMIT)


def mutated(stream: bytes, dice: random.Random) -> bytes:
    data = bytearray(stream)
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(data) + 1)
        what = dice.randrange(6)
        if what == 0 and place < len(data):
            data[place] ^= 1 << dice.randrange(8)
        elif what == 1 and place < len(data):
            data[place] = dice.randrange(256)
        elif what == 2:
            del data[place : place + dice.randint(1, 4)]
        elif what == 3:
            data[place:place] = dice.randbytes(dice.randint(1, 4))
        elif what == 4:
            data[place:place] = data[place : place + dice.randint(1, 20)]
        else:
            del data[place:]
    return bytes(data)


@MODES
def test_25000_mutated_streams_raise_nothing_and_are_parsed_as_the_reference_does(masked: bool) -> None:
    dice = random.Random(6455)
    seeds = [
        mixed_stream(masked),
        b"".join(frame(TEXT, b"t%d" % i, masked=masked) for i in range(8)),
        frame(TEXT, b"a" * 130, fin=False, masked=masked) + frame(CONTINUATION, "ß€".encode(), masked=masked) * 2,
        frame(PING, b"x", masked=masked) + frame(CLOSE, b"\x0f\xa0no", masked=masked),
    ]
    seen = set()
    for number in range(25_000):
        stream = mutated(seeds[number % len(seeds)], dice)
        places = [dice.randrange(len(stream) + 1) for _ in range(dice.randrange(4))]
        out = feed_in(parser_for(masked, LIMIT), cut_at(stream, places))
        assert out == reference(stream, masked, LIMIT), (number, stream.hex())
        seen.add(out.violation)
    # The mutations reach every verdict; else this test would prove little.
    assert seen == {None, 1002, 1003, 1007, 1009}
