"""An orderly end as clients see it: the gateway's process gets SIGTERM, its successor takes over."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsclient import ConnectionStatus, ServerBusyError, WSClient

from ..cli.programs import Program
from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .programs import free_port

Serve = Callable[..., Program]


@pytest.fixture
def serve(tmp_path: Path, ollama: FakeOllama, client_id: str) -> Iterator[Serve]:
    """Runs `wsclient serve` on one port; what still runs after the test is killed."""
    port = free_port()
    running: list[Program] = []

    def start(*flags: str) -> Program:
        flags = (f"--port={port}", f"--ollama-url={ollama.url}", "--log-level=info", *flags)
        program = Program("serve", *flags, cwd=tmp_path)
        running.append(program)
        program.wait_for(f"kill {program.pid}\n")
        return program

    yield start
    for program in running:
        with program:
            pass


def url_of(program: Program) -> str:
    found = re.search(r"^  url +(\S+)$", program.out, re.MULTILINE)
    assert found is not None
    return found[1]


def logins(program: Program) -> int:
    return program.err.count("logged in from")


def test_a_restart_loses_no_generation_and_every_client_comes_back(
    serve: Serve, make_client: Any, ollama: FakeOllama
) -> None:
    old = serve("--drain=30")
    ollama.script(prompt="long", pieces=["one", " two"], mode="hold", after=1)
    lost_at: dict[int, float] = {}
    idle = [make_client(url_of(old), reconnect_delay=0.05) for _ in range(8)]
    for number, client in enumerate(idle):
        client.connect()

        def note(status: ConnectionStatus, number: int = number) -> None:
            if status is ConnectionStatus.DISCONNECTED:
                lost_at.setdefault(number, time.monotonic())

        client.on_connection_change(note)
    busy: WSClient = make_client(url_of(old), reconnect_delay=0.05)
    generation = busy.stream("long")
    wait_until(lambda: generation.text == "one")

    old.send_signal(signal.SIGTERM)
    wait_until(lambda: lost_at)
    # The port is free as soon as the old one stops accepting: nobody has to wait for its last generation.
    new = serve()
    with pytest.raises(ServerBusyError, match="shutting down"):
        busy.complete("more")
    wait_until(lambda: logins(new) == len(idle), 20)
    assert all(client.wait_ready(10) for client in idle)
    # Not all at once: each of them costs the new one a login.
    assert max(lost_at.values()) - min(lost_at.values()) > 0.4
    assert not generation.is_done

    ollama.release()
    result = generation.result(10)
    assert (result.text, result.is_cancelled) == ("one two", False)
    assert old.wait() == 0
    wait_until(lambda: logins(new) == len(idle) + 1, 20)
    assert busy.wait_ready(10)
    assert busy.list_models()
    assert "Traceback" not in old.err + new.err


def test_what_does_not_finish_by_the_deadline_ends_with_it_and_its_text_is_kept(
    serve: Serve, make_client: Any, ollama: FakeOllama
) -> None:
    program = serve("--drain=0.5")
    ollama.script(prompt="long", pieces=["one", " two"], mode="hold", after=1)
    client: WSClient = make_client(url_of(program), auto_reconnect=False)
    generation = client.stream("long")
    wait_until(lambda: generation.text == "one")
    request = ollama.wait_for_request(path="/api/generate")
    started = time.monotonic()
    program.send_signal(signal.SIGTERM)
    with pytest.raises(Exception, match="restart") as caught:
        generation.result(10)
    assert 0.4 < time.monotonic() - started < 5
    assert caught.value.text == "one"  # type: ignore[attr-defined]
    # The model server is let go of, too.
    assert request.disconnected.wait(5)
    assert program.wait() == 0


def test_a_second_signal_ends_it_at_once(serve: Serve, make_client: Any, ollama: FakeOllama) -> None:
    program = serve("--drain=60")
    ollama.script(prompt="long", mode="hold", after=1)
    client: WSClient = make_client(url_of(program), auto_reconnect=False)
    generation = client.stream("long")
    ollama.wait_for_request(path="/api/generate")
    lost = threading.Event()
    client.on_connection_change(lambda status: lost.set() if status is ConnectionStatus.DISCONNECTED else None)
    program.send_signal(signal.SIGTERM)
    with pytest.raises(ServerBusyError):
        wait_until(lambda: client.complete("more") is None, 10)
    assert not lost.is_set()
    program.send_signal(signal.SIGTERM)
    assert program.wait() == 0
    assert lost.wait(5)
    generation.close()
