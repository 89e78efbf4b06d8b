"""How far a batch is: counted for its end, and drawn for somebody who waits at a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from . import terminal
from .batch_items import BatchItem

__all__ = ["BatchProgress", "count_lines"]


def count_lines(count: int) -> str:
    """Return a number of lines as people read it."""
    return "1 line" if count == 1 else f"{count:,} lines"


class BatchProgress:
    """How far a batch is; a context manager that leaves nothing on the screen.

    Args:
        size: of the input in bytes, `None` when nobody knows: how far it is, is told by the bytes that are done, for
            counting the lines of a huge file first would take long.
        is_screen_free: whether the results go elsewhere than to stdout.

    Attributes:
        kept: lines that were done before.
        written: lines that were done now.
        failed: lines with an error among both.
        tokens: of the lines that were done now.
        line: the number of the last line that was done.
    """

    def __init__(self, size: int | None, *, is_screen_free: bool) -> None:
        self.kept = self.written = self.failed = self.tokens = self.line = self._done = 0
        self._begun = time.monotonic()
        is_shown = terminal.is_terminal(sys.stderr) and (is_screen_free or not terminal.is_terminal(sys.stdout))
        self._bar = _Bar(size) if is_shown else None

    def note_kept(self, item: BatchItem, result: Mapping[str, Any]) -> None:
        """Count a line that was done before."""
        self.kept += 1
        self._count(item, result)

    def note(self, item: BatchItem, result: Mapping[str, Any]) -> None:
        """Count a line that was done now."""
        self.written += 1
        self.tokens += result.get("total_tokens") or 0
        self._count(item, result)

    def _count(self, item: BatchItem, result: Mapping[str, Any]) -> None:
        self.failed += "error" in result
        self.line = item.line
        self._done = item.end

    def show(self) -> None:
        """Draw it as it is now."""
        if self._bar is not None:
            self._bar.show(self._done, f"{self._counts}, {self._rate:,.0f} tokens/s")

    def end(self) -> None:
        """Take it from the screen; idempotent."""
        if self._bar is not None:
            self._bar.end()

    @property
    def _rate(self) -> float:
        return self.tokens / max(time.monotonic() - self._begun, 0.001)

    @property
    def _counts(self) -> str:
        return count_lines(self.kept + self.written) + (f", {self.failed:,} failed" if self.failed else "")

    @property
    def summary(self) -> str:
        """What is said at the end."""
        return self._counts + (f", {self.tokens:,} tokens, {self._rate:,.0f} tokens/s" if self.tokens else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class _Bar:
    """What is drawn."""

    def __init__(self, size: int | None) -> None:
        # Here, because every command would wait for it to load.
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = terminal.drawing_console(sys.stderr)
        self._progress = Progress(
            SpinnerColumn("line" if console.options.ascii_only else "dots"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=size)

    def show(self, done: int, text: str) -> None:
        self._progress.start()
        self._progress.update(self._task, completed=done, description=text, refresh=True)

    def end(self) -> None:
        self._progress.stop()
