"""A chat and its commands, without a terminal and without a network. Takes 1 s."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from wsclient import ConnectionFailedError, ConnectionLostError, ServerBusyError
from wsclient.cli.answering import Asking
from wsclient.cli.chat_commands import COMMANDS, EndOfChat, run_command
from wsclient.cli.chat_session import ChatSession
from wsclient.testing import FakeClient

Capture = pytest.CaptureFixture[str]


def chat(answers: Any = None, model: str | None = None, max_bytes: int = 8192, **options: Any) -> ChatSession:
    client = FakeClient(answers, models=["llama2:latest", "tiny:1b"])
    return ChatSession(Asking(client), model, options, max_bytes)


def prompts(session: ChatSession) -> list[str]:
    client = session.asking.client
    assert isinstance(client, FakeClient)
    return [request.prompt for request in client.requests]


def broken_off(_: object) -> Any:
    yield "half an"
    raise ConnectionLostError("the line broke off")


class TestAsking:
    def test_the_answer_goes_to_stdout_and_into_the_conversation(self, capsys: Capture) -> None:
        session = chat(lambda _: ["Hi", " there"])
        session.ask("Hello")
        assert capsys.readouterr() == ("Hi there\n", "")
        assert [(turn.prompt, turn.answer) for turn in session.conversation.turns] == [("Hello", "Hi there")]

    def test_the_next_prompt_tells_what_was_said(self) -> None:
        session = chat(lambda _: "Hi Ada")
        session.ask("I am Ada")
        session.ask("Who am I?")
        assert prompts(session)[0] == "I am Ada"
        assert prompts(session)[1].endswith("User: I am Ada\n\nAssistant: Hi Ada\n\nUser: Who am I?\n\nAssistant:")

    def test_model_and_options_go_along(self) -> None:
        session = chat(model="tiny:1b", system="Be brief", temperature=0.5)
        session.ask("Hello")
        client = session.asking.client
        assert isinstance(client, FakeClient)
        (request,) = client.requests
        assert (request.model, request.options["system"]) == ("tiny:1b", "Be brief")
        assert request.options["temperature"] == 0.5

    def test_a_failure_in_mid_answer_keeps_the_text_and_the_chat(self, capsys: Capture) -> None:
        session = chat(broken_off)
        assert session.ask("Hello").error is not None
        out, err = capsys.readouterr()
        assert out == "half an\n"
        assert err == "error: the line broke off [connection_lost]. Run the command again.\n"
        assert session.conversation.turns[0].answer == "half an"

    def test_a_failure_before_the_answer_leaves_no_turn(self, capsys: Capture) -> None:
        session = chat(ServerBusyError("no room"))
        assert session.ask("Hello").error is not None
        assert "no room [server_busy]" in capsys.readouterr().err
        assert not session.conversation.turns

    def test_without_a_connection_there_is_an_error(self) -> None:
        session = chat()
        client = session.asking.client
        assert isinstance(client, FakeClient)
        client.connect_error = ConnectionFailedError("nobody there")
        with pytest.raises(ConnectionFailedError):
            session.ask("Hello")


class TestCommands:
    @pytest.mark.parametrize("line", ["Hello", "/etc/hosts is what?", "/ what", "//x", "/2", "what is /help"])
    def test_what_is_no_command_is_a_prompt(self, line: str) -> None:
        assert not run_command(chat(), line)

    def test_an_unknown_command_is_not_sent_to_the_model(self, capsys: Capture) -> None:
        session = chat()
        assert run_command(session, "/modle tiny:1b")
        assert capsys.readouterr().err == "error: there is no command /modle; did you mean /model?\n"
        assert run_command(session, "/xyzzy")
        assert capsys.readouterr().err == "error: there is no command /xyzzy; see /help\n"
        assert not prompts(session)

    def test_help_names_every_command(self, capsys: Capture) -> None:
        assert run_command(chat(), "/help")
        out = capsys.readouterr().out
        assert all(f"  {name}" in out for name in COMMANDS)
        assert all(len(line) <= 80 for line in out.splitlines())

    @pytest.mark.parametrize("name", ["tiny:1b", "llama2", "llama2:latest"])
    def test_model_changes_whom_is_asked(self, capsys: Capture, name: str) -> None:
        session = chat()
        run_command(session, f"/model {name}")
        assert session.model == name
        assert capsys.readouterr().out == f"model: {name}\n"

    def test_model_alone_says_whom(self, capsys: Capture) -> None:
        run_command(chat(), "/model")
        run_command(chat(model="tiny:1b"), "/model")
        assert capsys.readouterr().out == "model: the default of the server\nmodel: tiny:1b\n"

    def test_a_model_that_is_not_there_is_not_taken(self, capsys: Capture) -> None:
        session = chat(model="tiny:1b")
        run_command(session, "/model lama2")
        assert session.model == "tiny:1b"
        assert capsys.readouterr().err == "error: there is no model lama2; did you mean llama2:latest?\n"

    def test_models_marks_the_current_one(self, capsys: Capture) -> None:
        run_command(chat(model="llama2"), "/models")
        assert capsys.readouterr().out == "* llama2:latest\n  tiny:1b\n"

    def test_system_changes_the_instructions_and_takes_them_away(self, capsys: Capture) -> None:
        session = chat(system="Be brief")
        run_command(session, "/system")
        run_command(session, "/system Answer\nin rhymes")
        assert session.system == "Answer\nin rhymes"
        run_command(session, "/system -")
        assert session.system is None
        assert capsys.readouterr().out == (
            "instructions: Be brief\ninstructions: Answer in rhymes\ninstructions: none\n"
        )

    def test_retry_asks_the_last_prompt_again_in_place_of_its_answer(self) -> None:
        session = chat(lambda _: "Hi")
        session.ask("first")
        session.ask("second")
        run_command(session, "/retry")
        assert prompts(session)[2] == prompts(session)[1]
        assert [turn.prompt for turn in session.conversation.turns] == ["first", "second"]

    def test_retry_asks_again_what_never_got_an_answer(self) -> None:
        session = chat(ServerBusyError("no room"))
        session.ask("Hello")
        run_command(session, "/retry")
        assert prompts(session) == ["Hello", "Hello"]

    def test_there_may_be_nothing_to_retry(self, capsys: Capture) -> None:
        session = chat()
        session.ask("Hello")
        run_command(session, "/clear")
        run_command(session, "/retry")
        assert "there is nothing to retry" in capsys.readouterr().err

    def test_clear_begins_a_new_conversation(self) -> None:
        session = chat()
        session.ask("one")
        run_command(session, "/clear")
        session.ask("two")
        assert prompts(session) == ["one", "two"]

    def test_save_writes_the_conversation(self, capsys: Capture, tmp_path: Path) -> None:
        session = chat(lambda _: "**Hi**")
        session.ask("Hello")
        run_command(session, f"/save {tmp_path}/my chat.md")
        assert (tmp_path / "my chat.md").read_text() == "> Hello\n\n**Hi**\n"
        assert capsys.readouterr().out.endswith(f"1 turn saved to {tmp_path}/my chat.md\n")

    @pytest.mark.parametrize(("answer", "content"), [("n\n", "old"), ("", "old"), ("y\n", "> Hello\n\nHello\n")])
    def test_save_replaces_a_file_only_if_told_to(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, content: str
    ) -> None:
        path = tmp_path / "chat.md"
        path.write_text("old")
        session = chat()
        session.ask("Hello")
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        run_command(session, f"/save {path}")
        assert path.read_text() == content

    @pytest.mark.parametrize(
        ("rest", "says"),
        [("", "where to? /save FILE"), (" /nowhere/x.md", "/nowhere/x.md: No such file or directory")],
    )
    def test_what_cannot_be_saved_is_one_line(self, capsys: Capture, rest: str, says: str) -> None:
        session = chat()
        session.ask("Hello")
        run_command(session, "/save" + rest)
        assert capsys.readouterr().err == f"error: {says}\n"

    def test_there_may_be_nothing_to_save(self, capsys: Capture, tmp_path: Path) -> None:
        run_command(chat(), f"/save {tmp_path}/x.md")
        assert capsys.readouterr().err == "error: there is nothing to save\n"

    def test_quit_leaves(self) -> None:
        with pytest.raises(EndOfChat):
            run_command(chat(), "/quit")
