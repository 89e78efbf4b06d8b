"""What the fake Ollama says: its models, its scripted answers, and the JSON it is written in. Pure.

Source: Ollama's HTTP API, in the words of ollama_api.md; the `@@{...}` prompts are those of the recorded sessions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = ["BUSY", "CRASHED", "CREATED_AT", "MODELS", "Answer", "FakeModel", "encode_line"]

BUSY = "server busy, please try again.  maximum pending requests exceeded"
CRASHED = "llama runner process has terminated: exit status 2"
CREATED_AT = "2025-05-01T10:20:30.123456789Z"


@attrs.frozen(kw_only=True)
class FakeModel:
    """An installed model."""

    name: str
    size: int = 3_826_793_677
    digest: str = "78e26419b4469263f75331927a00a0284ef6544c1975b826b15abdaef17bb960"
    modified_at: str = CREATED_AT
    families: Sequence[str] | None = ("llama",)
    parameter_size: str = "7B"
    capabilities: Sequence[str] = ("completion",)

    def to_tag(self) -> dict[str, Any]:
        """Return the model as `/api/tags` lists it."""
        details = {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": None if self.families is None else list(self.families),
            "parameter_size": self.parameter_size,
            "quantization_level": "Q4_0",
        }
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": self.modified_at,
            "size": self.size,
            "digest": self.digest,
            "details": details,
        }


def _recorded_model(number: int, name: str) -> FakeModel:
    return FakeModel(
        name=name,
        size=3_826_793_677 + number,
        digest=f"78e26419b4469263f75331927a00a0284ef6544c1975b826b15abdaef17bb96{number}",
        modified_at=f"2025-05-0{number + 1}T10:20:30.123456789Z",
    )


# The list in the recorded sessions, field by field.
MODELS = tuple(
    _recorded_model(number, name) for number, name in enumerate(("llama2:latest", "llama3.2:latest", "tiny:1b"))
)


@attrs.frozen(kw_only=True)
class Answer:
    """How a generation goes. Times are in seconds; in a `@@{...}` prompt they are in milliseconds, as recorded.

    Attributes:
        tokens: how many pieces of text; they read ` t000`, ` t001` and so on.
        token: what each of them reads instead. In a prompt: `token`.
        pieces: exactly these pieces instead. In a prompt: `list`.
        thinking: pieces of thinking before them.
        final_text: text in the final line. In a prompt: `finalText`.
        done_reason: `None` leaves the field out. In a prompt: `doneReason`.
        has_metrics: whether the final line has durations and counts. In a prompt: `metrics`.
        context: how many numbers the final line's `context` has; a million make a line of 7 MB.
        first_delay: time before the first line, headers included, as when a model loads. In a prompt: `firstDelay`.
        delay: time before each of the others.
        status: anything but 200 is an error before the first line.
        error: its text, or that of the error line.
        mode: what happens after `after` lines: "drop" (the connection breaks), "cut" (the same in the middle of a line
            and of a character), "half" (a whole line with half a character in it), "error_line", "garbage" (a line of
            `garbage`, then on as if nothing was), "nodone" (the stream ends), "hang" (nothing, for ever), "hold"
            (nothing until `FakeOllama.release`). In a prompt also a status: "500", "503".
        after: see `mode`; all lines when left out.
        garbage: the text of that line.
        split: how many bytes are sent at once, to cut lines and characters anywhere; 0 sends a line at once.
        unlimited: `tokens` lines, made once for all requests, leave in large writes: as fast as a socket can be.
    """

    tokens: int = 5
    token: str | None = None
    pieces: Sequence[str] | None = None
    thinking: Sequence[str] = ()
    final_text: str = ""
    done_reason: str | None = "stop"
    has_metrics: bool = True
    context: int = 0
    first_delay: float = 0.0
    delay: float = 0.0
    status: int = 200
    error: str = CRASHED
    mode: str = ""
    after: int | None = None
    garbage: str = "this is not JSON"
    split: int = 0
    unlimited: bool = False

    @classmethod
    def from_prompt(cls, prompt: str, default: Answer) -> Answer:
        """Return the answer that a prompt beginning with `@@{...}` asks for, else the default one."""
        if not prompt.startswith("@@"):
            return default
        wishes, _ = json.JSONDecoder().raw_decode(prompt[2:])
        fields = {_NAMES_IN_PROMPTS.get(name, name): value for name, value in wishes.items()}
        for name in ("delay", "first_delay"):
            if name in fields:
                fields[name] /= 1000
        if fields.get("mode", "").isdecimal():
            fields["status"] = int(fields.pop("mode"))
            fields.setdefault("error", BUSY if fields["status"] == 503 else CRASHED)
        return attrs.evolve(default, **fields)

    @property
    def texts(self) -> Sequence[str]:
        """Return the pieces of the answer."""
        if self.pieces is not None:
            return self.pieces
        return [f" t{number:03}" if self.token is None else self.token for number in range(self.tokens)]

    def final_fields(self, prompt: str, elapsed: float) -> dict[str, Any]:
        """Return what the final line has beside the model and the text."""
        fields: dict[str, Any] = {"done": True}
        if self.done_reason is not None:
            fields["done_reason"] = self.done_reason
        if self.context:
            fields["context"] = [100_000 + number % 28_000 for number in range(self.context)]
        if self.has_metrics:
            count = len(self.texts) + len(self.thinking)
            nanoseconds = int(elapsed * 1e9) + 3
            metrics = {
                "total_duration": nanoseconds,
                "load_duration": 1,
                "prompt_eval_count": len(prompt.split()),
                "prompt_eval_duration": 1,
                "eval_count": count,
                "eval_duration": nanoseconds - 2,
            }
            # Go leaves a zero out.
            fields |= {name: value for name, value in metrics.items() if value}
        return fields


_NAMES_IN_PROMPTS = {
    "list": "pieces",
    "finalText": "final_text",
    "doneReason": "done_reason",
    "metrics": "has_metrics",
    "firstDelay": "first_delay",
}


def encode_line(record: Mapping[str, Any]) -> bytes:
    """Return an object as Go writes it: compact, UTF-8, what HTML could take for markup escaped."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    text = re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "replace") + b"\n"
