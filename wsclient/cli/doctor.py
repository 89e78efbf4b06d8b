"""`wsclient doctor`: the seed's troubleshooting chapter as a program."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..version import __version__
from . import terminal
from .command import Command, path
from .connecting import CONNECTION_SECTION, add_connection_flags
from .doctor_findings import Check, Finding, Status, examine
from .doctor_gateway import (
    check_challenge_comes,
    check_clock,
    check_generation,
    check_latency,
    check_login,
    check_models,
    check_upgrade,
    check_versions,
)
from .doctor_keys import check_key, check_key_file, check_registration
from .doctor_network import check_chain, check_dns, check_expiry, check_name, check_tcp, check_tls
from .doctor_settings import Patient, check_algorithm, check_client_id, check_settings, check_url
from .failures import FAILED, INTERRUPTED

__all__ = ["CHECKS", "doctor"]

_CERTIFICATE = ("certificate_chain", "certificate_name", "certificate_expiry")

CHECKS: tuple[Check[Patient], ...] = (
    Check("settings", "settings", check_settings),
    Check("url", "URL", check_url, ("settings",)),
    Check("client_id", "client id", check_client_id, ("settings",)),
    Check("key_file", "key file", check_key_file, ("settings",)),
    Check("key", "key", check_key, ("key_file",)),
    Check("registration", "registration", check_registration, ("client_id",)),
    Check("algorithm", "signature", check_algorithm, ("settings",)),
    Check("dns", "DNS", check_dns, ("url",)),
    Check("tcp", "TCP", check_tcp, ("dns",)),
    Check("tls", "TLS", check_tls, ("tcp",)),
    Check("certificate_chain", "TLS issuer", check_chain, ("tls",)),
    Check("certificate_name", "TLS name", check_name, ("certificate_chain",)),
    Check("certificate_expiry", "TLS expiry", check_expiry, ("certificate_chain",)),
    Check("upgrade", "WebSocket", check_upgrade, ("tcp", "tls", *_CERTIFICATE)),
    Check("challenge", "challenge", check_challenge_comes, ("upgrade",)),
    Check("login", "login", check_login, ("challenge", "client_id", "key", "registration", "algorithm")),
    Check("models", "models", check_models, ("login",)),
    Check("generation", "generation", check_generation, ("models",)),
    Check("latency", "latency", check_latency, ("login",)),
    Check("clock", "clock", check_clock, ("tcp", "tls", *_CERTIFICATE)),
    Check("versions", "versions", check_versions, is_quick=True),
)
"""Every check, in the order of its line; the names are those of `--json`."""

_TITLE_WIDTH = max(len(check.title) for check in CHECKS)
_TITLES = {check.name: check.title for check in CHECKS}

_MARKS = {Status.OK: "\N{CHECK MARK}", Status.FAILED: "\N{BALLOT X}", Status.SKIPPED: "-"}
_ASCII_MARKS = {Status.OK: "ok", Status.FAILED: "NO", Status.SKIPPED: "--"}
_STYLES = {Status.OK: "green", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


@click.command(
    "doctor",
    cls=Command,
    sections=CONNECTION_SECTION,
    examples="""
        wsclient doctor --config=keys/my-client_config.json
        wsclient doctor --config=me_config.json --clients-file=/srv/clients.json
        wsclient doctor --json | jq '.checks[] | select(.status == "failed")'
        """,
)
@click.option("--json", "as_json", is_flag=True, help="Write everything as JSON, when all is done.")
@click.option(
    "--clients-file",
    type=path,
    help="The gateway's clients file, if it is at hand  [./data/authorized_clients.json when there is one]",
)
@click.option("--model", metavar="NAME", help="The model to try; the server's default when left out.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything together.",
)
@add_connection_flags
def doctor(
    as_json: bool,
    clients_file: Path | None,
    model: str | None,
    timeout: float,
    config: Path | None,
    server_url: tuple[str, ...],
    client_id: str | None,
    key: Path | None,
    allow_insecure: bool,
) -> int:
    """Find out why it does not work: check everything between here and an answer of a model.

    Each line is passed, or failed with what to do, or skipped with the reason; what needs something that failed is
    skipped. It logs in and has a model write four tokens. Exit code 1 when a check failed.
    """
    given = {"server_url": server_url, "client_id": client_id, "private_key_path": key and str(key)}
    flags: dict[str, Any] = {name: value for name, value in given.items() if value}
    if allow_insecure:
        flags["allow_insecure"] = True
    deadline = time.monotonic() + timeout
    patient = Patient(config=config, flags=flags, clients_file=clients_file, model=model, deadline=deadline)
    try:
        findings, is_interrupted = examine(
            CHECKS, patient, lambda: patient.deadline, _note_nothing if as_json else _show
        )
    finally:
        patient.leave()
    failed = [finding for finding in findings if finding.status is Status.FAILED]
    if as_json:
        terminal.show_json(_to_json(findings, is_interrupted))
    else:
        terminal.show_line(_summary(findings, failed, is_interrupted), "bold")
    return INTERRUPTED if is_interrupted else FAILED if failed else 0


def _note_nothing(_: Finding) -> None:
    """With `--json` everything is shown at the end."""


def _to_json(findings: Sequence[Finding], is_interrupted: bool) -> dict[str, Any]:
    return {
        "ok": not is_interrupted and all(finding.status is not Status.FAILED for finding in findings),
        "interrupted": is_interrupted,
        "version": __version__,
        "checks": [finding.to_json() for finding in findings],
    }


def _summary(findings: Sequence[Finding], failed: Sequence[Finding], is_interrupted: bool) -> str:
    passed = sum(finding.status is Status.OK for finding in findings)
    skipped = len(findings) - passed - len(failed)
    counts = f"{passed} passed, {len(failed)} failed, {skipped} skipped"
    if is_interrupted:
        return f"Interrupted: {counts}."
    return f"{counts}; begin with the first that failed." if failed else f"{counts}: all is well."


def _show(finding: Finding) -> None:
    marks = _MARKS if _takes_marks() else _ASCII_MARKS
    text = f"{finding.text}. {finding.fix}." if finding.fix else finding.text
    terminal.show_item(
        marks[finding.status], _STYLES[finding.status], f"{_TITLES[finding.check]:<{_TITLE_WIDTH}}", text
    )


def _takes_marks() -> bool:
    # Python takes LC_ALL=C for UTF-8, too; whoever sets it wants ASCII.
    is_plain = os.environ.get("LC_ALL") in ("C", "POSIX")
    return not is_plain and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
