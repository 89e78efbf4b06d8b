"""What reaches a terminal: nothing that it could obey."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsclient.cli import terminal


@given(st.text())
def test_no_control_character_but_newline_and_tab_is_left(text: str) -> None:
    left = terminal.clean(text)
    assert not [c for c in left if unicodedata.category(c) == "Cc" and c not in "\n\t"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cc"])))
def test_a_text_without_control_characters_is_left_alone(text: str) -> None:
    assert terminal.clean(text) == text


def test_newlines_and_tabs_stay() -> None:
    assert terminal.clean("a\n\tb\r\n") == "a\n\tb\n"


def test_an_escape_sequence_loses_what_makes_it_one() -> None:
    assert terminal.clean("\x1b]0;owned\x07\x1b[2J\x9b31m") == "]0;owned[2J31m"


@given(st.text())
def test_a_line_is_one_line_of_printable_characters(text: str) -> None:
    assert terminal.one_line(text).isprintable()


def test_a_line_cannot_be_turned_around() -> None:
    assert terminal.one_line("photo\u202egnp.exe") == "photognp.exe"


def test_a_line_keeps_its_spaces_for_paths_may_have_several() -> None:
    assert terminal.one_line("my  keys/a\nb") == "my  keys/a b"


def test_markup_in_foreign_text_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_line("[bold]:smile: [link=http://example.org]x[/link]")
    assert capsys.readouterr().out == "[bold]:smile: [link=http://example.org]x[/link]\n"


def test_a_long_line_is_not_broken_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_line("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_warning_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.warn("\x1b[2Jcareful\nnow")
    assert capsys.readouterr() == ("", "warning: [2Jcareful now\n")


def test_a_table_is_aligned_and_marks_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table(("Name", "Size"), [("a", "1 GB"), ("漢字", ""), ("\x1b[31mred", "2")])
    assert capsys.readouterr().out.splitlines() == ["Name     Size", "a        1 GB", "漢字     -", "[31mred  2"]


def test_a_column_is_shortened_only_at_a_terminal_that_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a" * 40, "f" * 32)]
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    for is_terminal, name in ((False, "a" * 40), (True, "a" * 25 + "…")):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream, is_terminal=is_terminal: is_terminal)
        terminal.show_table(("Name", "ID"), rows, shortened=0)
        assert capsys.readouterr().out.splitlines()[1].split() == [name, "f" * 32]


def test_facts_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_facts([("id", "1"), ("name", "a\x1bb")])
    assert capsys.readouterr().out == "  id    1\n  name  ab\n"


def test_a_command_is_quoted_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_command(["wsclient", "generate", "two words", "--config=it's"])
    assert capsys.readouterr().out == """  wsclient generate 'two words' '--config=it'"'"'s'\n"""


@given(st.text())
@example("\x7f\x9b\x1b")
def test_json_is_what_it_was_and_has_no_control_characters(text: str) -> None:
    written: list[str] = []
    stdout, sys.stdout = sys.stdout, Recorder(written)  # type: ignore[assignment]
    try:
        terminal.show_json({"name": text})
    finally:
        sys.stdout = stdout
    shown = "".join(written)
    assert json.loads(shown) == {"name": text}
    assert shown == terminal.clean(shown)


class Recorder:
    def __init__(self, written: list[str]) -> None:
        self.write = written.append


def test_a_dumb_terminal_is_treated_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.is_terminal(sys.stdout)


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_anything_but_yes_is_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer, raising=False)
    assert terminal.ask("Really?") is False


@pytest.mark.parametrize("answer", ["y\n", " YES \n"])
def test_yes_is_yes(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer, raising=False)
    assert terminal.ask("Really?") is True
