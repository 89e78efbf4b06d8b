"""Fixtures for tests of the command line: a folder to work in, commands in this process, and a gateway to talk to."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from wsclient.cli import main
from wsclient.cli.client_config import ClientConfig
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, public_pem, save_key_pair

from ..support.fake_ollama import FakeOllama
from ..support.terminal_sessions import needs_tmux
from .golden import Transcript
from .programs import Finished, environment

Run = Callable[..., Finished]


@pytest.fixture(scope="session", autouse=True)
def _hear_ctrl_c() -> None:
    """Have the programs under test hear Ctrl-C: a test run in the background of a shell would pass its deafness on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty working directory of a user who has set nothing in the environment."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    with mock.patch.dict(os.environ, environment(), clear=True):
        yield place


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process, without a terminal."""
    logger = logging.getLogger("wsclient")
    before = logger.handlers, logger.level

    def run_here(*arguments: str) -> Finished:
        capsys.readouterr()
        code = main(list(arguments))
        return Finished(code, *capsys.readouterr())

    yield run_here
    # What --debug has changed.
    logger.handlers, logger.level = before


@pytest.fixture(
    params=[
        pytest.param(80, id="at 80 columns", marks=needs_tmux),
        # A second time the same, for lines that are longer than 80 columns only.
        pytest.param(120, id="at 120 columns", marks=[needs_tmux, pytest.mark.slow]),
        pytest.param(0, id="in a pipe"),
    ]
)
def transcript(request: pytest.FixtureRequest, folder: Path) -> Transcript:
    """Runs commands at a terminal or in a pipe, for a comparison with what they showed before."""
    return Transcript(folder, request.param)


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """An Ollama that does as it is told."""
    with FakeOllama() as fake:
        yield fake


@pytest.fixture
def gateway(folder: Path, ollama: FakeOllama) -> Iterator[GatewayThread]:
    """A gateway in front of `ollama`, with its clients file in the working directory."""
    settings = GatewaySettings(port=0, data_dir=folder / "data", ollama_url=ollama.url, close_timeout=0.2)
    with GatewayThread(settings) as thread:
        yield thread


@pytest.fixture
def config(folder: Path, gateway: GatewayThread) -> Path:
    """The configuration file of a client that is registered with `gateway`."""
    key = generate_key("ec")
    paths = save_key_pair(key, folder / "keys", "tester")
    client = ClientRegistry(gateway.settings.clients_path).register("tester", public_pem(key))
    path = folder / "keys" / "tester_config.json"
    ClientConfig(client_id=client.id, name="tester", private_key=paths.private, server_url=gateway.url).write(path)
    # A gateway looks at its clients file twice a second; a test must not wait for that.
    gateway.gateway.registry.reload_if_changed()
    return path
