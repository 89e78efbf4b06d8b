"""Count a variant's receive and futex calls with strace, which slows it down: for calls a message, not for speed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["count_calls", "why_not"]

_RECEIVE = ("recvfrom", "recvmsg", "read", "poll", "futex")


def why_not() -> str:
    """Return why calls cannot be counted here; empty when they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    run = subprocess.run(["strace", "-c", "-f", "true"], capture_output=True, text=True)
    return "" if run.returncode == 0 else f"strace does not work here: {run.stderr.strip()[:80]}"


def count_calls(command: list[str], cwd: Path) -> int:
    """Run a command to its end and return how many receive, poll and futex calls it and its threads made.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="wsclient-strace-") as out:
        trace = ["strace", "-c", "-f", "-o", out.name, "-e", f"trace={','.join(_RECEIVE)}"]
        subprocess.run([*trace, *command], cwd=cwd, capture_output=True, text=True, check=True)
        # "% time  seconds  usecs/call  calls  [errors]  syscall"
        rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", Path(out.name).read_text(), re.MULTILINE)
    return sum(int(calls) for calls, name in rows if name in _RECEIVE)
