"""Lines that somebody types at a terminal, with a history that outlives the chat."""

from __future__ import annotations

import importlib
import json
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from . import terminal

__all__ = ["History", "LineInput", "quiet_keyboard", "state_folder"]

_MAX_LINES = 1000
_MARK = '"""'


def state_folder() -> Path:
    """Return where the program keeps what is worth keeping between two runs, by the XDG Base Directory Specification.

    Raises:
        RuntimeError: nobody knows where this user is at home.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    return base / "wsclient"


class History:
    """What was typed, in a file that only its owner can read: a JSON string a line, for a prompt can have several.

    Args:
        path: the file; need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[str]:
        """Return the latest thousand entries, oldest first; what is no entry is skipped.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines[-_MAX_LINES:]:
            with suppress(ValueError):
                entries.append(json.loads(line))
        if len(lines) > 2 * _MAX_LINES:
            self._shorten(lines[-_MAX_LINES:])
        return [entry for entry in entries if isinstance(entry, str)]

    def add(self, entry: str) -> None:
        """Append an entry.

        Raises:
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # One write: another chat may append to the same file.
        with open(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, 0o600)
            file.write(json.dumps(entry).encode() + b"\n")

    def _shorten(self, lines: list[bytes]) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.writelines(line + b"\n" for line in lines)
        os.replace(draft, self._path)


class LineInput:
    """Reads what somebody types, with the line editing and the history of readline, where there is one.

    Args:
        history: where to keep what is typed, `None` for nowhere.
        words: what the tabulator completes at the beginning of a line.
    """

    def __init__(self, history: History | None, words: list[str]) -> None:
        self._history = history
        self._readline: ModuleType | None = None
        # Some builds of Python are without it; with stdout elsewhere Python does not use it either.
        if terminal.is_terminal(sys.stdout):
            with suppress(ImportError):
                self._readline = importlib.import_module("readline")
        if self._readline is not None:
            self._prepare(self._readline, words)
        if history is not None:
            self._load(history)

    def _prepare(self, readline: ModuleType, words: list[str]) -> None:
        readline.clear_history()
        readline.set_auto_history(False)
        readline.set_completer_delims(" ")
        readline.set_completer(lambda text, number: _completion(readline.get_line_buffer(), words, number))
        # Where it is libedit, that one's own language.
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")

    def _load(self, history: History) -> None:
        try:
            entries = history.read()
        except OSError as error:
            self._give_up(error)
            return
        if self._readline is not None:
            for entry in entries:
                self._readline.add_history(terminal.clean(entry))

    def read(self) -> str:
        """Return what is typed next; text between two lines of three quotation marks is taken as one.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        text = self._read_line("> ")
        if text.lstrip().startswith(_MARK):
            text = self._read_block(text.lstrip().removeprefix(_MARK))
        if text.strip():
            self._remember(text)
        return text

    def _read_block(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(_MARK):
            lines.append(self._read_line(". "))
        lines[-1] = lines[-1].rstrip().removesuffix(_MARK)
        return "\n".join(lines).strip("\n")

    def _read_line(self, prompt: str) -> str:
        if self._readline is not None:
            return input(prompt)
        # input() would write the prompt to stdout, which may be a file.
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _remember(self, text: str) -> None:
        if self._readline is not None:
            self._readline.add_history(text)
        if self._history is not None:
            try:
                self._history.add(text)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._history = None
        terminal.warn(f"no history is kept: {error.filename}: {error.strerror}")


def _completion(line: str, words: list[str], number: int) -> str | None:
    matches = [word for word in words if word.startswith(line)] if line.startswith("/") else []
    return matches[number] if number < len(matches) else None


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Have what is typed meanwhile not shown, between the lines of an answer; the next line that is read has it."""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        # No terminal, so nobody types.
        yield
        return
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
