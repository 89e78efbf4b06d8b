"""The clients file while the gateway is killed again and again: always valid, nothing acknowledged is lost.

Four processes register, log in and revoke all the while, two on the file itself and two over HTTP.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websocket

from wsclient.core.auth import sign_challenge
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import generate_key, public_pem

from ..support.asking import TOKEN, register
from ..support.client_files import entries, new_pem
from ..support.gateway_peers import Peer

KILLS = 50

# Forks a gateway for every line it reads: one that has imported everything starts in a moment.
NURSERY = """
import logging, os, sys
from wsclient.gateway.server import run_gateway
from wsclient.gateway.settings import GatewaySettings
logging.basicConfig(level=logging.ERROR)
port = 0
for line in sys.stdin:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        settings = GatewaySettings(port=port, data_dir=sys.argv[1], ollama_url="127.0.0.1:1", admin_token=sys.argv[2])
        run_gateway(settings, on_ready=lambda gateway: os.write(write_end, str(gateway.port).encode()))
        os._exit(0)
    os.close(write_end)
    port = int(os.read(read_end, 10))
    os.close(read_end)
    print(pid, port, flush=True)
    os.waitpid(pid, 0)
"""


class Nursery:
    """Starts gateways that are made to be killed, all on one port."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", NURSERY, str(folder), TOKEN]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pid = 0
        self.url = ""

    def start(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pid, port = map(int, self._process.stdout.readline().split())
        self._pid, self.url = pid, f"ws://127.0.0.1:{port}"

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._pid = 0

    def close(self) -> None:
        if self._pid:
            self.kill()
        self._process.communicate(timeout=10)


def work_on_the_file(path: Path, worker: int, url: str, stop: Any, done: Any) -> None:
    """Register clients and revoke two of three, as `register-client` and `revoke-client` do."""
    registry = ClientRegistry(path, lock_timeout=30)
    added, revoked = [], []
    while not stop.is_set():
        client_id = registry.register(f"file {worker} {len(added)}", new_pem()).id
        added.append(client_id)
        if len(added) % 3:
            registry.revoke(client_id)
            revoked.append(client_id)
        # The lock knows no queue: let the others have it, too.
        time.sleep(0.02)
    done.put((added, revoked, [], []))


def work_over_http(path: Path, worker: int, url: str, stop: Any, done: Any) -> None:
    """Register clients with the gateway, log in, and revoke two of three, whether the gateway lives or not."""
    registry = ClientRegistry(path, lock_timeout=30)
    added, revoked, unsure, refused = [], [], [], []
    for number in range(1_000_000):
        if stop.is_set():
            break
        key, name = generate_key("ec"), f"http {worker} {number}"
        try:
            answer = register(url, name, public_pem(key))
        except ConnectionRefusedError:
            # It was not even asked; the next one is on its way.
            time.sleep(0.005)
            continue
        except (OSError, http.client.HTTPException):
            unsure.append(name)
            continue
        if answer.status != 201:
            refused.append(f"{name}: {answer.status} {answer.body!r}")
            continue
        client_id = answer.json["clientId"]
        added.append(client_id)
        # The gateway writes down who has logged in: that must not bring back who is revoked meanwhile.
        with suppress(OSError, websocket.WebSocketException), Peer(url) as peer:
            result = peer.try_login(client_id, sign_challenge(key, peer.challenge, "SHA256"))
            if not result["success"]:
                refused.append(f"{name}: {result}")
        if number % 3:
            registry.revoke(client_id)
            revoked.append(client_id)
    done.put((added, revoked, unsure, refused))


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_fifty_times(nursery: Nursery, tmp_path: Path) -> None:
    path = tmp_path / "authorized_clients.json"
    dice = random.Random(5)
    nursery.start()
    spawn = multiprocessing.get_context("spawn")
    stop, done = spawn.Event(), spawn.Queue()
    works = (work_on_the_file, work_on_the_file, work_over_http, work_over_http)
    workers = [
        spawn.Process(target=work, args=(path, number, nursery.url, stop, done), daemon=True)
        for number, work in enumerate(works)
    ]
    broken: list[str] = []
    reads = 0

    def read_all_the_time() -> None:
        nonlocal reads
        while not stop.is_set():
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                reads += 1
                try:
                    assert isinstance(json.loads(data), list)
                except (ValueError, AssertionError):
                    broken.append(repr(data[-200:]))
            time.sleep(0.001)

    reader = threading.Thread(target=read_all_the_time)
    for worker in workers:
        worker.start()
    reader.start()
    try:
        for _ in range(KILLS):
            # Up to two looks at the clients file long: some die in their first breath, some with logins to write.
            time.sleep(dice.uniform(0.0, 0.4))
            nursery.kill()
            nursery.start()
    finally:
        stop.set()
    results = [done.get(timeout=60) for _ in workers]
    reader.join()
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0
    added, revoked, unsure, refused = ([item for result in results for item in result[kind]] for kind in range(4))
    print(f"{len(added)} registered, {len(revoked)} revoked, {len(unsure)} unanswered, {reads} reads")
    assert broken == []
    assert refused == []
    kept = {entry["id"]: entry for entry in entries(path)}
    assert set(added) - set(revoked) <= kept.keys(), "an acknowledged client is lost"
    assert not kept.keys() & set(revoked), "a revoked client has come back"
    # Who is there beyond that was asked for, and the gateway died before it could say so.
    assert {kept[id]["name"] for id in kept.keys() - set(added)} <= set(unsure)
    assert {record.name.split("_")[0] for record in (tmp_path / "revoked").iterdir()} >= set(revoked)
    assert any("lastIP" in entry for entry in kept.values())
    # Each kind of work was under way while gateways died.
    assert min(len(result[0]) for result in results) >= 10
    assert reads > 100
