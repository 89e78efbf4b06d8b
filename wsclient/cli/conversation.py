"""A conversation, carried by the prompt: the protocol has no memory, so each prompt tells what was said. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import attrs

__all__ = ["DEFAULT_MAX_BYTES", "Conversation", "Prompt", "Turn", "build_prompt", "to_markdown"]

DEFAULT_MAX_BYTES = 8192
"""About 2,000 tokens of English: half of what Ollama's models keep in mind unless told otherwise."""

_MAX_TURNS = 1000
_HEAD = "Continue this conversation. Answer the user's last message; write only the answer.\n\n"
_GAP = "\n[...]\n"
# An answer that would be cut to less than this is left out.
_SHORTEST = 200


@attrs.frozen
class Turn:
    """What was asked and what came back, whole or as far as it came."""

    prompt: str
    answer: str


@attrs.frozen
class Prompt:
    """What is sent for a turn.

    Attributes:
        text: the prompt with what was said before.
        dropped: how many of the oldest turns found no room.
    """

    text: str
    dropped: int = 0


class Conversation:
    """The turns of a chat, oldest first; the last thousand of them.

    Args:
        max_bytes: see `build_prompt`.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._turns: collections.deque[Turn] = collections.deque(maxlen=_MAX_TURNS)

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns, oldest first."""
        return tuple(self._turns)

    def prompt_for(self, text: str) -> Prompt:
        """Return what to send for the next turn."""
        return build_prompt(self._turns, text, self._max_bytes)

    def add(self, prompt: str, answer: str) -> bool:
        """Take a turn that was made; one without any answer is as if it had not been.

        Returns:
            Whether it was taken.
        """
        if not answer.strip():
            return False
        self._turns.append(Turn(prompt, answer))
        return True

    def take_back(self) -> None:
        """Take the last turn away."""
        self._turns.pop()

    def clear(self) -> None:
        """Forget everything."""
        self._turns.clear()


def build_prompt(turns: Iterable[Turn], text: str, max_bytes: int) -> Prompt:
    """Tell a model that remembers nothing what was said before.

    The first prompt of a conversation goes as it is. The newest turns are kept whole as far as they fit; of the last
    one, if it alone is too long, the answer is shortened in its middle.

    Args:
        turns: what was said before, oldest first.
        text: what the user says now; always sent whole, however long it is.
        max_bytes: what all of it may take in UTF-8, 0 to tell nothing.
    """
    before = list(turns)
    room = max_bytes - _size(_HEAD + _now(text))
    kept: list[str] = []
    for turn in reversed(before):
        told = _tell(turn)
        if _size(told) > room and not kept:
            told = _shorten(turn, room)
        if not told or _size(told) > room:
            break
        kept.append(told)
        room -= _size(told)
    if not kept:
        return Prompt(text, len(before))
    return Prompt(_HEAD + "".join(reversed(kept)) + _now(text), len(before) - len(kept))


def _tell(turn: Turn) -> str:
    return f"User: {turn.prompt.strip()}\n\nAssistant: {turn.answer.strip()}\n\n"


def _now(text: str) -> str:
    return f"User: {text.strip()}\n\nAssistant:"


def _shorten(turn: Turn, room: int) -> str:
    room -= _size(_tell(Turn(turn.prompt, ""))) + _size(_GAP)
    if room < _SHORTEST:
        return ""
    answer = turn.answer.strip().encode(errors="replace")
    # Half a character at a cut is left out.
    start, end = answer[: room // 2].decode(errors="ignore"), answer[-(room // 2) :].decode(errors="ignore")
    return _tell(Turn(turn.prompt, start + _GAP + end))


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def to_markdown(turns: Iterable[Turn]) -> str:
    """Return a conversation as it is saved, prompts as quotations."""
    return "\n".join(f"{_quote(turn.prompt)}\n\n{turn.answer.strip()}\n" for turn in turns)


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())
