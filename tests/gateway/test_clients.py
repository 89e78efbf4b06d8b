"""The clients file's entries: the original's format, and no client locked out by another's broken entry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey.ECC import EccKey

from tests.support.client_files import entries, entry, new_pem, put, recorded_file
from wsclient.gateway.clients import RegisteredClient
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import fingerprint, public_pem

ID = re.compile(r"[0-9a-f]{32}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorized_clients.json"


@pytest.fixture
def registry(path: Path) -> ClientRegistry:
    return ClientRegistry(path)


# The file's format


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


# Bad entries


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
