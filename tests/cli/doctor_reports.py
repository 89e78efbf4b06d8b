"""What `wsclient doctor --json` says, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient.cli.doctor import CHECKS

from .conftest import Run

__all__ = ["NAMES", "TLS", "Examine", "examine", "failed", "skipped"]

NAMES = [check.name for check in CHECKS]
TLS = ["tls", "certificate_chain", "certificate_name", "certificate_expiry"]

Examine = Callable[..., dict[str, Any]]


@pytest.fixture
def examine(run: Run, config: Path) -> Examine:
    """Runs `doctor --json` on the client of `config`, and returns the checks by name, and `code`."""

    def examine_here(*arguments: str) -> dict[str, Any]:
        done = run("doctor", "--json", f"--config={config}", *arguments)
        assert done.err == ""
        report = json.loads(done.out)
        assert [check["check"] for check in report["checks"]] == NAMES
        assert report["ok"] is (done.code == 0)
        return {"code": done.code} | {check["check"]: check for check in report["checks"]}

    return examine_here


def failed(found: dict[str, Any]) -> list[str]:
    """Return the names of the checks that failed."""
    return [name for name in NAMES if found[name]["status"] == "failed"]


def skipped(found: dict[str, Any]) -> list[str]:
    """Return the names of the checks that were skipped."""
    return [name for name in NAMES if found[name]["status"] == "skipped"]
