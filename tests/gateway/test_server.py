"""The gateway as a whole: starting, noticing, counting, stopping."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key
from wsclient.gateway import housekeeping
from wsclient.gateway.backends import BackendError
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.server import Gateway, GatewayError, make_backends, run_gateway
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .scripted_backend import ScriptedBackend

# --- start ------------------------------------------------------------------------------------------------------------


def start_fails(settings: GatewaySettings, backend: Any = None) -> str:
    async def scenario() -> None:
        gateway = Gateway(settings, backend if backend is not None else ScriptedBackend())
        await gateway.start()
        await gateway.stop(0)

    with pytest.raises(GatewayError) as caught:
        asyncio.run(scenario())
    return str(caught.value)


def test_a_broken_clients_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "authorized_clients.json"
    path.write_text("[{]")
    text = start_fails(GatewaySettings(port=0, data_dir=tmp_path))
    assert text.startswith(f"the clients cannot be read: {path} is not valid JSON")


def test_a_host_that_cannot_be_resolved_is_named(tmp_path: Path) -> None:
    text = start_fails(GatewaySettings(host="no.such.host.invalid", port=0, data_dir=tmp_path))
    assert text.startswith("the host 'no.such.host.invalid' cannot be resolved")


def test_a_backend_that_cannot_start_is_named_and_let_go_of(tmp_path: Path) -> None:
    class Broken(ScriptedBackend):
        async def start(self) -> None:
            raise BackendError("no model here")

    backend = Broken()
    text = start_fails(GatewaySettings(port=0, data_dir=tmp_path), backend)
    assert text == "the backend scripted cannot start: no model here"
    assert backend.is_closed


def test_no_clients_file_is_no_clients_until_there_is_one(
    tmp_path: Path, registry: ClientRegistry, ec_key: Key
) -> None:
    with GatewayThread(GatewaySettings(port=0, data_dir=tmp_path), ScriptedBackend()) as gateway:
        id = registry.register("late", public_pem(ec_key)).id
        wait_until(lambda: gateway.gateway.registry.get(id), timeout=1)
        with Peer(gateway.url) as peer:
            peer.log_in(id, ec_key)


def test_a_gateway_starts_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway(GatewaySettings(port=0, data_dir=tmp_path), ScriptedBackend())
        await gateway.start()
        try:
            with pytest.raises(GatewayError, match="starts once"):
                await gateway.start()
        finally:
            await gateway.stop(0)

    asyncio.run(scenario())


def test_a_model_server_that_does_not_answer_is_a_warning_and_an_error_of_each_request(
    tmp_path: Path, client_id: str, ec_key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with caplog.at_level(logging.WARNING):
            settings = GatewaySettings(port=0, data_dir=tmp_path, ollama_url=url, close_timeout=0.2)
            with GatewayThread(settings) as gateway, Peer(gateway.url).log_in(client_id, ec_key) as peer:
                wait_until(lambda: f"no model server answers at {url}" in caplog.text)
                assert peer.generate("x")[-1]["error"].startswith("Generation failed: Cannot connect to Ollama")
                peer.send(type="models", id="m")
                assert peer.receive()["error"].startswith("Failed to list models: Cannot connect to Ollama")


def test_the_settings_name_the_backend() -> None:
    assert make_backends(GatewaySettings(backend="builtin"))[0].name == "builtin"
    assert make_backends(GatewaySettings(ollama_url="http://h:1/api"))[0].url == "http://h:1"  # type: ignore[attr-defined]


# --- noticing and counting ----------------------------------------------------------------------------------------


def test_a_revoked_client_is_thrown_out_within_a_second_and_others_stay(
    gateway: GatewayThread, connect: Callable[[], Peer], registry: ClientRegistry, client_id: str, rsa_key: Key
) -> None:
    other_id = registry.register("other", public_pem(rsa_key)).id
    wait_until(lambda: gateway.gateway.registry.get(other_id))
    peers = [connect(), connect()]
    with Peer(gateway.url).log_in(other_id, rsa_key) as other:
        peers[0].send(type="generate", id="g", prompt="hang 1")
        started = time.monotonic()
        registry.revoke(client_id)
        assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 2
        assert time.monotonic() - started < 1
        other.send(type="ping", id=1)
        assert other.receive()["type"] == "pong"


@pytest.fixture
def start_gateways(tmp_path: Path, registry: ClientRegistry) -> Iterator[Callable[[], list[GatewayThread]]]:
    """Starts three gateways with one registry."""
    settings = GatewaySettings(port=0, data_dir=tmp_path, close_timeout=0.2)
    with ExitStack() as stack:
        yield lambda: [stack.enter_context(GatewayThread(settings, ScriptedBackend(), registry)) for _ in range(3)]


def test_every_gateway_on_one_registry_throws_out_who_is_revoked(
    start_gateways: Callable[[], list[GatewayThread]], registry: ClientRegistry, client_id: str, ec_key: Key
) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(gateway.url).log_in(client_id, ec_key)) for gateway in start_gateways()]
        # By the object that they share, as an administrator does over HTTP.
        registry.revoke(client_id)
        assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 3


def test_who_comes_and_goes_between_two_looks_is_thrown_out_by_every_gateway_on_one_registry(
    start_gateways: Callable[[], list[GatewayThread]],
    registry: ClientRegistry,
    rsa_key: Key,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeping, "_PAUSE", 1.0)
    gateways = start_gateways()
    new_id = registry.register("new", public_pem(rsa_key)).id
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(gateway.url).log_in(new_id, rsa_key)) for gateway in gateways]
        registry.revoke(new_id)
        assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 3


def test_a_failure_that_nobody_foresaw_does_not_end_the_looking_after_the_clients_file(
    tmp_path: Path, client_id: str, ec_key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    failures = threading.Semaphore(0)

    class Failing(ClientRegistry):
        def flush_logins(self, now: float, force: bool = False) -> bool:
            if not force:
                failures.release()
                raise ZeroDivisionError("nobody foresaw this")
            return False

    registry = Failing(tmp_path / "authorized_clients.json")
    settings = GatewaySettings(port=0, data_dir=tmp_path, drain=0)
    gateway = Gateway(settings, ScriptedBackend(), registry)

    async def scenario() -> None:
        await gateway.start()
        try:
            await asyncio.to_thread(visit)
        finally:
            await gateway.stop(0)

    def visit() -> None:
        with Peer(gateway.url).log_in(client_id, ec_key) as peer:
            assert failures.acquire(timeout=5)
            assert failures.acquire(timeout=5)
            ClientRegistry(registry.path).revoke(client_id)
            assert peer.receive_close() == (4003, "revoked")

    asyncio.run(scenario())
    told = [record for record in caplog.records if "nobody foresaw this" in record.getMessage()]
    assert len(told) == 1


def test_what_a_revoked_client_still_sends_is_not_carried_out(
    gateway: GatewayThread,
    connect_raw: Callable[..., RawPeer],
    backend: ScriptedBackend,
    registry: ClientRegistry,
    client_id: str,
) -> None:
    peer = connect_raw()
    registry.revoke(client_id)
    while peer.parser.close is None:
        assert peer.read()
    peer.send(type="generate", id="g", prompt="say x")
    peer.send_close(4003)
    wait_until(lambda: gateway.gateway.stats().connections == 0)
    assert backend.requests == []


def test_a_client_whose_key_is_replaced_is_thrown_out_too(
    gateway: GatewayThread, connect: Callable[[], Peer], tmp_path: Path, rsa_key: Key
) -> None:
    peer = connect()
    path = tmp_path / "authorized_clients.json"
    wait_until(lambda: "lastConnected" in path.read_text())
    entries = json.loads(path.read_text())
    entries[0]["publicKey"] = public_pem(rsa_key)
    path.write_text(json.dumps(entries))
    assert peer.receive_close()[0] == 4003


def test_a_clients_file_broken_while_running_changes_nothing_and_is_logged_once(
    gateway: GatewayThread, client_id: str, ec_key: Key, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "authorized_clients.json"
    with caplog.at_level(logging.WARNING):
        content = path.read_text()
        path.write_text("oops")
        wait_until(lambda: "is not valid JSON" in caplog.text)
        with Peer(gateway.url).log_in(client_id, ec_key):
            pass
        path.write_text(content)


def test_the_counters_count(gateway: GatewayThread, connect: Callable[[], Peer], client_id: str) -> None:
    gate = gateway.gateway
    with Peer(gateway.url) as stranger:
        stranger.try_login(client_id, "AAAA")
    wait_until(lambda: gate.stats().connections == 0)
    one, _ = connect(), connect()
    one.generate("tokens 5")
    one.send(type="generate", id="g", prompt="hang 2")
    for _ in range(3):
        one.receive()
    stats = gate.stats()
    assert (stats.connections, stats.clients, stats.generations) == (2, 2, 1)
    assert (stats.total_connections, stats.total_logins, stats.total_refusals) == (3, 2, 1)
    assert (stats.total_generations, stats.total_tokens) == (2, 5)
    one.send(type="stop", id="s", requestId="g")
    one.receive_until("stream_end")
    assert (gate.stats().generations, gate.stats().total_tokens) == (0, 7)


# --- stop ---------------------------------------------------------------------------------------------------------


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_orderly_stop_lets_running_generations_finish(
    gateway: GatewayThread, connect: Callable[[], Peer], backend: ScriptedBackend
) -> None:
    busy, idle = connect(), connect()
    busy.send(type="generate", id="g", prompt="hold 1")
    busy.receive_until("stream_token")
    stopping = in_background(lambda: gateway.stop(drain=20))
    assert idle.receive_close() == (1012, "the gateway restarts")
    # New connections are refused, new generations too; what runs may finish.
    wait_until(lambda: is_refused(gateway.port))
    assert busy.generate("say more", id="late")[-1]["code"] == "server_busy"
    backend.release()
    assert busy.receive_until("stream_end")[-1]["isCancelled"] is False
    assert busy.receive_close()[0] == 1012
    stopping.join(5)
    assert not stopping.is_alive()
    assert not backend.cancelled.is_set()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_deadline_ends_what_does_not_finish(
    gateway: GatewayThread, connect: Callable[[], Peer], backend: ScriptedBackend
) -> None:
    peer = connect()
    peer.send(type="generate", id="g", prompt="hang 1")
    peer.receive_until("stream_token")
    started = time.monotonic()
    stopping = in_background(lambda: gateway.stop(drain=0.3))
    assert peer.receive_close()[0] == 1012
    stopping.join(5)
    assert 0.25 < time.monotonic() - started < 3
    assert backend.cancelled.is_set()
    assert backend.is_closed


def test_farewells_are_spread_over_the_time_there_is(gateway: GatewayThread, connect: Callable[[], Peer]) -> None:
    peers = [connect() for _ in range(6)]
    stopping = in_background(lambda: gateway.stop(drain=0.6))
    times = []
    for peer in peers:
        in_background(lambda peer=peer: (peer.receive_close(), times.append(time.monotonic())))
    stopping.join(10)
    wait_until(lambda: len(times) == 6)
    assert max(times) - min(times) > 0.3


def test_a_later_stop_can_shorten_the_time(gateway: GatewayThread, connect: Callable[[], Peer]) -> None:
    peer = connect()
    peer.send(type="generate", id="g", prompt="hang 1")
    peer.receive_until("stream_token")
    started = time.monotonic()
    loop = gateway._loop
    assert loop is not None
    patient = asyncio.run_coroutine_threadsafe(gateway.gateway.stop(30), loop)
    asyncio.run_coroutine_threadsafe(gateway.gateway.stop(0), loop).result(5)
    patient.result(5)
    assert time.monotonic() - started < 3


def test_logins_are_in_the_clients_file_after_a_stop(
    gateway: GatewayThread, peer: Peer, registry: ClientRegistry, client_id: str
) -> None:
    gateway.stop()
    registry.reload_if_changed()
    client = registry.get(client_id)
    assert client is not None
    assert client.last_ip == "127.0.0.1"


# --- as a process -------------------------------------------------------------------------------------------------

SERVE = """
import sys
from wsclient.gateway.server import run_gateway
from wsclient.gateway.settings import GatewaySettings
settings = GatewaySettings(port=0, data_dir=sys.argv[1], backend="builtin", close_timeout=0.2)
run_gateway(settings, on_ready=lambda gateway: print(gateway.url, flush=True))
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_good_order(
    number: signal.Signals, tmp_path: Path, client_id: str, ec_key: Key
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        with Peer(url).log_in(client_id, ec_key) as peer:
            process.send_signal(number)
            assert peer.receive_close()[0] == 1012
        assert process.stdout.read() == "stopped\n"
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_run_gateway_raises_what_keeps_it_from_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = GatewaySettings(port=taken.getsockname()[1], data_dir=tmp_path)
        with pytest.raises(GatewayError, match="in use by another program"):
            run_gateway(settings, ScriptedBackend())


def test_what_on_ready_raises_stops_the_gateway(tmp_path: Path) -> None:
    backend = ScriptedBackend()

    def fail(gateway: Gateway) -> None:
        raise ValueError(str(gateway.port > 0))

    with pytest.raises(ValueError, match="True"):
        run_gateway(GatewaySettings(port=0, data_dir=tmp_path), backend, on_ready=fail)
    assert backend.is_closed


def test_a_second_signal_ends_it_at_once(tmp_path: Path, client_id: str, ec_key: Key) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with Peer(url).log_in(client_id, ec_key) as peer:
            peer.send(type="generate", id="g", prompt="x", options={"max_tokens": 100_000_000})
            peer.receive_until("stream_token")
            os.kill(process.pid, signal.SIGTERM)
            port = int(url.rpartition(":")[2])
            wait_until(lambda: is_refused(port))
            started = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            assert peer.receive_close()[0] == 1012
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
