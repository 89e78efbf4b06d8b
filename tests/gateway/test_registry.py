"""The clients file: the original's format, no lost change, no client locked out by another's broken entry."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from Crypto.PublicKey import RSA
from Crypto.PublicKey.ECC import EccKey
from Crypto.Util.asn1 import DerSequence

from wsclient.errors import InvalidKeyError
from wsclient.gateway import clients_file
from wsclient.gateway.clients import RegisteredClient
from wsclient.gateway.registry import (
    ClientRegistry,
    DuplicateClientError,
    RegistryError,
    UnknownClientError,
)
from wsclient.keys import fingerprint, generate_key, public_pem

ID = re.compile(r"[0-9a-f]{32}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CLI = (Path(__file__).parent.parent / "transcripts" / "cli.txt").read_text(encoding="utf-8")


def new_pem() -> str:
    """Return the public PEM of a fresh key; EC, because those are made in a millisecond."""
    return public_pem(generate_key("ec"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorized_clients.json"


@pytest.fixture
def registry(path: Path) -> ClientRegistry:
    return ClientRegistry(path)


def entries(path: Path) -> list[Any]:
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, list)
    return loaded


def put(path: Path, content: Any) -> None:
    """Write the file as another program would: in place, without our lock."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def entry(name: str, pem: str, id: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": id or name * 4, "name": name, "publicKey": pem} | more


# The file's format


def recorded_file() -> bytes:
    """Return the clients file that cli.txt shows, byte for byte."""
    start = CLI.index("[\n  {\n")
    return CLI[start : CLI.index("\n]", start) + 2].encode()


def test_no_file_means_no_clients(registry: ClientRegistry, path: Path) -> None:
    assert registry.list() == ()
    assert registry.get("x") is None
    assert registry.find("x") is None
    assert registry.problems == ()
    assert not path.exists()


def test_a_new_client_is_written_as_the_original_writes_it(
    registry: ClientRegistry, path: Path, ec_public_pem: str
) -> None:
    client = registry.register("älice", ec_public_pem)
    assert ID.fullmatch(client.id)
    assert TIME.fullmatch(client.created_at or "")
    expected = f"""[
  {{
    "id": "{client.id}",
    "name": "älice",
    "publicKey": {json.dumps(ec_public_pem)},
    "signatureAlgorithm": "SHA256",
    "createdAt": "{client.created_at}"
  }}
]"""
    assert path.read_text(encoding="utf-8") == expected


def test_the_originals_file_is_written_back_byte_for_byte(path: Path, ec_public_pem: str) -> None:
    put(path, recorded_file())
    registry = ClientRegistry(path)
    client = registry.register("new", ec_public_pem)
    assert path.read_bytes().startswith(recorded_file()[:-2])
    registry.revoke(client.id)
    assert path.read_bytes() == recorded_file()


def test_an_empty_registry_is_written_as_an_empty_array(registry: ClientRegistry, path: Path) -> None:
    registry.revoke(registry.register("a", new_pem()).id)
    assert path.read_bytes() == b"[]"


def test_fields_we_do_not_know_and_their_order_stay(path: Path) -> None:
    strange = {"zeta": [1, {"x": None}], "publicKey": new_pem(), "name": "odd", "createdAt": 5, "id": "1", "ünï": "😀"}
    put(path, [strange])
    registry = ClientRegistry(path)
    registry.register("another", new_pem())
    assert list(entries(path)[0].items()) == list(strange.items())
    odd = registry.get("1")
    assert odd is not None
    assert odd.extra == {"zeta": [1, {"x": None}], "ünï": "😀"}


def test_a_client_comes_through_json_unchanged() -> None:
    client = RegisteredClient(
        "1",
        "n",
        "pem",
        "SHA512",
        "then",
        "later",
        "::1",
        tags=("a", "b"),
        allowed_ips=("10.0.0.0/8",),
        extra={"k": [1]},
    )
    assert RegisteredClient.from_json(json.loads(json.dumps(client.to_json()))) == client
    assert list(client.to_json()) == (
        ["id", "name", "publicKey", "signatureAlgorithm", "createdAt", "lastConnected", "lastIP", "tags", "allowedIPs"]
        + ["k"]
    )


@pytest.mark.parametrize("missing", [{}, {"signatureAlgorithm": ""}, {"signatureAlgorithm": None}])
def test_a_client_without_an_algorithm_has_the_default(path: Path, missing: dict[str, Any]) -> None:
    put(path, [entry("a", new_pem(), **missing)])
    assert ClientRegistry(path).list()[0].signature_algorithm == "SHA256"
    assert ClientRegistry(path, default_algorithm="SHA512").list()[0].signature_algorithm == "SHA512"


def test_a_name_that_is_not_text_is_shown_as_json(path: Path) -> None:
    put(path, [entry("a", new_pem()) | {"name": ["a"]}, entry("b", new_pem()) | {"name": 5}])
    assert [client.name for client in ClientRegistry(path).list()] == ['["a"]', "5"]


def test_a_byte_order_mark_does_not_matter(path: Path) -> None:
    put(path, b"\xef\xbb\xbf" + json.dumps([entry("a", new_pem())]).encode())
    assert [client.name for client in ClientRegistry(path).list()] == ["a"]


def test_half_a_surrogate_pair_in_the_file_does_not_stop_a_change(path: Path) -> None:
    put(path, b'[{"id": "1", "name": "\\ud83d", "publicKey": "x"}]')
    ClientRegistry(path).register("b", new_pem())
    assert entries(path)[0]["name"] == "\ud83d"


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


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "not an object but NoneType"),
        ("text", "not an object but str"),
        ({}, "its id is missing"),
        ({"id": 5, "name": "x", "publicKey": "y"}, "its id is missing, empty or not text"),
        ({"id": "2", "name": "", "publicKey": "y"}, "its name is missing"),
        ({"id": "2", "name": "x"}, "its publicKey is missing"),
        ({"id": "2", "name": "x", "publicKey": "y", "signatureAlgorithm": 5}, "its signatureAlgorithm is not text"),
        ({"id": "2", "name": "x", "publicKey": "y", "allowedIPs": "10.0.0.1"}, "its allowedIPs is not an array"),
        ({"id": "2", "name": "x", "publicKey": "y", "allowedIPs": [1]}, "its allowedIPs is not an array"),
        ({"id": "good", "name": "x", "publicKey": "y"}, "its id 'good' is that of an earlier entry"),
    ],
)
def test_a_bad_entry_is_kept_skipped_and_reported(path: Path, bad: Any, words: str) -> None:
    put(path, [entry("a", new_pem(), id="good"), bad])
    registry = ClientRegistry(path)
    assert [client.id for client in registry.list()] == ["good"]
    assert len(registry.problems) == 1
    assert registry.problems[0].startswith("entry 2 is skipped: ")
    assert words in registry.problems[0]
    registry.register("b", new_pem())
    assert entries(path)[1] == bad


@pytest.mark.parametrize("field", ["createdAt", "lastConnected", "lastIP", "tags"])
def test_a_bad_value_that_no_login_rests_on_locks_nobody_out(path: Path, field: str) -> None:
    put(path, [entry("a", new_pem(), **{field: 5})])
    registry = ClientRegistry(path)
    assert [client.name for client in registry.list()] == ["a"]
    assert registry.problems == ()


def test_clients_that_cannot_log_in_are_listed_reported_and_can_be_revoked(path: Path) -> None:
    put(path, recorded_file().replace(b'"signatureAlgorithm": "SHA256"', b'"signatureAlgorithm": "SHA1"', 1))
    registry = ClientRegistry(path)
    dup, privy = registry.list()
    assert registry.problems == (
        f"client 'dup' (entry 1) cannot log in: {dup.fault}",
        "client 'privy' (entry 2) cannot log in: the public key is a private key",
    )
    assert "SHA1" in (dup.fault or "")
    assert dup.key is not None
    assert (privy.key, privy.fingerprint) == (None, None)
    assert registry.revoke("privy").client == privy


def test_a_client_knows_its_key_and_fingerprint(registry: ClientRegistry, ec_key: EccKey) -> None:
    client = registry.register("a", public_pem(ec_key))
    assert client.key == ec_key.public_key()
    assert client.fingerprint == fingerprint(ec_key)
    assert client.fault is None


# Allowed addresses


@pytest.mark.parametrize(
    ("allowed", "address", "expected"),
    [
        ((), "anything", True),
        (("10.0.0.1",), "10.0.0.1", True),
        (("10.0.0.1",), "10.0.0.2", False),
        (("10.0.0.0/8",), "10.200.0.2", True),
        (("10.0.0.7/8",), "10.200.0.2", True),
        (("10.0.0.1",), "::ffff:10.0.0.1", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "10.0.0.1", False),
        (("office", "10.0.0.1"), "10.0.0.1", True),
        (("office",), "10.0.0.1", False),
        (("10.0.0.1",), "no address", False),
    ],
)
def test_a_client_may_come_from_its_addresses_only(allowed: tuple[str, ...], address: str, expected: bool) -> None:
    assert RegisteredClient("1", "n", "pem", allowed_ips=allowed).allows_address(address) is expected


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


# Logins


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
