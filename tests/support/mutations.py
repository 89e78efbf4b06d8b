"""A byte mutator for WebSocket frames: recorded messages go in, and what a broken server or line might make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

from wsclient.core.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, encode_frame

from .any_messages import EXTREMES

__all__ = ["Mutator"]

_CODES = (1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4001, 4002, 4003, 4999)
_SIZES = (0, 1, 125, 126, 127, 1000, 65535, 65536, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Mutator:
    """Makes bad input, always the same for the same seed.

    Args:
        seed: of its dice.
        payloads: the recorded messages, to splice from.
    """

    def __init__(self, seed: int, payloads: Sequence[bytes]) -> None:
        self.dice = Random(seed)
        self._payloads = payloads
        self._mutations: tuple[Callable[[bytes], bytes], ...] = (
            self._flip,
            self._delete,
            self._insert,
            self._duplicate,
            self._truncate,
            self._splice,
        )

    def text(self, payload: bytes) -> bytes:
        """Return a frame of a mutated message: frame and UTF-8 are right, the message is not."""
        if self.dice.random() < 0.3:
            return encode_frame(TEXT, self._with_extreme(payload))
        return encode_frame(TEXT, self._mutated(payload).decode(errors="ignore").encode())

    def frame(self, payload: bytes) -> bytes:
        """Return a mutated frame, or one that the protocol does not have there."""
        kind = self.dice.randrange(8)
        if kind == 0:
            return self._with_length(payload)
        if kind == 1:
            return bytes((self.dice.randrange(256),)) + encode_frame(TEXT, payload)[1:]
        if kind == 2:
            return encode_frame(CLOSE, close_payload(self.dice.choice(_CODES), "bye"))
        if kind == 3:
            return self._fragments(payload)
        if kind == 4:
            return encode_frame(TEXT, self._mutated(payload))
        return self._mutated(encode_frame(TEXT, payload))

    def _with_extreme(self, payload: bytes) -> bytes:
        message = json.loads(payload)
        message[self.dice.choice(list(message))] = self.dice.choice(EXTREMES)
        return json.dumps(message).encode()

    def _mutated(self, data: bytes) -> bytes:
        for _ in range(self.dice.randint(1, 3)):
            data = self.dice.choice(self._mutations)(data)
        return data

    def _slice(self, data: bytes) -> tuple[int, int]:
        start = self.dice.randint(0, len(data))
        return start, min(len(data), start + self.dice.randint(1, 16))

    def _flip(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        for _ in range(self.dice.randint(1, 4)):
            if flipped:
                flipped[self.dice.randrange(len(flipped))] ^= 1 << self.dice.randrange(8)
        return bytes(flipped)

    def _delete(self, data: bytes) -> bytes:
        start, end = self._slice(data)
        return data[:start] + data[end:]

    def _insert(self, data: bytes) -> bytes:
        place = self.dice.randint(0, len(data))
        return data[:place] + self.dice.randbytes(self.dice.randint(1, 16)) + data[place:]

    def _duplicate(self, data: bytes) -> bytes:
        start, end = self._slice(data)
        return data[:end] + data[start:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.dice.randint(0, len(data))]

    def _splice(self, data: bytes) -> bytes:
        other = self.dice.choice(self._payloads)
        return data[: self.dice.randint(0, len(data))] + other[self.dice.randint(0, len(other)) :]

    def _with_length(self, payload: bytes) -> bytes:
        """Return a text frame whose header promises another size than it has, in any of the three encodings."""
        near = len(payload) + self.dice.randint(-4, 4)
        size = max(0, self.dice.choice((near, self.dice.choice(_SIZES), self.dice.randrange(4096))))
        width = self.dice.choice((0, 2, 8))
        if width == 0:
            return bytes((0x80 | TEXT, size & 0xFF)) + payload
        field = (size & ((1 << 8 * width) - 1)).to_bytes(width, "big")
        return bytes((0x80 | TEXT, 126 if width == 2 else 127)) + field + payload

    def _fragments(self, payload: bytes) -> bytes:
        """Return a message in fragments, with control frames between, and some opcodes that are wrong."""
        cut = self.dice.randint(0, len(payload))
        opcodes = [TEXT, self.dice.choice((PING, PONG)), CONTINUATION]
        if self.dice.random() < 0.3:
            opcodes[self.dice.randrange(3)] = self.dice.choice((CONTINUATION, TEXT, BINARY, PING, 0x3, 0xB))
        pieces = (payload[:cut], self.dice.randbytes(self.dice.randint(0, 125)), payload[cut:])
        firsts = (opcode | (0x80 if index else 0) for index, opcode in enumerate(opcodes))
        return b"".join(
            bytes((first,)) + encode_frame(TEXT, piece)[1:] for first, piece in zip(firsts, pieces, strict=True)
        )
