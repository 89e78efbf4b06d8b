"""The streamed answer of OpenAI's API: events -> pieces of text. Pure, and in bulk.

Source: OpenAI's API reference, "Chat completion chunk object" and "Completion object"; and what llama.cpp's server and
vLLM send besides: `reasoning_content` or `reasoning` for thinking, `timings`, errors in mid-stream.
"""

from __future__ import annotations

import json
from typing import Any

from ...core.json_values import decode_values
from ...core.wire_errors import bounded
from . import BackendError, Final, Piece
from .reading import Reading, count_of, is_utf8, whole_characters
from .server_sent_events import EventCutter

__all__ = ["OpenAIStream", "message_of"]

_DONE = b"[DONE]"

# A duration that no model takes; larger numbers are nonsense.
_MAX_MILLISECONDS = 1e12


class OpenAIStream:
    """The reading end of one generation; see `StreamReader`.

    Comments are no sign of life: proxies send them while the model behind hangs. The answer begins with its first text:
    OpenAI itself sends a chunk with only the role in it, minutes before a model that thinks in secret says anything.
    """

    def __init__(self) -> None:
        self._events = EventCutter()
        self._done_reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}
        self.is_begun = False
        self.unreadable = 0

    def feed(self, data: bytes) -> Reading:
        """Take what one read returned, and return what its complete events say."""
        events = self._events.feed(data)
        reading = self._read(events)
        reading.is_life = bool(events) or self._events.has_partial
        if self._events.is_too_long and reading.error is None and not reading.is_final:
            reading.error = BackendError("The model server sent a line without an end")
        return reading

    def finish(self, *, is_broken: bool) -> Reading:
        """Return the final word if the model's reason to end has come, for then the text is whole."""
        reading = Reading() if is_broken else self._read(self._events.finish(), is_cut=True)
        if self._done_reason is not None and reading.error is None and not reading.is_final:
            reading.pieces.append(self._final())
        return reading

    def _read(self, events: list[tuple[bytes, bytes]], *, is_cut: bool = False) -> Reading:
        reading = Reading()
        payloads = [data for _, data in events]
        is_done = _DONE in payloads
        if is_done:
            payloads = payloads[: payloads.index(_DONE)]
        # Only an escape can make half a surrogate pair.
        is_suspect = any(b"\\ud" in payload or b"\\uD" in payload for payload in payloads)
        for number, record in enumerate(decode_values(payloads)):
            if type(record) is not dict:
                if not is_cut and not is_utf8(payloads[number]):
                    # Skipped it would be text that is missing where nobody sees it.
                    reading.error = BackendError("The model server sent text that is not UTF-8")
                    return reading
                self.unreadable += 1
                continue
            # Earlier versions of vLLM have the error in the record itself.
            if record.get("error") or record.get("object") == "error" or events[number][0] == b"error":
                reading.error = BackendError(f"Model server error: {bounded(message_of(record))}")
                return reading
            self._take_figures(record)
            self._take_choices(record.get("choices"), reading.pieces, is_suspect)
        if is_done:
            reading.pieces.append(self._final())
        return reading

    def _take_figures(self, record: dict[str, Any]) -> None:
        if isinstance(usage := record.get("usage"), dict):
            self._usage = usage
        if isinstance(timings := record.get("timings"), dict):
            self._timings = timings

    def _take_choices(self, choices: Any, pieces: list[Piece | Final], is_suspect: bool) -> None:
        # One is asked for; the event with the usage has none.
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return
        choice = choices[0]
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = {"content": choice.get("text")}
        thinking = delta.get("reasoning_content") or delta.get("reasoning")
        text = delta.get("content") or delta.get("refusal")
        for words, is_thinking in ((thinking, True), (text, False)):
            if words and isinstance(words, str):
                self.is_begun = True
                pieces.append(Piece(whole_characters(words) if is_suspect else words, is_thinking))
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._done_reason = reason

    def _final(self) -> Final:
        reading, writing = _milliseconds(self._timings, "prompt_ms"), _milliseconds(self._timings, "predicted_ms")
        return Final(
            # The names are Ollama's too: "stop" and "length".
            done_reason=self._done_reason,
            prompt_tokens=count_of(self._usage, "prompt_tokens"),
            completion_tokens=count_of(self._usage, "completion_tokens"),
            total_duration=None if reading is None or writing is None else reading + writing,
            eval_duration=writing,
        )


def message_of(answer: Any) -> str:
    """Return what an error says, in any of the shapes that servers give it: its message, or all of it as JSON."""
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(name):
            answer = answer[name]
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _milliseconds(record: dict[str, Any], name: str) -> float | None:
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _MAX_MILLISECONDS:
        return None
    return float(value)
