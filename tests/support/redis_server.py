"""A real Redis for tests, in a process of its own: to be stopped, frozen and filled as only a process can be."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from .waiting import wait_until

__all__ = ["RedisServer", "skip_without_redis"]


def skip_without_redis() -> None:
    """Skip the test on a machine without Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on this machine (Debian's package: redis-server)")


class RedisServer:
    """A Redis on a port of 127.0.0.1 and a socket, which stay the same when it is stopped and started.

    A context manager; what it holds is in memory and, from a stop in good order on, in a file.

    Args:
        *arguments: what stands after `redis-server`, besides port, folder and socket.
        password: what it asks for.
    """

    def __init__(self, *arguments: str, password: str | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]
        self.password = password
        self._arguments = arguments + (("--requirepass", password) if password else ())
        # Not pytest's folder: the path of a socket may have about a hundred characters.
        self._folder = tempfile.TemporaryDirectory(prefix="wsclient-redis-")
        self.socket_path = Path(self._folder.name) / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """The URL, with the password if there is one."""
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of it, for the test's own questions; a context manager."""
        return redis.Redis(port=self.port, password=self.password, decode_responses=True, **options)

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._folder.name]
        command += ["--unixsocket", str(self.socket_path), "--save", "3600 1", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        wait_until(self._answers, 10.0)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server has ended"
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def freeze(self) -> None:
        """Have it answer nothing any more (SIGSTOP); its sockets stay, and new connections are taken by the kernel."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it in good order; what it holds is there again after `start`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and forget what it held since the last stop; idempotent."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)
