"""`POST /api/auth/rotate`: an administrator gives a client a new key. Takes 1 s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.asking import TOKEN, Answer, ask, register
from ..support.client_files import entries, new_pem
from .conftest import StartGateway
from .test_rotation import try_key


@pytest.fixture
def path(registry: ClientRegistry) -> Path:
    return registry.path


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway that has an administrator."""
    return start_gateway(admin_token=TOKEN)


def post(gateway: GatewayThread, token: str | None = TOKEN, **fields: Any) -> Answer:
    body = json.dumps(fields).encode()
    return ask(gateway.url, "/api/auth/rotate", method="POST", token=token, body=body)


def test_an_administrator_gives_a_client_a_new_key_from_afar(
    gateway: GatewayThread, client_id: str, ec_key: Key, rsa_key: Key
) -> None:
    answer = post(gateway, clientId=client_id, publicKey=public_pem(rsa_key))
    assert (answer.status, answer.json) == (200, {"clientId": client_id, "name": "test-client"})
    assert [try_key(gateway.url, client_id, key) for key in (ec_key, rsa_key, ec_key)] == [True, True, False]


def test_nobody_gives_a_key_without_the_token(gateway: GatewayThread, client_id: str, path: Path) -> None:
    assert post(gateway, None, clientId=client_id, publicKey=new_pem()).status == 401
    assert "pendingKey" not in entries(path)[0]


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({}, 400, "Missing required fields: clientId and publicKey"),
        ({"clientId": "x" * 32, "publicKey": 7}, 400, "Invalid public key format"),
        ({"clientId": ["x"], "publicKey": "-----BEGIN"}, 400, "Invalid client id"),
        ({"clientId": "x" * 32, "publicKey": "-----BEGIN RUBBISH"}, 400, "Invalid public key format"),
        ({"clientId": "x" * 32, "publicKey": new_pem()}, 404, "no client has the id or name"),
    ],
)
def test_what_is_wrong_with_a_rotation_is_named(
    gateway: GatewayThread, fields: dict[str, Any], status: int, says: str
) -> None:
    answer = post(gateway, **fields)
    assert (answer.status, says in answer.json["error"]) == (status, True), answer.body


def test_a_new_key_that_has_not_logged_in_is_a_conflict_unless_it_shall_be_replaced(
    gateway: GatewayThread, client_id: str, path: Path
) -> None:
    post(gateway, clientId=client_id, publicKey=new_pem())
    second = new_pem()
    answer = post(gateway, clientId=client_id, publicKey=second)
    assert (answer.status, answer.json["code"]) == (409, "key_pending")
    assert post(gateway, clientId=client_id, publicKey=second, replace=True).status == 200
    assert entries(path)[0]["pendingKey"] == second


def test_registering_can_replace_who_has_the_name_or_the_key(
    gateway: GatewayThread, registry: ClientRegistry, client_id: str, path: Path
) -> None:
    answer = register(gateway.url, "TEST-client", new_pem(), replace=True)
    assert (answer.status, answer.json["revoked"]) == (201, [client_id])
    assert [entry["id"] for entry in entries(path)] == [answer.json["clientId"]]
    assert "revoked" not in register(gateway.url, "another", new_pem(), replace=True).json
