"""What somebody at a terminal sees while nothing has come yet: that it goes on, and for how long."""

from __future__ import annotations

import sys
import time

from rich.cells import cell_len, set_cell_size
from rich.live import Live
from rich.spinner import Spinner

from . import terminal

__all__ = ["Waiting"]


class Waiting:
    """A line on stderr with the seconds that passed, at a terminal only; it leaves nothing behind.

    No thread draws it: who waits calls `show()` again and again. A context manager.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._live: Live | None = None

    def show(self, what: str) -> None:
        """Show what is waited for.

        Args:
            what: such as "waiting for the first token".
        """
        if not terminal.is_terminal(sys.stderr):
            return
        text = f"{terminal.one_line(what)}, {time.monotonic() - self._begun:.0f} s"
        if self._live is None:
            console = terminal.drawing_console(sys.stderr)
            self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")
            self._live = Live(
                self._spinner,
                console=console,
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._spinner.update(text=set_cell_size(text, min(cell_len(text), self._live.console.width - 3)))
        self._live.refresh()

    def end(self) -> None:
        """Take the line away; idempotent."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
