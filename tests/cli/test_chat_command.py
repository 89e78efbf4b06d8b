"""`chat` at a terminal and in a pipe, through a real gateway. Takes 15 s."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama
from ..support.terminal_sessions import TerminalSession, needs_tmux
from ..support.waiting import wait_until
from .conftest import Run
from .programs import Program, environment, run_program
from .test_generate_command import sent

READY = "Ctrl-D leaves.\n>"


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsclient", *arguments]


@contextmanager
def chatting(folder: Path, config: Path, *arguments: str, lines: int = 24, **env: str) -> Iterator[TerminalSession]:
    """Give a terminal at which a chat waits for a prompt."""
    variables = environment(XDG_STATE_HOME=str(folder / "state"), WSCLIENT_CONFIG=str(config), **env)
    with TerminalSession(command_line("chat", *arguments), cwd=folder, env=variables, lines=lines) as session:
        session.wait_for(READY)
        yield session


@needs_tmux
class TestAtATerminal:
    def test_answers_are_markdown_and_ctrl_d_leaves(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(pieces=["# Ti", "tle\nsome **bo", "ld** text"])
        with chatting(folder, config) as session:
            session.type("Hello\n")
            session.wait_for("first token after")
            assert "> Hello\nTitle\n\nsome bold text\nllama2, 3 tokens" in session.screen
            assert "\x1b[1mbold" in session.styled_screen
            session.press("C-d")
            assert session.wait() == 0

    def test_plain_shows_the_text_as_it_is(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(pieces=["some **bo", "ld** text"])
        with chatting(folder, config, "--plain") as session:
            session.type("Hello\n")
            session.wait_for("some **bold** text")

    def test_a_dumb_terminal_gets_the_text_as_it_is(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(pieces=["some **bo", "ld** text"])
        # The shell's TERM wins over tmux's.
        variables = environment(XDG_STATE_HOME=str(folder / "state"), WSCLIENT_CONFIG=str(config))
        command = ["env", "TERM=dumb", *command_line("chat")]
        with TerminalSession(command, cwd=folder, env=variables) as session:
            session.wait_for(READY)
            session.type("Hello\n")
            session.wait_for("some **bold** text")

    def test_ctrl_c_stops_the_answer_and_not_the_chat(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(prompt="first", mode="hang", after=2)
        with chatting(folder, config) as session:
            session.type("first\n")
            session.wait_for("t000 t001")
            session.press("C-c")
            session.wait_for("(stopped; the text so far is part of the chat)\n>")
            assert ollama.wait_for_request(1, path="/api/generate").disconnected.wait(10)
            session.type("/clear\nsecond\n")
            session.wait_for("t000 t001 t002 t003 t004")
            session.type("/quit\n")
            assert session.wait() == 0

    def test_ctrl_c_at_the_prompt_forgets_the_line(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        with chatting(folder, config) as session:
            session.type("not this")
            session.wait_for("> not this")
            session.press("C-c")
            session.wait_for("(Ctrl-D or /quit leaves)\n>")
            session.type("but this\n")
            session.wait_for("first token after")
        assert sent(ollama)["prompt"] == "but this"

    def test_while_it_waits_it_says_for_how_long_and_leaves_nothing_of_that(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hold", after=0)
        with chatting(folder, config) as session:
            session.type("Hello\n")
            session.wait_for("waiting for the first token, 1 s")
            ollama.release()
            session.wait_for("first token after")
            assert "waiting" not in session.lines

    def test_the_end_of_a_program_longer_than_the_screen_is_in_sight_while_it_is_written(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        code = ["```python\n", *(f"print({number})\n" for number in range(60))]
        ollama.script(pieces=[*code, "```\nThe end"], mode="hold", after=len(code))
        with chatting(folder, config) as session:
            session.type("Hello\n")
            wait_until(lambda: "print(59)" in session.screen, 20)
            ollama.release()
            session.wait_for("The end\n")
            assert [line.strip() for line in session.lines.splitlines() if "print" in line] == [
                f"print({number})" for number in range(60)
            ]

    def test_a_connection_lost_in_mid_answer_is_said_and_the_next_prompt_works(
        self, folder: Path, config: Path, gateway: GatewayThread, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="first", mode="hang", after=2)
        with chatting(folder, config) as session:
            session.type("first\n")
            session.wait_for("t000 t001")
            gateway.kill()
            session.wait_for("(the text so far is part of the chat)\n>")
            assert "t000 t001\nerror: the connection broke off" in session.lines
            with GatewayThread(attrs.evolve(gateway.settings, port=int(gateway.url.rpartition(":")[2]))):
                session.type("/clear\nsecond\n")
                session.wait_for("first token after")

    def test_what_was_typed_is_there_the_next_time_for_its_owner_only(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        with chatting(folder, config) as session:
            session.type("one prompt\n")
            session.wait_for("first token after")
            session.press("C-d")
            session.wait()
        path = folder / "state" / "wsclient" / "chat_history"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with chatting(folder, config) as session:
            session.press("Up")
            session.wait_for("> one prompt")

    def test_no_history_keeps_nothing(self, folder: Path, config: Path) -> None:
        with chatting(folder, config, "--no-history") as session:
            session.type("secret\n")
            session.wait_for("first token after")
        assert not (folder / "state").exists()

    def test_a_history_that_cannot_be_kept_is_no_end(self, folder: Path, config: Path) -> None:
        (folder / "state").write_text("no folder")
        with chatting(folder, config) as session:
            assert "warning: no history is kept" in session.lines
            session.type("Hello\n")
            session.wait_for("first token after")

    def test_several_lines_can_be_one_prompt(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        with chatting(folder, config) as session:
            session.type('"""one\n\ntwo"""\n')
            session.wait_for("first token after")
        assert sent(ollama)["prompt"] == "one\n\ntwo"

    def test_the_tabulator_completes_commands(self, folder: Path, config: Path) -> None:
        with chatting(folder, config) as session:
            session.type("/he")
            session.press("Tab", "Enter")
            session.wait_for("/quit")

    def test_being_told_to_end_in_mid_answer_leaves_a_terminal_that_works(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hang", after=2)
        variables = environment(XDG_STATE_HOME=str(folder / "state"), WSCLIENT_CONFIG=str(config))
        script = '"$@" & echo pid $! ; fg; stty -a; read'
        command = ["bash", "-mc", script, "-", *command_line("chat")]
        with TerminalSession(command, cwd=folder, env=variables) as session:
            session.wait_for(READY)
            session.type("Hello\n")
            session.wait_for("t000 t001")
            pid = int(session.lines.split("pid ")[1].split()[0])
            os.kill(pid, signal.SIGTERM)
            session.wait_for("isig icanon iexten echo ")
            assert session._ask("cursor_flag") == "1"


class TestInAPipe:
    def test_each_line_is_a_prompt_and_the_answers_are_plain_text(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(pieces=["**1**\n"])
        ollama.script(prompt="/quit", pieces=["2"])
        done = run_program(["chat", f"--config={config}"], folder, text="one\n\n/quit\n")
        assert (done.code, done.err) == (0, "")
        assert done.out == "**1**\n\n2\n"
        # Whatever it is: a file must not be able to write others.
        assert str(sent(ollama)["prompt"]).endswith("User: /quit\n\nAssistant:")

    def test_the_model_and_the_options_are_those_of_the_flags(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        arguments = ["chat", "tiny:1b", f"--config={config}", "--system=Be brief", "--context=0"]
        assert run_program(arguments, folder, text="one\ntwo\n").code == 0
        body = sent(ollama)
        assert (body["model"], body["system"], body["prompt"]) == ("tiny:1b", "Be brief", "two")

    def test_a_failed_prompt_is_not_the_end_and_the_exit_code_is_1(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(prompt="one", mode="drop", after=2)
        done = run_program(["chat", f"--config={config}", "--context=0"], folder, text="one\ntwo\n")
        assert (done.code, done.out) == (1, " t000 t001\n\n t000 t001 t002 t003 t004\n")
        assert done.err.count("\n") == 1
        assert "[generation_incomplete]" in done.err

    def test_ctrl_c_ends_it(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(mode="hang", after=2)
        with Program("chat", f"--config={config}", cwd=folder) as program:
            program.type("one\ntwo\n")
            program.wait_for("t001")
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
        assert ollama.wait_for_request(1, path="/api/generate").disconnected.wait(10)
        assert len([request for request in ollama.requests if request.path == "/api/generate"]) == 1

    def test_a_line_that_is_no_text_is_one_line(self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9\n")))
        done = run("chat", f"--config={config}")
        assert done.code == 1
        assert done.err == "error: line 2 must be text in UTF-8; its byte 3 is not\n"

    def test_no_gateway_is_one_line(self, folder: Path, config: Path) -> None:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"serverUrl": "ws://127.0.0.1:1"}))
        done = run_program(["chat", f"--config={config}"], folder, text="one\n")
        assert (done.code, done.out) == (1, "")
        assert "[connection_failed]" in done.err
