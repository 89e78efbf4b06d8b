"""`wsclient doctor`: what it says of the way to a server and of the server, with real ones. Takes 5 s."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient.cli.doctor_findings import Trouble
from wsclient.cli.doctor_gateway import check_clock
from wsclient.cli.doctor_settings import Patient, check_settings
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.scripted_server import Peer, ScriptedServer, polite

from ..support.certificates import Certificate, make_certificate
from ..support.fake_ollama import FakeOllama
from .doctor_reports import TLS, Examine, examine, failed

__all__ = ["examine"]


# --- the way there ----------------------------------------------------------------------------------------------------


def test_a_name_that_nobody_knows_fails(examine: Examine) -> None:
    # Without asking anybody: a label of 64 characters is none.
    found = examine(f"--server-url=wss://{'x' * 64}.localhost")
    assert failed(found) == ["dns"]
    assert found["tcp"]["text"] == "it needs: DNS"


def test_a_name_service_that_hangs_fails_within_the_time_that_is_given(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        is_over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        found = examine("--server-url=wss://gateway.invalid", "--timeout=2")
    finally:
        is_over.set()
    assert failed(found) == ["dns"]
    assert found["dns"]["seconds"] < 5
    # Of use in any report, and done at once.
    assert found["versions"]["status"] == "ok"


def test_a_port_where_nobody_listens_fails(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = examine(f"--server-url=ws://127.0.0.1:{port}")
    assert failed(found) == ["tcp"]
    assert "Connection refused" in found["tcp"]["text"]
    assert "wsclient serve" in found["tcp"]["fix"]


def test_behind_a_proxy_the_proxy_does_the_first_steps(
    examine: Examine, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_PROXY", f"http://127.0.0.1:{gateway.port}")
    found = examine()
    assert found["dns"]["text"] == found["tcp"]["text"] == f"the proxy 127.0.0.1:{gateway.port} does this"
    # The gateway is no proxy.
    assert failed(found) == ["upgrade"]


def not_found(peer: Peer) -> None:
    peer.read_request()
    peer.respond("404 Not Found", {"Content-Length": "0"})


def test_a_web_server_fails_at_the_upgrade(examine: Examine) -> None:
    with ScriptedServer(not_found, upgrade=False) as server:
        found = examine(f"--server-url={server.url}")
    assert failed(found) == ["upgrade"]
    assert "HTTP 404 instead of 101" in found["upgrade"]["text"]
    assert "check the host, port and path of the server's URL" in found["upgrade"]["fix"]


def quiet(peer: Peer) -> None:
    peer.wait_until_gone()


def test_a_websocket_without_a_challenge_fails_within_its_time(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsclient.cli.doctor_gateway._STEP", 1.0)
    with ScriptedServer(quiet) as server:
        found = examine(f"--server-url={server.url}")
    assert failed(found) == ["challenge"]
    assert found["challenge"]["text"] == "the server sends no challenge within 1 s"
    assert found["challenge"]["seconds"] < 5


def test_a_server_that_asks_for_a_strange_signature_fails(examine: Examine) -> None:
    def strange(peer: Peer) -> None:
        peer.send({"type": "challenge", "challenge": "I owe you 100 $"})
        peer.wait_until_gone()

    with ScriptedServer(strange) as server:
        assert failed(examine(f"--server-url={server.url}")) == ["challenge"]


# --- TLS --------------------------------------------------------------------------------------------------------------


def trust(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    # Clients that are about to be collected share a context that was made before.
    monkeypatch.setattr("wsclient.transport._contexts", {})


@pytest.mark.parametrize(
    ("hosts", "days", "is_trusted", "fails", "says"),
    [
        ((), 30, True, [], "29 days left"),
        ((), 3, True, [], "2 days left"),
        ((), 30, False, ["certificate_chain"], "self-signed certificate"),
        (("elsewhere.test",), 30, True, ["certificate_name"], "is for elsewhere.test, not for 127.0.0.1"),
        ((), -1, True, ["certificate_expiry"], "certificate has expired"),
        (("elsewhere.test",), -1, True, ["certificate_name", "certificate_expiry"], "certificate has expired"),
    ],
)
def test_a_certificate_is_judged_by_its_issuer_its_name_and_its_dates(
    examine: Examine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hosts: tuple[str, ...],
    days: int,
    is_trusted: bool,
    fails: list[str],
    says: str,
) -> None:
    certificate = make_certificate(tmp_path, *hosts, days=days)
    if is_trusted:
        trust(certificate, monkeypatch)
    with ScriptedServer(polite, tls=certificate.server_context) as server:
        found = examine(f"--server-url={server.url}")
    assert failed(found) == fails
    assert found["tls"]["facts"]["version"] == "TLSv1.3"
    assert says in " ".join(found[name]["text"] for name in TLS)
    assert found["generation"]["status"] == ("skipped" if fails else "ok")


def test_a_certificate_for_another_name_is_not_hidden_by_it_how_long_it_is_valid(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, "elsewhere.test", days=30)
    trust(certificate, monkeypatch)
    with ScriptedServer(polite, tls=certificate.server_context) as server:
        found = examine(f"--server-url={server.url}")
    assert found["certificate_expiry"]["facts"]["days_left"] == 29


def test_a_handshake_without_an_answer_fails_within_its_time(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsclient.cli.doctor_network._STEP", 1.0)
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        found = examine(f"--server-url=wss://127.0.0.1:{server.port}")
    assert failed(found) == ["tls"]
    assert "no answer" in found["tls"]["text"]
    assert found["tls"]["seconds"] < 5


def test_a_port_without_tls_fails(examine: Examine, gateway: GatewayThread) -> None:
    found = examine(f"--server-url=wss://127.0.0.1:{gateway.port}")
    assert failed(found) == ["tls"]
    assert "ws://" in found["tls"]["fix"]


# --- the gateway ------------------------------------------------------------------------------------------------------


def test_no_models_fail_and_nothing_is_generated(examine: Examine, ollama: FakeOllama) -> None:
    ollama.models = []
    found = examine()
    assert failed(found) == ["models"]
    assert "ollama pull" in found["models"]["fix"]
    assert found["latency"]["status"] == "ok"


def test_a_model_server_that_fails_is_told_as_the_gateway_tells_it(examine: Examine, ollama: FakeOllama) -> None:
    ollama.fail("/api/tags", 500, "out of order")
    assert "out of order" in examine()["models"]["text"]


def test_a_model_that_there_is_not_fails(examine: Examine) -> None:
    found = examine("--model=nope")
    assert failed(found) == ["generation"]
    assert "--model" in found["generation"]["fix"]


def test_a_model_that_says_nothing_fails_within_its_time(
    examine: Examine, ollama: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsclient.cli.doctor_gateway._GENERATION", 1.0)
    ollama.script(mode="hang", after=0)
    found = examine()
    assert failed(found) == ["generation"]
    assert found["generation"]["text"] == "no text within 1 s"
    assert "--timeout=120" in found["generation"]["fix"]


def clock_ahead(seconds: float) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.read_request()
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))
        peer.respond("404 Not Found", {"Date": date, "Content-Length": "0", "Server": "a clock"})

    return answer


def look_at_clock(seconds: float) -> tuple[str, dict[str, Any]]:
    with ScriptedServer(clock_ahead(seconds), upgrade=False) as server:
        flags = {"server_url": server.url}
        deadline = time.monotonic() + 15
        patient = Patient(config=None, flags=flags, clients_file=None, model=None, deadline=deadline, url=server.url)
        check_settings(patient)
        return check_clock(patient)


def test_a_clock_that_is_some_seconds_off_is_fine() -> None:
    assert look_at_clock(20)[1]["difference"] == pytest.approx(20, abs=5)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (305, "5 min"),
        (-10_805, "clock is 3 h behind this machine's"),
        (864_005, "clock is 10 days ahead of this machine's"),
    ],
)
def test_a_clock_that_is_far_off_fails(seconds: float, says: str) -> None:
    with pytest.raises(Trouble, match=says):
        look_at_clock(seconds)
