"""Every code block of the README runs, and its tables say what the code says."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from wsclient import WSClient
from wsclient.cli import failures
from wsclient.cli.chat_commands import COMMANDS
from wsclient.cli.program import program
from wsclient.gateway.clients import RegisteredClient
from wsclient.gateway.settings import _VARIABLES, GatewaySettings
from wsclient.testing import Gateway, pytest_plugin

from ..support.asking import ask
from ..support.fake_ollama import FakeOllama
from ..support.llama_server import INSTALL
from ..support.redis_server import RedisServer
from .conftest import StartGateway
from .programs import Site, free_port, run_program, wait_for_line

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"^(?<!<!-- pytest -->\n)```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Cells, which tests/contrib/test_ipython_notebook.py runs.
IPYTHON_BLOCKS = re.findall(r"^```ipython\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTEST_BLOCKS = re.findall(r"^<!-- pytest -->\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _bash_block(mark: str) -> str:
    found = re.search(rf"^<!-- {mark} -->\n```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _table(heading: str) -> list[list[str]]:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def test_no_code_block_escapes_these_tests() -> None:
    marked = re.findall(r"^<!-- (?:run|command|flags): .* -->\n```bash$", README, re.MULTILINE)
    tested = [*PYTHON_BLOCKS, *PYTEST_BLOCKS, *IPYTHON_BLOCKS, *marked]
    # And the client in JSON, and the diagram of the statuses, which is drawn from the code.
    assert len(re.findall(r"^```\w", README, re.MULTILINE)) == len(tested) + 2


def _settings(command: str) -> GatewaySettings:
    """Return what a line of `wsclient serve` asks for, with the variables before it."""
    words = shlex.split(command, comments=True)
    start = words.index("wsclient")
    params = program.commands["serve"].make_context("serve", words[start + 2 :]).params
    environ = dict(word.split("=", 1) for word in words[:start])
    return GatewaySettings.from_env(environ, **{name: value for name, value in params.items() if name != "debug"})


def test_the_lines_that_serve_the_internet_say_what_the_flags_are_called() -> None:
    tls, proxy, page = map(_settings, _bash_block("flags: serve").splitlines())
    assert (tls.port, tls.tls_cert, tls.requests_per_minute) == (443, Path("fullchain.pem"), 60)
    assert proxy.trusted_proxy == ("10.0.0.0/8",)
    assert page.allow_origin == ("https://app.example.org",)


def test_the_lines_with_several_model_servers_name_the_same_two() -> None:
    flags, variable = map(_settings, _bash_block("flags: servers").splitlines())
    assert flags.model_server_urls == variable.model_server_urls == ("http://gpu1:11434", "http://gpu2:11434")


def test_the_lines_that_share_a_store_say_what_the_flags_are_called() -> None:
    password, encrypted, local = map(_settings, _bash_block("flags: store").splitlines())
    assert password.store_password_file == Path("redis-password")
    for settings, shown in (
        (attrs.evolve(password, store_password_file=None), "redis://10.0.0.5:6379/0"),
        (encrypted, "rediss://redis.example.org:6379/0"),
        (local, "unix:///run/redis/redis.sock?db=1"),
    ):
        address = settings.find_store()
        assert address is not None
        assert address.shown == shown


def test_the_lines_that_move_clients_into_a_store_move_them(
    tmp_path: Path, served: dict[str, str], redis_server: RedisServer
) -> None:
    assert run_program(["bash", "-ec", _bash_block("run: quickstart")], tmp_path, env=served).returncode == 0
    block = _bash_block("run: store").replace("redis://127.0.0.1:6379/0", redis_server.url)
    moved = run_program(["bash", "-ec", block], tmp_path, env=served)
    assert (moved.returncode, moved.stderr) == (0, "")
    assert re.search(r"^  copied +1$", moved.stdout, re.MULTILINE)
    assert "my-client" in moved.stdout


def test_the_example_of_a_client_with_limits_has_nothing_wrong() -> None:
    found = re.search(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    client = RegisteredClient.from_json(json.loads(found[1]))
    assert client.quota.problems == ()
    assert set(client.quota.limits) == {
        "max_open_generations",
        "requests_per_minute",
        "max_prompt_size",
        "max_message_size",
    }
    assert client.quota.models == ("llama3*", "tiny:1b")


def test_the_table_of_flags_has_each_with_its_variable_and_default() -> None:
    told = {}
    for flags, variable, default, _ in _table("Options of `wsclient serve`"):
        told |= {name.replace("-", "_"): (variable, default.strip("`")) for name in re.findall("--([a-z-]+)", flags)}
    settings = attrs.asdict(GatewaySettings())
    # The token itself is never a flag's.
    told["admin_token"] = told["admin_token_file"]
    assert set(told) == set(settings)
    for variable, (name, _) in _VARIABLES.items():
        assert f"`{variable}`" in told[name][0]
    for name, value in settings.items():
        said = told[name][1]
        if value in (None, ()):
            assert said in ("", "none", "no limit"), name
        else:
            mebibytes = re.fullmatch(r"(\d+) MiB", said)
            said = str(int(mebibytes[1]) << 20) if mebibytes else said
            value = ",".join(value) if isinstance(value, tuple) else value
            assert said == (f"{value:g}" if isinstance(value, float) else str(value)), name


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_python_block_runs_as_it_is(block: str, site: Site) -> None:
    # The two values that the text itself says to replace.
    program = block.replace("ws://localhost:3000", site.url).replace("your-client-id", site.client_id)

    finished = run_program([sys.executable, "-c", program], site.folder)

    assert finished.stderr == ""
    assert finished.returncode == 0
    assert finished.stdout.strip()


@pytest.mark.parametrize("block", PYTEST_BLOCKS, ids=range(len(PYTEST_BLOCKS)))
def test_pytest_block_passes_as_it_is(block: str, tmp_path: Path) -> None:
    (tmp_path / "test_block.py").write_text(block)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")

    finished = run_program([sys.executable, "-W", "error", "-m", "pytest", "-q", "test_block.py"], tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{block.count('def test_')} passed" in finished.stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the quick start's blocks need: the commands on the path, a port that is free, and an Ollama."""
    with FakeOllama() as ollama:
        yield {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PORT": str(free_port()),
            "OLLAMA_API_URL": ollama.url,
        }


def test_quick_start_goes_from_nothing_to_a_served_registered_client(tmp_path: Path, served: dict[str, str]) -> None:
    made = run_program(["bash", "-ec", _bash_block("run: quickstart")], tmp_path, env=served)
    assert made.returncode == 0, made.stderr
    config = tmp_path / "keys" / "my-client_config.json"
    # The blocks use the port that a gateway has unless told otherwise; a test machine may use that for something else.
    config.write_text(config.read_text().replace(":3000", f":{served['PORT']}"))

    with subprocess.Popen(
        ["bash", "-ec", "exec " + _bash_block("run: serve")],
        cwd=tmp_path,
        env=served,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as gateway:
        try:
            wait_for_line(gateway, served["PORT"])
            finished = run_program(["bash", "-ec", _bash_block("run: generate")], tmp_path, env=served)
            clients = run_program(["bash", "-ec", _bash_block("run: clients")], tmp_path, env=served)
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.communicate(timeout=20)

    assert finished.returncode == 0, finished.stderr
    assert "llama2:latest" in finished.stdout
    assert clients.returncode == 0, clients.stderr
    assert "  new key      " in clients.stdout


def test_the_blocks_for_people_run_as_they_are(site: Site) -> None:
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Its stdin is no terminal: the chat ends at once.
    run_program(["bash", "-ec", _bash_block("run: chat")], site.folder, env=path).check_returncode()
    finished = run_program(["bash", "-ec", _bash_block("run: people")], site.folder, env=path)

    assert finished.returncode == 0, finished.stderr
    results = [json.loads(line) for line in (site.folder / "results.jsonl").read_text().splitlines()]
    assert [result["id"] for result in results] == ["cat", "dog"]
    assert all(result["text"] for result in results)
    assert (site.folder / "haiku.txt").read_text().strip()
    assert "10 answers, 2 at a time: " in finished.stdout


def test_the_table_of_chat_commands_is_whole() -> None:
    section = README.split("## At the command line\n")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`/[^|]*) \|", section, re.MULTILINE) for name in re.findall(r"/\w+", row)
    }
    assert named == set(COMMANDS)


def test_the_operators_blocks_register_a_client_from_elsewhere(tmp_path: Path, served: dict[str, str]) -> None:
    *prepare, serve = _bash_block("run: admin token").strip().splitlines()
    figures = free_port()
    script = "\n".join([*prepare, "exec " + serve.replace("9464", str(figures))])
    with subprocess.Popen(
        ["bash", "-ec", script], cwd=tmp_path, env=served, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as gateway:
        try:
            wait_for_line(gateway, served["PORT"])
            online = _bash_block("run: online").replace(":3000", f":{served['PORT']}")
            finished = run_program(["bash", "-ec", online], tmp_path, env=served)
            assert finished.returncode == 0, finished.stderr
            assert "  generations  0 running, 0 waiting\n" in finished.stdout
            assert ask(f"http://127.0.0.1:{figures}", "/metrics").status == 200
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.communicate(timeout=20)
    assert (tmp_path / "keys" / "remote_config.json").exists()


def test_the_table_of_exit_codes_has_each() -> None:
    rows = README.split("### Exit codes\n")[1].split("\n### ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", rows, re.MULTILINE)}
    assert codes == {0, failures.FAILED, failures.WRONG_USAGE, failures.INTERRUPTED}


def test_the_table_of_figures_names_what_the_gateway_shows(start_gateway: StartGateway) -> None:
    gateway = start_gateway(metrics_port=0)
    body = ask(gateway.gateway.metrics_url, "/metrics").body.decode()
    shown = {name.removesuffix("_total") for name in re.findall(r"^# TYPE wsclient_gateway_(\w+)", body, re.MULTILINE)}
    rows = re.findall(r"^\| (`[^|]*`) \|", README.split("| figure, after")[1].split("\n\n")[0], re.MULTILINE)
    named = {name.removesuffix("_total") for row in rows for name in re.findall(r"`(\w+)", row)}
    assert named == {name for name in shown if not name.endswith("_created")}


def test_the_doctor_shows_the_lines_that_the_readme_shows(site: Site) -> None:
    shown = README.split("<!-- shown: doctor -->\n```\n")[1].split("```")[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-ec", _bash_block("run: doctor")]
    finished = run_program(command, site.folder, env={**os.environ, "PATH": path, "PYTHONIOENCODING": "utf-8"})

    assert finished.returncode == 0, finished.stdout
    titles = [line[3:17] for line in finished.stdout.splitlines()[:-1]]
    assert [line[3:17] for line in shown.splitlines()[:-1] if line[1] != " "] == titles
    statuses = [line[1] for line in shown.splitlines()[:-1] if line[1] != " "]
    passed, failed, skipped = (statuses.count(mark) for mark in "\N{CHECK MARK}\N{BALLOT X}-")
    assert shown.splitlines()[-1].startswith(f"{passed} passed, {failed} failed, {skipped} skipped;")


def test_the_commands_install_what_they_run() -> None:
    demo, tests, model = (_bash_block(f"command: {name}") for name in ("demo", "tests", "model"))

    assert "'.[cli]'" in demo
    assert "wsclient demo" in demo
    assert "'.[test]'" in tests
    assert "pytest" in tests
    # `test_examples` runs the example.
    assert "examples/local_llm.py" in model
    assert INSTALL in tests
    assert INSTALL in model


def test_testing_tables_name_every_fixture_and_every_fault() -> None:
    section = README.split("## Testing your own code\n")[1].split("\n## ")[0]
    plugin = Path(pytest_plugin.__file__).read_text(encoding="utf-8")
    faults = {name for name in vars(Gateway) if not name.startswith("_")} - {
        *("client", "close", "heal", "wait_idle"),
        *("connections", "environment", "generations", "url"),
    }

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) - {"Gateway"} == set(
        re.findall(r"^@pytest.fixture\ndef (\w+)", plugin, re.MULTILINE)
    )
    cells = re.findall(r"^\| (`.*?\)`) \|", section, re.MULTILINE)
    assert set(re.findall(r"`(\w+)\(", " ".join(cells))) == faults


def test_name_table_leads_to_things_that_exist() -> None:
    column = " ".join(row[1] for row in _table("From the JavaScript client"))

    for name in re.findall(r"client\.(\w+)", column):
        assert hasattr(WSClient, name)
