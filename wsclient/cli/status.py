"""`status`: what a running gateway is doing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import terminal
from .choosing import check_encryption
from .client_config import DEFAULT_SERVER_URL
from .command import Command, path
from .failures import FAILED, Failure
from .online import find_admin_token, has_admin_token, read_readiness, read_status

__all__ = ["duration", "status"]

# The gateway's name and ours.
_TOTALS = {"logins": "logins", "refusals": "refused", "generations": "generations", "tokens": "tokens"}


@click.command(
    "status",
    cls=Command,
    examples="""
        wsclient status --admin-token-file=admin-token
        wsclient status --server-url=https://gateway.example --json
        wsclient status --server-url=http://127.0.0.1:9464
        """,
)
@click.option(
    "--server-url",
    envvar="WSCLIENT_SERVER_URL",
    default=DEFAULT_SERVER_URL,
    show_default=True,
    help="The gateway, or its metrics port, which asks for no token.",
)
@click.option("--admin-token-file", type=path, help="File of the admin token, if it is not in WSCLIENT_ADMIN_TOKEN.")
@click.option("--allow-insecure", is_flag=True, help="Send the token unencrypted to another machine.")
@click.option("--json", "as_json", is_flag=True, help="Write everything as JSON.")
def status(server_url: str, admin_token_file: Path | None, allow_insecure: bool, as_json: bool) -> int:
    """Show what a running gateway does.

    Everybody is told whether it is ready; clients, generations and models are for who has the admin token. The exit
    code is 0 when the gateway is ready, and 1 when it is not, or cannot be reached.
    """
    if len(server_url.replace(",", " ").split()) > 1:
        text = "WSCLIENT_SERVER_URL names several gateways; say whose status with --server-url"
        raise click.UsageError(text, click.get_current_context(silent=True))
    has_token = has_admin_token(admin_token_file)
    check_encryption(server_url, allow_insecure or not has_token)
    facts = read_status(server_url, find_admin_token(admin_token_file)) if has_token else _read_openly(server_url)
    is_ready = facts.get("ready") is True
    if as_json:
        terminal.show_json(facts)
        return 0 if is_ready else FAILED
    reasons = ", ".join(map(str, facts.get("reasons") or ())) or "it does not say why"
    terminal.show_line("The gateway is ready." if is_ready else f"The gateway is not ready: {reasons}.", "bold")
    try:
        _show(server_url, facts)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Failure(f"{server_url} says what this version does not understand; try --json") from error
    if not has_token and "server" not in facts:
        terminal.show_line(
            "For clients, generations and models give --admin-token-file, or ask the metrics port.", to_stderr=True
        )
    return 0 if is_ready else FAILED


def _read_openly(server_url: str) -> dict[str, Any]:
    facts = read_readiness(server_url)
    try:
        return read_status(server_url, None)
    except Failure:
        # Only the metrics port tells more without the token.
        return facts


def _show(server_url: str, facts: Mapping[str, Any]) -> None:
    rows = [("url", server_url)]
    if "server" in facts:
        server, backend, generations = facts["server"], facts["backend"], facts["generations"]
        totals, clients = facts["totals"], facts["clients"]
        model = f", default model {backend['defaultModel']}" if backend["defaultModel"] else ""
        rows += [
            ("version", f"{server['version']} (Python {server['python']})"),
            ("up for", f"{duration(facts['uptime'])}, since {facts['startedAt']}"),
            ("backend", f"{backend['name']}{model}"),
            ("models", ", ".join(map(str, facts["models"])) or "none"),
            *([("store", str(facts["store"]))] if facts.get("store") else []),
            ("clients", f"{len(clients)} connected, {facts['registered']} registered"),
            ("generations", f"{generations['running']} running, {generations['waiting']} waiting"),
            ("since then", ", ".join(f"{what} {totals[name]}" for name, what in _TOTALS.items())),
        ]
    terminal.show_facts(rows)
    if shown := facts.get("clients"):
        columns = ("name", "id", "connections", "generations")
        terminal.show_table(
            [column.capitalize() if column != "id" else "ID" for column in columns],
            [[str(client[column] if client[column] is not None else "") for column in columns] for client in shown],
        )


def duration(seconds: float) -> str:
    """Return a time in words, in its two largest units: `3 d 4 h`, `5 min 6 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
        left %= length
    return " ".join(parts[:2])
