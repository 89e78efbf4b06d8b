"""A gateway in a thread: nothing of it is left afterwards."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.errors import GatewayError
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread

from ..support.gateway_peers import Peer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend


def handles() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def gateway_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wsclient-gateway")]


def test_no_thread_no_socket_and_no_handle_is_left(tmp_path: Path, client_id: str, ec_key: Key) -> None:
    settings = GatewaySettings(port=0, data_dir=tmp_path, close_timeout=0.2)

    def use() -> None:
        with GatewayThread(settings, ScriptedBackend()) as thread, Peer(thread.url).log_in(client_id, ec_key) as peer:
            peer.generate("say x")
            assert gateway_threads()

    use()
    before = handles()
    for _ in range(3):
        use()
    assert handles() == before
    assert gateway_threads() == []


def test_it_stops_at_once_when_nobody_is_connected(gateway: GatewayThread) -> None:
    started = time.monotonic()
    gateway.stop()
    gateway.stop()
    assert time.monotonic() - started < 1


def test_what_keeps_it_from_starting_is_raised_in_the_caller(gateway: GatewayThread, tmp_path: Path) -> None:
    settings = GatewaySettings(port=gateway.port, data_dir=tmp_path)
    second = GatewayThread(settings, ScriptedBackend())
    with pytest.raises(GatewayError, match=f"port {gateway.port} on 127.0.0.1 is in use"):
        second.start()
    # It can be tried again when the reason is gone.
    gateway.stop()
    with second:
        assert second.port == settings.port


def test_it_starts_only_once_at_a_time(gateway: GatewayThread) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        gateway.start()


def test_before_the_start_there_is_no_url() -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        _ = GatewayThread(GatewaySettings(port=0), ScriptedBackend()).url


def test_a_restart_keeps_the_port_and_tells_the_clients(gateway: GatewayThread, client_id: str, ec_key: Key) -> None:
    with Peer(gateway.url).log_in(client_id, ec_key) as before:
        url = gateway.url
        gateway.restart()
        assert before.receive_close() == (1012, "the gateway restarts")
        assert gateway.url == url
    with Peer(url).log_in(client_id, ec_key) as after:
        assert after.generate("say again")[-1]["type"] == "stream_end"


def test_a_kill_ends_the_line_without_a_close_frame(
    gateway: GatewayThread, backend: ScriptedBackend, client_id: str, ec_key: Key
) -> None:
    with Peer(gateway.url).log_in(client_id, ec_key) as peer, Peer(gateway.url) as stranger:
        peer.send(type="generate", id="g", prompt="hang 1")
        peer.receive_until("stream_token")
        gateway.kill()
        assert peer.receive_close()[0] == 1006
        assert stranger.receive_close()[0] == 1006
        assert backend.cancelled.is_set()
    gateway.start()
    with Peer(gateway.url).log_in(client_id, ec_key):
        pass


def test_two_threads_may_stop_it_at_once(gateway: GatewayThread) -> None:
    stoppers = [threading.Thread(target=gateway.stop) for _ in range(4)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(5)
    assert gateway_threads() == []


def test_two_gateways_do_not_know_each_other(start_gateway: StartGateway, client_id: str, ec_key: Key) -> None:
    one, other = start_gateway(), start_gateway()
    assert one.port != other.port
    with Peer(one.url).log_in(client_id, ec_key):
        wait_until(lambda: one.gateway.stats().clients == 1)
        assert other.gateway.stats().clients == 0
