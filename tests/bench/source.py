"""Start what the bench reads from: `source.c` where there is a C compiler, `python_source.py` where not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from wsclient.keys import generate_key

__all__ = ["Source", "running_source"]

_HERE = Path(__file__).parent
ROOT = _HERE.parent.parent


@attrs.frozen
class Source:
    """A source that runs.

    Attributes:
        what: how it was made, for the table.
        url: where WebSocket clients connect.
        tls_url: the same with TLS; empty when it has none.
        http_url: where Ollama clients connect.
        certificate: what clients of `tls_url` must trust, a PEM file.
        key: a private key to log in with, a PEM file.
    """

    what: str
    url: str
    tls_url: str
    http_url: str
    certificate: str
    key: str


@contextlib.contextmanager
def running_source(*, in_c: bool = True) -> Iterator[Source]:
    """Start a source for as long as the context is open.

    Args:
        in_c: whether to use the C source when it can be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="wsclient-bench-") as name:
        folder = Path(name)
        key = folder / "key.pem"
        key.touch(mode=0o600)
        key.write_bytes(generate_key("rsa", 2048).export_key("PEM", pkcs=8))
        certificate = _make_certificate(folder)
        command, what = (in_c and _compile(folder)) or (
            [sys.executable, "-m", "tests.bench.python_source"],
            "Python, for want of a C compiler: round trips and large messages wait for it",
        )
        process = subprocess.Popen(
            [*command, *([certificate] if certificate else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            plain, secure = process.stdout.readline().split()
            tls_url = f"wss://127.0.0.1:{secure}" if secure != "0" else ""
            here = f"127.0.0.1:{plain}"
            yield Source(what, f"ws://{here}", tls_url, f"http://{here}", certificate, str(key))
        finally:
            process.stdin.close()
            process.stdout.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _compile(folder: Path) -> tuple[list[str], str] | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = str(folder / "source")
    for flags, libraries, what in (
        (["-DWITH_TLS"], ["-lssl", "-lcrypto"], "C, TLS by OpenSSL"),
        ([], [], "C, without TLS for want of OpenSSL's headers"),
    ):
        command = [compiler, "-O2", "-pthread", *flags, str(_HERE / "source.c"), "-o", program, *libraries]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return [program], what
    return None


def _make_certificate(folder: Path) -> str:
    try:
        from tests.support.certificates import make_certificate
    except ImportError:
        return ""
    return str(make_certificate(folder).file)
