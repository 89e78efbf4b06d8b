"""A real nginx for tests, with the configuration from `examples/deploy/` on ports of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from .waiting import wait_until

__all__ = ["CONFIGURATION", "NginxServer", "skip_without_nginx"]

CONFIGURATION = Path(__file__).parents[2] / "examples" / "deploy" / "nginx.conf"
# Debian has it where not every user's path leads.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def skip_without_nginx() -> None:
    """Skip the test on a machine without nginx."""
    if shutil.which("nginx", path=_PATH) is None:
        pytest.skip("there is no nginx on this machine (Debian's package: nginx)")


class NginxServer:
    """nginx in front of two gateways; a context manager.

    Args:
        folder: where its files go.
        port: where it listens, with TLS.
        upstreams: the gateways' ports.
        certificate: a PEM file with the certificate and its key.
    """

    def __init__(self, folder: Path, port: int, upstreams: tuple[int, int], certificate: Path) -> None:
        self.url = f"wss://localhost:{port}"
        text = CONFIGURATION.read_text(encoding="utf-8")
        for theirs, ours in {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/nginx/tls/fullchain.pem": str(certificate),
            "/etc/nginx/tls/privkey.pem": str(certificate),
            "gateway-1:3000": f"127.0.0.1:{upstreams[0]}",
            "gateway-2:3000": f"127.0.0.1:{upstreams[1]}",
            # Folders that only root's nginx could make.
            "http {": "http {\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy"))
            + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("fastcgi", "uwsgi", "scgi")),
        }.items():
            assert theirs in text, f"{CONFIGURATION} has no {theirs!r} any more"
            text = text.replace(theirs, ours)
        self._file = folder / "nginx.conf"
        self._file.write_text(text)
        self._log = folder / "error.log"
        self._command = ["nginx", "-c", str(self._file), "-p", str(folder), "-e", str(self._log)]
        self._command += ["-g", f"daemon off; pid {folder}/nginx.pid;"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env={**os.environ, "PATH": _PATH})
        pid_file = self._file.with_name("nginx.pid")
        # Written after the sockets listen.
        wait_until(lambda: pid_file.exists() or self._process.poll() is not None, 10.0)  # type: ignore[union-attr]
        assert self._process.poll() is None, self._log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # SIGTERM ends nginx at once, open connections or not.
            self._process.terminate()
            self._process.wait(10)

    def check(self) -> subprocess.CompletedProcess[str]:
        """Have nginx check the configuration."""
        command = [*self._command, "-t"]
        return subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True, timeout=20)
