"""`manage.py wsclient_check`: connect as the site would, and say in one line for each client what came of it."""

from __future__ import annotations

import time
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from wsclient.contrib.django.clients import clients
from wsclient.contrib.django.configuration import DEFAULT_ALIAS, make_client
from wsclient.errors import WSClientError

__all__ = ["Command"]


class Command(BaseCommand):
    """The command `wsclient_check`."""

    help = "Connects to the gateways in WSCLIENT, logs in, and lists their models."
    # What is wrong with the setting is said in one line too.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own annotation

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare `--alias`."""
        parser.add_argument("--alias", help="Check only this client of WSCLIENT, instead of all of them.")

    def handle(self, *_: Any, **options: Any) -> None:
        """Check the clients, each with a connection of its own; blocks until the last has answered or failed.

        Raises:
            CommandError: the first that failed.
        """
        for alias in [options["alias"]] if options["alias"] else list(clients) or [DEFAULT_ALIAS]:
            try:
                self.stdout.write(_look_at(alias))
            except (WSClientError, ImproperlyConfigured) as error:
                raise CommandError(_one_line(f"{alias}: {error}")) from error


def _look_at(alias: str) -> str:
    client = make_client(alias)
    try:
        began = time.monotonic()
        client.connect()
        models = [model.name for model in client.list_models()]
        took = time.monotonic() - began
    finally:
        client.close()
    return _one_line(f"{alias}: logged in, and answered after {took:.2f} s; its models: {', '.join(models) or 'none'}")


def _one_line(text: str) -> str:
    # It comes from the other side: nothing of it may control a terminal.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
