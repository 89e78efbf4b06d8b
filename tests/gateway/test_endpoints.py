"""Health, readiness and figures, over real HTTP, and who may ask for them."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wsclient.core.auth import Key
from wsclient.gateway.backends import BackendError
from wsclient.gateway.thread import GatewayThread

from ..support.asking import TOKEN, ask
from ..support.gateway_peers import Peer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend

Login = Callable[[GatewayThread], Peer]


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayThread:
    """A gateway with a port for its operator."""
    return start_gateway(metrics_port=0, admin_token=TOKEN, default_model="tiny:1b")


def figures(gateway: GatewayThread) -> dict[str, float]:
    """Return what `/metrics` says: values by name and labels, as Prometheus writes them."""
    text = ask(gateway.gateway.metrics_url, "/metrics").body.decode()
    return {
        sample.name.removeprefix("wsclient_gateway_")
        + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_process_lives_for_everybody(gateway: GatewayThread) -> None:
    for url in (gateway.url, gateway.gateway.metrics_url):
        answer = ask(url, "/healthz")
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        assert ask(url, "/healthz", method="POST", body=b"{}").status == 404


def test_it_is_ready_while_file_and_model_server_are_there(gateway: GatewayThread) -> None:
    for url in (gateway.url, gateway.gateway.metrics_url):
        answer = ask(url, "/readyz")
        assert (answer.status, answer.json) == (200, {"ready": True, "reasons": []})


def test_health_needs_neither_token_nor_metrics_port(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    assert gateway.gateway.metrics_url == ""
    assert ask(gateway.url, "/healthz").status == 200
    assert ask(gateway.url, "/readyz").status == 200


def test_a_broken_clients_file_is_a_reason_until_it_is_mended(gateway: GatewayThread, tmp_path: Path) -> None:
    path = tmp_path / "authorized_clients.json"
    content = path.read_text()
    path.write_text("oops")
    wait_until(lambda: ask(gateway.url, "/readyz").status == 503)
    assert ask(gateway.url, "/readyz").json == {"ready": False, "reasons": ["the clients file cannot be read"]}
    assert ask(gateway.url, "/healthz").status == 200
    path.write_text(content)
    wait_until(lambda: ask(gateway.url, "/readyz").status == 200)


def test_a_model_server_that_does_not_answer_is_a_reason(start_gateway: StartGateway, backend: ScriptedBackend) -> None:
    backend.models = BackendError("nobody there")
    gateway = start_gateway()
    assert ask(gateway.url, "/readyz").json == {"ready": False, "reasons": ["the model server does not answer"]}


def test_while_it_stops_it_is_not_ready_and_the_operator_can_see_that(
    gateway: GatewayThread, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    url = gateway.gateway.metrics_url
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        peer.send(type="generate", id="g", prompt="hold 1")
        peer.receive_until("stream_token")
        stopping = threading.Thread(target=gateway.stop, args=(20,))
        stopping.start()
        wait_until(lambda: ask(url, "/readyz").status == 503)
        assert ask(url, "/readyz").json["reasons"] == ["the gateway is stopping"]
        assert ask(url, "/healthz").status == 200
        assert figures(gateway)["generations_running"] == 1
        backend.release()
        peer.receive_close()
        stopping.join(10)


def test_figures_need_the_token_on_the_main_port_and_none_on_the_operators(gateway: GatewayThread) -> None:
    assert ask(gateway.url, "/metrics").status == 401
    assert ask(gateway.url, "/metrics", token="x" * 24).status == 401
    own = ask(gateway.gateway.metrics_url, "/metrics")
    with_token = ask(gateway.url, "/metrics", token=TOKEN)
    for answer in (own, with_token):
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert b"wsclient_gateway_connections " in answer.body


def test_the_operators_port_does_not_register(gateway: GatewayThread) -> None:
    url = gateway.gateway.metrics_url
    assert ask(url, "/api/auth/register", method="POST", token=TOKEN, body=b"{}").status == 404


def test_the_figures_are_those_of_what_happened(gateway: GatewayThread, client_id: str, ec_key: Key) -> None:
    with Peer(gateway.url) as stranger:
        stranger.try_login(client_id, "AAAA")
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        before = figures(gateway)
        peer.generate("tokens 5", model="tiny:1b")
        peer.generate("fail no room", id="f", model="tiny:1b")
        peer.send(type="generate", id="w", prompt="hang 0", model="tiny:1b")
        peer.send(type="generate", id="g", prompt="hang 2", model="tiny:1b")
        while peer.receive()["type"] != "stream_token":
            pass
        peer.receive()
        now = figures(gateway)
        expected = {
            "connections": 1,
            "clients": 1,
            "connections_total": 2,
            "logins_total": 1,
            "refusals_total reason=invalid": 1,
            "refusals_total reason=blocked": 0,
            "generations_running": 1,
            "generations_waiting": 1,
            "generations_total model=tiny:1b outcome=done": 1,
            "generations_total model=tiny:1b outcome=server_busy": 1,
            # Those of generations that are still running, too.
            "tokens_total model=tiny:1b": 5 + 1 + 2,
            "first_token_seconds_count model=tiny:1b": 2,
            "generation_seconds_count model=tiny:1b": 2,
            "backend_up": 1,
        }
        assert {name: now.get(name) for name in expected} == expected
        assert now["sent_bytes_total"] > before["sent_bytes_total"] + 8 * 50
        assert now["received_bytes_total"] > before["received_bytes_total"] + 4 * 50
        assert now["process_resident_memory_bytes"] > 1e6
        peer.send(type="stop", id="s", requestId="g")
        peer.receive_until("stream_end")
    wait_until(lambda: figures(gateway)["connections"] == 0)
    later = figures(gateway)
    assert later["generations_total model=tiny:1b outcome=stopped"] == 1
    assert later["generations_total model=tiny:1b outcome=gone"] == 1
    # What a connection has moved is not forgotten with it.
    assert later["sent_bytes_total"] >= now["sent_bytes_total"]


def test_models_that_strangers_make_up_share_one_label(
    gateway: GatewayThread, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    backend.models = [{"name": "tiny:1b"}, {"name": "llama2:latest"}]
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        peer.generate("say x", model="llama2")
        wait_until(lambda: refreshed(gateway))
        peer.generate("say x", model="llama2")
        for number in range(5):
            peer.generate("say x", model=f"made up {number}")
    now = figures(gateway)
    models = {found[1] for name in now if (found := re.search(r"generations_total model=(.*) outcome", name))}
    assert models == {"llama2:latest", "other"}
    assert now["generations_total model=other outcome=done"] >= 5


def test_what_a_limit_turns_away_is_counted_under_its_name(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(metrics_port=0, max_prompt_size=10, max_open_generations=1, requests_per_minute=3)
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        assert peer.generate("say much more", id="a")[-1]["code"] == "message_too_big"
        peer.send(type="generate", id="b", prompt="hang 0")
        assert peer.receive()["type"] == "stream_start"
        assert peer.generate("say x", id="c")[-1]["code"] == "server_busy"
        assert peer.generate("say x", id="d")[-1]["code"] == "rate_limited"
        now = figures(gateway)
    prefix = "requests_over_limit_total limit="
    assert {name.removeprefix(prefix): value for name, value in now.items() if name.startswith(prefix)} == {
        "max_prompt_size": 1,
        "max_open_generations": 1,
        "requests_per_minute": 1,
    }


def test_tokens_never_become_less_when_the_gateway_gets_to_know_a_model(
    gateway: GatewayThread, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        wait_until(lambda: refreshed(gateway))
        peer.send(type="generate", id="g", prompt="hang 3", model="new:1b")
        while peer.receive().get("token") != " t002":
            pass
        assert figures(gateway)["tokens_total model=other"] == 3
        backend.models = [{"name": "new:1b"}]
        wait_until(lambda: refreshed(gateway))
        now = figures(gateway)
    assert now["tokens_total model=other"] == 3
    assert now["tokens_total model=new:1b"] == 3


def refreshed(gateway: GatewayThread) -> bool:
    """Have the gateway ask for its models now, whatever their age."""
    administration = gateway.gateway._administration
    assert administration is not None
    assert gateway._loop is not None
    asked: Any = administration._watch.is_answering(max_age=0)
    return asyncio.run_coroutine_threadsafe(asked, gateway._loop).result(5)


def test_without_token_and_port_nothing_is_counted_for_prometheus(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway()
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        assert peer.generate("say x")[-1]["type"] == "stream_end"
    administration = gateway.gateway._administration
    assert administration is not None
    assert administration.endpoints._metrics is None
