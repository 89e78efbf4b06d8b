"""`GET /api/status`: what an administrator sees of a running gateway. Takes 1 s."""

from __future__ import annotations

from typing import Any

import pytest

import wsclient
from wsclient.core.auth import Key
from wsclient.gateway.backends import BackendError
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.thread import GatewayThread

from ..support.asking import TOKEN, ask
from ..support.gateway_peers import Peer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway with an administrator and a port for its operator."""
    return start_gateway(metrics_port=0, admin_token=TOKEN, default_model="tiny:1b")


def status(gateway: GatewayThread) -> Any:
    answer = ask(gateway.url, "/api/status", token=TOKEN)
    assert answer.status == 200
    return answer.json


def test_it_is_for_who_has_the_token_and_for_the_operators_port(gateway: GatewayThread) -> None:
    assert ask(gateway.url, "/api/status").status == 401
    assert ask(gateway.url, "/api/status", token="a-wrong-token-of-mine").status == 401
    assert ask(gateway.url, "/api/status", token=TOKEN).status == 200
    assert ask(gateway.gateway.metrics_url, "/api/status").status == 200


def test_without_an_administrator_it_does_not_exist(start_gateway: StartGateway) -> None:
    assert ask(start_gateway().url, "/api/status", token=TOKEN).status == 404


def test_it_can_only_be_asked_for(gateway: GatewayThread) -> None:
    assert ask(gateway.url, "/api/status", method="POST", token=TOKEN, body=b"{}").status == 404


def test_it_says_what_runs_since_when_and_whether_it_serves(gateway: GatewayThread) -> None:
    said = status(gateway)
    assert said["server"]["name"] == "wsclient-gateway"
    assert said["server"]["version"] == wsclient.__version__
    assert (said["ready"], said["reasons"], said["registered"]) == (True, [], 1)
    assert 0 <= said["uptime"] < 60
    assert said["startedAt"].endswith("Z")
    assert said["backend"]["defaultModel"] == "tiny:1b"
    assert said["models"] == sorted(said["models"]) != []


def test_it_names_who_is_connected_and_counts_what_they_do(
    gateway: GatewayThread, registry: ClientRegistry, client_id: str, ec_key: Key
) -> None:
    with Peer(gateway.url), Peer(gateway.url).log_in(client_id, ec_key) as peer:
        with Peer(gateway.url).log_in(client_id, ec_key):
            peer.send(type="generate", id="g", prompt="hold 1")
            peer.receive_until("stream_token")
            said = status(gateway)
        assert said["connections"] == 3
        assert said["clients"] == [{"id": client_id, "name": "test-client", "connections": 2, "generations": 1}]
        assert said["generations"] == {"running": 1, "waiting": 0}
        assert (said["totals"]["logins"], said["totals"]["generations"]) == (2, 1)
        peer.send(type="stop", id="s", requestId="g")
        wait_until(lambda: status(gateway)["generations"] == {"running": 0, "waiting": 0})


def test_a_model_server_that_does_not_answer_is_said(start_gateway: StartGateway, backend: ScriptedBackend) -> None:
    backend.models = BackendError("nobody there")
    said = status(start_gateway(admin_token=TOKEN))
    assert (said["ready"], said["reasons"], said["models"]) == (False, ["the model server does not answer"], [])
