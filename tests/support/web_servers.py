"""Web servers in processes of their own, and tabs of browsers that read an answer from them as it is written."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import attrs

from .waiting import wait_until

__all__ = ["Served", "Tab", "serving"]

# What a page sends whose server gave it a cookie against forged requests, as Django does.
_COOKIE = {"Cookie": "csrftoken=" + "x" * 32, "X-CSRFToken": "x" * 32}
# What gunicorn, Flask's own server, uvicorn and Django's say when they listen.
_LISTENS = re.compile(r"(?:Listening at:|[Rr]unning on|development server at) (http://[^\s/]+)")


@attrs.frozen
class Served:
    """A web server that runs.

    Attributes:
        url: where it listens, without a path.
        process: its first process; workers are children of it.
        log: what all of them write.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        """Return the JSON that a path answers with."""
        parts = urlsplit(self.url)
        line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            line.request("GET", path)
            return json.loads(line.getresponse().read())
        finally:
            line.close()


@contextmanager
def serving(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[Served]:
    """Run a web server until the end of the block, and then see it end by itself.

    Args:
        command: the server, told to take a free port.
        folder: where it runs, and leaves `log`.
        env: variables besides those of this process.
    """
    log = folder / "log"
    # gunicorn leaves a socket at home.
    env = {**os.environ, "HOME": str(folder), **env}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        url = wait_until(lambda: _url(log, process), 30)
        # uvicorn and Django's own server say that they listen before they do.
        wait_until(lambda: _accepts(url), 30)
        yield Served(url, process, log)
        process.terminate()
        process.wait(20)
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        # Children of a server that ended badly, or that nobody waited for.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _url(log: Path, process: subprocess.Popen[bytes]) -> str | None:
    text = log.read_text(errors="replace")
    assert process.poll() is None, text
    found = _LISTENS.search(text)
    return found and found[1]


def _accepts(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


class Tab:
    """A tab that has sent a prompt; a context manager that closes it.

    Args:
        url: the page's; the prompt goes to `chat` below it.
        prompt: the prompt.
        headers: more of them.

    Attributes:
        status: the answer's.
        headers: the answer's.
    """

    def __init__(self, url: str, prompt: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            body = json.dumps({"prompt": prompt, "model": ""})
            self._line.request(
                "POST", "/chat", body, {"Content-Type": "application/json", **_COOKIE, **(headers or {})}
            )
            self._answer = self._line.getresponse()
        except BaseException:
            self._line.close()
            raise
        self.status = self._answer.status
        self.headers = self._answer.headers

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yield the events as they come."""
        name = ""
        for line in iter(self._answer.readline, b""):
            field, _, value = line.decode("ascii").rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def next(self, name: str) -> Any:
        """Return the data of the next event of a kind; fails when the answer ends before."""
        return next(data for kind, data in self.events() if kind == name)

    def text(self) -> str:
        """Return the whole text; fails when the answer is not a whole one."""
        events = list(self.events())
        assert events, self.status
        assert events[-1][0] == "end", events[-1]
        return "".join(data["text"] for name, data in events if name == "token")

    def close(self) -> None:
        """Close the tab, in the middle of the answer perhaps."""
        self._answer.close()
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
