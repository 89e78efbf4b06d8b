"""Whole programs in processes of their own, and the site that they expect: a gateway, and a config file beside them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["Site", "free_port", "run_program", "wait_for_line"]


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
