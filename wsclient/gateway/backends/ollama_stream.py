"""Ollama's streamed answer: bytes -> lines -> pieces of text (ollama_api.md section 3). Pure, and in bulk."""

from __future__ import annotations

from typing import Any

import attrs

from ...core.json_values import decode_values
from . import Final, Piece

__all__ = ["MAX_LINE_BYTES", "LineTooLongError", "OllamaStream", "Reading"]

# What the official Go client allows. The final line carries one number for each token in `context`.
MAX_LINE_BYTES = 8 * 1024 * 1024

_NANOSECONDS_PER_MILLISECOND = 1_000_000


class LineTooLongError(Exception):
    """A line is longer than `MAX_LINE_BYTES`."""


@attrs.define(slots=True)
class Reading:
    """What one read of the model server held.

    Attributes:
        pieces: in order; a `Final` is the last one.
        error: what an error line says, after which nothing counts; "" for none.
    """

    pieces: list[Piece | Final] = attrs.field(factory=list)
    error: Any = ""

    @property
    def is_final(self) -> bool:
        """Return whether the model server has said its last word."""
        return bool(self.pieces) and isinstance(self.pieces[-1], Final)


class OllamaStream:
    """The reading end of one generation. Bytes may be cut anywhere, inside a character too.

    Attributes:
        unreadable: how many lines were no JSON objects; they are skipped.
    """

    def __init__(self) -> None:
        # Joined once the line is whole: adding each read to one tail is quadratic for a long line.
        self._partial: list[bytes] = []
        self._partial_size = 0
        self.unreadable = 0

    def feed(self, data: bytes) -> Reading:
        """Take what one read returned, and return what its complete lines say.

        Raises:
            LineTooLongError: there is no end to a line.
        """
        first, *others = data.split(b"\n")
        self._partial.append(first)
        self._partial_size += len(first)
        lines: list[bytes] = []
        if others:
            lines = [b"".join(self._partial), *others[:-1]]
            self._partial = [others[-1]]
            self._partial_size = len(others[-1])
        if self._partial_size > MAX_LINE_BYTES or (lines and max(map(len, lines)) > MAX_LINE_BYTES):
            raise LineTooLongError
        return self._read(lines, data)

    def finish(self) -> Reading:
        """Return what the bytes after the last line end say: a single answer comes without one."""
        lines, self._partial, self._partial_size = [b"".join(self._partial)], [], 0
        return self._read(lines, b"")

    def _read(self, lines: list[bytes], data: bytes) -> Reading:
        # Only an escape can make half a surrogate pair, which could not be sent on as UTF-8. The first line may have
        # begun in an earlier read.
        is_suspect = any(b"\\ud" in part or b"\\uD" in part for part in (data, *lines[:1]))
        lines = [line for line in lines if line and not line.isspace()]
        reading = Reading()
        add = reading.pieces.append
        for record in decode_values(lines):
            if type(record) is not dict:
                self.unreadable += 1
                continue
            if error := record.get("error"):
                reading.error = error
                break
            thinking = record.get("thinking")
            if thinking and isinstance(thinking, str):
                add(Piece(_whole_characters(thinking) if is_suspect else thinking, True))
            text = record.get("response")
            if text and isinstance(text, str):
                add(Piece(_whole_characters(text) if is_suspect else text))
            if record.get("done") is True:
                add(_final(record))
                break
        return reading


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _final(record: dict[str, Any]) -> Final:
    reason = record.get("done_reason")
    return Final(
        done_reason=reason if isinstance(reason, str) else None,
        prompt_tokens=_count(record, "prompt_eval_count"),
        completion_tokens=_count(record, "eval_count"),
        total_duration=_milliseconds(record, "total_duration"),
        load_duration=_milliseconds(record, "load_duration"),
        eval_duration=_milliseconds(record, "eval_duration"),
    )


def _count(record: dict[str, Any], name: str) -> int | None:
    value = record.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _milliseconds(record: dict[str, Any], name: str) -> float | None:
    nanoseconds = _count(record, name)
    return None if nanoseconds is None else nanoseconds / _NANOSECONDS_PER_MILLISECOND
