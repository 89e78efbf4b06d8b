"""A program at a real terminal: tmux has a screen, wraps lines and obeys escape codes as a user's terminal does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from .waiting import wait_until

__all__ = ["TerminalSession", "needs_tmux"]

TIMEOUT = 30.0

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="this needs tmux (apt-get install tmux)")
"""Marks a test that needs a terminal."""

# The screen stays when its program has ended, and nothing of tmux's own is on it.
_SETTINGS = """\
set -g remain-on-exit on
set -g remain-on-exit-format ""
set -g status off
set -g default-terminal xterm-256color
set -g history-limit 5000
"""


class TerminalSession:
    """A program that runs at a terminal of its own; a context manager that leaves no process behind.

    Args:
        command: the program and its arguments.
        cwd: where it runs.
        env: all of its environment; `TERM` is tmux's business.
        columns, lines: the size of the terminal.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], columns: int = 80, lines: int = 50
    ) -> None:
        # Not below tmp_path: the path of a socket may have 107 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="tmux-"))
        self._environment = {name: value for name, value in env.items() if name not in ("TMUX", "TMUX_PANE")}
        self._cwd = cwd
        settings = self._directory / "settings"
        settings.write_text(_SETTINGS)
        size = ("-x", str(columns), "-y", str(lines))
        try:
            self._tmux("-f", str(settings), "new-session", "-d", *size, "--", *command)
        except BaseException:
            shutil.rmtree(self._directory)
            raise

    def _tmux(self, *arguments: str) -> str:
        # -u: without it what is not ASCII comes back as underscores in the locale C.
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._directory / "socket"), *arguments],
            cwd=self._cwd,
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return done.stdout

    def _ask(self, variable: str) -> str:
        return self._tmux("display-message", "-p", f"#{{{variable}}}").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if not self.is_over:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                wait_until(lambda: self.is_over, TIMEOUT)
        finally:
            self._tmux("kill-server")
            shutil.rmtree(self._directory)

    @property
    def is_over(self) -> bool:
        """Whether the program has ended and all that it wrote is on the screen."""
        is_dead, server, *code = self._ask("pane_dead} #{pid} #{pane_dead_status}#{pane_dead_signal").split()
        if is_dead == "1" and not code:
            # tmux 3.3 can miss the signal of a child's end while it is asked things (a zombie for good, measured).
            os.kill(int(server), signal.SIGCHLD)
        return bool(is_dead == "1" and code)

    @property
    def pid(self) -> int:
        """The program's process."""
        return int(self._ask("pane_pid"))

    @property
    def screen(self) -> str:
        """What is to be seen now: one line for each of the terminal's, without those below the last text."""
        return _trimmed(self._tmux("capture-pane", "-p"))

    @property
    def styled_screen(self) -> str:
        """The screen with the escape codes of its colours and styles."""
        return _trimmed(self._tmux("capture-pane", "-p", "-e"))

    @property
    def lines(self) -> str:
        """All that was to be seen since the start, with lines that the terminal wrapped put together again."""
        return _trimmed(self._tmux("capture-pane", "-p", "-J", "-S", "-"))

    def wait_for(self, text: str) -> None:
        """Wait until a text is to be seen, in one of the lines as the program wrote them."""
        try:
            # Spaces at the end of a line cannot be told from those that the screen is empty with.
            wait_until(lambda: text.rstrip() in self.lines or self.is_over, TIMEOUT)
        finally:
            assert text.rstrip() in self.lines, self.lines

    def type(self, text: str) -> None:
        """Type a text; a newline is the key Enter."""
        for number, line in enumerate(text.split("\n")):
            if number:
                self.press("Enter")
            if line:
                self._tmux("send-keys", "-l", "--", line)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names, such as `Enter`, `Up`, `C-c`, `C-d`."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, lines: int = 50) -> None:
        """Give the terminal another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def wait(self) -> int:
        """Wait for the program's end and return its exit code, or the negative number of the signal that ended it."""
        wait_until(lambda: self.is_over, TIMEOUT)
        signal_number = self._ask("pane_dead_signal")
        return -int(signal_number) if signal_number else int(self._ask("pane_dead_status"))


def _trimmed(screen: str) -> str:
    return "\n".join(line.rstrip() for line in screen.splitlines()).rstrip("\n")
