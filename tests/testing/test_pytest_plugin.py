"""The fixtures in a pytest of their own, in a folder that knows nothing of this repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a test file and returns what pytest prints; its result must be the one that is expected."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")

    def run(test: str, *arguments: str, conftest: str = "", expected: str = "1 passed") -> str:
        (tmp_path / "test_it.py").write_text(test)
        (tmp_path / "conftest.py").write_text(conftest)
        command = [sys.executable, "-W", "error", "-m", "pytest", "-q", *arguments]
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        printed = finished.stdout + finished.stderr
        assert f"\n{expected}" in printed, printed
        return printed

    return run


def test_nothing_heavy_is_loaded_for_a_test_that_uses_none_of_it(run: Run) -> None:
    run("""
import sys

def test_it(request):
    assert request.config.pluginmanager.has_plugin("wsclient")
    heavy = ("aiohttp", "Crypto", "wsclient.gateway", "wsclient.testing.gateway", "wsclient.testing.fake_client")
    assert [name for name in heavy if name in sys.modules] == []
""")


def test_it_can_be_left_out(run: Run) -> None:
    run("def test_it(request): assert not request.config.pluginmanager.has_plugin('wsclient')", "-p", "no:wsclient")


def test_the_client_is_connected_to_a_gateway_of_the_tests_own(run: Run) -> None:
    run(
        """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_it(ws_client, wsclient_gateway, number):
    assert ws_client.is_ready()
    assert [model.name for model in ws_client.list_models()] == ["builtin:latest"]
    assert ws_client.complete("rain", max_tokens=3).total_tokens == 3
    assert len(wsclient_gateway.requests) == 1
""",
        expected="2 passed",
    )


def test_the_environment_leads_to_the_gateway_during_the_test_only(run: Run) -> None:
    run(
        """
import os
from wsclient import WSClient

def test_it(wsclient_env):
    with WSClient.from_env() as client:
        assert client.list_models()
    assert wsclient_env.url == os.environ["WSCLIENT_SERVER_URL"]

def test_later():
    assert "WSCLIENT_SERVER_URL" not in os.environ
""",
        expected="2 passed",
    )


def test_the_marker_scripts_the_model_of_both_clients(run: Run) -> None:
    run("""
import pytest

@pytest.mark.wsclient_answers({"Hello": "Hi there"}, models=["llama2"])
def test_it(ws_client, fake_ws_client):
    for client in (ws_client, fake_ws_client):
        assert client.complete("Hello").text == "Hi there"
        assert [model.name for model in client.list_models()] == ["llama2"]
""")


def test_the_fixture_scripts_a_folder_and_the_marker_wins_over_it(run: Run) -> None:
    run(
        """
import pytest

def test_it(fake_ws_client, ws_client):
    assert fake_ws_client.complete("a").text == ws_client.complete("b").text == "of the folder"

@pytest.mark.wsclient_answers("of the test")
def test_other(fake_ws_client):
    assert fake_ws_client.complete("a").text == "of the test"
""",
        conftest="""
import pytest

@pytest.fixture
def wsclient_answers():
    return "of the folder"
""",
        expected="2 passed",
    )


def test_the_fake_client_is_connected_and_has_no_calls_yet(run: Run) -> None:
    run("""
def test_it(fake_ws_client):
    assert fake_ws_client.is_ready()
    assert fake_ws_client.calls == []
    assert fake_ws_client.complete("echo").text == "echo"
""")


def test_a_bug_in_a_function_of_the_test_fails_it(run: Run) -> None:
    printed = run(
        """
import pytest

def answer(request):
    raise LookupError("the bug")

@pytest.mark.wsclient_answers(answers=answer)
def test_it(ws_client):
    with pytest.raises(Exception):
        ws_client.complete("Hello")
""",
        expected="1 passed, 1 error",
    )

    assert "LookupError: the bug" in printed


def test_fixtures_and_the_marker_are_described(run: Run) -> None:
    fixtures = run("def test_it(): pass", "--fixtures", expected="")
    markers = run("def test_it(): pass", "--markers", expected="")

    for name in ("wsclient_gateway", "ws_client", "wsclient_env", "fake_ws_client", "wsclient_answers"):
        assert f"\n{name} -- " in fixtures
    assert "@pytest.mark.wsclient_answers(answers, models=None)" in markers


def test_no_fixture_of_this_repository_hides_one_of_the_plugins() -> None:
    names = ("wsclient_gateway", "ws_client", "wsclient_env", "fake_ws_client", "wsclient_answers")
    files = [path for path in Path(__file__).parents[1].rglob("*.py") if path != Path(__file__)]

    found = {path.name for path in files for name in names if f"\ndef {name}(" in path.read_text(encoding="utf-8")}

    assert found == set()
