"""Logins are remembered in memory, and written once a minute at most."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_files import entries, entry, new_pem, put
from wsclient.gateway import clients_file
from wsclient.gateway.registry import ClientRegistry, RegistryError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorized_clients.json"


@pytest.fixture
def registry(path: Path) -> ClientRegistry:
    return ClientRegistry(path)


def test_a_login_is_written_as_the_original_writes_it(registry: ClientRegistry, path: Path) -> None:
    client = registry.register("a", new_pem())
    registry.note_login(client.id, "127.0.0.1", 1795373824.922)
    assert registry.flush_logins(1795373825.0) is True
    assert list(entries(path)[0]) == (
        ["id", "name", "publicKey", "signatureAlgorithm", "createdAt", "lastConnected", "lastIP"]
    )
    assert entries(path)[0]["lastConnected"] == "2026-11-22T18:57:04.922Z"
    assert entries(path)[0]["lastIP"] == "127.0.0.1"
    written = registry.get(client.id)
    assert written is not None
    assert (written.last_connected, written.last_ip) == ("2026-11-22T18:57:04.922Z", "127.0.0.1")


def test_logins_are_written_once_a_minute_at_most_the_latest_one_of_each_client(
    registry: ClientRegistry, path: Path
) -> None:
    client = registry.register("a", new_pem())
    registry.note_login(client.id, "10.0.0.1", 1000.0)
    assert registry.flush_logins(1000.0) is True
    registry.note_login(client.id, "10.0.0.2", 1001.0)
    registry.note_login(client.id, "10.0.0.3", 1002.0)
    assert registry.flush_logins(1059.9) is False
    assert entries(path)[0]["lastIP"] == "10.0.0.1"
    assert registry.flush_logins(1060.0) is True
    assert entries(path)[0]["lastIP"] == "10.0.0.3"


def test_nothing_is_written_when_nobody_logged_in(registry: ClientRegistry, path: Path) -> None:
    assert registry.flush_logins(1000.0) is False
    assert not path.parent.exists()


def test_at_shutdown_the_minute_is_not_waited_for(registry: ClientRegistry, path: Path) -> None:
    client = registry.register("a", new_pem())
    for second in (1000.0, 1001.0):
        registry.note_login(client.id, f"10.0.0.{second:.0f}", second)
        assert registry.flush_logins(second, force=True) is True
    assert entries(path)[0]["lastIP"] == "10.0.0.1001"


def test_a_clock_that_was_set_back_does_not_stop_the_writing(registry: ClientRegistry) -> None:
    client = registry.register("a", new_pem())
    for now in (5000.0, 1000.0):
        registry.note_login(client.id, "10.0.0.1", now)
        assert registry.flush_logins(now) is True


def test_a_login_never_brings_back_a_removed_client(path: Path) -> None:
    gateway, cli = ClientRegistry(path), ClientRegistry(path)
    gone, stays = cli.register("gone", new_pem()), cli.register("stays", new_pem())
    gateway.list()
    gateway.note_login(gone.id, "10.0.0.1", 1000.0)
    gateway.note_login(stays.id, "10.0.0.1", 1000.0)
    cli.revoke("gone")
    assert gateway.flush_logins(1000.0) is True
    assert [(kept["name"], kept["lastIP"]) for kept in entries(path)] == [("stays", "10.0.0.1")]


def test_a_login_of_a_removed_client_alone_does_not_write_the_file(path: Path) -> None:
    registry = ClientRegistry(path)
    client = registry.register("gone", new_pem())
    registry.note_login(client.id, "10.0.0.1", 1000.0)
    registry.revoke("gone")
    inode = path.stat().st_ino
    assert registry.flush_logins(1000.0) is False
    assert path.stat().st_ino == inode


def test_writing_a_login_ends_nobodys_connection(registry: ClientRegistry) -> None:
    client = registry.register("a", new_pem())
    registry.reload_if_changed()
    registry.note_login(client.id, "10.0.0.1", 1000.0)
    registry.flush_logins(1000.0)
    assert registry.reload_if_changed() == set()


def test_logins_that_could_not_be_written_are_kept_for_the_next_minute(path: Path) -> None:
    put(path, good := [entry("a", new_pem(), id="1"), entry("b", new_pem(), id="2")])
    registry = ClientRegistry(path)
    registry.note_login("1", "10.0.0.1", 1000.0)
    registry.note_login("2", "10.0.0.1", 1000.0)
    put(path, b"[{")
    with pytest.raises(RegistryError):
        registry.flush_logins(1000.0)
    put(path, good)
    registry.note_login("2", "10.0.0.2", 1001.0)
    assert registry.flush_logins(1001.0) is False
    assert registry.flush_logins(1060.0) is True
    assert [kept["lastIP"] for kept in entries(path)] == ["10.0.0.1", "10.0.0.2"]


def test_a_login_during_a_write_that_fails_counts_more_than_the_ones_before(
    registry: ClientRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry.register("a", new_pem())
    registry.note_login(client.id, "10.0.0.1", 1000.0)

    def fails(*args: Any) -> None:
        registry.note_login(client.id, "10.0.0.2", 1001.0)
        raise RegistryError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(clients_file, "write", fails)
        with pytest.raises(RegistryError):
            registry.flush_logins(1000.0)
    assert registry.flush_logins(1060.0) is True
    assert entries(path)[0]["lastIP"] == "10.0.0.2"


def test_logins_wait_for_no_other_process_until_the_end(registry: ClientRegistry, path: Path) -> None:
    client = registry.register("a", new_pem())
    registry.note_login(client.id, "127.0.0.1", 1.0)
    started = time.monotonic()
    with clients_file.exclusive(path), pytest.raises(RegistryError, match="is locked by another process"):
        registry.flush_logins(1.0)
    assert time.monotonic() - started < 5
    assert registry.flush_logins(2.0, force=True) is True
