"""`batch`, through a real gateway. Takes 8 s."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama, RecordedRequest
from ..support.waiting import wait_until
from .conftest import Run
from .programs import Program, run_program

TEXT = " t000 t001 t002 t003 t004"


def write(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def prompts(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"prompt {number}.", "id": number} for number in range(start, start + count)]


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def generations(ollama: FakeOllama) -> list[RecordedRequest]:
    return [request for request in ollama.requests if request.path == "/api/generate"]


def asked(ollama: FakeOllama) -> list[str]:
    return [request.body["prompt"] for request in generations(ollama)]


@pytest.fixture
def source(folder: Path) -> Path:
    """Six prompts."""
    return write(folder / "in.jsonl", *prompts(6))


class TestResults:
    def test_results_are_lines_in_the_order_of_the_input(
        self, run: Run, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="prompt 0.", first_delay=0.3)
        done = run("batch", str(source), f"--config={config}", "--parallel=3")
        assert done.code == 0
        assert [(each["line"], each["id"], each["text"]) for each in read(done.out)] == [
            (number + 1, number, TEXT) for number in range(6)
        ]
        assert re.fullmatch(r"6 lines, 30 tokens, [\d,]+ tokens/s\n", done.err)

    def test_lines_are_worked_on_in_parallel_and_no_more_than_asked(
        self, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hold", after=1)
        with Program("batch", str(source), f"--config={config}", "--parallel=3", cwd=folder) as program:
            ollama.wait_for_request(3, path="/api/generate")
            ollama.release(2)
            ollama.wait_for_request(5, path="/api/generate")
            assert len(asked(ollama)) == 5
            ollama.release(4)
            assert program.wait() == 0

    def test_failures_are_lines_and_the_exit_code_is_1(
        self, run: Run, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        source = write(
            folder / "in.jsonl", {"prompt": "a"}, {"prompt": "b", "model": "nope"}, {"x": 1}, {"prompt": "c"}
        )
        done = run("batch", str(source), f"--config={config}")
        assert done.code == 1
        assert [each.get("error", {}).get("code") for each in read(done.out)] == [
            None,
            "model_not_found",
            "invalid_request",
            None,
        ]
        assert done.err.startswith("4 lines, 2 failed, ")

    def test_a_busy_model_is_asked_again(self, run: Run, config: Path, source: Path, ollama: FakeOllama) -> None:
        ollama.fail("/api/generate", 503, times=1)
        done = run("batch", str(source), f"--config={config}")
        assert (done.code, len(asked(ollama))) == (0, 7)

    def test_stdin_can_be_the_file(self, folder: Path, config: Path) -> None:
        done = run_program(["batch", "-", f"--config={config}"], folder, text='{"prompt": "a"}\n{"prompt": "b"}')
        assert (done.code, len(read(done.out))) == (0, 2)

    def test_flags_are_for_lines_that_say_nothing_else(
        self, run: Run, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        source = write(folder / "in.jsonl", {"prompt": "a"}, {"prompt": "b", "model": "llama2", "seed": 1})
        run("batch", str(source), f"--config={config}", "--model=tiny:1b", "--seed=5", "--parallel=1")
        bodies = [request.body for request in generations(ollama)]
        assert [(body["model"], body["options"]["seed"]) for body in bodies] == [("tiny:1b", 5), ("llama2", 1)]

    def test_an_empty_file_is_no_error(self, run: Run, folder: Path, config: Path) -> None:
        done = run("batch", str(write(folder / "in.jsonl")), f"--config={config}", "--out=out.jsonl")
        assert (done.code, done.out, done.err) == (0, "", "0 lines\n")

    def test_at_a_terminal_there_is_a_bar_which_is_taken_away_again(
        self, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hold", after=1)
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl")
        with Program(*arguments, cwd=folder, columns=80) as program:
            program.wait_for("0 lines, 0 tokens/s")
            ollama.release(6)
            assert program.wait() == 0
        assert re.fullmatch(r"\x1b\[2m6 lines, 30 tokens, [^\n]*\n", program.out.rpartition("\x1b[2K")[2])


class TestGoingOn:
    def test_the_same_command_again_does_nothing_twice(
        self, run: Run, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl")
        assert run(*arguments).out == ""
        before = (folder / "out.jsonl").read_text()
        done = run(*arguments)
        assert (done.code, done.err) == (0, "Done already: 6 lines.\n6 lines\n")
        assert (folder / "out.jsonl").read_text() == before
        assert len(asked(ollama)) == 6

    def test_lines_that_were_added_since_are_worked_on(
        self, run: Run, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl")
        run(*arguments)
        write(source, *prompts(8))
        assert run(*arguments).code == 0
        assert sorted(asked(ollama)) == [f"prompt {number}." for number in range(8)]
        assert [each["id"] for each in read((folder / "out.jsonl").read_text())] == list(range(8))

    def test_half_a_line_is_done_anew(
        self, run: Run, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl")
        run(*arguments)
        out = folder / "out.jsonl"
        os.truncate(out, out.stat().st_size - 30)
        assert run(*arguments).code == 0
        assert [each["text"] for each in read(out.read_text())] == [TEXT] * 6
        assert len(asked(ollama)) == 7

    def test_a_failure_of_before_still_counts(self, run: Run, folder: Path, config: Path) -> None:
        source = write(folder / "in.jsonl", {"prompt": "a", "model": "nope"})
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl")
        assert run(*arguments).code == 1
        done = run(*arguments)
        assert (done.code, done.err) == (1, "Done already: 1 line.\n1 line, 1 failed\n")

    @pytest.mark.parametrize(
        ("items", "flag", "says"),
        [
            ([*prompts(2), *prompts(4, start=7)], "--seed=1", "line 3 of in.jsonl, or a flag, has changed"),
            (prompts(6), "--seed=2", "line 1 of in.jsonl, or a flag, has changed"),
            (prompts(5), "--seed=1", "in.jsonl has fewer lines"),
        ],
    )
    def test_an_input_that_has_changed_is_one_line_and_nothing_is_touched(
        self, run: Run, folder: Path, config: Path, source: Path, items: list[Any], flag: str, says: str
    ) -> None:
        run("batch", "in.jsonl", f"--config={config}", "--out=out.jsonl", "--seed=1")
        before = (folder / "out.jsonl").read_text()
        write(source, *items)
        done = run("batch", "in.jsonl", f"--config={config}", "--out=out.jsonl", flag)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"error: {says} since these results were made; give another --out to begin anew\n"
        assert (folder / "out.jsonl").read_text() == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interruption_keeps_what_is_done_stops_the_rest_and_says_how_to_go_on(
        self, folder: Path, config: Path, source: Path, ollama: FakeOllama, number: signal.Signals
    ) -> None:
        ollama.script(prompt="prompt 3.", mode="hang", after=1)
        arguments = ["batch", str(source), f"--config={config}", "--out=out.jsonl", "--parallel=2"]
        with Program(*arguments, cwd=folder) as program:
            # The two after it are done as well, and wait for their turn.
            wait_until(lambda: len([each for each in generations(ollama) if each.finished.is_set()]) == 5, 20)
            program.wait_for_file(folder / "out.jsonl", '"line": 3')
            program.send_signal(number)
            assert program.wait() == 128 + number
        interrupted = ["error: interrupted by Ctrl-C"] if number == signal.SIGINT else []
        assert program.err.splitlines() == [
            "Done and kept: 3 lines; the same command goes on after them.",
            *interrupted,
        ]
        hanging = next(each for each in ollama.requests if each.body and each.body.get("prompt") == "prompt 3.")
        assert hanging.disconnected.wait(10)
        ollama.script()
        assert run_program(arguments, folder).code == 0
        assert [each["id"] for each in read((folder / "out.jsonl").read_text())] == list(range(6))

    def test_killed_in_the_middle_it_goes_on(
        self, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="prompt 3.", mode="hang", after=1)
        arguments = ["batch", str(source), f"--config={config}", "--out=out.jsonl", "--parallel=2"]
        with Program(*arguments, cwd=folder) as program:
            program.wait_for_file(folder / "out.jsonl", '"line": 3')
            program.send_signal(signal.SIGKILL)
            program.wait()
        ollama.script()
        assert run_program(arguments, folder).code == 0
        assert [each["text"] for each in read((folder / "out.jsonl").read_text())] == [TEXT] * 6

    def test_a_gateway_that_is_gone_ends_the_batch_and_is_the_result_of_no_line(
        self, folder: Path, config: Path, source: Path, gateway: GatewayThread, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="prompt 3.", mode="hang", after=1)
        arguments = ["batch", str(source), f"--config={config}", "--out=out.jsonl", "--parallel=1", "--retries=1"]
        with Program(*arguments, cwd=folder) as program:
            program.wait_for_file(folder / "out.jsonl", '"line": 3')
            gateway.kill()
            assert program.wait() == 1
        first, second = program.err.splitlines()
        assert first == "Done and kept: 3 lines; the same command goes on after them."
        assert second.startswith("error: ")
        assert len(read((folder / "out.jsonl").read_text())) == 3

    def test_a_gateway_that_comes_back_is_waited_for(
        self, folder: Path, config: Path, source: Path, gateway: GatewayThread, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="prompt 3.", mode="hang", after=1)
        arguments = ["batch", str(source), f"--config={config}", "--out=out.jsonl", "--parallel=2"]
        with Program(*arguments, cwd=folder) as program:
            program.wait_for_file(folder / "out.jsonl", '"line": 3')
            gateway.kill()
            ollama.script()
            with GatewayThread(attrs.evolve(gateway.settings, port=int(gateway.url.rpartition(":")[2]))):
                assert program.wait() == 0
        assert [each["text"] for each in read((folder / "out.jsonl").read_text())] == [TEXT] * 6


class TestRetryingFailures:
    def test_only_what_has_failed_is_tried_again_in_its_place(
        self, run: Run, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="prompt 2.", mode="drop", after=1)
        arguments = ("batch", str(source), f"--config={config}", "--out=out.jsonl", "--retries=0")
        assert run(*arguments).code == 1
        ollama.script()
        before = len(asked(ollama))
        done = run(*arguments, "--retry-failed")
        assert (done.code, asked(ollama)[before:]) == (0, ["prompt 2."])
        assert [(each["id"], each["text"]) for each in read((folder / "out.jsonl").read_text())] == [
            (number, TEXT) for number in range(6)
        ]

    def test_an_interruption_keeps_what_was_there(
        self, folder: Path, config: Path, source: Path, ollama: FakeOllama
    ) -> None:
        for number in (1, 3):
            ollama.script(prompt=f"prompt {number}.", mode="drop", after=1)
        arguments = ["batch", str(source), f"--config={config}", "--out=out.jsonl", "--retries=0"]
        assert run_program(arguments, folder).code == 1
        ollama.script()
        ollama.script(prompt="prompt 3.", mode="hang", after=1)
        with Program(*arguments, "--retry-failed", cwd=folder) as program:
            program.wait_for_file(folder / "out.jsonl.redo", '"line": 3')
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
        results = read((folder / "out.jsonl").read_text())
        assert [(each["id"], "error" in each) for each in results] == [(number, number == 3) for number in range(6)]

    def test_it_wants_a_file(self, run: Run, config: Path, source: Path) -> None:
        done = run("batch", str(source), f"--config={config}", "--retry-failed")
        assert (done.code, done.err) == (2, "error: --retry-failed goes with --out (see: wsclient batch --help)\n")


class TestASlowPipe:
    def test_results_do_not_wait_for_further_lines_and_ctrl_c_neither(self, folder: Path, config: Path) -> None:
        with Program("batch", "-", f"--config={config}", cwd=folder) as program:
            program.write('{"prompt": "a"}\n')
            program.wait_for(TEXT)
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
        assert program.err.splitlines() == [
            "Done: 1 line; with --out=FILE the same command would go on after them.",
            "error: interrupted by Ctrl-C",
        ]


class TestWrongUse:
    def test_a_file_that_is_not_there_is_one_line(self, run: Run, config: Path) -> None:
        done = run("batch", "nope.jsonl", f"--config={config}")
        assert (done.code, done.err) == (1, "error: nope.jsonl: No such file or directory\n")

    def test_the_input_cannot_be_the_output(self, run: Run, config: Path, source: Path) -> None:
        before = source.read_text()
        done = run("batch", "in.jsonl", f"--config={config}", "--out=in.jsonl")
        assert (done.code, done.out) == (2, "")
        assert "in.jsonl cannot be both what is read and --out" in done.err
        assert source.read_text() == before

    def test_a_file_that_is_something_else_is_left_alone(
        self, run: Run, folder: Path, config: Path, source: Path
    ) -> None:
        (folder / "out.jsonl").write_text("dear diary")
        done = run("batch", "in.jsonl", f"--config={config}", "--out=out.jsonl")
        assert done.code == 1
        assert "out.jsonl holds something else" in done.err
        assert (folder / "out.jsonl").read_text() == "dear diary"

    def test_a_full_disk_is_one_line(self, run: Run, config: Path, source: Path) -> None:
        with (
            open("/dev/full", "wb") as full,
            Program("batch", "in.jsonl", f"--config={config}", cwd=source.parent, stdout=full.fileno()) as program,
        ):
            assert program.wait() == 1
        assert program.err == "error: stdout: No space left on device; free some space there\n"


@pytest.mark.slow
def test_a_huge_file_takes_no_memory(folder: Path, config: Path, ollama: FakeOllama) -> None:
    """Takes 30 s."""
    # 200 MB.
    with open(folder / "in.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": f"{number}. {'x' * 100_000}"}) + "\n" for number in range(2000))
    arguments = ["batch", "in.jsonl", f"--config={config}", "--out=out.jsonl"]
    with Program(*arguments, cwd=folder) as program:
        program.wait_for_file(folder / "out.jsonl", '"line": 200,')
        early = resident(program.pid)
        program.wait_for_file(folder / "out.jsonl", '"line": 1900,', 120)
        late = resident(program.pid)
        assert program.wait() == 0
    assert late - early < 20_000_000


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
