"""A project outside of this repository installs the built wheel, and tests its own code with the pytest plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]
# pip fetches a build backend and the dependencies, as for the README's commands.
PIP_TIMEOUT = 240
PYTEST_TIMEOUT = 60

CODE = '''
"""Summaries, from wherever WSCLIENT_* leads to."""

from wsclient import WSClient, WSClientError


def summarize(client: WSClient, text: str) -> str:
    summary = ""
    for token in client.stream(f"Summarize: {text}", max_tokens=50):
        summary += token
        if summary.endswith("."):
            break
    return summary


def main(text: str) -> str:
    try:
        with WSClient.from_env() as client:
            return summarize(client, text)
    except WSClientError as error:
        return f"no summary: {error.code}"
'''

FAST_TESTS = """
import pytest
from summaries import summarize

ANSWERS = {"Summarize: a b": ["First", " sentence.", " Second", " one."]}


@pytest.mark.wsclient_answers(ANSWERS)
def test_one_sentence_is_enough(fake_ws_client):
    assert summarize(fake_ws_client, "a b") == "First sentence."
    (request,) = fake_ws_client.requests
    assert (request.options, request.outcome) == ({"max_tokens": 50}, "stopped")
"""

WHOLE_TESTS = """
import pytest
from summaries import main

ANSWERS = {"Summarize: a b": ["First", " sentence.", " Second", " one."]}


@pytest.mark.wsclient_answers(ANSWERS)
def test_the_whole_way(wsclient_env):
    assert main("a b") == "First sentence."


@pytest.mark.wsclient_answers(ANSWERS)
def test_a_server_without_room(wsclient_env):
    wsclient_env.busy()
    assert main("a b") == "no summary: server_busy"


def test_a_server_that_does_not_know_the_client(wsclient_env):
    wsclient_env.wrong_login()
    assert main("a b") == "no summary: invalid_auth"
"""


@attrs.frozen
class Project:
    """A folder with code and tests, and a virtual environment of its own."""

    folder: Path
    python: Path

    def pip(self, *arguments: str) -> None:
        """Run pip, which must succeed."""
        finished = self._run("-m", "pip", "--disable-pip-version-check", *arguments, timeout=PIP_TIMEOUT)
        assert finished.returncode == 0, finished.stdout + finished.stderr

    def pytest(self, *files: str) -> tuple[int, str]:
        """Run its tests, and return pytest's exit code and words."""
        finished = self._run("-W", "error", "-m", "pytest", "-q", "--strict-markers", *files, timeout=PYTEST_TIMEOUT)
        return finished.returncode, finished.stdout + finished.stderr

    def _run(self, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=_without_this_repository(os.environ),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def _without_this_repository(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("PYTHON", "PYTEST", "WSCLIENT"))}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The project, with a wheel of this repository beside it in `dist` and nothing installed but pytest."""
    folder = tmp_path / "summaries"
    folder.mkdir()
    (folder / "summaries.py").write_text(CODE)
    (folder / "test_fast.py").write_text(FAST_TESTS)
    (folder / "test_whole.py").write_text(WHOLE_TESTS)
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True, timeout=PIP_TIMEOUT)
    project = Project(folder, folder / ".venv" / "bin" / "python")
    # A copy: the build leaves files beside the sources, and a later wheel would take them in.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "wsclient", source / "wsclient", ignore=shutil.ignore_patterns("__pycache__"))
    project.pip("wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(source))
    project.pip("install", "-q", "pytest")
    return project


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_project_with_the_wheel_tests_its_code_and_notices_when_it_is_broken(project: Project) -> None:
    (wheel,) = (project.folder / "dist").glob("*.whl")

    # Without the extra: the client without a network, and a sentence about the gateway.
    project.pip("install", "-q", str(wheel))
    code, printed = project.pytest("test_fast.py")
    assert (code, "1 passed" in printed) == (0, True), printed
    code, printed = project.pytest("test_whole.py")
    assert (code, "Gateway needs the extra `gateway`" in printed) == (1, True), printed

    project.pip("install", "-q", f"{wheel}[gateway]")
    code, printed = project.pytest()
    assert (code, "4 passed" in printed) == (0, True), printed

    broken = CODE.replace("break", "pass").replace("error.code", "'unknown'")
    (project.folder / "summaries.py").write_text(broken)
    code, printed = project.pytest()
    assert (code, "4 failed" in printed) == (1, True), printed
