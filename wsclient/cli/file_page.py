"""An answer that goes to a file, and what somebody at a terminal sees of that."""

from __future__ import annotations

from . import terminal
from .out_file import OutFile
from .waiting import Waiting

__all__ = ["FilePage"]


class FilePage:
    """Writes an answer to a file, clean, and ends its last line.

    Args:
        out: the file.
    """

    def __init__(self, out: OutFile) -> None:
        self._out = out
        self._waiting = Waiting()
        self._is_at_line_start = True

    def write(self, text: str) -> None:
        """Take a piece of the answer, or nothing: time has passed."""
        text = terminal.clean(text)
        if text:
            self._out.write(text)
            self._is_at_line_start = text.endswith("\n")
        if self._out.size:
            self._waiting.show(f"{self._out.size:,} characters")

    def end(self) -> None:
        """End the last line; idempotent."""
        self._waiting.end()
        if not self._is_at_line_start:
            self._out.write("\n")
            self._is_at_line_start = True
