"""Registering over HTTP: who may, what is answered, and what is in the file then."""

from __future__ import annotations

import json
import logging
import socket
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.asking import TOKEN, Answer, ask, register
from ..support.client_files import entries, new_pem
from ..support.gateway_peers import Peer
from .conftest import StartGateway


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway that has an administrator."""
    return start_gateway(admin_token=TOKEN)


def post(gateway: GatewayThread, body: bytes, **headers: str) -> Answer:
    return ask(gateway.url, "/api/auth/register", method="POST", token=TOKEN, body=body, headers=headers)


def test_a_client_registered_over_http_logs_in_at_once(gateway: GatewayThread, rsa_key: Key) -> None:
    answer = register(gateway.url, "remote", public_pem(rsa_key))
    assert (answer.status, answer.headers["content-type"]) == (201, "application/json; charset=utf-8")
    assert list(answer.json) == ["clientId"]
    with Peer(gateway.url) as peer:
        peer.log_in(answer.json["clientId"], rsa_key)


def test_the_file_has_it_when_it_is_acknowledged(gateway: GatewayThread, tmp_path: Path) -> None:
    pem = new_pem()
    id = register(gateway.url, "ünï 😀", pem, signatureAlgorithm="RSA-SHA512", extra=1).json["clientId"]
    entry = entries(tmp_path / "authorized_clients.json")[-1]
    created = entry.pop("createdAt")
    assert created.endswith("Z")
    assert entry == {"id": id, "name": "ünï 😀", "publicKey": pem, "signatureAlgorithm": "SHA512"}


@pytest.mark.parametrize("algorithm", [None, "", 0, False])
def test_without_an_algorithm_the_settings_default_is_registered(
    algorithm: Any, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway(admin_token=TOKEN, default_signature_algorithm="RSA-SHA384")
    register(gateway.url, "x", new_pem(), signatureAlgorithm=algorithm)
    assert entries(tmp_path / "authorized_clients.json")[-1]["signatureAlgorithm"] == "SHA384"


def test_the_default_algorithm_holds_for_clients_that_the_file_has_without_one(
    start_gateway: StartGateway, tmp_path: Path, rsa_key: Key
) -> None:
    path = tmp_path / "authorized_clients.json"
    path.write_text(json.dumps([{"id": "old", "name": "old", "publicKey": public_pem(rsa_key)}]))
    gateway = start_gateway(default_signature_algorithm="SHA512")
    with Peer(gateway.url) as peer:
        peer.log_in("old", rsa_key, "SHA512")


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        (b"", "Missing required fields: name and publicKey", "missing_parameters"),
        (b"[]", "Missing required fields: name and publicKey", "missing_parameters"),
        (b'{"name":"x"}', "Missing required fields: name and publicKey", "missing_parameters"),
        (b'{"name":"","publicKey":"p"}', "Missing required fields: name and publicKey", "missing_parameters"),
        (b'{"name":"x","publicKey":0}', "Missing required fields: name and publicKey", "missing_parameters"),
        (b'{"name":"x","publicKey":123}', "Invalid public key format", "invalid_request"),
        (b'{"name":"x","publicKey":"ssh-rsa AAAA"}', "Invalid public key format", "invalid_request"),
        (b"not json", "The body is not a JSON object", "invalid_request"),
        (b"null", "The body is not a JSON object", "invalid_request"),
        (b'"\xff"', "The body is not a JSON object", "invalid_request"),
        (b"[" * 16000, "The body is not a JSON object", "invalid_request"),
    ],
)
def test_what_is_missing_or_wrong_is_named(gateway: GatewayThread, body: bytes, error: str, code: str) -> None:
    answer = post(gateway, body)
    assert (answer.status, answer.json) == (400, {"error": error, "code": code})


def test_a_body_that_does_not_say_that_it_is_json_has_no_fields(gateway: GatewayThread) -> None:
    body = json.dumps({"name": "x", "publicKey": new_pem()}).encode()
    for kind in ("text/plain", ""):
        assert post(gateway, body, **{"Content-Type": kind}).json["code"] == "missing_parameters"


@pytest.mark.parametrize("algorithm", ["NOPE", "RSA-SHA1", "md5", 5])
def test_an_algorithm_that_is_not_supported_is_named(gateway: GatewayThread, algorithm: Any) -> None:
    answer = register(gateway.url, "x", new_pem(), signatureAlgorithm=algorithm)
    assert answer.status == 400
    assert answer.json == {"error": f"Unsupported signature algorithm: {algorithm}", "code": "invalid_request"}


def test_a_private_key_is_refused_with_the_reason(gateway: GatewayThread, rsa_key: Key) -> None:
    answer = register(gateway.url, "x", rsa_key.export_key().decode())  # type: ignore[union-attr, arg-type]
    assert (answer.status, answer.json["error"]) == (
        400,
        "Invalid public key format: the public key is a private key",
    )


def test_a_name_or_a_key_that_is_taken_is_a_conflict_for_who_wants_it_unique(
    gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    for name, pem in (("TEST-client", new_pem()), ("y", public_pem(ec_key))):
        answer = register(gateway.url, name, pem, unique=True)
        assert (answer.status, answer.json["code"]) == (409, "invalid_request")
        assert client_id in answer.json["error"]
        # As with the original, which takes any number.
        assert register(gateway.url, name, pem).status == 201


def test_a_name_that_is_no_text_is_taken_as_its_json_as_ours_reads_the_originals(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    for name in (["a"], 5):
        assert register(gateway.url, name, new_pem()).status == 201
    assert [entry["name"] for entry in entries(tmp_path / "authorized_clients.json")[1:]] == ['["a"]', "5"]


def test_a_name_of_control_characters_is_refused(gateway: GatewayThread) -> None:
    answer = register(gateway.url, "\x1b[2J", new_pem())
    assert answer.status == 400
    assert "printable" in answer.json["error"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_16_kib_is_not_read(gateway: GatewayThread, is_chunked: bool) -> None:
    parts = urlsplit(gateway.url)
    head = f"POST /api/auth/register HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as peer:
        if is_chunked:
            chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
            peer.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"1\r\nx\r\n")
        else:
            peer.sendall(head.encode() + b"Content-Length: 16385\r\n\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 413 ")


def test_who_sends_far_too_long_a_body_sees_the_answer(gateway: GatewayThread) -> None:
    answer = post(gateway, b"{" + b" " * 200_000)
    assert (answer.status, answer.json["error"]) == (413, "The body may have 16384 bytes")


def test_who_waits_before_sending_the_body_is_told_to_go_on(gateway: GatewayThread) -> None:
    parts = urlsplit(gateway.url)
    body = json.dumps({"name": "x", "publicKey": new_pem()}).encode()
    head = f"POST /api/auth/register HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5) as peer:
        peer.sendall(head.encode())
        assert peer.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        assert peer.recv(100).startswith(b"HTTP/1.1 201 Created\r\n")


@pytest.mark.parametrize("body", [zlib.compress(b"{}"), b"no such thing"])
def test_a_compressed_body_is_refused_whatever_is_in_it(gateway: GatewayThread, body: bytes) -> None:
    answer = post(gateway, body, **{"Content-Encoding": "deflate"})
    assert (answer.status, answer.json["error"]) == (415, "The body must not be compressed")


def test_a_broken_clients_file_is_an_error_and_stays_as_it_is(gateway: GatewayThread, tmp_path: Path) -> None:
    path = tmp_path / "authorized_clients.json"
    path.write_text("oops")
    answer = register(gateway.url, "x", new_pem())
    assert (answer.status, answer.json["code"]) == (500, "server_error")
    assert "is not valid JSON" in answer.json["error"]
    assert path.read_text() == "oops"


# --- the token --------------------------------------------------------------------------------------------------------


def test_without_an_admin_token_there_is_no_such_path(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    assert register(gateway.url, "x", new_pem()).status == 404
    assert ask(gateway.url, "/metrics", token=TOKEN).status == 404


def test_only_a_post_registers(gateway: GatewayThread) -> None:
    assert ask(gateway.url, "/api/auth/register", token=TOKEN).status == 404


@pytest.mark.parametrize("token", [None, "x" * 24, "", TOKEN.upper()])
def test_without_the_token_nothing_is_registered(
    gateway: GatewayThread, registry: ClientRegistry, token: str | None
) -> None:
    answer = register(gateway.url, "x", new_pem(), token)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json["code"] == "invalid_auth"
    registry.reload_if_changed()
    assert registry.find("x") is None


def test_the_fifth_wrong_token_blocks_the_address_even_for_the_right_one(gateway: GatewayThread) -> None:
    assert [register(gateway.url, "x", "k", "wrong" * 5).status for _ in range(4)] == [401] * 4
    for token in ("wrong" * 5, TOKEN):
        answer = register(gateway.url, "x", new_pem(), token)
        assert (answer.status, answer.headers["retry-after"]) == (429, "16")
        assert answer.json == {
            "error": "Too many authentication attempts. Please try again in 16 seconds.",
            "code": "rate_limited",
            "retryAfter": 16,
        }


def test_a_request_without_any_token_counts_for_nothing_and_the_right_one_clears(gateway: GatewayThread) -> None:
    for _ in range(2):
        for token in (None, None, "wrong" * 5, "wrong" * 5, "wrong" * 5):
            assert register(gateway.url, "x", "k", token).status == 401
        assert register(gateway.url, "x", "k").status == 400


def test_the_token_is_never_logged(gateway: GatewayThread, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        register(gateway.url, "x", new_pem(), "a-wrong-token-of-somebody")
        id = register(gateway.url, "x", new_pem()).json["clientId"]
    assert f"client {id} was registered from 127.0.0.1" in caplog.text
    assert "a wrong admin token came from 127.0.0.1" in caplog.text
    assert "a-wrong-token" not in caplog.text
    assert TOKEN not in caplog.text
