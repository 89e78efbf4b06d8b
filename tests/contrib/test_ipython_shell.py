"""The magics in a real IPython shell of this process, as at a terminal. Takes 3 s."""

from __future__ import annotations

import atexit
import shlex
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

from wsclient import ConnectionFailedError, GenerationResult, ModelInfo, ServerBusyError
from wsclient.testing import Gateway

from ..support.holdings import Holdings
from ..support.waiting import wait_until

Run = Callable[..., ExecutionResult]
ANSWERS = {
    "Hello": "Hi *there*",
    "{name} $name": "Left alone",
    "Break": ["Half a \x1b[2J", ServerBusyError("no room")],
}
pytestmark = pytest.mark.wsclient_answers(ANSWERS)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """A shell that keeps nothing on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
        yield shell
        # Once is enough: what it needs is gone after that.
        atexit.unregister(shell.atexit_operations)
        shell.atexit_operations()
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()


@pytest.fixture
def run(shell: InteractiveShell) -> Iterator[Run]:
    """Runs cells where the extension is loaded."""

    def run(cell: str, *, fails: bool = False) -> ExecutionResult:
        result = shell.run_cell(cell, store_history=True)
        assert result.success is not fails
        return result

    run("%load_ext wsclient.contrib.ipython")
    yield run
    run("%unload_ext wsclient.contrib.ipython")


@pytest.fixture
def connected(run: Run, wsclient_gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same after `%wsclient connect`, with the client in the variable `client`."""
    monkeypatch.setenv("WSCLIENT_CONFIG", wsclient_gateway.config_path)
    run("%wsclient connect --into client")
    return run


# --- %wsclient --------------------------------------------------------------------------------------------------------


def test_connect_says_who_is_connected(capsys: Any, connected: Run, wsclient_gateway: Gateway) -> None:
    told = capsys.readouterr().out
    assert told == f"WSClient connected · {wsclient_gateway.url}/ · client {wsclient_gateway.client_id}\n"

    connected("%wsclient")

    assert capsys.readouterr().out == told


def test_arguments_win_over_the_file_and_the_file_over_the_environment(
    run: Run, wsclient_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wsclient_gateway.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WSCLIENT_REQUEST_TIMEOUT", "7")
    run("%wsclient connect")
    monkeypatch.setenv("WSCLIENT_SERVER_URL", "ws://127.0.0.1:1")
    run(f"%wsclient connect {wsclient_gateway.url}")
    # Several addresses are one gateway's, as for `WSClient`.
    run(f"%wsclient connect ws://127.0.0.1:1 {wsclient_gateway.url}")
    run(f"%wsclient connect --config {wsclient_gateway.config_path} --into client")
    client = run("client").result
    assert client._options.request_timeout == 7.0
    run("%wsclient connect --client-id nobody", fails=True)
    run(f"%wsclient connect --config '{wsclient_gateway.config_path}' --key nowhere.pem", fails=True)


def test_connecting_again_closes_the_client_that_was_there(connected: Run, wsclient_gateway: Gateway) -> None:
    before = connected("client").result

    connected("%wsclient connect --into client")

    assert before.status == "disconnected"
    wait_until(lambda: wsclient_gateway.connections == 1)


def test_a_failed_connect_leaves_no_client(connected: Run, wsclient_gateway: Gateway) -> None:
    connected("%wsclient disconnect")
    before = Holdings.now()

    # What it failed with is kept, and with it the frames that it came through.
    failed = connected("%wsclient connect ws://127.0.0.1:1", fails=True)

    before.wait_until_none_gained()
    assert isinstance(failed.error_in_exec, ConnectionFailedError)
    assert isinstance(connected("%wsclient models", fails=True).error_in_exec, UsageError)
    wait_until(lambda: wsclient_gateway.connections == 0)


def test_disconnect_closes_it(connected: Run, wsclient_gateway: Gateway, capsys: Any) -> None:
    capsys.readouterr()
    connected("%wsclient disconnect")

    wait_until(lambda: wsclient_gateway.connections == 0)
    assert capsys.readouterr().out.startswith("WSClient not connected; connect with: ")


def test_models_are_returned_and_listed(connected: Run, capsys: Any) -> None:
    capsys.readouterr()

    assert connected("%wsclient models").result == [ModelInfo(name="scripted:latest")]

    assert "Name             Size  Family" in capsys.readouterr().out
    # Other lists look as before.
    connected("[1, 2]")
    assert "[1, 2]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("%wsclient models", "not connected; connect with: %wsclient connect --config keys/NAME_config.json"),
        ("%wsclient dance", "there is no %wsclient dance; there are connect, status, models, disconnect"),
        ("%wsclient status --key=x", "status takes no arguments; they belong to: %wsclient connect"),
        ("%wsclient connect --into 1x", "--into takes the name of a variable (got '1x')"),
        ("%wsclient connect --config nowhere.json", "nowhere.json cannot be read: No such file or directory"),
        ("%wsclient connect 'ws://h", "No closing quotation"),
        ("%wsclient connect --colour red", "unrecognized arguments: --colour red"),
        ("%wsclient connect", "WSCLIENT_SERVER_URL and WSCLIENT_CLIENT_ID must be set in the environment"),
        (
            "%wsclient connect ws://example.org --client-id=a --key=b",
            "server_url 'ws://example.org/' is not encrypted; use wss://, or --allow-insecure in a trusted network",
        ),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(line: str, complaint: str, run: Run, capsys: Any) -> None:
    run(line, fails=True)

    assert capsys.readouterr().err.startswith(f"UsageError: {complaint}")


# --- %%generate -------------------------------------------------------------------------------------------------------


def test_the_text_is_written_and_the_result_kept(connected: Run, shell: InteractiveShell, capsys: Any) -> None:
    capsys.readouterr()

    connected("%%generate --into result\nHello\n")

    assert capsys.readouterr().out.startswith("Hi *there*\n[scripted:latest · 2 tokens · ")
    result = shell.user_ns["result"]
    assert isinstance(result, GenerationResult)
    assert shell.user_ns["_"] is result
    assert shell.user_ns["Out"][shell.execution_count - 1] is result


def test_the_cell_is_the_prompt_as_it_stands(connected: Run, shell: InteractiveShell) -> None:
    connected("name = 'x'")
    connected("%%generate\n{name} $name\n")

    assert shell.user_ns["_"].text == "Left alone"


def test_the_options_reach_the_model(connected: Run, wsclient_gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "a cat.png").write_bytes(b"cat")
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "max_tokens": 9,
        "seed": 7,
        "system": "Be brief",
        "format": "json",
    }
    line = " ".join(f"--{name.replace('_', '-')}={shlex.quote(str(value))}" for name, value in options.items())
    line += f" --stop x --stop 'y z' --think no --timeout 30 --image '{tmp_path}/a cat.png'"

    connected(f"%%generate tiny:1b {line}\nHello")

    (request,) = wsclient_gateway.requests
    assert request.model == "tiny:1b"
    assert request.options == {**options, "stop": ["x", "y z"], "think": False, "images": ["Y2F0"]}


@pytest.mark.parametrize(("given", "sent"), [("5m", "5m"), ("300", 300.0)])
def test_a_model_stays_loaded_for_a_duration_or_for_seconds(
    given: str, sent: object, connected: Run, wsclient_gateway: Gateway
) -> None:
    connected(f"%%generate --keep-alive {given}\nHello")

    assert wsclient_gateway.requests[0].options == {"keep_alive": sent}


def test_help_lists_the_options(connected: Run, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("IPython.core.page.page", lambda data, *_, **__: shown.append(data["text/plain"]))

    connected("%%generate?")

    assert "--max-tokens" in shown[0]
    assert "is the prompt as it stands: `{name}`" in shown[0]


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("%%generate --temperature -1\nHello", "temperature must be a number >= 0 (got -1.0)"),
        ("%%generate --temperature hot\nHello", "argument --temperature: invalid float value: 'hot'"),
        ("%%generate --image nowhere.png\nHello", "nowhere.png cannot be read: No such file or directory"),
        ("%%generate --into class\nHello", "--into takes the name of a variable (got 'class')"),
        ("%%generate\n  \n", "the prompt is empty"),
    ],
)
def test_wrong_options_are_one_line(cell: str, complaint: str, connected: Run, capsys: Any) -> None:
    connected(cell, fails=True)

    assert capsys.readouterr().err.strip() == f"UsageError: {complaint}"


def test_a_generation_that_fails_keeps_its_text_and_says_why_in_one_line(
    connected: Run, wsclient_gateway: Gateway, capsys: Any
) -> None:
    capsys.readouterr()
    error = connected("%%generate\nBreak", fails=True).error_in_exec

    assert isinstance(error, ServerBusyError)
    assert capsys.readouterr().out == (
        "Half a [2J\n[scripted:latest · broke off: server_busy]\n"
        "ServerBusyError: Generation failed: no room [server_busy]. Try again in a moment.\n"
    )


def test_a_bug_shows_its_traceback(connected: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("wsclient.contrib.ipython.magics.display", lambda generation: 1 / 0)

    connected("%%generate\nHello", fails=True)

    assert "Traceback" in capsys.readouterr().out


# --- display and the formatters ---------------------------------------------------------------------------------------


def test_what_was_shown_once_can_be_shown_again(connected: Run, capsys: Any) -> None:
    connected("result = client.complete('Hello')")
    capsys.readouterr()

    connected("result")

    assert "Hi *there*\n[scripted:latest · 2 tokens" in capsys.readouterr().out


def test_without_the_extension_everything_is_as_before(
    connected: Run, shell: InteractiveShell, wsclient_gateway: Gateway, capsys: Any
) -> None:
    connected("models = client.list_models()\n%unload_ext wsclient.contrib.ipython")
    capsys.readouterr()

    connected("models")

    assert "[ModelInfo(name='scripted:latest'" in capsys.readouterr().out
    wait_until(lambda: wsclient_gateway.connections == 0)
    for kind in ("line", "cell"):
        assert not {"wsclient", "generate"} & set(shell.magics_manager.magics[kind])
    connected("%load_ext wsclient.contrib.ipython")


def test_inside_of_something_else_they_look_as_before(connected: Run, capsys: Any) -> None:
    capsys.readouterr()

    connected("{'models': client.list_models(), 'results': [client.complete('Hello')]}")

    shown = capsys.readouterr().out
    assert "{'models': [ModelInfo(name='scripted:latest'" in shown
    assert "'results': [GenerationResult(id='gen" in shown


def test_an_interrupt_lets_go_of_what_was_begun_before_it(connected: Run, shell: InteractiveShell) -> None:
    begun: list[weakref.ref[Any]] = []

    def begin(*_: Any) -> None:
        generation = shell.user_ns["client"].stream("Hello")
        begun.append(weakref.ref(generation))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsclient.contrib.ipython.magics._begin", begin)
        assert isinstance(connected("%%generate\nHello", fails=True).error_in_exec, KeyboardInterrupt)

    assert begun[0]() is None
