"""How much structure a client's message may have: looked at before it is parsed, in a few passes that run in C.

A message of 32 MiB in `[[],[],...` would become eleven million lists, 800 MiB that hold the event loop for seconds; a
number of a million digits, or brackets nested a thousand deep, are as little use to anybody. A text, however long, is
one value: prompts and images cost what their bytes cost.
"""

from __future__ import annotations

import itertools

__all__ = ["MAX_DEPTH", "MAX_NUMBER_CHARS", "MAX_VALUES", "fault_of"]

# Two levels for each batch in a batch; both JSON libraries can still write back what is no deeper than this.
MAX_DEPTH = 512
# A batch of 10,000 generations with their options has as many.
MAX_VALUES = 100_000
# What is not text: numbers, names of values, and the space between.
_MAX_OUTSIDE_BYTES = 24 * MAX_VALUES
# Written out in full, the largest number that a JavaScript program knows has 309 digits.
MAX_NUMBER_CHARS = 400

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_DIGITS_AS_ZEROS = bytes(ord("0") if byte in b"0123456789+-.eE" else byte for byte in range(256))
_LONG_NUMBER = b"0" * (MAX_NUMBER_CHARS + 1)


def fault_of(text: bytes) -> str | None:
    """Return what is too much about a JSON text, `None` for most.

    Args:
        text: UTF-8; need not be JSON. What is none may pass: the parser will say so, and not later than it would have.
    """
    # A short text can have no more of anything than it has characters.
    if len(text) <= MAX_NUMBER_CHARS:
        return None
    outside = _outside_strings(text)
    if outside is None or len(outside) > _MAX_OUTSIDE_BYTES:
        return f"more than {MAX_VALUES} values"
    if outside.count(b",") + outside.count(b"[") + outside.count(b"{") >= MAX_VALUES:
        return f"more than {MAX_VALUES} values"
    if outside.count(b"[") + outside.count(b"{") > MAX_DEPTH:
        brackets = outside.translate(None, _NOT_BRACKETS)
        if max(itertools.accumulate(map(_STEPS.__getitem__, brackets))) > MAX_DEPTH:
            return f"brackets nested more than {MAX_DEPTH} deep"
    if _LONG_NUMBER in outside.translate(_DIGITS_AS_ZEROS):
        return f"a number of more than {MAX_NUMBER_CHARS} characters"
    return None


def _outside_strings(text: bytes) -> bytes | None:
    """Return a text without its strings; `None` when these alone are too many."""
    if b"\\" in text:
        # First the escaped backslashes, so that what is left before a quote does escape it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 4 * MAX_VALUES:
        return None
    return b"".join(text.split(b'"')[::2])
