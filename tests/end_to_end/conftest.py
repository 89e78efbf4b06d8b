"""Fixtures for tests of the whole path: real clients, real gateways, real sockets on loopback."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from wsclient import WSClient
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama
from ..support.holdings import Holdings
from .programs import Site


class MakeClient(Protocol):
    """Makes a client that is closed after the test."""

    def __call__(self, url: str, **options: Any) -> WSClient:
        """Make one; registered and with the right key, unless the options say otherwise."""


class StartGateway(Protocol):
    """Starts a gateway that is stopped after the test."""

    def __call__(self, backend: Any = "builtin", **settings: Any) -> GatewayThread:
        """Start one, with a backend's name or a backend."""


@pytest.fixture(autouse=True)
def holdings() -> Iterator[Holdings]:
    """What there was before the test. No thread of the library, socket or file handle outlives it."""
    before = Holdings.now()
    yield before
    before.wait_until_none_gained()


@pytest.fixture
def key_path(tmp_path: Path, rsa_key_pem: str) -> Path:
    """The file of the registered private key."""
    path = tmp_path / "my-client_key.pem"
    path.touch(mode=0o600)
    path.write_text(rsa_key_pem)
    return path


@pytest.fixture
def registry(tmp_path: Path) -> ClientRegistry:
    """The clients file of the gateways under test."""
    return ClientRegistry(tmp_path / "data" / "authorized_clients.json")


@pytest.fixture
def client_id(registry: ClientRegistry, rsa_public_pem: str) -> str:
    """The id of the registered client."""
    return registry.register("my-client", rsa_public_pem).id


@pytest.fixture
def start_gateway(tmp_path: Path, client_id: str) -> Iterator[StartGateway]:
    """Starts gateways that know the registered client."""
    with ExitStack() as stack:

        def start(backend: Any = "builtin", **settings: Any) -> GatewayThread:
            given: dict[str, Any] = {"port": 0, "data_dir": tmp_path / "data", **settings}
            if isinstance(backend, str):
                return stack.enter_context(GatewayThread(GatewaySettings(backend=backend, **given)))
            return stack.enter_context(GatewayThread(GatewaySettings(**given), backend))

        yield start


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway with the built-in model."""
    return start_gateway()


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """A model server that does as it is told."""
    with FakeOllama() as server:
        yield server


@pytest.fixture
def ollama_gateway(start_gateway: StartGateway, ollama: FakeOllama) -> GatewayThread:
    """A gateway with the fake Ollama behind it."""
    return start_gateway("ollama", ollama_url=ollama.url)


@pytest.fixture
def make_client(client_id: str, key_path: Path) -> Iterator[MakeClient]:
    """Makes clients."""
    # Weakly: tests also look at what happens when a client is dropped.
    made: weakref.WeakSet[WSClient] = weakref.WeakSet()

    def make(url: str, **options: Any) -> WSClient:
        given: dict[str, Any] = {"client_id": client_id, "request_timeout": 20.0, **options}
        if "private_key" not in given:
            given.setdefault("private_key_path", key_path)
        client = WSClient(url, **given)
        made.add(client)
        return client

    yield make
    for client in list(made):
        client.close()


@pytest.fixture
def client(make_client: MakeClient, gateway: GatewayThread) -> WSClient:
    """A client that is logged in at the gateway with the built-in model."""
    client = make_client(gateway.url)
    client.connect()
    return client


@pytest.fixture
def ollama_client(make_client: MakeClient, ollama_gateway: GatewayThread) -> WSClient:
    """A client that is logged in at the gateway with the fake Ollama."""
    client = make_client(ollama_gateway.url)
    client.connect()
    return client


@pytest.fixture
def site(tmp_path: Path, gateway: GatewayThread, client_id: str, rsa_key_pem: str) -> Site:
    """A folder in which the README's quick start was followed, and the gateway runs."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site.make(folder, gateway.url, client_id, rsa_key_pem)
