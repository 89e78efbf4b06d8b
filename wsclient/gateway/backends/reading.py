"""What the streams of all model servers have in common: bytes -> lines, and what one read of them held. Pure."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import attrs

from . import BackendError, Final, Piece

__all__ = [
    "MAX_LINE_BYTES",
    "LineCutter",
    "Reading",
    "StreamReader",
    "count_of",
    "is_utf8",
    "whole_characters",
]

# What Ollama's official Go client allows. Ollama's final line carries one number for each token in `context`.
MAX_LINE_BYTES = 8 * 1024 * 1024


@attrs.define(slots=True)
class Reading:
    """What one read of the model server held.

    Attributes:
        pieces: in order; a `Final` is the last one.
        error: what went wrong after them, after which nothing counts.
        is_life: whether the model server showed that it is at work.
    """

    pieces: list[Piece | Final] = attrs.field(factory=list)
    error: BackendError | None = None
    is_life: bool = True

    @property
    def is_final(self) -> bool:
        """Return whether the model server has said its last word."""
        return bool(self.pieces) and isinstance(self.pieces[-1], Final)


class StreamReader(Protocol):
    """The reading end of one generation. Bytes may be cut anywhere, inside a character too.

    Attributes:
        is_begun: whether the model has begun to answer, so that from now on its silence counts.
        unreadable: how many lines were no JSON objects; they are skipped.
    """

    is_begun: bool
    unreadable: int

    def feed(self, data: bytes) -> Reading:
        """Take what one read returned, and return what it says."""

    def finish(self, *, is_broken: bool) -> Reading:
        """Return what can be said now that nothing more comes, `is_broken` when that was against HTTP's rules."""


class LineCutter:
    """Cuts a stream into lines at `\\n`, wherever the network cut it.

    Attributes:
        is_too_long: whether a line has come that is longer than `MAX_LINE_BYTES`; it and what follows is lost.
    """

    def __init__(self) -> None:
        # Joined once the line is whole: adding each read to one tail is quadratic for a long line.
        self._partial: list[bytes] = []
        self._partial_size = 0
        self.is_too_long = False

    @property
    def has_partial(self) -> bool:
        """Return whether a line has begun that has no end yet."""
        return self._partial_size > 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends."""
        first, *others = data.split(b"\n")
        self._partial.append(first)
        self._partial_size += len(first)
        lines: list[bytes] = []
        if others:
            lines = [b"".join(self._partial), *others[:-1]]
            self._partial = [others[-1]]
            self._partial_size = len(others[-1])
        if self._partial_size > MAX_LINE_BYTES or (lines and max(map(len, lines)) > MAX_LINE_BYTES):
            self.is_too_long = True
            lines = list(itertools.takewhile(lambda line: len(line) <= MAX_LINE_BYTES, lines))
        return lines

    def take_rest(self) -> bytes:
        """Return what came after the last line end."""
        rest, self._partial, self._partial_size = b"".join(self._partial), [], 0
        return rest


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def whole_characters(text: str) -> str:
    """Return a text with each half of a surrogate pair replaced: it could not be sent on as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_of(record: dict[str, Any], name: str) -> int | None:
    """Return a field that is a whole number, `None` when it is anything else."""
    value = record.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
