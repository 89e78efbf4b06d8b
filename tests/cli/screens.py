"""A terminal's screen, as far as tests need it."""

from __future__ import annotations

import re

from rich.cells import cell_len

__all__ = ["Screen"]

# Cursor left and erase to the end of the line; a style; anything else.
_PARTS = re.compile(r"\x1b\[(\d+)D\x1b\[K|\x1b\[[\d;]*m|([^\x1b])")


class Screen:
    """A terminal that knows what the command line uses: newlines, styles, and taking a word back.

    Attributes:
        lines: what is to be seen.
    """

    def __init__(self) -> None:
        self.lines: list[str] = [""]

    def write(self, text: str) -> None:
        """Take what a program writes."""
        for left, other in _PARTS.findall(text):
            if left:
                # Terminals take no distance for one.
                self._erase(int(left) or 1)
            elif other == "\n":
                self.lines.append("")
            elif other and other != "\r":
                self.lines[-1] += other

    def _erase(self, cells: int) -> None:
        while cells > 0:
            cells -= cell_len(self.lines[-1][-1])
            self.lines[-1] = self.lines[-1][:-1]
