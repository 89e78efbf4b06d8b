"""Who may log in: registering, finding, revoking, and changes by others, none of which is lost."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import RSA
from Crypto.Util.asn1 import DerSequence

from tests.support.client_files import entries, entry, new_pem, put
from wsclient.errors import InvalidKeyError
from wsclient.gateway import clients_file
from wsclient.gateway.registry import ClientRegistry, DuplicateClientError, RegistryError, UnknownClientError
from wsclient.keys import generate_key, public_pem

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorized_clients.json"


@pytest.fixture
def registry(path: Path) -> ClientRegistry:
    return ClientRegistry(path)


# Registering


@pytest.mark.parametrize(
    ("given", "written"), [("sha256WithRSAEncryption", "SHA256"), ("RSA-SHA512", "SHA512"), ("sha-384", "SHA384")]
)
def test_the_algorithm_is_written_as_the_hash(registry: ClientRegistry, path: Path, given: str, written: str) -> None:
    assert registry.register("a", new_pem(), given).signature_algorithm == written
    assert entries(path)[0]["signatureAlgorithm"] == written


def test_a_pkcs1_key_is_written_as_spki(registry: ClientRegistry, rsa_key: RSA.RsaKey) -> None:
    der = DerSequence([rsa_key.n, rsa_key.e]).encode()
    pkcs1 = f"-----BEGIN RSA PUBLIC KEY-----\n{base64.encodebytes(der).decode()}-----END RSA PUBLIC KEY-----\n"
    assert registry.register("a", pkcs1).public_key == public_pem(rsa_key)


def test_a_name_in_another_case_is_a_duplicate(registry: ClientRegistry) -> None:
    first = registry.register("Straße", new_pem())
    with pytest.raises(DuplicateClientError, match=f"this name is registered already.*{first.id}") as caught:
        registry.register("STRASSE", new_pem())
    assert caught.value.existing == first
    assert len(registry.list()) == 1


def test_a_key_is_a_duplicate_however_it_is_written(path: Path, rsa_public_pem: str) -> None:
    put(path, [entry("a", rsa_public_pem.replace("\n", "\r\n"))])
    with pytest.raises(DuplicateClientError, match="this key is registered already") as caught:
        ClientRegistry(path).register("b", rsa_public_pem)
    assert caught.value.existing.name == "a"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 129, "\x1b[31m", 5, None])
def test_a_bad_name_is_a_value_error(registry: ClientRegistry, path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="name of a client"):
        registry.register(name, new_pem())
    assert not path.exists()


def test_a_bad_algorithm_or_key_changes_nothing(registry: ClientRegistry, path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        registry.register("a", new_pem(), "SHA1")
    with pytest.raises(InvalidKeyError):
        registry.register("a", "junk")
    with pytest.raises(InvalidKeyError, match="private"):
        registry.register("a", generate_key("ec").export_key(format="PEM"))
    assert not path.exists()


# Finding


def test_a_client_is_found_by_its_id_or_its_name_in_any_case(registry: ClientRegistry) -> None:
    client = registry.register("Alice", new_pem())
    assert registry.find(client.id) == registry.find("alice") == registry.find("ALICE") == client
    assert registry.get(client.id) == client
    assert registry.get("Alice") is None


def test_a_name_of_two_clients_asks_for_the_id(path: Path) -> None:
    put(path, [entry("twin", new_pem(), id="1"), entry("Twin", new_pem(), id="2")])
    registry = ClientRegistry(path)
    with pytest.raises(RegistryError, match="2 clients are named 'TWIN'; say which by its id: 1, 2"):
        registry.find("TWIN")
    with pytest.raises(RegistryError, match="say which"):
        registry.revoke("twin")
    assert registry.revoke("2").client.name == "Twin"


# Revoking


def test_a_revoked_client_is_kept_in_a_record_as_the_original_writes_it(registry: ClientRegistry, path: Path) -> None:
    client = registry.register("bob", new_pem())
    registry.register("stays", new_pem())
    before = entries(path)[0]
    revocation = registry.revoke("BOB", "lost laptop")
    assert revocation.client == client
    assert [kept.name for kept in registry.list()] == ["stays"]
    record = json.loads(revocation.record.read_text(encoding="utf-8"))
    assert list(record) == ["client", "revokedAt", "reason"]
    assert record["client"] == before
    assert record["reason"] == "lost laptop"
    assert TIME.fullmatch(record["revokedAt"])
    assert revocation.record == path.parent / "revoked" / f"{client.id}_{re.sub('[:.]', '-', record['revokedAt'])}.json"
    assert revocation.record.read_text(encoding="utf-8").startswith('{\n  "client": {\n    "id"')


def test_an_unknown_client_cannot_be_revoked(registry: ClientRegistry, path: Path) -> None:
    registry.register("bob", new_pem())
    with pytest.raises(UnknownClientError, match="no client has the id or name 'nobody'"):
        registry.revoke("nobody")
    assert not (path.parent / "revoked").exists()


def test_the_records_directory_can_be_elsewhere(path: Path, tmp_path: Path) -> None:
    registry = ClientRegistry(path, revoked_dir=tmp_path / "attic")
    registry.register("bob", new_pem())
    assert registry.revoke("bob").record.parent == tmp_path / "attic"


def test_an_id_written_by_hand_does_not_lead_out_of_the_records_directory(path: Path) -> None:
    put(path, [entry("a", new_pem(), id="../../etc/x")])
    record = ClientRegistry(path).revoke("a").record
    assert record.parent == path.parent / "revoked"
    assert record.name.startswith("______etc_x_")


def test_revoking_takes_every_entry_of_that_id(path: Path) -> None:
    put(path, [entry("a", new_pem(), id="1"), entry("b", new_pem(), id="1"), entry("c", new_pem(), id="2")])
    registry = ClientRegistry(path)
    assert registry.revoke("1").client.name == "a"
    assert [kept["name"] for kept in entries(path)] == ["c"]
    assert registry.get("1") is None


def test_when_the_file_cannot_be_written_nobody_was_revoked(
    registry: ClientRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry.register("bob", new_pem())

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RegistryError, match="cannot be written: No space left"):
        registry.revoke("bob")
    assert registry.find("bob") == client
    assert [kept["name"] for kept in entries(path)] == ["bob"]
    assert list((path.parent / "revoked").iterdir()) == []
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".lock", "revoked"]


def test_when_the_record_cannot_be_written_nobody_was_revoked(registry: ClientRegistry, path: Path) -> None:
    registry.register("bob", new_pem())
    (path.parent / "revoked").write_text("a file in the way")
    with pytest.raises(RegistryError, match="nobody was revoked"):
        registry.revoke("bob")
    assert registry.find("bob") is not None


# Replacing


def test_replacing_revokes_who_has_the_name_and_who_has_the_key(registry: ClientRegistry, path: Path) -> None:
    pem = new_pem()
    same_name, same_key, third = (registry.register(n, p) for n, p in (("a", new_pem()), ("b", pem), ("c", new_pem())))
    client, revoked = registry.replace("A", pem, reason="moved")
    assert [revocation.client for revocation in revoked] == [same_name, same_key]
    assert registry.list() == (third, client)
    assert len(list((path.parent / "revoked").iterdir())) == 2


def test_replacing_nobody_is_registering(registry: ClientRegistry) -> None:
    client, revoked = registry.replace("a", new_pem())
    assert revoked == ()
    assert registry.list() == (client,)


# Changes by others


def test_what_others_wrote_meanwhile_is_not_lost(path: Path) -> None:
    mine, theirs = ClientRegistry(path), ClientRegistry(path)
    mine.list()
    first = theirs.register("theirs", new_pem())
    second = mine.register("mine", new_pem())
    assert [kept["id"] for kept in entries(path)] == [first.id, second.id]
    assert mine.list() == (first, second)


def test_a_duplicate_of_what_others_wrote_meanwhile_is_noticed(path: Path) -> None:
    mine, theirs = ClientRegistry(path), ClientRegistry(path)
    mine.list()
    theirs.register("same", new_pem())
    with pytest.raises(DuplicateClientError):
        mine.register("same", new_pem())


def test_a_change_by_others_is_seen_at_the_next_reload(path: Path) -> None:
    mine, theirs = ClientRegistry(path), ClientRegistry(path)
    assert mine.list() == ()
    client = theirs.register("new", new_pem())
    assert mine.get(client.id) is None
    assert mine.reload_if_changed() == set()
    assert mine.get(client.id) == client


def test_a_reload_without_a_change_does_not_read_the_file(
    registry: ClientRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("a", new_pem())
    monkeypatch.setattr(clients_file, "read", lambda path: pytest.fail("the file was read"))
    assert registry.reload_if_changed() == set()


def test_a_reload_names_who_was_revoked_by_others(path: Path) -> None:
    mine, theirs = ClientRegistry(path), ClientRegistry(path)
    client = theirs.register("a", new_pem())
    theirs.register("b", new_pem())
    mine.list()
    theirs.revoke("a")
    assert mine.reload_if_changed() == {client.id}
    assert mine.reload_if_changed() == set()


def test_a_reload_names_who_was_revoked_by_this_registry_itself(registry: ClientRegistry) -> None:
    client = registry.register("a", new_pem())
    registry.reload_if_changed()
    registry.revoke("a")
    assert registry.reload_if_changed() == {client.id}


def test_a_revocation_by_others_is_named_even_if_a_change_of_ours_read_it_first(path: Path) -> None:
    mine, theirs = ClientRegistry(path), ClientRegistry(path)
    client = theirs.register("a", new_pem())
    mine.list()
    theirs.revoke("a")
    mine.register("b", new_pem())
    assert mine.get(client.id) is None
    assert mine.reload_if_changed() == {client.id}


@pytest.mark.parametrize(
    ("change", "is_named"),
    [
        ({"publicKey": "other"}, True),
        ({"signatureAlgorithm": "SHA512"}, True),
        ({"allowedIPs": ["10.0.0.1"]}, True),
        ({"id": "another"}, True),
        ({"name": ""}, True),
        ({"name": "renamed"}, False),
        ({"lastConnected": "2026-11-22T18:57:04.922Z", "lastIP": "127.0.0.1"}, False),
        ({"tags": ["x"]}, False),
        ({"note": "x"}, False),
    ],
)
def test_a_reload_names_whose_login_would_be_another_one_now(
    path: Path, change: dict[str, Any], is_named: bool
) -> None:
    before = entry("a", new_pem(), id="1")
    put(path, [before])
    registry = ClientRegistry(path)
    registry.list()
    put(path, [before | change, {}])
    assert registry.reload_if_changed() == ({"1"} if is_named else set())


def test_a_removed_file_removes_everybody(registry: ClientRegistry, path: Path) -> None:
    client = registry.register("a", new_pem())
    registry.reload_if_changed()
    path.unlink()
    assert registry.reload_if_changed() == {client.id}
    assert registry.list() == ()


def test_a_file_of_the_same_size_and_time_but_another_inode_is_another_file(path: Path) -> None:
    first, second = entry("a", new_pem(), id="1"), entry("b", new_pem(), id="2")
    put(path, [first])
    registry = ClientRegistry(path)
    registry.list()
    times = path.stat()
    other = path.with_name("other")
    put(other, [second])
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)
    assert path.stat().st_size == times.st_size
    assert registry.reload_if_changed() == {"1"}


def test_while_the_file_is_broken_the_clients_read_before_stay_in_force(path: Path) -> None:
    good = [entry("a", new_pem(), id="1")]
    put(path, good)
    registry = ClientRegistry(path)
    registry.list()
    put(path, b"[{")
    with pytest.raises(RegistryError, match="is not valid JSON"):
        registry.reload_if_changed()
    assert registry.reload_if_changed() == set()
    assert registry.get("1") is not None
    assert any("is not valid JSON" in problem for problem in registry.problems)
    put(path, [*good, entry("b", new_pem(), id="2")])
    assert registry.reload_if_changed() == set()
    assert registry.get("2") is not None
    assert registry.problems == ()


def test_each_new_breakage_is_raised_once(path: Path) -> None:
    put(path, b"[{")
    registry = ClientRegistry(path)
    with pytest.raises(RegistryError):
        registry.reload_if_changed()
    assert registry.reload_if_changed() == set()
    put(path, b"[{{")
    with pytest.raises(RegistryError):
        registry.reload_if_changed()


def test_putting_the_old_file_back_ends_the_problem(path: Path) -> None:
    put(path, [entry("a", new_pem(), id="1")])
    registry = ClientRegistry(path)
    registry.list()
    path.rename(path.with_name("backup"))
    put(path, b"")
    with pytest.raises(RegistryError):
        registry.reload_if_changed()
    path.with_name("backup").rename(path)
    assert registry.reload_if_changed() == set()
    assert registry.problems == ()


def test_a_reload_does_not_wait_for_a_change_under_way(registry: ClientRegistry) -> None:
    registry.list()
    with registry._exclusive():
        began = time.monotonic()
        assert registry.reload_if_changed() == set()
        assert time.monotonic() - began < 0.5


def test_a_reload_that_may_wait_sees_what_the_change_under_way_has_written(registry: ClientRegistry) -> None:
    registry.list()
    begun = threading.Event()

    def change() -> None:
        with registry._exclusive() as now:
            begun.set()
            time.sleep(0.05)
            registry._write([*now.entries, entry("a", new_pem(), id="1")])

    changing = threading.Thread(target=change)
    changing.start()
    begun.wait()
    registry.reload_if_changed(wait=10)
    assert registry.get("1") is not None
    changing.join()


def test_a_file_that_cannot_be_looked_at_is_told_once_until_it_can(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, [entry("a", new_pem(), id="1")])
    registry = ClientRegistry(path)
    registry.list()

    def fail(path: Path) -> None:
        raise RegistryError(f"{path} cannot be looked at: Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(clients_file, "stamp_of", fail)
        with pytest.raises(RegistryError, match="cannot be looked at"):
            registry.reload_if_changed()
        assert registry.reload_if_changed() == set()
        assert not registry.is_readable
    assert registry.reload_if_changed() == set()
    assert registry.is_readable
    assert registry.get("1") is not None


# Several at once


def register_many(path: Path, worker: int, pems: list[str], start: Any, done: Any) -> None:
    """Register clients and revoke every third: in a process of its own. Report what was acknowledged."""
    registry = ClientRegistry(path, lock_timeout=30)
    start.wait()
    added, revoked = [], []
    for number, pem in enumerate(pems):
        client = registry.register(f"worker {worker} client {number}", pem)
        added.append(client.id)
        registry.note_login(client.id, f"10.0.{worker}.{number}", 1000.0)
        registry.flush_logins(1000.0, force=True)
        if number % 3 == 0:
            registry.revoke(client.id)
            revoked.append(client.id)
    done.put((added, revoked))


def test_nothing_acknowledged_is_lost_when_processes_change_the_file_at_once(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, done = spawn.Barrier(4, timeout=50), spawn.Queue()
    workers = [
        spawn.Process(target=register_many, args=(path, n, [new_pem() for _ in range(9)], start, done))
        for n in range(4)
    ]
    for worker in workers:
        worker.start()
    results = [done.get(timeout=50) for _ in workers]
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0
    added = {client_id for ids, _ in results for client_id in ids}
    revoked = {client_id for _, ids in results for client_id in ids}
    assert len(added) == 36
    assert {kept["id"] for kept in entries(path)} == added - revoked
    assert all("lastIP" in kept for kept in entries(path))
    assert {p.name.split("_")[0] for p in (path.parent / "revoked").iterdir()} == revoked


def test_nothing_acknowledged_is_lost_when_threads_share_a_registry(registry: ClientRegistry, path: Path) -> None:
    pems = [new_pem() for _ in range(12)]
    threads = [
        threading.Thread(target=registry.register, args=(f"client {number}", pem)) for number, pem in enumerate(pems)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(path)) == 12
    assert len(registry.list()) == 12


def test_a_reader_never_sees_half_a_file(registry: ClientRegistry, path: Path) -> None:
    registry.register("first", new_pem())
    stop = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(len(clients_file.read(path).entries))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(20):
        registry.register(f"client {number}", new_pem())
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert min(seen) >= 1


def test_the_registry_needs_no_aiohttp() -> None:
    code = "import sys, wsclient.gateway.registry, wsclient.gateway.guard; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
