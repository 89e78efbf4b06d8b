"""`bench`, through a real gateway. Takes 4 s."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from ..support.fake_ollama import FakeOllama
from .conftest import Run
from .programs import Program
from .test_batch_command import asked


def test_the_table_has_latency_and_speed(run: Run, config: Path) -> None:
    done = run("bench", f"--config={config}", "--requests=4")
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["Median", "95", "%"]
    names = [row.partition("  ")[0] for row in rows[:4]]
    assert names == ["ping", "first token", "whole answer", "tokens/s of one answer"]
    assert rows[5].startswith("4 answers, 2 at a time: 20 tokens in ")


def test_json_has_every_figure(run: Run, config: Path, ollama: FakeOllama) -> None:
    ollama.script(first_delay=0.1)
    told = json.loads(run("bench", f"--config={config}", "--requests=3", "--json").out)
    assert (told["model"], told["requests"], told["tokens"], told["failures"]) == ("llama2", 3, 15, {})
    assert 0.1 <= told["first_token"]["p50"] <= told["first_token"]["p95"] <= told["whole_answer"]["p95"]
    assert told["elapsed"] >= 0.2
    assert 0 < told["ping"]["p50"] <= told["ping"]["p95"]


def test_it_is_bounded_unless_told_otherwise(run: Run, config: Path, ollama: FakeOllama) -> None:
    run("bench", f"--config={config}")
    assert len(asked(ollama)) == 21
    assert {request.body["options"]["num_predict"] for request in ollama.requests if request.body} == {64}


def test_the_flags_say_what_to_ask(run: Run, config: Path, ollama: FakeOllama) -> None:
    run("bench", f"--config={config}", "--requests=1", "--prompt=Hi", "--model=tiny:1b", "--max-tokens=3", "--seed=1")
    body = ollama.requests[-1].body
    assert (body["prompt"], body["model"], body["options"]) == ("Hi", "tiny:1b", {"num_predict": 3, "seed": 1})


def test_failures_are_counted_and_the_exit_code_is_1(folder: Path, config: Path, ollama: FakeOllama) -> None:
    ollama.script(mode="hold", after=1)
    with Program("bench", f"--config={config}", "--requests=2", cwd=folder) as program:
        ollama.wait_for_request(1, path="/api/generate")
        ollama.script(mode="drop", after=1)
        ollama.release()
        assert program.wait() == 1
    assert "2 answers, 2 at a time, 2 failed with generation_incomplete: 0 tokens" in program.out


def test_an_unknown_model_is_one_line(run: Run, config: Path) -> None:
    done = run("bench", f"--config={config}", "--model=nope")
    assert (done.code, done.out) == (1, "")
    assert "[model_not_found]" in done.err


def test_ctrl_c_stops_the_model(folder: Path, config: Path, ollama: FakeOllama) -> None:
    ollama.script(mode="hold", after=1)
    with Program("bench", f"--config={config}", cwd=folder) as program:
        ollama.wait_for_request(1, path="/api/generate")
        ollama.release()
        request = ollama.wait_for_request(3, path="/api/generate")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
    assert request.disconnected.wait(10)
    assert program.out == ""
