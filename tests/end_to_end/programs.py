"""Whole programs in processes of their own, and the site that they expect: a gateway, and a config file beside them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["Site", "expect_line", "free_port", "program", "run_program", "running", "wait_for_line"]

_START = """
import os, signal, sys, threading, time
from wsclient import WSClient
url, client_id, key = sys.argv[1:]
client = WSClient(url, client_id=client_id, private_key_path=key)
"""


@attrs.frozen
class Site:
    """A folder with `keys/my-client_config.json`, and the gateway that it leads to."""

    folder: Path
    url: str
    client_id: str

    @classmethod
    def make(cls, folder: Path, url: str, client_id: str, private_key_pem: str) -> Site:
        """Write the files that the README's quick start leaves behind."""
        keys = folder / "keys"
        keys.mkdir()
        key = keys / "my-client_key.pem"
        key.touch(mode=0o600)
        key.write_text(private_key_pem)
        config = {
            "clientId": client_id,
            "name": "my-client",
            "privateKeyPath": str(key),
            "serverUrl": url,
            "signatureAlgorithm": "SHA256",
        }
        (keys / "my-client_config.json").write_text(json.dumps(config, indent=2))
        return cls(folder, url, client_id)


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def run_program(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, timeout: float = 40
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed."""
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Read a program's output until a line has this part; fail when the program ends before."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if part in line:
            return
    raise AssertionError(f"the program ended without a line with {part!r}: {''.join(seen)}")


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program whose streams are pipes; it is killed at the end of the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def program(text: str, url: str, client_id: str, key_path: Path, *interpreter: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that finds a client in `client`."""
    with running([sys.executable, *interpreter, "-c", _START + text, url, client_id, str(key_path)]) as process:
        yield process


def expect_line(process: subprocess.Popen[str], expected: str) -> None:
    """Read a program's next line, which must be this one."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"{expected}\n", line + process.communicate()[1]
