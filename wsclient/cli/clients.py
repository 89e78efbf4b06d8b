"""Commands about registered clients: `register-client`, `list-clients`, `revoke-client`.

They work on the clients file itself, and a running gateway notices what they change within a second;
`register-client --online` asks a gateway elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
from click.core import ParameterSource

from ..core.auth import hash_for_algorithm
from ..gateway.registry import ClientRegistry, RegisteredClient, RegistryError, Revocation, UnknownClientError
from ..keys import check_key_name, fingerprint, load_public_key, public_pem
from ..options import ClientOptions
from . import terminal
from .client_config import DEFAULT_SERVER_URL, ClientConfig, config_path, read_client_id
from .command import Command, path
from .failures import Failure, refusing_wrong_values, system_step
from .online import find_admin_token, register_online

__all__ = ["list_clients", "register_client", "revoke_client", "time_ago"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _default_clients_file() -> Path:
    # The gateway's own variable: both must look at the same file.
    return Path(os.environ.get("DATA_DIR") or "data", "authorized_clients.json")


def _clients_file_option(command: _Decorated) -> _Decorated:
    return click.option(
        "--clients-file",
        type=path,
        default=_default_clients_file,
        show_default="./data/authorized_clients.json",
        help="The gateway's file of registered clients; DATA_DIR names another folder.",
    )(command)


@contextmanager
def _registry_failures() -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        raise Failure(error.message + system_step(error.__cause__)) from error


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
@_clients_file_option
@click.option("--force", is_flag=True, help="Revoke clients that have this name or key already, without asking.")
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
    name: str,
    key_path: Path,
    server_url: str,
    algorithm: str,
    clients_file: Path,
    force: bool,
    online: bool,
    admin_token_file: Path | None,
    allow_insecure: bool,
) -> None:
    """Allow a client to log in.

    The clients file is changed directly, so run it where the gateway runs; from elsewhere, --online asks the gateway,
    which needs its admin token. Beside the public key it writes NAME_config.json, which has all that the client needs
    to connect.
    """
    _check_mode(context, online)
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
    revoked: tuple[Revocation, ...] = ()
    if online:
        _check_encryption(template, allow_insecure)
        token = find_admin_token(admin_token_file)
        client_id = register_online(server_url, name, public_pem(key), template.signature_algorithm, token)
    else:
        client_id, revoked = _register_in_file(clients_file, template, public_pem(key), fingerprint(key), force)
    for revocation in revoked:
        _show_revocation(revocation)
    config = _write_config(attrs.evolve(template, client_id=client_id), config_path(key_path.parent, name), revoked)
    terminal.show_line(f"Registered the client {name!r}.", "bold")
    terminal.show_facts(
        [
            ("id", client_id),
            ("fingerprint", fingerprint(key)),
            ("algorithm", template.signature_algorithm),
            ("gateway", server_url) if online else ("clients file", str(clients_file)),
            ("config", str(config)),
        ]
    )
    if not template.private_key.exists():
        terminal.warn(f"there is no {template.private_key}; where the client runs, set privateKeyPath in {config}")
    terminal.show_line("Use it while a gateway runs (wsclient serve):")
    terminal.show_command(["wsclient", "generate", "Hello", f"--config={config}"])


def _check_mode(context: click.Context, online: bool) -> None:
    """Refuse flags that mean nothing in this mode: whoever gives them expects something else to happen."""
    offline_only, online_only = ("clients_file", "force"), ("admin_token_file", "allow_insecure")
    for flag in offline_only if online else online_only:
        if context.get_parameter_source(flag) is ParameterSource.COMMANDLINE:
            how = "cannot be given together with" if online else "only has a meaning with"
            raise click.UsageError(f"--{flag.replace('_', '-')} {how} --online", context)


def _check_encryption(template: ClientConfig, allow_insecure: bool) -> None:
    try:
        ClientOptions(
            server_url=template.server_url,
            client_id="template",
            private_key_path=template.private_key,
            allow_insecure=allow_insecure,
        )
    except ValueError as error:
        raise click.UsageError(str(error).replace("allow_insecure=True", "--allow-insecure")) from error


def _register_in_file(
    clients_file: Path, template: ClientConfig, pem: str, key_fingerprint: str, force: bool
) -> tuple[str, tuple[Revocation, ...]]:
    name, algorithm = template.name, template.signature_algorithm
    with _registry_failures():
        registry = ClientRegistry(clients_file)
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
    if not found:
        return False
    if not terminal.is_interactive():
        raise Failure(f"{'; '.join(found)}; give --force to revoke the old one, or another --name and key")
    for duplicate in found:
        terminal.warn(duplicate)
    if not terminal.ask("Revoke the old one and register this one instead?"):
        raise Failure("nothing was changed")
    return True


def _write_config(config: ClientConfig, path: Path, revoked: tuple[Revocation, ...]) -> Path:
    old_id = read_client_id(path)
    try:
        config.write(path)
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}; set clientId in a configuration elsewhere"
        raise Failure(f"client {config.name!r} is registered with the id {config.client_id}, but {reason}") from error
    if old_id and old_id not in {revocation.client.id for revocation in revoked}:
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
@_clients_file_option
def list_clients(detailed: bool, as_json: bool, clients_file: Path) -> None:
    """List the clients that may log in."""
    with _registry_failures():
        registry = ClientRegistry(clients_file)
        clients = registry.list()
    for problem in registry.problems:
        terminal.warn(f"{clients_file}: {problem}")
    if as_json:
        terminal.show_json([_to_json(client) for client in clients])
    elif not clients:
        where = f"in {clients_file}" if clients_file.exists() else f"(there is no {clients_file})"
        terminal.show_line(f"No clients are registered {where}; see: wsclient register-client --help", to_stderr=True)
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
    terminal.show_table(("Name", "ID", "Created", "Last login", "Algorithm"), rows)


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
        wsclient revoke-client --client-id=my-client
        wsclient revoke-client --client-id=ae8861207ac87b1c3d2b00654c52d4e7 --force
        """,
)
@click.option("--client-id", "id_or_name", required=True, metavar="ID_OR_NAME", help="Which client.")
@_clients_file_option
@click.option(
    "--revoked-dir", type=path, show_default="revoked, beside the clients file", help="Where the client's record goes."
)
@click.option("--force", is_flag=True, help="Do not ask.")
def revoke_client(id_or_name: str, clients_file: Path, revoked_dir: Path | None, force: bool) -> None:
    """Forbid a client to log in.

    A running gateway closes its connections within a second. What the client was is kept in a record.
    """
    with _registry_failures():
        registry = ClientRegistry(clients_file, revoked_dir)
        client = registry.find(id_or_name)
        if client is None:
            raise UnknownClientError(f"no client has the id or name {id_or_name!r}; see: wsclient list-clients")
        if not force:
            _ask_to_revoke(client)
        _show_revocation(registry.revoke(client.id))


def _ask_to_revoke(client: RegisteredClient) -> None:
    what = f"client {client.name!r} ({client.id})"
    if not terminal.is_interactive():
        raise Failure(f"give --force to revoke {what}; without a terminal nobody can be asked")
    if not terminal.ask(f"Revoke {what}?"):
        raise Failure("nothing was changed")


def _show_revocation(revocation: Revocation) -> None:
    terminal.show_line(f"Revoked the client {revocation.client.name!r}.", "bold")
    terminal.show_facts([("id", revocation.client.id), ("record", str(revocation.record))])
