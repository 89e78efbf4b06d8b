"""gunicorn with `--preload`: one client made and streaming before the fork, used by every worker after it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.certificates import make_certificate
from ..support.fake_ollama import FakeOllama
from ..support.tls_front import TlsFront
from ..support.waiting import wait_until

pytest.importorskip("gunicorn")

APPLICATION = """
import json, os, threading
from pathlib import Path
from wsclient import WSClient, WSClientError

client = WSClient.from_env()
generation = client.stream("parent")
master, first = os.getpid(), next(generation)

def read():
    text = first + "".join(generation)
    Path("parent").write_text(f"{text} {client.stats().connects}")

threading.Thread(target=read, daemon=True).start()

def application(environ, start_response):
    try:
        text = client.complete("child").text
        inherited = ""
        try:
            generation.result()
        except WSClientError as error:
            inherited = error.code
    except Exception as error:
        text = repr(error)
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = {"pid": os.getpid(), "is_worker": os.getpid() != master, "text": text,
              "connects": client.stats().connects, "inherited": inherited}
    return [json.dumps(answer).encode()]
"""

WORKERS = {
    "sync": ["--workers", "4"],
    "gthread": ["--workers", "2", "--threads", "4", "--worker-class", "gthread"],
    "gevent": ["--workers", "2", "--worker-class", "gevent"],
}


@contextmanager
def gunicorn(folder: Path, url: str, client_id: str, key_path: Path, *options: str, **env: str) -> Iterator[str]:
    """Serve the application; its URL."""
    folder.mkdir()
    (folder / "app.py").write_text(APPLICATION)
    command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0"]
    command += ["--graceful-timeout", "1", *options, "app:application"]
    settings = {"SERVER_URL": url, "CLIENT_ID": client_id, "PRIVATE_KEY_PATH": str(key_path)}
    env = {**os.environ, **{f"WSCLIENT_{name}": value for name, value in settings.items()}, **env}
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log) as process,
    ):
        try:
            yield wait_until(lambda: listening_at(folder / "log", process), 30)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def listening_at(log: Path, process: subprocess.Popen[bytes]) -> str | None:
    text = log.read_text()
    assert process.poll() is None, text
    found = re.search(r"Listening at: (http://\S+)", text)
    return found and found[1]


def ask(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=20) as response:
        answer: dict[str, object] = json.load(response)
        return answer


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_of_gunicorn_connect_for_themselves_while_the_preloaded_client_streams_on(
    kind: str,
    scheme: str,
    ollama: FakeOllama,
    ollama_gateway: GatewayThread,
    client_id: str,
    key_path: Path,
    tmp_path: Path,
) -> None:
    if kind == "gevent":
        pytest.importorskip("gevent")
    ollama.script(prompt="parent", mode="hold", after=2, tokens=4)
    ollama.script(prompt="child", tokens=2)
    site = tmp_path / "site"
    with ExitStack() as stack:
        url, env = ollama_gateway.url, {}
        if scheme == "wss":
            certificate = make_certificate(tmp_path)
            url = stack.enter_context(TlsFront(ollama_gateway.gateway.port, certificate.server_context)).url
            # What the default context of the client trusts.
            env["SSL_CERT_FILE"] = str(certificate.file)
        served = stack.enter_context(gunicorn(site, url, client_id, key_path, *WORKERS[kind], **env))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(served), range(24)))

        expected = {"is_worker": True, "text": " t000 t001", "connects": 1, "inherited": "connection_lost"}
        assert [{**answer, "pid": 0} for answer in answers] == [{**expected, "pid": 0}] * 24, answers
        pids = {answer["pid"] for answer in answers}
        assert ollama_gateway.gateway.stats().total_logins == 1 + len(pids)
        ollama.release()
        wait_until(lambda: (site / "parent").exists() and (site / "parent").read_text() == " t000 t001 t002 t003 1")
    wait_until(lambda: ollama_gateway.gateway.stats().connections == 0)
