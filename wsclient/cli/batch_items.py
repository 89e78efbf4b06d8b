"""The lines of a batch: JSON objects, one a line, each a prompt with its options."""

from __future__ import annotations

import hashlib
import json
import os
import select
from collections.abc import Iterator, Mapping
from typing import IO, Any

import attrs

from ..generation_options import GenerationKeywords

__all__ = ["MAX_LINE_BYTES", "BatchItem", "PolledInput", "read_items"]

MAX_LINE_BYTES = 32 * 1024 * 1024
"""A longer line would be no prompt that a gateway takes, and has no place in memory."""

_PATIENCE = 0.1
_OPTIONS = frozenset(GenerationKeywords.__annotations__)
_FIELDS = ("prompt", "model", "id", "options")


@attrs.frozen(kw_only=True)
class BatchItem:
    """A line of a batch.

    Attributes:
        line: its number, from 1.
        end: how many bytes were read up to its end.
        digest: of all that decides about the result: it tells whether that is still the one of this line.
        prompt, model, options: as for `WSClient.stream`.
        given: its `id`, for the result, if it has one.
        problem: why it cannot be sent.
    """

    line: int
    end: int
    digest: str
    prompt: str = ""
    model: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    given: Mapping[str, Any] = attrs.field(factory=dict)
    problem: str | None = None


class PolledInput:
    """Lines from a pipe whose writer may take its time: nobody waits for one for long.

    Args:
        descriptor: what to read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._is_at_end = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def readline(self, limit: int) -> bytes | None:
        """Return the next line, at most so many bytes of it; an empty one at the end, `None` when none comes in 0.1 s.

        Raises:
            OSError: it cannot be read.
        """
        seen = 0
        while (end := self._buffer.find(b"\n", seen, limit)) < 0 and len(self._buffer) < limit and not self._is_at_end:
            seen = len(self._buffer)
            if not select.select([self._descriptor], [], [], _PATIENCE)[0]:
                return None
            data = os.read(self._descriptor, 65536)
            self._buffer += data
            self._is_at_end = not data
        size = end + 1 if end >= 0 else min(limit, len(self._buffer))
        line = bytes(self._buffer[:size])
        del self._buffer[:size]
        return line


def read_items(
    file: IO[bytes] | PolledInput, model: str | None, options: Mapping[str, Any]
) -> Iterator[BatchItem | None]:
    """Yield the items of a file as they are asked for; empty lines are none.

    Args:
        file: open for reading.
        model, options: for lines that say nothing else.

    Yields:
        An item, or `None` when there is none just now.

    Raises:
        OSError: it cannot be read.
    """
    common = json.dumps([model, options], sort_keys=True).encode()
    line = end = 0
    for found in _lines(file):
        if found is None:
            yield None
            continue
        raw, size = found
        line, end = line + 1, end + size
        digest = hashlib.sha256(common + raw.strip()).hexdigest()[:16]
        place: dict[str, Any] = {"line": line, "end": end, "digest": digest}
        if len(raw) > MAX_LINE_BYTES:
            yield BatchItem(**place, problem=f"the line has more than {MAX_LINE_BYTES >> 20} MiB")
        elif raw.strip():
            yield _parse(raw, model, options, place)


def _lines(file: IO[bytes] | PolledInput) -> Iterator[tuple[bytes, int] | None]:
    """Yield lines with their sizes, `None` when there is none just now; of one that is too long only the beginning."""
    line, size = b"", 0
    while (raw := file.readline(MAX_LINE_BYTES + 1)) != b"":
        if raw is None:
            yield None
            continue
        line, size = line or raw, size + len(raw)
        if raw.endswith(b"\n"):
            yield line, size
            line, size = b"", 0
    if size:
        yield line, size


def _parse(raw: bytes, model: str | None, options: Mapping[str, Any], place: Mapping[str, Any]) -> BatchItem:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return BatchItem(**place, problem=f"the line is not JSON: {error}")
    if not isinstance(fields, dict):
        return BatchItem(**place, problem=f"the line must be a JSON object (got {type(fields).__name__})")
    given = {"id": fields["id"]} if "id" in fields else {}
    problem = _problem(fields)
    if problem is not None:
        return BatchItem(**place, given=given, problem=problem)
    flat = {name: value for name, value in fields.items() if name in _OPTIONS}
    return BatchItem(
        **place,
        given=given,
        prompt=fields["prompt"],
        model=fields.get("model") or model,
        options={**options, **(fields.get("options") or {}), **flat},
    )


def _problem(fields: Mapping[str, Any]) -> str | None:
    prompt, model, options = (fields.get(name) for name in ("prompt", "model", "options"))
    if not isinstance(prompt, str) or not prompt.strip():
        return "the line needs a prompt: a text that is not empty"
    if not isinstance(model, str | None):
        return "model must be a name"
    if not isinstance(options, dict | None):
        return "options must be an object"
    unknown = [name for name in fields if name not in _FIELDS and name not in _OPTIONS]
    if unknown:
        return f"unknown field {unknown[0]!r}; what the model server alone knows goes into options"
    return None
