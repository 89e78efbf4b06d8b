"""Commands about registered clients: `register-client`, `list-clients`, `revoke-client`.

They work on the clients file itself, or on the store that several gateways share, and a running gateway notices what
they change within a second; `register-client --online` asks a gateway elsewhere.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import click

from ..core.auth import hash_for_algorithm
from ..gateway.registry import ClientRegistry, RegisteredClient, Revocation
from ..keys import check_key_name, fingerprint, load_public_key, public_pem
from . import terminal
from .choosing import (
    ask_or_refuse,
    check_encryption,
    check_mode,
    chosen_client,
    client_argument,
    force_option,
    registered_client,
)
from .client_config import DEFAULT_SERVER_URL, ClientConfig, config_path, read_client_id
from .command import Command, path
from .failures import Failure, refusing_wrong_values
from .online import Conflict, find_admin_token, register_online
from .registries import Whereabouts, registry_options, whereabouts

__all__ = ["list_clients", "register_client", "revoke_client", "time_ago"]

_REPLACE = "Revoke the old one and register this one instead?"

# --- register-client --------------------------------------------------------------------------------------------------


@click.command(
    "register-client",
    cls=Command,
    examples="""
        wsclient register-client --name=my-client --key-path=./keys/my-client_key.pub
        wsclient register-client --name=me --key-path=./me_key.pub --algorithm=SHA512
        wsclient register-client --name=me --key-path=./new-me_key.pub --force
        wsclient register-client --online --name=me --key-path=./me_key.pub
        """,
)
@click.option("--name", required=True, help="The client's name; no two clients have the same.")
@click.option("--key-path", required=True, type=path, help="Its public key: a NAME_key.pub of generate-keys.")
@click.option(
    "--server-url", default=DEFAULT_SERVER_URL, show_default=True, help="Where the client will find the gateway."
)
@click.option("--algorithm", default="SHA256", show_default=True, help="SHA256, SHA384 or SHA512.")
@registry_options
@force_option("Revoke clients that have this name or key already, without asking.")
@click.option("--online", is_flag=True, help="Ask the gateway at --server-url instead of changing the clients file.")
@click.option(
    "--admin-token-file",
    type=path,
    help="With --online: the file of the gateway's admin token, if it is not in WSCLIENT_ADMIN_TOKEN.",
)
@click.option("--allow-insecure", is_flag=True, help="With --online: send the token unencrypted to another machine.")
@click.pass_context
def register_client(
    context: click.Context,
    /,
    name: str,
    key_path: Path,
    server_url: str,
    algorithm: str,
    force: bool,
    online: bool,
    admin_token_file: Path | None,
    allow_insecure: bool,
    **where: Any,
) -> None:
    """Allow a client to log in.

    The clients file is changed directly, so run it where the gateway runs; from elsewhere, --online asks the gateway,
    which needs its admin token. Beside the public key it writes NAME_config.json, which has all that the client needs
    to connect.
    """
    check_mode(context, online)
    place = whereabouts(context, **where)
    with refusing_wrong_values():
        check_key_name(name)
    template = ClientConfig(
        client_id="",
        name=name,
        private_key=_private_key_path(key_path, name),
        server_url=server_url,
        signature_algorithm=algorithm,
    )
    with refusing_wrong_values():
        template.check()
        template = attrs.evolve(template, signature_algorithm=hash_for_algorithm(algorithm))
    key = load_public_key(key_path)
    if online:
        check_encryption(server_url, allow_insecure)
        client_id, gone = _register_online(template, public_pem(key), find_admin_token(admin_token_file), force)
        for revoked_id in gone:
            terminal.show_line(f"Revoked the client {revoked_id}.", "bold")
    else:
        client_id, revoked = _register(place, template, public_pem(key), fingerprint(key), force)
        for revocation in revoked:
            _show_revocation(revocation)
        gone = [revocation.client.id for revocation in revoked]
    config = _write_config(attrs.evolve(template, client_id=client_id), config_path(key_path.parent, name), gone)
    terminal.show_line(f"Registered the client {name!r}.", "bold")
    terminal.show_facts(
        [
            ("id", client_id),
            ("fingerprint", fingerprint(key)),
            ("algorithm", template.signature_algorithm),
            ("gateway", server_url) if online else place.fact,
            ("config", str(config)),
        ]
    )
    if not template.private_key.exists():
        terminal.warn(f"there is no {template.private_key}; where the client runs, set privateKeyPath in {config}")
    terminal.show_line("Use it while a gateway runs (wsclient serve):")
    terminal.show_command(["wsclient", "generate", "Hello", f"--config={config}"])


def _register_online(template: ClientConfig, pem: str, token: str, force: bool) -> tuple[str, Sequence[str]]:
    register = functools.partial(
        register_online, template.server_url, template.name, pem, template.signature_algorithm, token
    )
    try:
        return register(replaces=force)
    except Conflict as conflict:
        if force:
            # An older gateway, which cannot.
            raise
        ask_or_refuse([conflict.message], _REPLACE)
        return register(replaces=True)


def _register(
    place: Whereabouts, template: ClientConfig, pem: str, key_fingerprint: str, force: bool
) -> tuple[str, tuple[Revocation, ...]]:
    name, algorithm = template.name, template.signature_algorithm
    with place.open() as registry:
        if force or _ask_about_duplicates(registry, name, key_fingerprint):
            client, revoked = registry.replace(name, pem, algorithm, f"Replaced by a new client {name!r}")
            return client.id, revoked
        return registry.register(name, pem, algorithm).id, ()


def _private_key_path(key_path: Path, name: str) -> Path:
    # A public key of another origin may be called anything; then the private one is expected where ours would be.
    return key_path.with_suffix(".pem") if key_path.suffix == ".pub" else key_path.with_name(f"{name}_key.pem")


def _ask_about_duplicates(registry: ClientRegistry, name: str, key_fingerprint: str) -> bool:
    """Return whether clients of this name or key are there and shall be revoked; there may be none.

    Raises:
        Failure: they shall not, or nobody can be asked.
    """
    found = []
    for client in registry.list():
        if client.name.casefold() == name.casefold():
            found.append(f"the name {name!r} is registered already, to client {client.id}")
        elif client.fingerprint == key_fingerprint:
            found.append(f"this key is registered already, to client {client.name!r} ({client.id})")
    if found:
        ask_or_refuse(found, _REPLACE)
    return bool(found)


def _write_config(config: ClientConfig, path: Path, revoked: Sequence[str]) -> Path:
    old_id = read_client_id(path)
    try:
        config.write(path)
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}; set clientId in a configuration elsewhere"
        raise Failure(f"client {config.name!r} is registered with the id {config.client_id}, but {reason}") from error
    if old_id and old_id not in revoked:
        terminal.warn(f"{path} was the configuration of client {old_id} and is now that of {config.client_id}")
    return path


# --- list-clients -----------------------------------------------------------------------------------------------------


@click.command(
    "list-clients",
    cls=Command,
    examples="""
        wsclient list-clients
        wsclient list-clients | grep CLIENT_ID
        wsclient list-clients --detailed --clients-file=/srv/clients.json
        """,
)
@click.option("--detailed", is_flag=True, help="Show fingerprints, last addresses and what keeps a client out, too.")
@click.option("--json", "as_json", is_flag=True, help="Write everything but the keys as JSON.")
@registry_options
@click.pass_context
def list_clients(context: click.Context, /, detailed: bool, as_json: bool, **where: Any) -> None:
    """List the clients that may log in."""
    place = whereabouts(context, **where)
    with place.open() as registry:
        clients = registry.list()
    for problem in registry.problems:
        terminal.warn(f"{registry.place}: {problem}")
    if as_json:
        terminal.show_json([_to_json(client) for client in clients])
    elif not clients:
        is_there = place.store is not None or place.clients_file.exists()
        shown = f"in {registry.place}" if is_there else f"(there is no {registry.place})"
        terminal.show_line(f"No clients are registered {shown}; see: wsclient register-client --help", to_stderr=True)
    elif detailed:
        for client in clients:
            terminal.show_line(client.name, "bold")
            terminal.show_facts(_details(client))
    else:
        _show_clients(clients)


def _show_clients(clients: Sequence[RegisteredClient]) -> None:
    now = datetime.now(UTC)
    # People ask how long ago it was; programs want the time itself.
    is_for_people = terminal.is_terminal(sys.stdout)
    rows = []
    for client in clients:
        times = (client.created_at, client.last_connected)
        shown = [time_ago(time, now) if is_for_people else time or "never" for time in times]
        rows.append((client.name, client.id, *shown, client.signature_algorithm))
    terminal.show_table(("Name", "ID", "Created", "Last login", "Algorithm"), rows, shortened=0)


def time_ago(time: str | None, now: datetime) -> str:
    """Return how long ago a time of the clients file was, in words.

    Args:
        time: ISO 8601; `None` for never.
        now: with a time zone.
    """
    if time is None:
        return "never"
    try:
        then = datetime.fromisoformat(time)
        seconds = (now - then).total_seconds()
    except (ValueError, TypeError):
        # Somebody wrote it by hand: shown as it is.
        return time
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    if seconds < 100 * 86400:
        return f"{seconds // 86400:.0f} d ago"
    return f"{then:%Y-%m-%d}"


def _details(client: RegisteredClient) -> list[tuple[str, str]]:
    last = client.last_connected or "never"
    facts = [
        ("id", client.id),
        ("created", client.created_at or "unknown"),
        ("last login", f"{last} from {client.last_ip}" if client.last_ip else last),
        ("algorithm", client.signature_algorithm),
        ("fingerprint", client.fingerprint or "none"),
    ]
    if client.pending_key is not None:
        facts.append(("new key", f"{client.pending_fingerprint or 'none that can log in'} (has not logged in yet)"))
    if client.tags:
        facts.append(("tags", ", ".join(client.tags)))
    if client.allowed_ips:
        facts.append(("allowed from", ", ".join(client.allowed_ips)))
    if client.fault is not None:
        facts.append(("cannot log in", client.fault))
    return facts


def _to_json(client: RegisteredClient) -> dict[str, Any]:
    """Return a client under the clients file's own names."""
    return {
        "id": client.id,
        "name": client.name,
        "fingerprint": client.fingerprint,
        "pendingFingerprint": client.pending_fingerprint,
        "signatureAlgorithm": client.signature_algorithm,
        "createdAt": client.created_at,
        "lastConnected": client.last_connected,
        "lastIP": client.last_ip,
        "tags": list(client.tags),
        "allowedIPs": list(client.allowed_ips),
        "fault": client.fault,
    }


# --- revoke-client ----------------------------------------------------------------------------------------------------


@click.command(
    "revoke-client",
    cls=Command,
    examples="""
        wsclient revoke-client my-client
        wsclient revoke-client ae8861207ac87b1c3d2b00654c52d4e7 --yes
        """,
)
@client_argument
@registry_options
@click.option(
    "--revoked-dir", type=path, show_default="revoked, beside the clients file", help="Where the client's record goes."
)
@force_option("Do not ask.")
@click.pass_context
def revoke_client(
    context: click.Context,
    /,
    client: str | None,
    client_id: str | None,
    revoked_dir: Path | None,
    force: bool,
    **where: Any,
) -> None:
    """Forbid a client to log in.

    CLIENT is its name, its id, or the first characters of its id, six or more. A running gateway closes its
    connections within a second. What the client was is kept in a record.
    """
    id_or_name = chosen_client(client, client_id)
    place = whereabouts(context, **where)
    if place.store is not None and revoked_dir is not None:
        raise click.UsageError("--revoked-dir has no meaning with a store, which keeps the records itself", context)
    with place.open(revoked_dir) as registry:
        found = registered_client(registry, id_or_name)
        if not force:
            ask_or_refuse([], f"Revoke client {found.name!r} ({found.id})?")
        _show_revocation(registry.revoke(found.id))


def _show_revocation(revocation: Revocation) -> None:
    terminal.show_line(f"Revoked the client {revocation.client.name!r}.", "bold")
    terminal.show_facts([("id", revocation.client.id), ("record", str(revocation.record))])
