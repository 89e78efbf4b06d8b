"""`serve`, as a process: ready, stopped in good order, and refused in one line."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from wsclient import WSClient
from wsclient.cli.client_config import ClientConfig
from wsclient.cli.program import program
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.keys import generate_key, public_pem

from .conftest import Run
from .programs import Program, run_program

BUILTIN = ("serve", "--backend=builtin", "--port=0")
STOP_HINT = "  stop it with"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of `serving`."""
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def client(place: Path) -> dict[str, Any]:
    """The options of a client that was registered before the gateway started."""
    key = generate_key("ec")
    registered = ClientRegistry(place / "data" / "authorized_clients.json").register("early", public_pem(key))
    return {"client_id": registered.id, "private_key": key}


@pytest.fixture(scope="module")
def serving(place: Path, client: dict[str, Any]) -> Iterator[Program]:
    """A gateway that is ready, with the built-in model."""
    with Program(*BUILTIN, cwd=place) as running:
        running.wait_for(f"kill {running.pid}\n")
        yield running


def url_of(running: Program) -> str:
    found = re.search(r"^  url +(\S+)$", running.out, re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order_with_exit_code_0(folder: Path, number: signal.Signals) -> None:
    with Program(*BUILTIN, cwd=folder) as running:
        running.wait_for("Nobody can log in yet; see: wsclient register-client --help")
        running.send_signal(number)
        assert running.wait() == 0
    assert running.out.endswith("The gateway has stopped.\n")
    assert "Traceback" not in running.err


def test_it_says_where_it_is_what_it_uses_and_how_to_stop_it(serving: Program) -> None:
    assert re.search(r"^  url +ws://127\.0\.0\.1:\d+$", serving.out, re.MULTILINE)
    assert re.search(r"^  backend +builtin$", serving.out, re.MULTILINE)
    assert re.search(r"^  clients file +data/authorized_clients\.json \(1 registered\)$", serving.out, re.MULTILINE)
    assert re.search(rf"^{STOP_HINT} +Ctrl-C, or: kill {serving.pid}$", serving.out, re.MULTILINE)


def test_a_registered_client_can_log_in_and_generate(serving: Program, client: dict[str, Any]) -> None:
    with WSClient(url_of(serving), **client) as connected:
        assert connected.complete("hello", max_tokens=5).total_tokens == 5


def test_its_log_goes_to_stderr_at_the_level_asked_for(folder: Path) -> None:
    with (
        Program(*BUILTIN, "--log-level=debug", cwd=folder) as verbose,
        Program(*BUILTIN, "--log-level=error", cwd=folder) as quiet,
    ):
        for running in (verbose, quiet):
            running.wait_for(STOP_HINT)
            running.send_signal(signal.SIGTERM)
            assert running.wait() == 0
    assert "INFO wsclient.gateway" in verbose.err
    assert quiet.err == ""


def test_a_port_in_use_is_one_line_that_says_what_to_do(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_program(["serve", "--backend=builtin", f"--port={port}", "--log-level=error"], folder)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: port {port} on 127.0.0.1 is in use")
    assert done.err.count("\n") == 1


def test_a_broken_clients_file_is_one_line(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "authorized_clients.json").write_text("{}")
    done = run_program([*BUILTIN, "--log-level=error"], folder)
    assert (done.code, done.out) == (1, "")
    assert "data/authorized_clients.json must hold a JSON array" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend=magic",), "backend must be one of"),
        (("--port=70000",), "port must be a whole number from 0 to 65535"),
        (("--port=http",), "'http' is not a valid integer"),
        (("--ollama-url=ftp://here",), "ollama_url must begin with"),
        (("--backend=openai", "--openai-url=here"), "openai_url must be a URL like"),
        (("--metrics-host=127.0.0.1",), "metrics_host is of no use without metrics_port"),
        (("--ollama-url=a:1", "--ollama-url=http://a:1"), "ollama_url must name each model server once"),
        (("--tls-key=key.pem",), "tls_key is of no use without tls_cert"),
        (("--allow-origin=here",), "allow_origin must be origins like"),
        (("--trusted-proxy=somewhere",), "trusted_proxy must be addresses or networks like"),
        (("--requests-per-minute=-1",), "requests_per_minute must be a whole number from 0"),
        (("--drain=forever",), "'forever' is not a valid float"),
        (("--log-level=loud",), "log_level must be one of"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    done = run("serve", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_wrong_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_TIMEOUT_MS", "soon")
    done = run("serve")
    assert done.code == 2
    assert "the environment variable AUTH_TIMEOUT_MS" in done.err


def test_an_api_key_file_that_is_not_there_is_one_line(folder: Path) -> None:
    arguments = ["serve", "--backend=openai", "--port=0", "--openai-key-file=missing", "--log-level=error"]
    done = run_program(arguments, folder)
    assert (done.code, done.out) == (1, "")
    assert "the API key missing cannot be read" in done.err
    assert done.err.count("\n") == 1


def test_an_openai_gateway_says_where_its_model_server_is_and_never_its_key(folder: Path) -> None:
    environ = {"OPENAI_API_KEY": "s3cret", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OLLAMA_API_URL": "nonsense://"}
    with Program("serve", "--backend=openai", "--port=0", "--log-level=debug", cwd=folder, env=environ) as running:
        running.wait_for(f"kill {running.pid}\n")
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    assert "openai at http://127.0.0.1:9/v1" in running.out
    assert "s3cret" not in running.out + running.err


@pytest.fixture
def settings_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[GatewaySettings]:
    """What `serve` would start gateways with."""
    started: list[GatewaySettings] = []

    def note(settings: GatewaySettings, **_: object) -> None:
        started.append(settings)

    monkeypatch.setattr("wsclient.gateway.server.run_gateway", note)
    return started


def test_the_environment_is_the_originals_and_flags_win(
    run: Run, settings_of: list[GatewaySettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "4000")
    monkeypatch.setenv("DATA_DIR", "there")
    run("serve", "--port=4001")
    assert (settings_of[0].port, settings_of[0].data_dir) == (4001, Path("there"))


@pytest.mark.parametrize(
    ("environ", "flag", "url"),
    [
        ({"OLLAMA_HOST": "gpu:1"}, (), "http://gpu:1"),
        ({"OLLAMA_HOST": "gpu:1", "OLLAMA_API_URL": "http://api:2/api"}, (), "http://api:2"),
        ({"OLLAMA_HOST": "gpu:1", "OLLAMA_API_URL": "http://api:2/api"}, ("--ollama-url=flag:3",), "http://flag:3"),
        ({"OLLAMA_HOST": ""}, (), GatewaySettings().ollama_url[0]),
    ],
)
def test_ollama_is_where_the_flag_the_originals_variable_or_ollamas_own_says(
    run: Run,
    settings_of: list[GatewaySettings],
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    flag: tuple[str, ...],
    url: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    run("serve", *flag)
    assert settings_of[0].ollama_url == (url,)


def test_several_model_servers_are_a_flag_each_or_one_variable(
    run: Run, settings_of: list[GatewaySettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_URL", "http://c:3/api,http://d:4/api")
    run("serve", "--ollama-url=a:1", "--ollama-url=b:2")
    run("serve")
    assert settings_of[0].ollama_url == ("http://a:1", "http://b:2")
    assert settings_of[1].ollama_url == ("http://c:3", "http://d:4")


def test_what_faces_the_internet_is_set_by_flags_some_of_them_repeatable(
    run: Run, settings_of: list[GatewaySettings]
) -> None:
    run("serve", "--allow-origin=https://a.test", "--allow-origin=https://b.test", "--trusted-proxy=10.0.0.0/8")
    run("serve", "--tls-cert=c.pem", "--tls-key=k.pem", "--requests-per-minute=60", "--max-open-generations=2")
    assert settings_of[0].allow_origin == ("https://a.test", "https://b.test")
    assert settings_of[0].trusted_proxy == ("10.0.0.0/8",)
    assert (settings_of[1].tls_cert, settings_of[1].tls_key) == (Path("c.pem"), Path("k.pem"))
    assert (settings_of[1].requests_per_minute, settings_of[1].max_open_generations) == (60, 2)
    assert (settings_of[1].max_prompt_size, settings_of[1].allow_origin) == (None, ())


def test_a_certificate_that_is_no_good_is_one_line(folder: Path) -> None:
    done = run_program([*BUILTIN, "--tls-cert=nowhere.pem", "--log-level=error"], folder)
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: the TLS certificate nowhere.pem cannot be read: No such file or directory\n"


def test_every_setting_of_the_gateway_has_a_flag_of_its_name() -> None:
    flags = {option.name for option in program.commands["serve"].params} - {"debug"}
    # The admin token is a secret, and a command line is everybody's to read.
    assert flags == {field.name for field in attrs.fields(GatewaySettings)} - {"admin_token"}


def test_the_files_default_server_url_is_the_gateways_default(folder: Path) -> None:
    default = GatewaySettings()
    config = ClientConfig(client_id="x", name="x", private_key=folder)
    assert config.server_url == f"ws://{default.host}:{default.port}"


def test_without_a_reader_it_stops(folder: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with Program(*BUILTIN, cwd=folder, stdout=write_end) as running:
            assert running.wait() == 1
            assert "Traceback" not in running.err
    finally:
        os.close(write_end)
