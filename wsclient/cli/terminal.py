"""Everything the command line writes goes through here: it is the one place where foreign text is made harmless.

Names, errors and answers come from servers, files and models. A control character among them could retitle the
terminal, rewrite what was shown or type commands, so none gets through; not into a pipe either, for a pipe often ends
at a terminal (`tee`, `less -R`). At a terminal there are colours (not with NO_COLOR); elsewhere the text is plain.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

__all__ = [
    "ask",
    "ask_secret",
    "clean",
    "complain",
    "drawing_console",
    "is_interactive",
    "is_terminal",
    "one_line",
    "prepare_streams",
    "show_command",
    "show_facts",
    "show_item",
    "show_json",
    "show_line",
    "show_progress",
    "show_table",
    "show_traceback",
    "silence",
    "warn",
    "write",
]

_MIN_CELL = 8

# C0 without tab and newline, DEL, C1. A carriage return goes too: it could overwrite the line it is in.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Return a text without its control characters; newlines and tabs stay."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return a text as a single line that is what it seems to be: no controls, no invisible or turning characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream leads to a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def is_interactive() -> bool:
    """Return whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def prepare_streams() -> bool:
    """Have characters that the terminal's encoding lacks replaced: they must not end a command half-way.

    Returns:
        Whether there is a stdout. A stdin or stderr that was closed is /dev/null from here on.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    return sys.stdout is not None


def silence() -> None:
    """Send what is still to be written to stdout nowhere: the interpreter would try once more when it exits."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        # No descriptor of its own: nothing is written behind our back either.
        return


def write(text: str) -> None:
    """Write a piece of an answer to stdout, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_line(text: str = "", style: str = "", *, to_stderr: bool = False) -> None:
    """Write a line.

    Args:
        text: what may come from anywhere.
        style: rich's name of how it looks at a terminal.
        to_stderr: where to.
    """
    _console(sys.stderr if to_stderr else sys.stdout).print(Text(one_line(text), style=style), soft_wrap=True)


def show_progress(text: str) -> None:
    """Write to stderr what takes a while, for somebody who waits at a terminal."""
    if is_terminal(sys.stderr):
        show_line(text, "dim", to_stderr=True)


def warn(text: str) -> None:
    """Write a warning to stderr."""
    _labelled("warning: ", "yellow", text)


def complain(text: str, *, on_a_new_line: bool = False) -> None:
    """Write an error to stderr.

    Args:
        text: one line.
        on_a_new_line: begin with a line of its own at a terminal.
    """
    if on_a_new_line and is_terminal(sys.stderr):
        sys.stderr.write("\n")
    _labelled("error: ", "bold red", text)


def _labelled(label: str, style: str, text: str) -> None:
    _console(sys.stderr).print(Text.assemble((label, style), one_line(text)), soft_wrap=True)


def show_traceback(lines: Iterable[str]) -> None:
    """Write a traceback to stderr."""
    sys.stderr.write(clean("".join(lines)))


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write names and values to stdout, one pair a line, aligned."""
    rows = list(facts)
    width = max(len(name) for name, _ in rows)
    console = _console(sys.stdout)
    for name, value in rows:
        console.print(Text.assemble((f"  {name:<{width}}  ", "dim"), one_line(value)), soft_wrap=True)


def show_item(mark: str, style: str, name: str, text: str) -> None:
    """Write a line of a list to stdout: a mark, a name and a text, which a terminal has wrapped beside its name.

    Args:
        mark: what the line is marked with.
        style: rich's name of how the mark looks at a terminal.
        name: padded, so that the texts are aligned.
        text: what may come from anywhere.
    """
    begin = Text.assemble(" ", (mark, style), f" {name}  ")
    shown = one_line(text)
    if is_terminal(sys.stdout):
        room = shutil.get_terminal_size().columns - begin.cell_len - 1
        lines = textwrap.wrap(shown, max(20, room), break_long_words=False, break_on_hyphens=False)
        shown = f"\n{' ' * begin.cell_len}".join(lines)
    _console(sys.stdout).print(begin + Text(shown, "dim" if style == "dim" else ""), soft_wrap=True)


def show_command(words: Sequence[str]) -> None:
    """Write a command line for the user to run, quoted as a shell wants it."""
    show_line(f"  {shlex.join(words)}")


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], shortened: int | None = None) -> None:
    """Write a table to stdout, nothing cut off: an id must be found by grep and copied whole.

    Args:
        headers: the columns' names.
        rows: a cell for each column.
        shortened: the column whose texts are cut off, at a terminal that is too narrow, to keep each row on its line.
    """
    lines = [[*headers], *([one_line(cell) or "-" for cell in row] for row in rows)]
    if shortened is not None and is_terminal(sys.stdout):
        others = sum(max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)) - 2
        others -= max(cell_len(line[shortened]) for line in lines)
        room = max(_MIN_CELL, shutil.get_terminal_size().columns - others)
        for line in lines:
            text = Text(line[shortened])
            text.truncate(room, overflow="ellipsis")
            line[shortened] = text.plain
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    console = _console(sys.stdout)
    for number, line in enumerate(lines):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        console.print(Text("  ".join(padded).rstrip(), style="" if number else "bold"), soft_wrap=True)


def show_json(value: Any) -> None:
    """Write a value to stdout as JSON; ASCII, which every reader takes and no terminal obeys."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def ask(question: str) -> bool:
    """Ask somebody at the terminal; anything but yes is no."""
    _console(sys.stderr).print(Text(f"{one_line(question)} [y/N] "), end="", soft_wrap=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def drawing_console(stream: TextIO) -> Console:
    """Return a console for what is drawn over and over in one place; what it is given must have been cleaned."""
    return _console(stream)


def ask_secret(question: str) -> str:
    """Ask somebody at the terminal for what must not be seen there."""
    return getpass.getpass(f"{one_line(question)} ")


def _console(stream: TextIO) -> Console:
    # Made for each line: the streams are exchanged in tests, and the environment may be too.
    return Console(
        file=stream,
        force_terminal=is_terminal(stream),
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
