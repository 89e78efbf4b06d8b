"""A client's new key beside its old one: both log in until the new one has. Takes 2 s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key, sign_challenge
from wsclient.gateway import clients_file
from wsclient.gateway.conversation import Verify
from wsclient.gateway.guard import LoginGuard, Refusal
from wsclient.gateway.login import LoginDesk
from wsclient.gateway.registry import ClientRegistry, DuplicateClientError, RegistryError, UnknownClientError
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import fingerprint, public_pem

from ..support.client_files import entries, new_pem, put
from ..support.gateway_peers import Peer
from ..support.waiting import wait_until


@pytest.fixture
def path(registry: ClientRegistry) -> Path:
    return registry.path


# --- in the file ------------------------------------------------------------------------------------------------------


def test_the_new_key_stands_beside_the_old_one_where_the_original_does_not_look(
    registry: ClientRegistry, client_id: str, ec_key: Key, rsa_key: Key, path: Path
) -> None:
    before = entries(path)[0]
    client = registry.rotate("TEST-client", public_pem(rsa_key))
    assert entries(path) == [before | {"pendingKey": public_pem(rsa_key)}]
    assert (client.fingerprint, client.pending_fingerprint) == (fingerprint(ec_key), fingerprint(rsa_key))
    assert registry.get(client_id) == client


@pytest.mark.parametrize("whose", ["its own", "its own new one", "another's", "another's new one"])
def test_a_key_that_somebody_has_already_is_refused(
    registry: ClientRegistry, client_id: str, ec_key: Key, whose: str
) -> None:
    other = registry.register("other", new_pem())
    pem = {"its own": public_pem(ec_key), "another's": other.public_key}.get(whose) or new_pem()
    if "new one" in whose:
        registry.rotate(client_id if "its" in whose else other.id, pem)
    with pytest.raises(DuplicateClientError, match="this key is registered already"):
        registry.rotate(client_id, pem)


def test_nobody_is_registered_with_a_key_that_is_somebodys_new_one(registry: ClientRegistry, client_id: str) -> None:
    pem = new_pem()
    registry.rotate(client_id, pem)
    with pytest.raises(DuplicateClientError, match="this key is registered already, to client 'test-client'"):
        registry.register("thief", pem)


def test_a_new_key_that_has_not_logged_in_is_replaced_only_when_told(registry: ClientRegistry, client_id: str) -> None:
    registry.rotate(client_id, new_pem())
    second = new_pem()
    with pytest.raises(DuplicateClientError, match="has a new key already, which has not logged in yet"):
        registry.rotate(client_id, second)
    assert registry.rotate(client_id, second, replace_pending=True).pending_key == second


def test_an_unknown_client_gets_no_key(registry: ClientRegistry, client_id: str) -> None:
    with pytest.raises(UnknownClientError, match="no client has the id or name 'nobody'"):
        registry.rotate("nobody", new_pem())


@pytest.mark.parametrize("key", [7, [], "", None])
def test_a_new_key_that_is_no_text_is_none(client_id: str, path: Path, key: Any) -> None:
    put(path, [entries(path)[0] | {"pendingKey": key}])
    client = ClientRegistry(path).get(client_id)
    assert client is not None
    assert client.pending_key is None


def test_a_new_key_that_cannot_log_in_is_told_and_locks_nobody_out(client_id: str, ec_key: Key, path: Path) -> None:
    put(path, [entries(path)[0] | {"pendingKey": "-----BEGIN RUBBISH"}])
    registry = ClientRegistry(path)
    client = registry.get(client_id)
    assert client is not None
    assert list(client.login_keys) == [public_pem(ec_key)]
    (problem,) = registry.problems
    assert problem.startswith("client 'test-client' (entry 1) cannot log in with its new key: ")


def test_the_first_login_of_the_new_key_is_written_without_waiting_for_the_minute(
    registry: ClientRegistry, client_id: str, path: Path
) -> None:
    pem = new_pem()
    registry.rotate(client_id, pem)
    registry.note_login(client_id, "10.0.0.1", 1000.0)
    assert registry.flush_logins(1000.0) is True
    assert entries(path)[0]["pendingKey"] == pem
    registry.note_login(client_id, "10.0.0.2", 1001.0, pem)
    assert registry.flush_logins(1001.0) is True
    (entry,) = entries(path)
    assert (entry["publicKey"], entry["lastIP"], "pendingKey" in entry) == (pem, "10.0.0.2", False)
    assert registry.flush_logins(1002.0) is False


def test_the_old_key_is_no_more_before_that_is_written(registry: ClientRegistry, client_id: str) -> None:
    pem = new_pem()
    registry.rotate(client_id, pem)
    registry.note_login(client_id, "10.0.0.1", 1000.0, pem)
    client = registry.get(client_id)
    assert client is not None
    assert list(client.login_keys) == [pem]


def test_a_login_that_could_not_be_written_stays_in_force_and_is_written_later(
    registry: ClientRegistry, client_id: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = new_pem()
    registry.rotate(client_id, pem)
    registry.note_login(client_id, "10.0.0.1", 1000.0, pem)
    with monkeypatch.context() as broken:
        broken.setattr(clients_file, "write", full_disk)
        with pytest.raises(RegistryError):
            registry.flush_logins(1000.0)
    client = registry.get(client_id)
    assert client is not None
    assert list(client.login_keys) == [pem]
    registry.flush_logins(1060.0)
    assert entries(path)[0]["publicKey"] == pem


def full_disk(*_: object) -> Any:
    raise RegistryError("the disk is full")


def test_a_new_key_that_was_replaced_after_its_login_does_not_come_back(
    registry: ClientRegistry, client_id: str, ec_key: Key, path: Path
) -> None:
    proven, wanted = new_pem(), new_pem()
    registry.rotate(client_id, proven)
    registry.note_login(client_id, "10.0.0.1", 1000.0, proven)
    ClientRegistry(path).rotate(client_id, wanted, replace_pending=True)
    registry.flush_logins(1000.0)
    assert (entries(path)[0]["publicKey"], entries(path)[0]["pendingKey"]) == (public_pem(ec_key), wanted)
    registry.note_login(client_id, "10.0.0.1", 1001.0, wanted)
    registry.flush_logins(1001.0)
    assert entries(path)[0]["publicKey"] == wanted


def test_a_rotation_ends_no_login_but_any_other_change_of_the_key_does(
    registry: ClientRegistry, client_id: str, path: Path
) -> None:
    gateway = ClientRegistry(path)
    gateway.list()
    pem = new_pem()
    registry.rotate(client_id, pem)
    assert gateway.reload_if_changed() == set()
    registry.note_login(client_id, "10.0.0.1", 1000.0, pem)
    registry.flush_logins(1000.0)
    assert gateway.reload_if_changed() == set()
    put(path, [entries(path)[0] | {"publicKey": new_pem()}])
    assert gateway.reload_if_changed() == {client_id}


# --- at the desk ------------------------------------------------------------------------------------------------------


def try_key(url: str, client_id: str, key: Key) -> bool:
    with Peer(url) as peer:
        return bool(peer.try_login(client_id, sign_challenge(key, peer.challenge, "SHA256"))["success"])


def test_both_keys_log_in_until_the_new_one_has(
    gateway: GatewayThread, registry: ClientRegistry, client_id: str, ec_key: Key, rsa_key: Key, path: Path
) -> None:
    registry.rotate(client_id, public_pem(rsa_key))
    assert [try_key(gateway.url, client_id, key) for key in (ec_key, ec_key, rsa_key)] == [True] * 3
    assert [try_key(gateway.url, client_id, key) for key in (ec_key, rsa_key)] == [False, True]
    wait_until(lambda: entries(path)[0]["publicKey"] == public_pem(rsa_key))


def test_a_gateway_that_stops_right_after_the_login_has_written_it(
    gateway: GatewayThread, registry: ClientRegistry, client_id: str, rsa_key: Key, path: Path
) -> None:
    registry.rotate(client_id, public_pem(rsa_key))
    assert try_key(gateway.url, client_id, rsa_key)
    gateway.stop()
    assert (entries(path)[0]["publicKey"], "pendingKey" in entries(path)[0]) == (public_pem(rsa_key), False)


def test_who_is_connected_with_the_old_key_stays_when_the_new_one_logs_in(
    gateway: GatewayThread,
    connect: Callable[[], Peer],
    registry: ClientRegistry,
    client_id: str,
    rsa_key: Key,
    ec384_key: Key,
    path: Path,
) -> None:
    old, witness_id = connect(), registry.register("witness", public_pem(ec384_key)).id
    registry.rotate(client_id, public_pem(rsa_key))
    with Peer(gateway.url) as witness:
        witness.log_in(witness_id, ec384_key)
        assert try_key(gateway.url, client_id, rsa_key)
        wait_until(lambda: entries(path)[0]["publicKey"] == public_pem(rsa_key))
        # When this is noticed, so is what was written before.
        registry.revoke(witness_id)
        assert witness.receive_close() == (4003, "revoked")
    old.send(type="ping", id="still there")
    assert old.receive()["id"] == "still there"


def test_an_old_key_that_is_verified_while_the_new_one_logs_in_is_refused(
    registry: ClientRegistry, client_id: str, ec_key: Key
) -> None:
    pem = new_pem()
    registry.rotate(client_id, pem)
    signature = sign_challenge(ec_key, "c" * 64, "SHA256")

    class OvertakenExecutor(ThreadPoolExecutor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(function, *args, **kwargs)
            registry.note_login(client_id, "::2", 1000.0, pem)
            return future

    async def attempt() -> Any:
        with OvertakenExecutor(1) as executor:
            return await LoginDesk(registry, LoginGuard(), executor).check(
                Verify(client_id, "c" * 64, signature), "::1"
            )

    assert asyncio.run(attempt()) == Refusal(4)
