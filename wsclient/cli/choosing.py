"""Which client is meant, and whether the user is sure: what commands about clients share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from ..gateway.registry import ClientRegistry, RegisteredClient, UnknownClientError
from ..options import ClientOptions
from . import terminal
from .failures import Failure
from .registries import completed_whereabouts

__all__ = [
    "ask_or_refuse",
    "check_encryption",
    "check_mode",
    "chosen_client",
    "client_argument",
    "force_option",
    "registered_client",
]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def force_option(text: str) -> Callable[[_Decorated], _Decorated]:
    """Return the flag that answers a command's question beforehand, under each of its usual names."""
    return click.option("--force", "--yes", "-y", "force", is_flag=True, help=text)


def client_argument(command: _Decorated) -> _Decorated:
    """Give a command the argument that says which client; `--client-id`, as the original spells it, does as well."""
    option = click.option("--client-id", metavar="CLIENT", hidden=True, shell_complete=_complete_client)
    return click.argument("client", required=False, shell_complete=_complete_client)(option(command))


def chosen_client(client: str | None, client_id: str | None) -> str:
    """Return which client a command is told, in one way or the other.

    Raises:
        click.UsageError: in neither, or in both.
    """
    if (client is None) == (client_id is None):
        text = "which client? give its name or id" if client is None else "CLIENT and --client-id mean the same"
        raise click.UsageError(text, click.get_current_context(silent=True))
    return client or client_id or ""


def registered_client(registry: ClientRegistry, id_or_name: str) -> RegisteredClient:
    """Return the client that a user means.

    Raises:
        RegistryError: there is none, or more than one.
    """
    found = registry.find(id_or_name)
    if found is None:
        raise UnknownClientError(f"no client has the id or name {id_or_name!r}; see: wsclient list-clients")
    return found


def _complete_client(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        with completed_whereabouts(context).open() as registry:
            clients = registry.list()
    except (click.UsageError, Failure, ImportError):
        return []
    texts = [(text, client) for client in clients for text in (client.name, client.id)]
    # A name that a shell would read otherwise can be given by its id.
    return [
        CompletionItem(text, help=terminal.one_line(client.name))
        for text, client in texts
        if text.startswith(incomplete) and shlex.quote(text) == text
    ]


def check_mode(
    context: click.Context, online: bool, online_only: Sequence[str] = ("admin_token_file", "allow_insecure")
) -> None:
    """Refuse flags that mean nothing in this mode: whoever gives them expects something else to happen."""
    for flag in ("clients_file", "store") if online else online_only:
        if context.get_parameter_source(flag) is ParameterSource.COMMANDLINE:
            how = "cannot be given together with" if online else "only has a meaning with"
            raise click.UsageError(f"--{flag.replace('_', '-')} {how} --online", context)


def check_encryption(server_url: str, allow_insecure: bool) -> None:
    """Refuse to send the admin token unencrypted to another machine, unless that is allowed."""
    try:
        ClientOptions(
            server_url=server_url, client_id="any", private_key_path=Path("any"), allow_insecure=allow_insecure
        )
    except (ValueError, TypeError) as error:
        text = str(error).replace("allow_insecure=True", "--allow-insecure")
        raise click.UsageError(text, click.get_current_context(silent=True)) from error


def ask_or_refuse(problems: Sequence[str], question: str) -> None:
    """Ask whether to go on all the same.

    Args:
        problems: what stands in the way.
        question: what yes means.

    Raises:
        Failure: the answer is no, or there is nobody to ask.
    """
    if not terminal.is_interactive():
        advice = f"give --yes to {question[0].lower()}{question[1:].rstrip('?')}"
        raise Failure("; ".join([*problems, advice]) if problems else f"{advice}; there is no terminal to ask at")
    for problem in problems:
        terminal.warn(problem)
    if not terminal.ask(question):
        raise Failure("nothing was changed")
