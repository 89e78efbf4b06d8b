"""`status`: of a real gateway. Takes 3 s."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsclient
from wsclient import WSClient
from wsclient.cli.status import duration
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread

from ..support.asking import TOKEN
from ..support.fake_ollama import FakeOllama
from .conftest import Run
from .test_rotate_command import make_client


@pytest.fixture
def gateway(folder: Path, ollama: FakeOllama) -> Iterator[GatewayThread]:
    """A gateway with an administrator and a metrics port."""
    settings = GatewaySettings(
        port=0,
        data_dir=folder / "data",
        ollama_url=ollama.url,
        admin_token=TOKEN,
        metrics_port=0,
        close_timeout=0.2,
    )
    with GatewayThread(settings) as thread:
        yield thread


def test_with_the_token_it_shows_who_is_connected(
    run: Run, folder: Path, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_id = make_client(folder, "alice", gateway.url)
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
    with WSClient.from_config(folder / "keys" / "alice_config.json"):
        done = run("status", f"--server-url={gateway.url}")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("The gateway is ready.\n")
    lines = done.out.splitlines()
    assert lines[-1].split() == ["alice", client_id, "1", "0"]
    assert "  clients      1 connected, 1 registered" in lines
    assert "  generations  0 running, 0 waiting" in lines
    assert any(line.startswith(f"  version      {wsclient.__version__} (Python 3.") for line in lines)
    assert any("llama2:latest" in line for line in lines if line.startswith("  models "))


def test_the_metrics_port_tells_all_of_it_without_a_token(run: Run, gateway: GatewayThread) -> None:
    url = gateway.gateway.metrics_url.removesuffix("/metrics")
    done = run("status", f"--server-url={url}")
    assert (done.code, done.err) == (0, "")
    assert "  generations  0 running, 0 waiting\n" in done.out


def test_without_the_token_it_shows_whether_it_is_ready_and_where_the_rest_is(run: Run, gateway: GatewayThread) -> None:
    done = run("status", f"--server-url={gateway.url}")
    assert done.code == 0
    assert done.out == f"The gateway is ready.\n  url  {gateway.url}\n"
    assert done.err == "For clients, generations and models give --admin-token-file, or ask the metrics port.\n"


def test_a_gateway_that_is_not_ready_says_why_and_is_exit_code_1(run: Run, folder: Path) -> None:
    settings = GatewaySettings(port=0, data_dir=folder / "data", ollama_url="http://127.0.0.1:1")
    with GatewayThread(settings) as gateway:
        done = run("status", f"--server-url={gateway.url}")
    assert done.code == 1
    assert done.out.startswith("The gateway is not ready: the model server does not answer.\n")


def test_json_is_what_the_gateway_says(run: Run, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run("status", f"--server-url={gateway.url}", "--json").out) == {"ready": True, "reasons": []}
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
    said = json.loads(run("status", f"--server-url={gateway.url}", "--json").out)
    assert said["server"]["version"] == wsclient.__version__
    assert (said["ready"], said["clients"]) == (True, [])


def test_the_url_can_come_from_the_environment(
    run: Run, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_SERVER_URL", gateway.url)
    assert run("status").code == 0


def test_of_several_gateways_one_has_to_be_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_SERVER_URL", "ws://127.0.0.1:1,ws://127.0.0.1:2")
    done = run("status")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "WSCLIENT_SERVER_URL names several gateways" in done.err


def test_a_wrong_token_is_told(run: Run, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", "a-wrong-token-of-mine")
    done = run("status", f"--server-url={gateway.url}")
    assert (done.code, done.out) == (1, "")
    assert "does not accept this admin token" in done.err


def test_a_gateway_without_an_administrator_is_told_from_one_that_refuses(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
    with GatewayThread(GatewaySettings(port=0, data_dir=folder / "x", backend="builtin")) as closed:
        done = run("status", f"--server-url={closed.url}")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "does not tell its status; start it with an admin token" in done.err


def test_nothing_there_is_one_line_with_the_next_step(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = run("status", f"--server-url=ws://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "Connection refused; check --server-url, and that a gateway runs there" in done.err


def test_the_token_is_not_sent_unencrypted_to_another_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
    done = run("status", "--server-url=http://gateway.example")
    assert done.code == 2
    assert "is not encrypted" in done.err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86460, "1 d 1 min")],
)
def test_a_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
