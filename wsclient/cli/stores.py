"""Commands about the store that several gateways share: `store copy`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import click

from ..gateway.copying import TakenOver
from ..gateway.registry import ClientRegistry
from . import terminal
from .command import Command, path
from .failures import Failure
from .registries import Whereabouts, open_store, registry_failures, store_options

__all__ = ["store"]

_SCHEMES = ("redis://", "rediss://", "unix://")


class _Group(click.Group):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples of its commands."""
        copy.format_epilog(ctx, formatter)


@click.group("store", cls=_Group)
def store() -> None:
    """Work on the Redis that several gateways share (serve --store)."""


@store.command(
    "copy",
    cls=Command,
    examples="""
        wsclient store copy data/authorized_clients.json redis://10.0.0.5:6379/0
        wsclient store copy redis://10.0.0.5 clients.json --store-password-file=pw
        """,
)
@click.argument("source")
@click.argument("target")
@click.option("--overwrite", is_flag=True, help="Let clients that differ become what SOURCE says.")
@store_options
def copy(source: str, target: str, overwrite: bool, store_prefix: str, store_password_file: Path | None) -> None:
    """Copy the clients of SOURCE into TARGET: clients files, or URLs of stores.

    Clients keep their ids and everything else. What is in TARGET already stays, so that it can be done again; clients
    that are there but differ are named, and stay as they are unless --overwrite is given.
    """
    if source == target:
        raise click.UsageError("SOURCE and TARGET are the same")
    if not source.startswith(_SCHEMES) and not Path(source).expanduser().exists():
        raise Failure(f"there is no {source}")
    with (
        registry_failures(),
        _open(source, store_prefix, store_password_file) as old,
        _open(target, store_prefix, store_password_file) as new,
    ):
        entries = old.entries()
        for problem in old.problems:
            terminal.warn(f"{old.place}: {problem}")
        taken = new.take_over(entries, overwrite)
        _show(taken, old.place, new.place)
    if taken.differing:
        names = ", ".join(map(repr, taken.differing[:10])) + (" and others" if len(taken.differing) > 10 else "")
        raise Failure(f"clients that differ were left as they are: {names}; give --overwrite to replace them")


def _open(place: str, prefix: str, password_file: Path | None) -> AbstractContextManager[ClientRegistry]:
    if place.startswith(_SCHEMES):
        return open_store(place, prefix, password_file)
    return Whereabouts(path(place)).open()


def _show(taken: TakenOver, source: str, target: str) -> None:
    terminal.show_line(f"From {source} to {target}:", "bold")
    facts = [("copied", taken.copied), ("unchanged", taken.unchanged), ("differing", taken.differing)]
    if taken.overwritten:
        facts.append(("overwritten", taken.overwritten))
    terminal.show_facts([(what, str(len(names))) for what, names in facts])
