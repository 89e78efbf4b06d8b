"""`generate --out`, and what somebody at a terminal sees while waiting. Takes 6 s."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama
from .conftest import Run
from .programs import Program, run_program

TEXT = " t000 t001 t002 t003 t004\n"


def test_the_text_goes_to_the_file_and_nothing_to_stdout(run: Run, folder: Path, config: Path) -> None:
    done = run("generate", "hello", f"--config={config}", "--out=answer.txt")
    assert (done.code, done.out) == (0, "")
    assert (folder / "answer.txt").read_text() == TEXT
    assert done.err.startswith("llama2, 5 tokens")
    assert done.err.count("\n") == 1


def test_control_characters_of_the_model_do_not_reach_the_file(
    run: Run, folder: Path, config: Path, ollama: FakeOllama
) -> None:
    ollama.script(pieces=["a\x1b]0;x\x07", "b\n"])
    run("generate", "hello", f"--config={config}", "--out=answer.txt")
    assert (folder / "answer.txt").read_text() == "a]0;xb\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_came_before_an_interruption_is_kept_and_said(
    folder: Path, config: Path, ollama: FakeOllama, number: signal.Signals
) -> None:
    (folder / "answer.txt").write_text("old")
    ollama.script(mode="hang", after=2)
    with Program("generate", "hello", f"--config={config}", "--out=answer.txt", cwd=folder) as program:
        program.wait_for_file(folder / "answer.txt.part", " t000 t001")
        program.send_signal(number)
        assert program.wait() == 128 + number
    assert ollama.wait_for_request(1, path="/api/generate").disconnected.wait(10)
    assert (folder / "answer.txt").read_text() == "old"
    assert (folder / "answer.txt.part").read_text() == " t000 t001\n"
    interrupted = ["error: interrupted by Ctrl-C"] if number == signal.SIGINT else []
    assert program.err.splitlines() == [
        "answer.txt is as it was; what came so far is in answer.txt.part",
        *interrupted,
    ]


def test_what_came_before_a_failure_is_kept_and_said(run: Run, folder: Path, config: Path, ollama: FakeOllama) -> None:
    ollama.script(mode="drop", after=2)
    done = run("generate", "hello", f"--config={config}", "--out=answer.txt")
    assert done.code == 1
    assert not (folder / "answer.txt").exists()
    assert (folder / "answer.txt.part").read_text() == " t000 t001\n"
    first, second = done.err.splitlines()
    assert first.startswith("there is no answer.txt; what came so far is in ")
    assert "[generation_incomplete]" in second


def test_a_file_that_cannot_be_written_is_one_line_before_the_model_is_asked(
    run: Run, config: Path, ollama: FakeOllama
) -> None:
    done = run("generate", "hello", f"--config={config}", "--out=/nowhere/answer.txt")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: /nowhere/answer.txt: No such file or directory\n"
    assert not ollama.requests


def test_a_full_device_is_one_line_and_stops_the_model(run: Run, config: Path, ollama: FakeOllama) -> None:
    ollama.script(mode="hang", after=2)
    done = run("generate", "hello", f"--config={config}", "--out=/dev/full")
    assert (done.code, done.err) == (1, "error: No space left on device; free some space there\n")
    assert ollama.wait_for_request(1, path="/api/generate").disconnected.wait(10)


def test_no_gateway_leaves_no_file(run: Run, folder: Path, config: Path, gateway: GatewayThread) -> None:
    done = run("generate", "hello", f"--config={config}", "--server-url=ws://127.0.0.1:1", "--out=answer.txt")
    assert done.code == 1
    assert not list(folder.glob("answer.txt*"))


def test_at_a_terminal_waiting_is_shown_and_taken_away_again(folder: Path, config: Path, ollama: FakeOllama) -> None:
    ollama.script(mode="hold", after=0)
    with Program("generate", "hello", f"--config={config}", cwd=folder, columns=80) as program:
        program.wait_for("waiting for the first token, 0 s")
        ollama.release()
        assert program.wait() == 0
    assert program.out.rpartition("\x1b[2K")[2].splitlines()[0] == TEXT.rstrip("\n")


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_elsewhere_waiting_is_silent(folder: Path, config: Path, ollama: FakeOllama, term: str) -> None:
    ollama.script(first_delay=0.5)
    columns = 80 if term == "dumb" else 0
    done = run_program(["generate", "hello", f"--config={config}"], folder, {"TERM": term}, columns=columns)
    assert "waiting" not in done.out + done.err
    assert "\x1b" not in done.out + done.err
