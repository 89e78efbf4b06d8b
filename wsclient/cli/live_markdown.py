"""An answer at a terminal, shown as Markdown while it is being written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment

from . import terminal
from .markdown_blocks import parse, split_settled

__all__ = ["MarkdownPage"]

# Seconds between two drawings. A long list or program takes longer to draw than that, and is drawn less often: at most
# a quarter of the time goes into drawing.
_PAUSE = 0.08
_SHARE = 4


class MarkdownPage:
    """Where an answer is shown.

    What is settled is written once, as any program writes; only the block that is still being written is drawn over
    and over, and of one that is longer than the screen its end. So nothing scrolls away before it is whole, and nothing
    is written twice.
    """

    def __init__(self) -> None:
        self._has_begun = False
        self._rest = ""
        self._is_first = True
        self._due = 0.0
        self._console = terminal.drawing_console(sys.stdout)
        self._tail = _Tail()
        self._live = Live(
            self._tail,
            console=self._console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def write(self, text: str) -> None:
        """Take a piece of the answer; an empty one is a reason to draw what was not drawn yet."""
        self._rest += terminal.clean(text)
        self._has_begun = self._has_begun or bool(self._rest.strip())
        if self._has_begun and time.monotonic() >= self._due:
            self._draw()

    def end(self) -> None:
        """Write what is left, and leave the cursor at the start of a line."""
        self._tail.lines = []
        self._live.stop()
        blocks, rest = split_settled(self._rest + "\n")
        self._rest = ""
        self._console.print(_Lines(self._settle([*blocks, rest])), end="", soft_wrap=True)

    def _draw(self) -> None:
        begun = time.monotonic()
        blocks, self._rest = split_settled(self._rest)
        settled = self._settle(blocks)
        self._tail.lines = self._render(self._rest)
        self._live.start()
        if settled:
            # Draws the tail below it in the same piece of output, so that nothing is to be seen twice for a moment.
            self._console.print(_Lines(settled), end="", soft_wrap=True)
        else:
            self._live.refresh()
        ended = time.monotonic()
        self._due = ended + max(_PAUSE, _SHARE * (ended - begun))

    def _settle(self, blocks: Iterable[str]) -> list[list[Segment]]:
        lines = []
        for block in blocks:
            lines += self._render(block)
            self._is_first = self._is_first and not lines
        return lines

    def _render(self, block: str) -> list[list[Segment]]:
        """Return the lines of a block, after an empty one unless it is the first."""
        # The last column stays empty: with a character in it terminals disagree about where the cursor is.
        options = self._console.options.update(width=max(2, self._console.width) - 1)
        lines = [_clean_line(line) for line in self._console.render_lines(_Block(block), options, pad=False)]
        while lines and not lines[0]:
            del lines[0]
        while lines and not lines[-1]:
            del lines[-1]
        return lines if self._is_first or not lines else [[], *lines]


class _Heading(Heading):
    """A heading at the left, whichever version of rich draws it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Block(Markdown):
    """Markdown by our own rules.

    Links show where they lead: hidden behind another text they could lead anywhere. Code has the terminal's own
    colours, and no background that would be copied with it as spaces.
    """

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = text
        self.parsed = parse(text)


def _clean_line(line: Iterable[Segment]) -> list[Segment]:
    """Return a line without controls (Markdown can spell them as entities) and without spaces at its end."""
    segments = [Segment(terminal.clean(text).replace("\n", ""), style) for text, style, control in line if not control]
    while segments and not segments[-1].text.strip(" "):
        segments.pop()
    if segments:
        segments[-1] = Segment(segments[-1].text.rstrip(" "), segments[-1].style)
    return segments


class _Lines:
    """Lines that are ready to be written."""

    def __init__(self, lines: list[list[Segment]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


class _Tail:
    """The last of some lines, as many as there is room for on the screen.

    Attributes:
        lines: may be exchanged.
    """

    def __init__(self) -> None:
        self.lines: list[list[Segment]] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One line is the cursor's at the end, and one of what came before should stay in sight.
        lines = self.lines[-max(1, console.height - 2) :]
        # rich before 15 leaves an empty line behind where nothing at all was drawn.
        for number, line in enumerate(lines or [[Segment(" ")]]):
            if number:
                yield Segment.line()
            yield from line
