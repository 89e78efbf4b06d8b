"""Transcripts under test: what a user sees of a command, compared with files in `tests/cli/transcripts/`.

The same commands run at a terminal of 80 columns, at one of 120, and in a pipe (the fixture `transcript`). What differs
from run to run (ids, times, fingerprints, ports) is replaced by a placeholder of the same length, so that
columns and line breaks are those of the screen. After a change that is meant, make the files anew and read the diff:

    WSCLIENT_UPDATE_TRANSCRIPTS=1 python -m pytest tests/cli -k transcript
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.cells import cell_len

import wsclient

from ..support.terminal_sessions import TerminalSession
from .programs import Finished, Program, environment, run_program

__all__ = ["Transcript"]

_DIRECTORY = Path(__file__).with_name("transcripts")
_UPDATE = "WSCLIENT_UPDATE_TRANSCRIPTS"
# Read here: tests run without the variables of that prefix.
_IS_UPDATING = bool(os.environ.get(_UPDATE))

# The first that matches wins.
_VARYING = {
    "fingerprint": r"\b[0-9a-f]{4}(?::[0-9a-f]{4}){7}\b",
    "time": r"(?<!\d)\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d[.-]\d{3}Z",
    "id": r"\b[0-9a-f]{32}(?![0-9a-f])",
    "port": r"(?<=127\.0\.0\.1:)\d{5}\b",
    "version!": rf"\b{re.escape(wsclient.__version__)}\b",
}


class Transcript:
    """What is to be seen of some commands, one after the other.

    Args:
        cwd: where they run.
        columns: the width of their terminal; 0 for pipes.
        env: variables beside `environment()`.

    Attributes:
        columns, env: the same.
        varying: regular expressions of what else differs from run to run, by the name of its placeholder. A name that
            ends with an exclamation mark stands for itself, whatever the length was.
    """

    def __init__(self, cwd: Path, columns: int, env: Mapping[str, str] | None = None) -> None:
        self.columns = columns
        self.varying: dict[str, str] = {}
        self._cwd = cwd
        self.env = dict(env or {})
        self._text = ""

    def run(
        self, *arguments: str, answers: Sequence[tuple[str, str]] = (), stdin: str = "", interrupted_at: str = ""
    ) -> str:
        """Run `wsclient` to its end, and return what was to be seen, as it was.

        Args:
            arguments: what stands after `wsclient`.
            answers: at a terminal only: texts to wait for, and what is typed then.
            stdin: in a pipe only.
            interrupted_at: a text on stdout; when it is there, Ctrl-C ends the command.
        """
        if self.columns:
            seen, code = self._run_at_terminal(arguments, answers, interrupted_at)
            shown = _wrapped(self.with_placeholders(seen), self.columns)
        else:
            done = self._run_in_a_pipe(arguments, stdin, interrupted_at)
            seen, code = done.out + done.err, done.code
            shown = self.with_placeholders(done.out)
            if done.err:
                shown += "--- stderr\n" + self.with_placeholders(done.err)
        command = self.with_placeholders(shlex.join(["wsclient", *arguments]))
        self._text += f"$ {command}\n{shown}" + ("\n" if shown and not shown.endswith("\n") else "")
        self._text += f"--- exit {code}\n\n"
        return seen

    def _run_in_a_pipe(self, arguments: Sequence[str], stdin: str, interrupted_at: str) -> Finished:
        if not interrupted_at:
            return run_program(arguments, self._cwd, self.env, stdin)
        with Program(*arguments, cwd=self._cwd, env=self.env) as program:
            program.type(stdin)
            program.wait_for(interrupted_at)
            program.send_signal(signal.SIGINT)
            code = program.wait()
        return Finished(code, program.out, program.err)

    def _run_at_terminal(
        self, arguments: Sequence[str], answers: Sequence[tuple[str, str]], interrupted_at: str
    ) -> tuple[str, int]:
        command = [sys.executable, "-m", "wsclient", *arguments]
        env = environment(**self.env)
        with TerminalSession(command, cwd=self._cwd, env=env, columns=self.columns) as session:
            for question, answer in answers:
                session.wait_for(question)
                session.type(answer)
            if interrupted_at:
                session.wait_for(interrupted_at)
                session.press("C-c")
            code = session.wait()
            return session.lines, code

    def with_placeholders(self, text: str) -> str:
        """Return a text with a placeholder of the same length for whatever differs from run to run."""
        for name, pattern in (self.varying | _VARYING).items():
            text = re.sub(pattern, lambda found, name=name: _placeholder(name, found[0]), text)  # type: ignore[misc]
        return text

    def check(self, name: str) -> None:
        """Compare with the file of a name, or write it when `WSCLIENT_UPDATE_TRANSCRIPTS` is set."""
        path = _DIRECTORY / f"{name}.{self.columns or 'pipe'}.txt"
        text = self._text.rstrip("\n") + "\n"
        if _IS_UPDATING:
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"there is no {path}; make it with {_UPDATE}=1 and read it"
        expected = path.read_text(encoding="utf-8")
        assert text == expected, f"{path.name} says something else; if that is meant, make it anew with {_UPDATE}=1"


def _placeholder(name: str, text: str) -> str:
    if name.endswith("!"):
        return f"<{name[:-1]}>"
    return f"<{name}>"[: len(text)].ljust(len(text), ".")


def _wrapped(text: str, columns: int) -> str:
    """Return the text as the terminal's lines are: broken wherever it is too long."""
    lines = []
    for line in text.split("\n"):
        broken, width = "", 0
        for character in line:
            if width + cell_len(character) > columns:
                lines.append(broken)
                broken, width = "", 0
            broken += character
            width += cell_len(character)
        lines.append(broken)
    return "\n".join(lines)
