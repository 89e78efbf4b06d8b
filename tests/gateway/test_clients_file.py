"""The clients file on disk: broken ones are never overwritten, new ones replace the old at once or not at all."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import filelock
import pytest

from tests.support.client_files import entries, new_pem, put
from wsclient.gateway import clients_file
from wsclient.gateway.registry import ClientRegistry, RegistryError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorized_clients.json"


@pytest.fixture
def registry(path: Path) -> ClientRegistry:
    return ClientRegistry(path)


# Broken files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; put back a backup"),
        (b" \n", "is empty"),
        (b'[\n  {"id": "1",,}\n]', r"is not valid JSON: .* \(line 2, column 14\)"),
        (b"[{}", "is not valid JSON"),
        (b"[NaN]", "NaN is no JSON value"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "is not valid JSON"),
        (b'["\xff"]', r"is not UTF-8 \(byte 2\)"),
        (b'{"id": "1"}', "must hold a JSON array"),
        (b"null", "must hold a JSON array"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where_and_is_never_overwritten(
    path: Path, content: bytes, words: str
) -> None:
    put(path, content)
    registry = ClientRegistry(path)
    for act in (
        registry.list,
        lambda: registry.get("1"),
        lambda: registry.register("a", new_pem()),
        lambda: registry.replace("a", new_pem()),
        lambda: registry.revoke("1"),
    ):
        with pytest.raises(RegistryError, match=words) as caught:
            act()
        assert str(path) in caught.value.message
    assert path.read_bytes() == content


def test_a_directory_in_the_files_place_is_a_registry_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(RegistryError, match="cannot be read: Is a directory"):
        ClientRegistry(path).list()


# The disk


def test_a_new_file_and_its_records_are_for_the_owner_alone(registry: ClientRegistry, path: Path) -> None:
    registry.register("a", new_pem())
    record = registry.revoke("a").record
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, record, path.parent, record.parent)]
    assert modes == [0o600, 0o600, 0o700, 0o700]


def test_the_mode_of_an_existing_file_is_kept(path: Path) -> None:
    put(path, [])
    path.chmod(0o640)
    ClientRegistry(path).register("a", new_pem())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_who_owns_the_directory_or_the_file(path: Path) -> None:
    path.parent.mkdir()
    os.chown(path.parent, 1000, 1000)
    registry = ClientRegistry(path)
    registry.register("a", new_pem())
    record = registry.revoke("a").record
    assert {p.stat().st_uid for p in (path, path.with_name(path.name + ".lock"), record)} == {1000}
    os.chown(path, 1001, 1001)
    registry.register("b", new_pem())
    assert path.stat().st_uid == 1001


def test_a_link_to_the_file_stays_a_link(path: Path, tmp_path: Path) -> None:
    put(path, [])
    link = tmp_path / "link.json"
    link.symlink_to(path)
    ClientRegistry(link).register("a", new_pem())
    assert link.is_symlink()
    assert len(entries(path)) == 1
    assert path.with_name(path.name + ".lock").exists()
    assert [p.name for p in tmp_path.iterdir() if p != path.parent] == ["link.json"]


def test_links_in_a_circle_are_named_when_the_file_is_to_be_changed(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(link)
    with pytest.raises(RegistryError, match=r"link\.json cannot be read: Too many levels of symbolic links"):
        ClientRegistry(link).register("a", new_pem())


def test_what_a_crash_left_behind_does_not_stop_the_next_change(path: Path) -> None:
    put(path, [])
    path.with_name(f".{path.name}.draft").write_text("half a fi")
    ClientRegistry(path).register("a", new_pem())
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".lock"]


def test_the_file_is_on_the_disk_before_it_takes_the_old_ones_place(
    registry: ClientRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("fsync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        done.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    registry.register("a", new_pem())
    assert done == ["fsync file", "replace", "fsync directory"]


def test_a_lock_that_others_hold_for_too_long_is_an_error_that_says_so(path: Path) -> None:
    put(path, [])
    registry = ClientRegistry(path, lock_timeout=0.05)
    with (
        filelock.FileLock(str(path) + ".lock"),
        pytest.raises(RegistryError, match=r"locked by another process for more than 0\.05 s"),
    ):
        in_another_thread(lambda: registry.register("a", new_pem()))
    registry.register("a", new_pem())


def in_another_thread(act: Callable[[], object]) -> None:
    """Run there and raise here: the lock of a thread is no obstacle to itself in some versions of filelock."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_directory_that_cannot_be_made_is_a_registry_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(RegistryError, match="cannot be"):
        ClientRegistry(tmp_path / "data" / "clients.json").register("a", new_pem())


def test_a_change_that_waits_for_another_process_keeps_nobody_from_noticing_a_revocation(
    registry: ClientRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry.register("a", new_pem())
    assert registry.reload_if_changed() == set()
    asked = threading.Event()
    exclusive = clients_file.exclusive

    def asking(path: Path, timeout: float) -> AbstractContextManager[None]:
        asked.set()
        return exclusive(path, timeout)

    monkeypatch.setattr(clients_file, "exclusive", asking)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(path):
            change = pool.submit(registry.register, "b", new_pem())
            assert asked.wait(10)
            # By hand, or by the original.
            put(path, [])
            assert registry.reload_if_changed() == {client.id}
            assert not change.done()
        assert change.result(timeout=10).name == "b"


def test_who_came_by_a_change_of_our_own_and_went_before_anybody_looked_is_named_all_the_same(
    registry: ClientRegistry, path: Path
) -> None:
    assert registry.reload_if_changed() == set()
    # From now on it may log in.
    client = registry.register("a", new_pem())
    ClientRegistry(path).revoke(client.id)
    assert registry.reload_if_changed() == {client.id}
    assert registry.reload_if_changed() == set()
