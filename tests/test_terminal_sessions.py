"""The terminal that tests of the command line have. Takes 2 s."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .support.terminal_sessions import TerminalSession, needs_tmux

pytestmark = needs_tmux


def session(tmp_path: Path, script: str, columns: int = 80, lines: int = 50) -> TerminalSession:
    command = ["sh", "-c", script]
    return TerminalSession(command, cwd=tmp_path, env=dict(os.environ), columns=columns, lines=lines)


def test_the_screen_is_as_wide_as_asked_and_the_lines_are_as_written(tmp_path: Path) -> None:
    with session(tmp_path, f"echo {'x' * 30}; echo äöü 漢字", columns=20) as terminal:
        assert terminal.wait() == 0
        assert terminal.screen == f"{'x' * 20}\n{'x' * 10}\näöü 漢字"
        assert terminal.lines == f"{'x' * 30}\näöü 漢字"


def test_lines_that_have_left_the_screen_are_not_lost(tmp_path: Path) -> None:
    with session(tmp_path, "seq 200", lines=10) as terminal:
        assert terminal.wait() == 0
        assert terminal.lines.split() == [str(number) for number in range(1, 201)]
        assert terminal.screen.split()[-1] == "200"


def test_what_is_typed_is_read_and_the_exit_code_is_known(tmp_path: Path) -> None:
    with session(tmp_path, 'printf "Name? "; read name; echo "Hello $name"; exit 7') as terminal:
        terminal.wait_for("Name? ")
        terminal.type("-- you; there\n")
        assert terminal.wait() == 7
        assert terminal.lines == "Name? -- you; there\nHello -- you; there"


def test_ctrl_c_is_a_key(tmp_path: Path) -> None:
    with session(tmp_path, "echo ready; exec sleep 60") as terminal:
        terminal.wait_for("ready")
        terminal.press("C-c")
        assert terminal.wait() == -signal.SIGINT


def test_styles_can_be_seen(tmp_path: Path) -> None:
    with session(tmp_path, r"printf '\033[1mbold\033[0m'") as terminal:
        terminal.wait()
        assert terminal.screen == "bold"
        assert "\x1b[1mbold" in terminal.styled_screen


def test_a_text_that_never_comes_shows_what_came(tmp_path: Path) -> None:
    with session(tmp_path, "echo something else") as terminal, pytest.raises(AssertionError, match="something else"):
        terminal.wait_for("this")


def test_a_program_that_still_runs_ends_with_its_terminal(tmp_path: Path) -> None:
    with session(tmp_path, "trap '' HUP; echo \"pid $$.\"; exec sleep 60") as terminal:
        terminal.wait_for(".")
        pid = int(terminal.lines.strip("pid ."))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
