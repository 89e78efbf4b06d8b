"""Which registry a command works on: the gateway's clients file, or the store that several gateways share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
from click.core import ParameterSource

from ..gateway.registry import ClientRegistry, RegistryError
from ..gateway.store.address import DEFAULT_PREFIX, STORE_VARIABLE, StoreAddress, check_prefix
from .command import path
from .failures import Failure, system_step

__all__ = [
    "Whereabouts",
    "completed_whereabouts",
    "open_store",
    "registry_failures",
    "registry_options",
    "store_options",
    "whereabouts",
]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@attrs.frozen
class Whereabouts:
    """What the options say about the registry; an option's value that other code carries around.

    Attributes:
        clients_file: the clients file.
        store: the store's URL, which wins over the file; `None` for none.
        store_prefix, store_password_file: of the store.
    """

    clients_file: Path
    store: str | None = attrs.field(default=None, repr=False)
    store_prefix: str = DEFAULT_PREFIX
    store_password_file: Path | None = None

    @property
    def fact(self) -> tuple[str, str]:
        """What kind of registry it is and where, for people."""
        if self.store is None:
            return "clients file", str(self.clients_file)
        return "store", StoreAddress.parse(self.store).shown

    @contextmanager
    def open(self, revoked_dir: Path | None = None) -> Iterator[ClientRegistry]:
        """Open the registry; its failures end the command.

        Args:
            revoked_dir: where the file's registry keeps records of revoked clients.
        """
        with registry_failures():
            if self.store is None:
                yield ClientRegistry(self.clients_file, revoked_dir)
                return
            with open_store(self.store, self.store_prefix, self.store_password_file) as registry:
                yield registry


@contextmanager
def open_store(url: str, prefix: str, password_file: Path | None) -> Iterator[ClientRegistry]:
    """Open the registry in a store.

    Raises:
        UsageError: the URL or the prefix is none.
        Failure: the password cannot be had.
    """
    try:
        address, prefix = StoreAddress.parse(url), check_prefix(prefix)
    except ValueError as error:
        raise click.UsageError(f"store {error}", click.get_current_context(silent=True)) from error
    try:
        address = address.with_password_from(password_file)
    except ValueError as error:
        raise Failure(f"the store's password cannot be used: {error}") from error
    # Here, because it needs the extra `redis`.
    from ..gateway.store.registry import StoreRegistry

    registry = StoreRegistry(address, prefix)
    try:
        yield registry
    finally:
        registry.close()


@contextmanager
def registry_failures() -> Iterator[None]:
    """Turn what is wrong with the clients file or the store into a line for the user."""
    try:
        yield
    except RegistryError as error:
        raise Failure(error.message + system_step(error.__cause__)) from error


def _default_clients_file() -> Path:
    # The gateway's own variable: both must look at the same file.
    return Path(os.environ.get("DATA_DIR") or "data", "authorized_clients.json")


def store_options(command: _Decorated) -> _Decorated:
    """Add the options that say how to get into a store."""
    for option in (
        click.option("--store-password-file", type=path, help="File of its password, if that is not in the URL."),
        click.option("--store-prefix", default=DEFAULT_PREFIX, show_default=True, help="What its keys begin with."),
    ):
        command = option(command)
    return command


def registry_options(command: _Decorated) -> _Decorated:
    """Add the options that say where the clients are."""
    command = store_options(command)
    command = click.option(
        "--store",
        metavar="URL",
        help=f"The Redis that several gateways share, instead of a file; {STORE_VARIABLE} names it too.",
    )(command)
    return click.option(
        "--clients-file",
        type=path,
        default=_default_clients_file,
        show_default="./data/authorized_clients.json",
        help="The gateway's file of registered clients; DATA_DIR names another folder.",
    )(command)


def whereabouts(
    context: click.Context, clients_file: Path, store: str | None, store_prefix: str, store_password_file: Path | None
) -> Whereabouts:
    """Return what the options say, and the environment where they say nothing.

    Raises:
        UsageError: they name a file and a store, or a password for no store.
    """
    is_file_given = context.get_parameter_source("clients_file") is ParameterSource.COMMANDLINE
    if store is not None and is_file_given:
        raise click.UsageError("--store cannot be given together with --clients-file", context)
    if store is None and not is_file_given:
        store = os.environ.get(STORE_VARIABLE, "").strip() or None
    if store is None and store_password_file is not None:
        raise click.UsageError("--store-password-file only has a meaning with --store", context)
    return Whereabouts(clients_file, store, store_prefix, store_password_file)


def completed_whereabouts(context: click.Context) -> Whereabouts:
    """Return what a command line says that a shell is completing, which has no defaults yet.

    Raises:
        UsageError: as `whereabouts`.
    """
    file, store, prefix, password_file = map(
        context.params.get, ("clients_file", "store", "store_prefix", "store_password_file")
    )
    return whereabouts(context, file or _default_clients_file(), store, prefix or DEFAULT_PREFIX, password_file)
