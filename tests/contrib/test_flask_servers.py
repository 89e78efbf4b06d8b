"""The Flask example under the servers that people run it with: gunicorn's workers, and Flask's own.

Takes 5 s, and the slow ones 45 s.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsclient.testing import Gateway, Request

from ..support.waiting import wait_until
from ..support.web_servers import Served, Tab, serving

pytest.importorskip("gunicorn")

EXAMPLES = Path(__file__).parents[2] / "examples"
READERS = 50
TOKENS = 40

WORKERS = {
    "sync": ["--workers", "4"],
    "gthread": ["--workers", "2", "--threads", str(READERS), "--worker-class", "gthread"],
    "gevent": ["--workers", "2", "--worker-class", "gevent"],
}
# What was used before gunicorn forks: each worker needs a connection of its own, and leaves the master's alone.
PRELOADED = """
from flask_chat import create_app, wsclient

app = create_app()
with app.app_context():
    assert wsclient.complete("0").text
"""


class Model:
    """What the gateway under test says: `TOKENS` numbered tokens for a prompt that is a number.

    Attributes:
        meeting: waited at after the first token, if it is set.
        silence: `mute` says nothing before it is set.
    """

    def __init__(self) -> None:
        self.meeting: threading.Barrier | None = None
        self.silence = threading.Event()

    def __call__(self, request: Request) -> Iterator[str]:
        if request.prompt == "mute":
            self.silence.wait(30)
        elif request.prompt == "endless":
            while not self.silence.wait(0.01):
                yield "on and "
        for number in range(TOKENS):
            yield f"{request.prompt}-{number} "
            if number == 0 and self.meeting is not None:
                self.meeting.wait(30)


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.silence.set()


@pytest.fixture
def gateway(model: Model) -> Iterator[Gateway]:
    with Gateway(model=model, max_running=READERS) as gateway:
        yield gateway


def gunicorn(kind: str, *options: str, app: str = "flask_chat:create_app()") -> list[str]:
    if kind == "gevent":
        pytest.importorskip("gevent")
    command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "--bind", "127.0.0.1:0", "--pythonpath", str(EXAMPLES)]
    return [*command, "--graceful-timeout", "2", *WORKERS[kind], *options, app]


def whole(prompt: str) -> str:
    return "".join(f"{prompt}-{number} " for number in range(TOKENS))


def read(served: Served, prompt: str) -> str:
    with Tab(served.url, prompt) as tab:
        return tab.text()


def fifty(served: Served) -> None:
    """Ask for as many answers at the same time, and see that each is whole."""
    prompts = [str(number) for number in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool:
        assert list(pool.map(lambda prompt: read(served, prompt), prompts)) == [whole(prompt) for prompt in prompts]


KINDS = [pytest.param("gthread"), *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sync", "gevent"))]
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_fifty_readers_get_each_their_whole_text(kind: str, gateway: Gateway, model: Model, tmp_path: Path) -> None:
    if kind != "sync":
        # None goes on before all have begun.
        model.meeting = threading.Barrier(READERS)
    with serving(gunicorn(kind), tmp_path, gateway.environment) as served:
        fifty(served)
        workers = int(WORKERS[kind][1])
        assert 1 <= gateway.connections <= workers
    wait_until(lambda: gateway.connections == 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_that_inherit_a_client_have_connections_of_their_own(
    kind: str, gateway: Gateway, model: Model, tmp_path: Path
) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    with serving(gunicorn(kind, "--preload", app="preloaded:app"), tmp_path, gateway.environment) as served:
        assert gateway.connections == 1
        if kind != "sync":
            model.meeting = threading.Barrier(READERS)
        fifty(served)
        model.meeting = None
        assert 2 <= gateway.connections <= 1 + int(WORKERS[kind][1])
        # Workers that end close their own connections and not the master's.
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: gateway.connections == 1, 15)
        assert whole("7") == read(served, "7")
        assert gateway.connections == 2
        assert "Traceback" not in served.log.read_text()
    wait_until(lambda: gateway.connections == 0)


def seconds_until_stopped(served: Served, gateway: Gateway, prompt: str, event: str) -> float:
    """Close a tab after an event of its answer; return how long its generation went on."""
    with Tab(served.url, prompt) as tab:
        tab.next(event)
        wait_until(lambda: gateway.generations == 1)
        running = gateway.requests[-1]
    closed = time.monotonic()
    wait_until(lambda: running.outcome == "stopped", 10)
    return time.monotonic() - closed


@kinds
def test_a_tab_that_is_closed_stops_its_generation_within_two_seconds(
    kind: str, gateway: Gateway, tmp_path: Path
) -> None:
    with serving(gunicorn(kind), tmp_path, gateway.environment) as served:
        read(served, "1")
        assert seconds_until_stopped(served, gateway, "endless", "token") < 2
        assert seconds_until_stopped(served, gateway, "mute", "start") < 2
        # The client is none the worse for it.
        assert read(served, "2") == whole("2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_that_are_restarted_leave_no_connection_behind(
    kind: str, gateway: Gateway, model: Model, tmp_path: Path
) -> None:
    with serving(gunicorn(kind, "--workers", "1"), tmp_path, gateway.environment) as served:
        for _ in range(2):
            assert read(served, "1") == whole("1")
            assert gateway.connections == 1
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: gateway.connections == 0, 15)
        # In the middle of an answer, which its worker brings to the end.
        model.meeting = threading.Barrier(2)
        with Tab(served.url, "2") as tab:
            text = tab.next("token")["text"]
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: served.log.read_text().count("Booting worker") == 4, 15)
            model.meeting.wait(10)
            assert text + tab.text() == whole("2")
        wait_until(lambda: gateway.connections == 0, 15)
    wait_until(lambda: gateway.connections == 0)


@pytest.mark.slow
def test_flasks_reloader_leaves_no_connection_behind(gateway: Gateway, tmp_path: Path) -> None:
    site = tmp_path / "site_app.py"
    site.write_text((EXAMPLES / "flask_chat.py").read_text())
    command = [sys.executable, "-m", "flask", "--app", "site_app", "run", "--debug", "--port", "0"]
    with serving(command, tmp_path, gateway.environment) as served:
        for length in (1, 2):
            assert read(served, "1") == whole("1")
            assert gateway.connections == 1
            with Tab(served.url, "endless") as tab:
                tab.next("token")
                site.write_text(site.read_text() + "#" * length)
                os.utime(site, (time.time() + length, time.time() + length))
                wait_until(lambda: gateway.connections == 0, 15)
            wait_until(lambda: answers(served), 15)
        assert seconds_until_stopped(served, gateway, "endless", "token") < 2
        assert seconds_until_stopped(served, gateway, "mute", "start") < 2
    wait_until(lambda: gateway.connections == 0)


def answers(served: Served) -> bool:
    try:
        return "models" in served.get("/models")
    except OSError:
        return False
