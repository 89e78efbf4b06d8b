"""`demo`: with and without an Ollama, interrupted and failing; nothing is ever left behind."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wsclient.cli.demo import pick_model

from ..support.fake_ollama import FakeOllama
from .programs import Finished, Program, run_program
from .screens import Screen

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder that the system keeps temporary files in."""
    place = tmp_path / "tmp"
    place.mkdir()
    return place


def environ(temporary: Path, ollama: FakeOllama | None = None, **others: str) -> dict[str, str]:
    return {"TMPDIR": str(temporary), "OLLAMA_HOST": NOWHERE if ollama is None else ollama.url, **others}


@pytest.fixture(scope="module")
def bare_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory and a folder for temporary files; both are empty before the demo."""
    place = tmp_path_factory.mktemp("bare")
    (place / "work").mkdir()
    (place / "tmp").mkdir()
    return place


@pytest.fixture(scope="module")
def without_ollama(bare_place: Path) -> Finished:
    """A demo on a machine without Ollama."""
    return run_program(["demo", "The quick brown fox"], bare_place / "work", environ(bare_place / "tmp"))


class TestWithoutOllama:
    def test_it_streams_a_text_of_the_builtin_model_and_says_why(self, without_ollama: Finished) -> None:
        assert (without_ollama.code, without_ollama.err) == (0, "")
        assert f"builtin:latest (because no Ollama answers at http://{NOWHERE})" in without_ollama.out
        _, _, answer = without_ollama.out.partition("> The quick brown fox\n\n")
        assert len(answer.split()) > 60

    def test_it_shows_each_step(self, without_ollama: Finished) -> None:
        shown = re.findall(r"^  ([a-z]+(?: [a-z]+)?) {2,}\S", without_ollama.out, re.MULTILINE)
        assert shown == ["key pair", "model", "client", "gateway", "login"]
        assert re.search(r"^  gateway +ws://127\.0\.0\.1:\d+, for this machine only$", without_ollama.out, re.MULTILINE)

    def test_it_ends_with_a_line_of_figures(self, without_ollama: Finished) -> None:
        figures = r"^builtin:latest, 128 tokens, [\d,.]+ tokens/s, first token after \d+ ms$"
        assert re.search(figures, without_ollama.out, re.MULTILINE)

    def test_it_leaves_nothing_behind(self, without_ollama: Finished, bare_place: Path) -> None:
        assert without_ollama.code == 0
        assert sorted(path.name for path in bare_place.rglob("*")) == ["tmp", "work"]

    def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(self, folder: Path, temporary: Path) -> None:
        proxies = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "example.org"}
        assert run_program(["demo", "--backend=builtin"], folder, environ(temporary, **proxies)).code == 0

    def test_an_ollama_that_is_wanted_and_not_there_is_one_line(self, folder: Path, temporary: Path) -> None:
        done = run_program(["demo", "--backend=ollama"], folder, environ(temporary))
        assert done.code == 1
        assert done.err.startswith(f"error: no Ollama answers at http://{NOWHERE}; without --backend=ollama")
        assert done.err.count("\n") == 1

    def test_a_wrong_ollama_host_is_told(self, folder: Path, temporary: Path) -> None:
        done = run_program(["demo"], folder, environ(temporary, OLLAMA_HOST="ftp://here"))
        assert done.code == 0
        assert "builtin:latest (because OLLAMA_HOST must begin with http:// or https://" in done.out

    def test_at_a_terminal_it_has_colours_and_nothing_wider(self, folder: Path, temporary: Path) -> None:
        done = run_program(["demo"], folder, environ(temporary), columns=80)
        assert done.code == 0
        assert "\x1b[32m" in done.out
        screen = Screen()
        screen.write(done.out)
        assert max(map(len, screen.lines)) < 80

    def test_an_empty_prompt_is_wrong_usage(self, folder: Path, temporary: Path) -> None:
        done = run_program(["demo", " "], folder, environ(temporary))
        assert (done.code, done.err) == (2, "error: the prompt is empty (see: wsclient demo --help)\n")


class TestWithOllama:
    def test_it_uses_the_default_model_if_that_is_installed(
        self, folder: Path, temporary: Path, ollama: FakeOllama
    ) -> None:
        done = run_program(["demo", "hello"], folder, environ(temporary, ollama))
        assert done.code == 0
        assert f"llama2:latest (by Ollama at {ollama.url})" in done.out
        assert "> hello\n\n t000 t001 t002 t003 t004\n\nllama2:latest, 5 tokens, " in done.out

    def test_the_default_model_can_come_from_the_environment(
        self, folder: Path, temporary: Path, ollama: FakeOllama
    ) -> None:
        done = run_program(["demo"], folder, environ(temporary, ollama, OLLAMA_DEFAULT_MODEL="tiny:1b"))
        assert "\ntiny:1b, 5 tokens, " in done.out

    def test_without_models_it_uses_the_builtin_one_and_says_so(
        self, folder: Path, temporary: Path, ollama: FakeOllama
    ) -> None:
        ollama.models = []
        done = run_program(["demo"], folder, environ(temporary, ollama))
        assert done.code == 0
        assert f"builtin:latest (because Ollama at {ollama.url} has no model that writes text; get one" in done.out

    def test_an_ollama_that_cannot_list_its_models_is_told(
        self, folder: Path, temporary: Path, ollama: FakeOllama
    ) -> None:
        ollama.fail("/api/tags", 500, "out of order")
        done = run_program(["demo"], folder, environ(temporary, ollama))
        assert done.code == 0
        assert "builtin:latest (because Ollama API error: 500" in done.out

    def test_it_can_be_left_out(self, folder: Path, temporary: Path, ollama: FakeOllama) -> None:
        done = run_program(["demo", "--backend=builtin"], folder, environ(temporary, ollama))
        assert "builtin:latest (because you asked for it)" in done.out
        assert ollama.requests == []

    def test_a_failing_model_is_one_line_that_says_how_to_do_without(
        self, folder: Path, temporary: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(status=500, error="out of memory")
        done = run_program(["demo"], folder, environ(temporary, ollama))
        assert done.code == 1
        assert "out of memory" in done.err
        assert done.err.endswith("Without Ollama: wsclient demo --backend=builtin\n")
        assert done.err.count("\n") == 1
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_a_signal_stops_the_model_and_leaves_nothing_behind(
        self, folder: Path, temporary: Path, ollama: FakeOllama, number: signal.Signals, code: int
    ) -> None:
        ollama.script(mode="hang", after=2)
        with Program("demo", cwd=folder, env=environ(temporary, ollama)) as program:
            program.wait_for("t001")
            assert list(temporary.iterdir()) != []
            program.send_signal(number)
            assert program.wait() == code
        assert ollama.requests[-1].disconnected.wait(5)
        assert list(temporary.iterdir()) == []
        assert program.err == ("error: interrupted by Ctrl-C\n" if number == signal.SIGINT else "")


def tag(name: str, family: str = "llama", **others: Any) -> dict[str, Any]:
    return {"name": name, "details": {"family": family}, **others}


@pytest.mark.parametrize(
    ("models", "picked"),
    [
        ([], None),
        ([tag("b"), tag("a")], "b"),
        ([tag("b"), tag("wanted:latest")], "wanted:latest"),
        ([tag("wanted:latest"), tag("wanted")], "wanted"),
        ([tag("wanted:7b")], "wanted:7b"),
        ([tag("nomic-embed-text:latest", "nomic-bert")], None),
        ([tag("all-minilm", "bert"), tag("a")], "a"),
        ([tag("x", capabilities=["embedding"]), tag("a", capabilities=["completion"])], "a"),
        ([tag("huge:cloud", remote_host="https://example.org"), tag("a")], "a"),
        ([tag("huge:cloud", remote_host="https://example.org")], "huge:cloud"),
        ([{"name": 7}, {}, {"name": "a", "details": None}], "a"),
    ],
)
def test_the_model_is_the_preferred_one_else_the_first_of_this_machine_that_writes(
    models: Sequence[dict[str, Any]], picked: str | None
) -> None:
    assert pick_model(models, "wanted") == picked
