"""The clients of a Django project: one for each alias in WSCLIENT and each process, shared by its threads."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.signals import setting_changed

from ...client import WSClient
from .configuration import DEFAULT_ALIAS, configured, make_client

__all__ = ["ClientHandler", "clients", "get_client"]


class ClientHandler:
    """The clients by their alias, as `django.core.cache.caches` has the caches: `clients["default"]`.

    A client is made when it is asked for first, connects with its first request, and is closed when the process ends.
    Any thread may use it. What was made before a fork (gunicorn's `--preload`) makes its own connection in each child.
    """

    def __init__(self) -> None:
        self._clients: dict[str, WSClient] = {}
        # Held while a client is made or all are closed; by process, because a fork may come while a thread holds it,
        # and gunicorn's gevent worker patches threading after its fork. Re-entrant: a CLIENT may ask for another alias.
        self._locks: dict[int, threading.RLock] = {}

    def __getitem__(self, alias: str) -> WSClient:
        """Return the client of an alias; does not block.

        Raises:
            ImproperlyConfigured: WSCLIENT has no such alias, or something is wrong with it.
            InvalidKeyError: with AUTO_CONNECT, the key cannot be used.
        """
        client = self._clients.get(alias)
        if client is None:
            with self._lock():
                client = self._clients.get(alias)
                if client is None:
                    client = self._clients[alias] = make_client(alias)
        return client

    def __iter__(self) -> Iterator[str]:
        """Iterate the aliases."""
        setting = configured()
        return iter(setting if isinstance(setting, Mapping) else ())

    def all(self, initialized_only: bool = False) -> list[WSClient]:
        """Return the clients, or only those that were made already.

        Raises:
            ImproperlyConfigured, InvalidKeyError: as for one.
        """
        return list(self._clients.values()) if initialized_only else [self[alias] for alias in self]

    def close_all(self) -> None:
        """Close all clients; who asks for one again gets a new one. Returns within about 2 s for each."""
        with self._lock():
            made, self._clients = list(self._clients.values()), {}
        for client in made:
            client.close()

    def _lock(self) -> Any:
        return self._locks.setdefault(os.getpid(), threading.RLock())


clients = ClientHandler()


def get_client(alias: str = DEFAULT_ALIAS) -> WSClient:
    """Return the client of an alias; the same for the whole process. See `ClientHandler`.

    Ask for it where it is used, and do not close it: a test's `override_settings(WSCLIENT=...)` puts others in place.

    Args:
        alias: its name in WSCLIENT.

    Raises:
        ImproperlyConfigured: WSCLIENT has no such alias, or something is wrong with it.
        InvalidKeyError: with AUTO_CONNECT, the key cannot be used.
    """
    return clients[alias]


def _forget_clients(*, setting: str, **_: Any) -> None:
    if setting == "WSCLIENT":
        clients.close_all()


setting_changed.connect(_forget_clients)
# gunicorn's workers, runserver's reload and a script's end all come by here.
atexit.register(clients.close_all)
