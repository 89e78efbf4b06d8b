"""Ollama's streamed answer: bytes -> lines -> pieces of text (ollama_api.md section 3). Pure, and in bulk."""

from __future__ import annotations

import json
from typing import Any

from ...core.json_values import decode_values
from ...core.wire_errors import bounded
from . import BackendError, Final, Piece
from .reading import LineCutter, Reading, count_of, is_utf8, whole_characters

__all__ = ["OllamaStream"]

_NANOSECONDS_PER_MILLISECOND = 1_000_000


class OllamaStream:
    """The reading end of one generation; see `StreamReader`. Any byte is a sign of life, and the answer's beginning."""

    def __init__(self) -> None:
        self._lines = LineCutter()
        self.is_begun = False
        self.unreadable = 0

    def feed(self, data: bytes) -> Reading:
        """Take what one read returned, and return what its complete lines say."""
        self.is_begun = True
        reading = self._read(self._lines.feed(data), data)
        if self._lines.is_too_long and reading.error is None and not reading.is_final:
            reading.error = BackendError("Ollama sent a line without an end")
        return reading

    def finish(self, *, is_broken: bool) -> Reading:
        """Return what the bytes after the last line end say: a single answer comes without one."""
        rest = self._lines.take_rest()
        return Reading() if is_broken else self._read([rest], rest, is_cut=True)

    def _read(self, lines: list[bytes], data: bytes, *, is_cut: bool = False) -> Reading:
        # Only an escape can make half a surrogate pair. The first line may have begun in an earlier read.
        is_suspect = any(b"\\ud" in part or b"\\uD" in part for part in (data, *lines[:1]))
        lines = [line for line in lines if line and not line.isspace()]
        reading = Reading()
        add = reading.pieces.append
        for number, record in enumerate(decode_values(lines)):
            if type(record) is not dict:
                if not is_cut and not is_utf8(lines[number]):
                    # Skipped it would be text that is missing where nobody sees it.
                    reading.error = BackendError("Ollama sent text that is not UTF-8")
                    break
                self.unreadable += 1
                continue
            if error := record.get("error"):
                reading.error = BackendError(f"Ollama error: {_text_of(error)}")
                break
            thinking = record.get("thinking")
            if thinking and isinstance(thinking, str):
                add(Piece(whole_characters(thinking) if is_suspect else thinking, True))
            text = record.get("response")
            if text and isinstance(text, str):
                add(Piece(whole_characters(text) if is_suspect else text))
            if record.get("done") is True:
                add(_final(record))
                break
        return reading


def _text_of(error: object) -> str:
    return bounded(error if isinstance(error, str) else json.dumps(error))


def _final(record: dict[str, Any]) -> Final:
    reason = record.get("done_reason")
    return Final(
        done_reason=reason if isinstance(reason, str) else None,
        prompt_tokens=count_of(record, "prompt_eval_count"),
        completion_tokens=count_of(record, "eval_count"),
        total_duration=_milliseconds(record, "total_duration"),
        load_duration=_milliseconds(record, "load_duration"),
        eval_duration=_milliseconds(record, "eval_duration"),
    )


def _milliseconds(record: dict[str, Any], name: str) -> float | None:
    nanoseconds = count_of(record, name)
    return None if nanoseconds is None else nanoseconds / _NANOSECONDS_PER_MILLISECOND
