"""Fixtures for tests of the gateway: one that runs, a backend that obeys, a client that is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.gateway_peers import Peer, RawPeer
from .scripted_backend import ScriptedBackend

StartGateway = Callable[..., GatewayThread]


@pytest.fixture
def registry(tmp_path: Path) -> ClientRegistry:
    """The clients file of the gateway under test."""
    return ClientRegistry(tmp_path / "authorized_clients.json")


@pytest.fixture
def client_id(registry: ClientRegistry, ec_key: Key) -> str:
    """The id of a client that is registered with `ec_key`."""
    return registry.register("test-client", public_pem(ec_key)).id


@pytest.fixture
def backend() -> ScriptedBackend:
    """The model server of the gateway under test."""
    return ScriptedBackend()


@pytest.fixture
def start_gateway(tmp_path: Path, client_id: str, backend: ScriptedBackend) -> Iterator[StartGateway]:
    """Starts a gateway with other settings than the usual; it is stopped after the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> GatewayThread:
            given = {"port": 0, "data_dir": tmp_path, "close_timeout": 0.2, **settings}
            thread = GatewayThread(GatewaySettings(**given), backend if "backend" not in settings else None)
            return stack.enter_context(thread)

        yield start


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway that runs."""
    return start_gateway()


@pytest.fixture
def connect(gateway: GatewayThread, client_id: str, ec_key: Key) -> Iterator[Callable[[], Peer]]:
    """Makes clients that have logged in."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(gateway.url)).log_in(client_id, ec_key)


@pytest.fixture
def connect_raw(gateway: GatewayThread, client_id: str, ec_key: Key) -> Iterator[Callable[..., RawPeer]]:
    """Makes clients that have logged in and send what bytes they like."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RawPeer(gateway.url, **options)).log_in(client_id, ec_key)


@pytest.fixture
def peer(connect: Callable[[], Peer]) -> Peer:
    """A client that has logged in."""
    return connect()
