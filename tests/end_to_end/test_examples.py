"""Every example runs as it is, in a folder where the README's quick start was followed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.llama_server import MISSING
from ..support.web_servers import Tab, serving
from .programs import Site, free_port, run_program, wait_for_line

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(name: str, site: Site, *arguments: str) -> str:
    finished = run_program([sys.executable, str(EXAMPLES / name), *arguments], site.folder)
    assert finished.stderr == ""
    assert finished.returncode == 0
    return finished.stdout


def test_every_example_has_a_test() -> None:
    tested = {
        "stream.py",
        "basic_usage.py",
        "concurrent_generations.py",
        "custom_reconnect.py",
        "local_llm.py",
        "test_chatbot.py",
        "flask_chat.py",
        "django_chat.py",
    }

    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_every_example_is_short() -> None:
    assert all(len(path.read_text().splitlines()) < 80 for path in EXAMPLES.glob("*.py"))
    assert len((EXAMPLES / "chat.html").read_text().splitlines()) < 200


def test_stream_prints_the_text(site: Site) -> None:
    assert len(_run("stream.py", site).split()) > 10


def test_basic_usage_tells_statuses_models_text_and_the_end(site: Site) -> None:
    printed = _run("basic_usage.py", site)

    assert "Connection status: authenticated" in printed
    assert "Available models: builtin" in printed
    assert "Generation complete: 80 tokens" in printed


def test_concurrent_generations_adds_up_both_texts(site: Site) -> None:
    assert "Generated 2 texts with a total of 120 tokens" in _run("concurrent_generations.py", site)


@pytest.mark.slow
def test_custom_reconnect_gives_up_after_three_attempts(site: Site, gateway: GatewayThread) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / "custom_reconnect.py"), "30"],
        cwd=site.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as program:
        wait_for_line(program, "authenticated")
        gateway.kill()
        printed, _ = program.communicate(timeout=30)

    assert printed.count("Manual reconnect attempt") == 3
    assert printed.endswith("Giving up.\n")


def test_custom_reconnect_ends_when_its_time_is_over(site: Site) -> None:
    assert "Connection status: authenticated" in _run("custom_reconnect.py", site, "1")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_local_llm_streams_an_answer_of_a_real_model(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "local_llm.py"), "Why is the sky blue?"]

    finished = run_program(command, tmp_path, timeout=240)

    assert (finished.returncode, finished.stderr) == (0, "")
    first, *answer, last = finished.stdout.splitlines()
    assert first == "Models: smollm2"
    assert len(" ".join(answer).split()) > 10
    assert re.fullmatch(r"\d+ tokens in \d+\.\d s", last)
    # It leaves nothing where it was run.
    assert list(tmp_path.iterdir()) == []


def test_the_chatbots_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "pytest",
        "-q",
        "-c",
        "pytest.ini",
        str(EXAMPLES / "test_chatbot.py"),
    ]

    finished = run_program(command, tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "4 passed" in finished.stdout


def test_flask_chat_lists_the_models_and_streams_an_answer(site: Site) -> None:
    with (
        serving([sys.executable, str(EXAMPLES / "flask_chat.py")], site.folder, {"PORT": "0"}) as served,
        Tab(served.url, "Hello") as tab,
    ):
        assert served.get("/models") == {"models": ["builtin:latest"]}
        assert len(tab.text().split()) > 10


def test_django_chat_lists_the_models_and_streams_an_answer(site: Site) -> None:
    command = [sys.executable, str(EXAMPLES / "django_chat.py"), "runserver", "--noreload", str(free_port())]
    with serving(command, site.folder, {"PYTHONUNBUFFERED": "1"}) as served, Tab(served.url, "Hello") as tab:
        assert served.get("/models") == {"models": ["builtin:latest"]}
        assert len(tab.text().split()) > 10
