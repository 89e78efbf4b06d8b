"""The Django example under the servers that people run it with: gunicorn's workers, uvicorn, and Django's own.

Takes 11 s, and the slow ones 32 s.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("django")
pytest.importorskip("uvicorn")

import django

from wsclient.testing import Gateway

from ..end_to_end.programs import free_port
from ..support.asking import ask
from ..support.waiting import wait_until
from ..support.web_servers import Served, Tab, serving
from .test_flask_servers import (
    EXAMPLES,
    READERS,
    Model,
    answers,
    fifty,
    gateway,
    gunicorn,
    model,
    read,
    seconds_until_stopped,
    whole,
)

__all__ = ["gateway", "model"]

UVICORN = [sys.executable, "-m", "uvicorn", "--port", "0", "--app-dir", str(EXAMPLES), "django_chat:asgi_application"]
# What gunicorn has of its own for ASGI since version 25, and what uvicorn brings for it; with the modules they are in.
ASGI_WORKERS = {"asgi": "gunicorn.workers.gasgi", "uvicorn.workers.UvicornWorker": "uvicorn.workers"}

# What was used before gunicorn forks: each worker needs a connection of its own, and leaves the master's alone.
PRELOADED = """
from django_chat import application, get_client

assert get_client().complete("0").text
"""


def command(kind: str, *options: str) -> list[str]:
    """Return what serves the example, with one worker or more."""
    if kind == "uvicorn":
        return [*UVICORN, *options]
    if kind in ASGI_WORKERS:
        if find_spec(ASGI_WORKERS[kind]) is None:
            pytest.skip(f"this version has no {kind}")
        asgi = ["--workers", "1", "--worker-class", kind]
        return gunicorn("sync", *asgi, *options, app="django_chat:asgi_application")
    return gunicorn(kind, *options, app="django_chat:application")


def kinds(*quick: str) -> pytest.MarkDecorator:
    """Run a test with each kind of server; those that are not named are slow."""
    slow = [kind for kind in ("gthread", "uvicorn", "sync", "gevent", *ASGI_WORKERS) if kind not in quick]
    return pytest.mark.parametrize("kind", [*quick, *(pytest.param(kind, marks=pytest.mark.slow) for kind in slow)])


@kinds("gthread", "uvicorn")
def test_fifty_readers_get_each_their_whole_text(kind: str, gateway: Gateway, model: Model, tmp_path: Path) -> None:
    if kind != "sync":
        # None goes on before all have begun.
        model.meeting = threading.Barrier(READERS)
    with serving(command(kind), tmp_path, gateway.environment) as served:
        fifty(served)
        assert 1 <= gateway.connections <= 4
    wait_until(lambda: gateway.connections == 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_workers_that_inherit_a_client_that_was_used_get_each_their_whole_text(
    kind: str, gateway: Gateway, model: Model, tmp_path: Path
) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    with serving(gunicorn(kind, "--preload", app="preloaded:application"), tmp_path, gateway.environment) as served:
        assert gateway.connections == 1
        if kind != "sync":
            model.meeting = threading.Barrier(READERS)
        fifty(served)
        assert gateway.connections >= 2
    wait_until(lambda: gateway.connections == 0)


@kinds("gthread", "uvicorn")
def test_a_tab_that_is_closed_stops_its_generation_within_two_seconds(
    kind: str, gateway: Gateway, tmp_path: Path
) -> None:
    if kind in ("uvicorn", *ASGI_WORKERS) and django.VERSION < (5, 0):
        pytest.skip("Django 4.2 does not hear from ASGI servers that somebody left")
    with serving(command(kind), tmp_path, gateway.environment) as served:
        read(served, "1")
        assert seconds_until_stopped(served, gateway, "endless", "token") < 2
        assert seconds_until_stopped(served, gateway, "mute", "start") < 2
        # The client is none the worse for it.
        assert read(served, "2") == whole("2")


@kinds("gthread")
def test_workers_that_are_restarted_leave_no_connection_behind(
    kind: str, gateway: Gateway, model: Model, tmp_path: Path
) -> None:
    one = ["--workers", "2"] if kind == "uvicorn" else ["--workers", "1"]
    with serving(command(kind, *one), tmp_path, gateway.environment) as served:
        assert read(served, "1") == whole("1")
        assert gateway.connections == 1
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: gateway.connections == 0, 15)
        # In the middle of an answer, which its worker brings to the end.
        wait_until(lambda: answers(served), 15)
        model.meeting = threading.Barrier(2)
        with Tab(served.url, "2") as tab:
            text = tab.next("token")["text"]
            before = restarts(served)
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: restarts(served) > before, 15)
            model.meeting.wait(10)
            assert text + tab.text() == whole("2")
        wait_until(lambda: gateway.connections == 0, 15)


def restarts(served: Served) -> int:
    """Return how often a worker was begun (gunicorn) or told to end (uvicorn)."""
    log = served.log.read_text()
    return log.count("Booting worker") + log.count("Shutting down")


def test_djangos_reloader_leaves_no_connection_behind(gateway: Gateway, tmp_path: Path) -> None:
    site, page = tmp_path / "site_app.py", tmp_path / "chat.html"
    site.write_text((EXAMPLES / "django_chat.py").read_text())
    page.symlink_to(EXAMPLES / "chat.html")
    runserver = [sys.executable, "-u", str(site), "runserver", str(free_port())]
    with serving(runserver, tmp_path, gateway.environment) as served:
        assert read(served, "1") == whole("1")
        assert gateway.connections == 1
        with Tab(served.url, "endless") as tab:
            tab.next("token")
            later = time.time() + 5
            os.utime(site, (later, later))
            wait_until(lambda: gateway.connections == 0, 15)
        wait_until(lambda: gateway.generations == 0)
        wait_until(lambda: answers(served), 15)
        assert gateway.connections == 1
        assert seconds_until_stopped(served, gateway, "mute", "start") < 2
    wait_until(lambda: gateway.connections == 0)


def test_a_prompt_without_the_cookie_is_refused_and_the_page_brings_it(gateway: Gateway, tmp_path: Path) -> None:
    with serving(command("uvicorn"), tmp_path, gateway.environment) as served:
        forged = ask(served.url, "/chat", method="POST", body=b'{"prompt": "1"}')
        assert forged.status == 403
        assert gateway.requests == []
        page = ask(served.url, "/")
        assert page.headers["set-cookie"].startswith("csrftoken=")
        assert b"X-CSRFToken" in page.body
        with Tab(served.url, "1", {"X-CSRFToken": "y" * 32}) as tab:
            assert tab.status == 403
