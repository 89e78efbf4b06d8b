"""Cutting a text before the first stop string, word by word as the text comes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["StopStrings"]


class StopStrings:
    """Words go in, words that are certainly before any stop string come out.

    A word that could be the beginning of a stop string is held back until the words after it tell: once sent, it
    could not be taken back. Words keep their boundaries; only the one in which the stop string begins is cut.

    Args:
        stops: the stop strings; empty ones are ignored.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._first_letters = frozenset(stop[0] for stop in self._stops)
        self._held: list[str] = []
        self.is_stopped = False
        self.words_read = 0

    def feed(self, words: list[str]) -> list[str]:
        """Take the next words and return those that can be shown; after the stop string nothing more comes out."""
        if self.is_stopped:
            return []
        if not self._stops:
            self.words_read += len(words)
            return words
        shown: list[str] = []
        for word in words:
            self.words_read += 1
            if not self._held and self._first_letters.isdisjoint(word):
                shown.append(word)
                continue
            self._held.append(word)
            shown += self._release()
            if self.is_stopped:
                break
        return shown

    def flush(self) -> list[str]:
        """Return the words held back: the text has ended, no stop string can come about any more."""
        held, self._held = self._held, []
        return held

    def _release(self) -> list[str]:
        text = "".join(self._held)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return _cut(self.flush(), min(found))
        suspect = self._suspect(text)
        shown: list[str] = []
        while self._held and len(self._held[0]) <= suspect:
            word = self._held.pop(0)
            suspect -= len(word)
            shown.append(word)
        return shown

    def _suspect(self, text: str) -> int:
        """Return where the first possible beginning of a stop string is, or the length of the text."""
        for place, letter in enumerate(text):
            if letter in self._first_letters and any(stop.startswith(text[place:]) for stop in self._stops):
                return place
        return len(text)


def _cut(words: list[str], length: int) -> list[str]:
    """Return the words that make up the first `length` characters."""
    kept: list[str] = []
    for word in words:
        if length <= 0:
            break
        kept.append(word[:length])
        length -= len(word)
    return kept
