"""A generation shown while it comes: in one place of a notebook, or as a stream of text at a terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from IPython.core.display_functions import DisplayHandle
from IPython.core.display_functions import display as show
from IPython.core.getipython import get_ipython

from ...errors import WSClientError
from ...events import GenerationResult
from ...generation import Generation
from .markdown import clean
from .views import View, generation_view, progress_view, result_view

__all__ = ["Pace", "display", "was_just_shown"]

# Ten times a second looks continuous.
_SHORTEST_PAUSE = 0.1
# While nothing comes the seconds are counted.
_LONGEST_PAUSE = 1.0
# Of the time, a quarter at most goes into drawing: the rest belongs to what else the program does.
_DRAWING_SHARE = 4
# Characters a second, bytes mostly. The notebook server drops what a kernel sends above 1 MB/s (its
# iopub_data_rate_limit).
_DATA_RATE = 200_000

_shown: tuple[int, str] | None = None


def display(generation: Generation) -> GenerationResult:
    """Show a generation as it comes, and return its result; blocks until its end, bounded by its deadlines.

    In a notebook its Markdown is rendered in one place, up to ten times a second, and until the first token a line says
    how long it has been waited for; in a terminal the text is written as it comes. Everything is drawn by the thread
    that calls this. However it is left (Ctrl-C, or an interrupt of the kernel), the generation is stopped on the
    server, and the client stays usable.

    Args:
        generation: what `client.stream()` returned. Its tokens are read here: nobody else sees them.

    Raises:
        WSClientError: it failed; what came before stays to be seen.
        TypeError: it is no generation.
    """
    if not isinstance(generation, Generation):
        hint = "what IPython calls display is IPython.display.display"
        raise TypeError(f"display() shows what client.stream() returns (got {type(generation).__name__}); {hint}")
    shell = get_ipython()
    page: _Page = (_NotebookPage if getattr(shell, "kernel", None) is not None else _TerminalPage)(generation)
    with generation:
        try:
            result, first_token = _follow(generation, page)
        except WSClientError as error:
            page.end(generation_view(generation, f"broke off: {error.code}"))
            raise
        except BaseException:
            page.end(generation_view(generation, "stopped"))
            raise
    page.end(result_view(result, first_token))
    if shell is not None:
        global _shown
        _shown = (shell.execution_count, result.id)
    return result


def was_just_shown(result: GenerationResult) -> bool:
    """Return whether `display()` showed it in the cell that runs now: its value need not be shown once more."""
    shell = get_ipython()
    return shell is not None and _shown == (shell.execution_count, result.id)


class _Page(Protocol):
    """Where a generation is shown."""

    def draw(self, waited: float) -> int:
        """Show what has come until now, and return how many characters that took; waiting is in seconds."""

    def end(self, view: View) -> None:
        """Show it for the last time."""


class Pace:
    """When to draw again: soon, but what is slow to draw or large to send less often. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._drawn = self._soonest = float("-inf")

    def due(self, has_news: bool) -> float:
        """Return the time for which the next drawing is due."""
        return self._soonest if has_news else max(self._soonest, self._drawn + _LONGEST_PAUSE)

    def drew(self, begun: float, ended: float, size: int) -> None:
        """Note a drawing that took so many characters."""
        self._drawn = ended
        self._soonest = ended + max(_SHORTEST_PAUSE, (ended - begun) * (_DRAWING_SHARE - 1), size / _DATA_RATE)


def _follow(generation: Generation, page: _Page) -> tuple[GenerationResult, float | None]:
    begun, first_token = time.monotonic(), None
    # Of a generation that somebody shows later it is not known when it came.
    is_first = not generation.text
    pace, has_news = Pace(), True
    while True:
        now = time.monotonic()
        if now >= pace.due(has_news):
            size = page.draw(now - begun)
            pace.drew(now, time.monotonic(), size)
            has_news = False
        text = generation.read(max(0.0, pace.due(has_news) - time.monotonic()))
        if text is None:
            return generation.result(), first_token
        if text:
            if is_first:
                first_token, is_first = time.monotonic() - begun, False
            has_news = True


class _NotebookPage:
    """One output of a cell, replaced each time."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._handle: DisplayHandle | None = None

    def draw(self, waited: float) -> int:
        return self._put(progress_view(self._generation, waited))

    def end(self, view: View) -> None:
        self._put(view)

    def _put(self, view: View) -> int:
        if self._handle is None:
            self._handle = show(view.bundle, raw=True, display_id=True)
        else:
            self._handle.update(view.bundle, raw=True)
        return len(view.html) + len(view.text)


class _TerminalPage:
    """A terminal, or wherever else stdout goes: what was written stays, and is gone on with."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._text = ""
        self._has_progress = False

    def draw(self, waited: float) -> int:
        piece = self._write_news()
        if not self._text and sys.stdout.isatty():
            self._erase_progress()
            sys.stdout.write(progress_view(self._generation, waited).text)
            self._has_progress = True
        sys.stdout.flush()
        return len(piece)

    def end(self, view: View) -> None:
        self._write_news()
        self._erase_progress()
        figures = view.text.rpartition("\n")[2]
        sys.stdout.write(f"{figures}\n" if self._text.endswith("\n") or not self._text else f"\n{figures}\n")
        sys.stdout.flush()

    def _write_news(self) -> str:
        text = self._generation.text
        piece = text[len(self._text) :]
        if piece:
            self._erase_progress()
            self._text = text
            sys.stdout.write(clean(piece))
        return piece

    def _erase_progress(self) -> None:
        if self._has_progress:
            sys.stdout.write("\r\x1b[K")
            self._has_progress = False
