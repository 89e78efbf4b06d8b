"""Words that come in pieces, wrapped at a terminal's edge. Pure: text in, what to write out."""

from __future__ import annotations

from rich.cells import cell_len

__all__ = ["WordWrapper"]

_TAB = 8


class WordWrapper:
    """Breaks lines between words, showing each piece at once.

    A word that reaches the edge is taken back from its line and begins the next one. The last column stays empty:
    with a character in it terminals disagree about where the cursor is.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    @property
    def is_at_line_start(self) -> bool:
        """Whether the next character is the first one of its line."""
        return self._column == 0

    def feed(self, text: str, width: int) -> str:
        """Take a piece of text.

        Args:
            text: clean: newlines and tabs are its only control characters.
            width: the terminal's columns now.

        Returns:
            What to write: the text with line breaks and, before some, the terminal's codes for taking a word back.
        """
        return "".join([self._place(character, max(2, width) - 1) for character in text])

    def _place(self, character: str, room: int) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return "\n"
        if character in " \t":
            return self._place_space(character, room)
        cells = cell_len(character)
        if self._column + cells <= room:
            self._column += cells
            # Wide characters are words of their own: their scripts have no spaces.
            self._word = "" if cells > 1 else self._word + character
            return character
        # A wide character is no part of the word before it, and taken along with that could be too wide for a line.
        word = self._word if cells == 1 else ""
        taken = cell_len(word)
        if not 0 < taken < self._column:
            # Nothing to take along, or a word longer than the line.
            self._column, self._word = cells, character if cells == 1 else ""
            return "\n" + character
        self._column, self._word = taken + cells, word + character
        return f"\x1b[{taken}D\x1b[K\n{word}{character}"

    def _place_space(self, character: str, room: int) -> str:
        self._word = ""
        cells = 1 if character == " " else _TAB - self._column % _TAB
        if self._column + cells > room:
            self._column = 0
            return "\n"
        self._column += cells
        return " " * cells
