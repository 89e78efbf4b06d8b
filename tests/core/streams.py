"""Byte streams for the frame parser's tests: any frame, right or wrong, and all that a caller can see of the parse."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import settings

from wsclient.core.frames import CLOSE, CONTINUATION, PING, PONG, TEXT, CloseFrame, ControlFrame, FrameParser

MIB = 1 << 20
KEY = b"\x12\x34\xf0\x9f"
MODES = pytest.mark.parametrize("masked", [False, True], ids=["client", "server"])
fast = settings(deadline=None, database=None, max_examples=100)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    masked: bool,
    fin: bool = True,
    reserved: int = 0,
    width: int | None = None,
    claimed: int | None = None,
) -> bytes:
    """Encode a frame by hand; `width` is the size of the length field (7, 16 or 64), `claimed` the length it says."""
    size = len(payload) if claimed is None else claimed
    if width is None:
        width = 7 if size < 126 else 16 if size < 65536 else 64
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if width == 7:
        header = bytes([first, mask_bit | size])
    elif width == 16:
        header = bytes([first, mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([first, mask_bit | 127]) + size.to_bytes(8, "big")
    if masked:
        return header + KEY + bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
    return header + payload


@dataclass
class Outcome:
    """All that a caller can see of a parsed stream."""

    texts: list[bytes] = field(default_factory=list)
    controls: list[ControlFrame] = field(default_factory=list)
    close: CloseFrame | None = None
    violation: int | None = None


def parser_for(masked: bool, limit: int = 2 * MIB) -> FrameParser:
    return FrameParser(masked=masked, max_message_size=limit)


def outcome_of(parser: FrameParser, texts: list[bytes]) -> Outcome:
    return Outcome(texts, parser.controls, parser.close, parser.violation.code if parser.violation else None)


def feed_in(parser: FrameParser, pieces: list[bytes]) -> Outcome:
    texts: list[bytes] = []
    for piece in pieces:
        texts += parser.feed(piece)
    return outcome_of(parser, texts)


def feed_whole(stream: bytes, masked: bool, limit: int = 2 * MIB) -> Outcome:
    return feed_in(parser_for(masked, limit), [stream])


def feed_bytewise(stream: bytes, masked: bool, limit: int = 2 * MIB) -> Outcome:
    return feed_in(parser_for(masked, limit), [stream[i : i + 1] for i in range(len(stream))])


def cut_at(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def mixed_stream(masked: bool) -> bytes:
    return (
        frame(TEXT, b"first", masked=masked)
        + frame(TEXT, b"", masked=masked)
        + frame(TEXT, "grün".encode(), masked=masked)
        + frame(PING, b"p", masked=masked)
        + frame(TEXT, b"m" * 130, masked=masked)
        + frame(TEXT, b"fr\xe2", fin=False, masked=masked)
        + frame(PONG, b"", masked=masked)
        + frame(CONTINUATION, b"\x82", fin=False, masked=masked)
        + frame(CONTINUATION, b"\xac", masked=masked)
        + frame(TEXT, b"last", masked=masked)
        + frame(CLOSE, b"\x03\xe9bye", masked=masked)
    )


MIXED = Outcome(
    texts=[b"first", b"", "grün".encode(), b"m" * 130, "fr€".encode(), b"last"],
    controls=[ControlFrame(PING, b"p"), ControlFrame(PONG, b"")],
    close=CloseFrame(1001, "bye"),
)
