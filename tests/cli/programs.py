"""`wsclient` as a process of its own: signals, pipes and terminals are the operating system's there."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

import wsclient

from ..support.waiting import wait_until

__all__ = ["Program", "environment", "run_program"]

TIMEOUT = 20.0
_ROOT = Path(wsclient.__file__).parents[1]
_SETTINGS = {
    "HOST",
    "PORT",
    "DATA_DIR",
    "LOG_LEVEL",
    "AUTH_TIMEOUT_MS",
    "MAX_AUTH_ATTEMPTS",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
    "LINES",
}


def environment(**given: str) -> dict[str, str]:
    """Return the environment of a user who has set nothing, with no Ollama anywhere, and `given`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WSCLIENT_", "OLLAMA_", "OPENAI_", "DEFAULT_", "PYTHON")) and name not in _SETTINGS
    }
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return {**inherited, "PYTHONPATH": path, "OLLAMA_HOST": "127.0.0.1:1", "TERM": "xterm", **given}


class Program:
    """A running `wsclient`; a context manager that leaves no process behind.

    Args:
        arguments: what stands after `wsclient`.
        cwd: where it runs.
        env: variables beside `environment()`.
        columns: the width of its terminal; 0 for pipes instead of a terminal.
        stdout: a descriptor to write to instead of a pipe.

    Attributes:
        pid: the process's.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        columns: int = 0,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self._output: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        self._command = [sys.executable, "-m", "wsclient", *arguments]
        self._environment = environment(**(env or {}))
        self._master = -1
        streams: dict[str, int] = {}
        if columns:
            self._process = self._start_at_terminal(cwd, columns)
            streams["out"] = self._master
        else:
            self._process = self._start(cwd, subprocess.PIPE, stdout, subprocess.PIPE)
            pipes = {"out": self._process.stdout, "err": self._process.stderr}
            streams |= {name: pipe.fileno() for name, pipe in pipes.items() if pipe is not None}
        self.pid = self._process.pid
        # Daemons: a test that fails must not wait for them.
        self._readers = [
            threading.Thread(target=self._read, args=(descriptor, self._output[name]), daemon=True)
            for name, descriptor in streams.items()
        ]
        for reader in self._readers:
            reader.start()

    def _start(self, cwd: Path, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=cwd,
            env=self._environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def _start_at_terminal(self, cwd: Path, columns: int) -> subprocess.Popen[bytes]:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        try:
            return self._start(cwd, slave, slave, slave)
        finally:
            os.close(slave)

    def _read(self, descriptor: int, output: bytearray) -> None:
        try:
            while data := os.read(descriptor, 65536):
                output.extend(data)
        except OSError:
            # How the end of a terminal looks.
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._master >= 0:
            os.close(self._master)

    @property
    def out(self) -> str:
        """What it has written to stdout, or to its terminal, so far."""
        return self._output["out"].decode()

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._output["err"].decode()

    def wait_for(self, text: str) -> None:
        """Wait until it has written a text to stdout."""
        wait_until(lambda: text in self.out or self._process.poll() is not None, TIMEOUT)
        assert text in self.out, (self.out, self.err)

    def wait_for_file(self, path: Path, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until it has written a text to a file."""

        def has_it() -> bool:
            return path.exists() and text in path.read_text()

        wait_until(lambda: has_it() or self._process.poll() is not None, timeout)
        assert has_it(), (self.out, self.err)

    def type(self, text: str) -> None:
        """Type at its terminal, or write to its stdin."""
        if self._master >= 0:
            os.write(self._master, text.encode())
        else:
            assert self._process.stdin is not None
            self._process.stdin.write(text.encode())
            self._process.stdin.close()

    def write(self, text: str) -> None:
        """Write to its stdin, which stays open."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        code = self._process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)
        return code


@attrs.frozen
class Finished:
    """A `wsclient` that has ended."""

    code: int
    out: str
    err: str


def run_program(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, text: str = "", columns: int = 0
) -> Finished:
    """Run `wsclient` to its end.

    Args:
        arguments, cwd, env, columns: see `Program`.
        text: its stdin.
    """
    with Program(*arguments, cwd=cwd, env=env, columns=columns) as program:
        if not columns:
            program.type(text)
        code = program.wait()
    return Finished(code, program.out, program.err)
