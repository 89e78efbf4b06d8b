"""A real JupyterLab server, and a kernel of it as its web page uses one: over REST and a WebSocket."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket

from ..end_to_end.programs import free_port
from .kernels import Cell, kernel_environment
from .waiting import wait_until

__all__ = ["JupyterLab", "LabKernel"]

_STARTS_WITHIN = 60.0
_ANSWERS_WITHIN = 30.0


class JupyterLab:
    """A server on a free port, with a token; a context manager. It takes about 3 s to start.

    Args:
        folder: what its users see, and where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.token = uuid.uuid4().hex

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={self.port}"]
        settings = [
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self._folder}",
            f"--IdentityProvider.token={self.token}",
        ]
        self._log = open(self._folder / "jupyterlab.log", "w+")
        self._process = subprocess.Popen(
            [*command, *settings], env=kernel_environment(self._folder), stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(self._answers, _STARTS_WITHIN)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"JupyterLab ended: {(self._folder / 'jupyterlab.log').read_text()}")
        try:
            return bool(self.ask("GET", "/api/status"))
        except OSError:
            return False

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to its REST API, and return the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN) as answer:
            return json.loads(answer.read() or b"null")

    def start_kernel(self) -> LabKernel:
        """Start a kernel and connect to it; it ends with the server."""
        id = self.ask("POST", "/api/kernels", {"name": "python3"})["id"]
        return LabKernel(self, id)


class LabKernel:
    """A kernel of the server; a context manager.

    Args:
        server: the server.
        id: the kernel's id.
    """

    def __init__(self, server: JupyterLab, id: str) -> None:
        self._server = server
        self._id = id
        self._session = uuid.uuid4().hex
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/api/kernels/{id}/channels?session_id={self._session}",
            header=[f"Authorization: token {server.token}"],
            timeout=_ANSWERS_WITHIN,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        return self.finish(self.begin(code))

    def begin(self, code: str) -> tuple[str, Cell]:
        """Begin to run a cell."""
        id = uuid.uuid4().hex
        header = {
            "msg_id": id,
            "msg_type": "execute_request",
            "session": self._session,
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        return id, Cell()

    def finish(self, begun: tuple[str, Cell], until: Callable[[Cell], bool] = lambda cell: False) -> Cell:
        """Take what comes from a cell to its end, or until something is seen there."""
        id, cell = begun
        is_idle = False
        while not until(cell) and not (is_idle and cell.status):
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") != id:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_reply":
                cell.status = content["status"]
            elif kind == "status":
                is_idle = content["execution_state"] == "idle"
            else:
                cell.take(kind, content)
        return cell

    def interrupt(self) -> None:
        """Press the stop button."""
        self._server.ask("POST", f"/api/kernels/{self._id}/interrupt")

    def shut_down(self) -> None:
        """Shut the kernel down."""
        self._server.ask("DELETE", f"/api/kernels/{self._id}")
