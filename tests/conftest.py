"""Fixtures for every test: keys made once a session, and the recordings of the original."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey.ECC import EccKey
from Crypto.PublicKey.RSA import RsaKey

from wsclient import WSClient
from wsclient.keys import generate_key, public_pem

from .support.fake_transport import FakeNetwork
from .support.fast_clients import fast_client
from .support.redis_server import RedisServer, skip_without_redis
from .support.waiting import wait_until

TRANSCRIPTS = Path(__file__).parent / "transcripts"


@pytest.fixture(scope="session")
def rsa_key() -> RsaKey:
    """A private RSA key, as short as we allow, because it is made anew in each session."""
    key = generate_key("rsa", 2048)
    assert isinstance(key, RsaKey)
    return key


@pytest.fixture(scope="session")
def other_rsa_key() -> RsaKey:
    """A private RSA key that nobody registered."""
    key = generate_key("rsa", 2048)
    assert isinstance(key, RsaKey)
    return key


@pytest.fixture(scope="session")
def ec_key() -> EccKey:
    """A private EC key on P-256."""
    key = generate_key("ec")
    assert isinstance(key, EccKey)
    return key


@pytest.fixture(scope="session")
def ec384_key() -> EccKey:
    """A private EC key on P-384."""
    key = generate_key("ec", 384)
    assert isinstance(key, EccKey)
    return key


@pytest.fixture(scope="session")
def rsa_key_pem(rsa_key: RsaKey) -> str:
    """`rsa_key` as PKCS#8 PEM."""
    return rsa_key.export_key("PEM", pkcs=8).decode()


@pytest.fixture(scope="session")
def rsa_public_pem(rsa_key: RsaKey) -> str:
    """The public half of `rsa_key` as SPKI PEM."""
    return public_pem(rsa_key)


@pytest.fixture(scope="session")
def ec_key_pem(ec_key: EccKey) -> str:
    """`ec_key` as PKCS#8 PEM."""
    return ec_key.export_key(format="PEM", use_pkcs8=True)


@pytest.fixture(scope="session")
def ec_public_pem(ec_key: EccKey) -> str:
    """The public half of `ec_key` as SPKI PEM."""
    return public_pem(ec_key)


@pytest.fixture(scope="session")
def transcript() -> Callable[[str], list[dict[str, Any]]]:
    """Reads a recording of the original by its name without `.jsonl`: one dict a line."""

    def read(name: str) -> list[dict[str, Any]]:
        # Not splitlines(): the recordings hold U+2028, which it takes for the end of a line.
        lines = (TRANSCRIPTS / f"{name}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        return [json.loads(line) for line in lines]

    return read


def library_threads() -> set[threading.Thread]:
    """Return the threads of the library that run now."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("wsclient-")}


@pytest.fixture(autouse=True)
def no_thread_of_the_library_survives() -> Iterator[None]:
    """Fails a test that leaves a thread behind."""
    before = library_threads()
    yield
    try:
        wait_until(lambda: not library_threads() - before)
    except TimeoutError:
        names = sorted(thread.name for thread in library_threads() - before)
        raise AssertionError(f"threads are left: {', '.join(names)}") from None


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own; it is there in 20 ms."""
    skip_without_redis()
    with RedisServer() as server:
        yield server


@pytest.fixture
def fake_network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    """What clients dial instead of sockets: lines in memory, held by the test."""
    network = FakeNetwork()
    monkeypatch.setattr("wsclient.line.Transport", network.make)
    return network


@pytest.fixture
def fake_client(fake_network: FakeNetwork) -> Iterator[Callable[..., WSClient]]:
    """Makes clients on `fake_network`, with any options; they are closed after the test."""
    clients: list[WSClient] = []

    def make(**options: Any) -> WSClient:
        clients.append(fast_client("ws://localhost", **{"reconnect_delay": 0.01} | options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
