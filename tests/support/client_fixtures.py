"""Fixtures for tests of the whole client on real sockets, with a server that answers as a gateway would."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wsclient import WSClient
from wsclient.testing.scripted_server import ScriptedServer, polite

from .fast_clients import fast_client
from .holdings import Holdings

__all__ = ["MakeClient", "client", "make_client", "nothing_stays_open", "server"]

MakeClient = Callable[..., WSClient]


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = Holdings.now()
    yield
    gc.collect()
    before.wait_until_none_gained()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(polite) as server:
        yield server


@pytest.fixture
def make_client(server: ScriptedServer) -> Iterator[MakeClient]:
    clients: list[WSClient] = []

    def make(url: str | None = None, **options: Any) -> WSClient:
        clients.append(fast_client(url or server.url, **{"reconnect_delay": 0.05} | options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> WSClient:
    client = make_client()
    client.connect()
    return client
