"""`wsclient serve` in a process of its own, to be frozen and killed as only a process can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Self

import wsclient

from ..end_to_end.programs import free_port, wait_for_line

__all__ = ["GatewayProcess"]

_ROOT = Path(wsclient.__file__).parents[1]


class GatewayProcess:
    """A gateway that listens on the same port each time it is started; a context manager.

    Args:
        data_dir: where its clients file is.
        *arguments: what stands after `wsclient serve`, besides port and folder.
    """

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "wsclient", "serve", f"--port={self.port}", f"--data-dir={data_dir}"]
        self._command += arguments
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when it listens."""
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen(
            self._command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_line(self._process, self.url)
        # A gateway whose words nobody takes would stop when the pipe is full.
        self._listener = threading.Thread(target=_take_all, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    @property
    def resident_bytes(self) -> int:
        """How much memory it has now."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def freeze(self) -> None:
        """Have it do nothing any more (SIGSTOP); its sockets stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it as the kernel does when memory runs out (SIGKILL), and wait until it is gone; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._listener.join(5)
            assert process.stdout is not None
            process.stdout.close()


def _take_all(output: IO[str]) -> None:
    for _ in output:
        pass
