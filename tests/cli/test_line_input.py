"""The history of what is typed. Takes 0 s."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from wsclient.cli.line_input import History, state_folder


def test_the_state_folder_is_xdgs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert state_folder() == Path("/somewhere/state/wsclient")


@pytest.mark.parametrize("given", ["", "relative/path"])
def test_without_a_valid_variable_it_is_the_default_of_the_specification(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", given)
    monkeypatch.setenv("HOME", "/home/ada")
    assert state_folder() == Path("/home/ada/.local/state/wsclient")


def test_what_is_added_is_read_again_several_lines_as_one_entry(tmp_path: Path) -> None:
    history = History(tmp_path / "chat_history")
    for entry in ("one", "two\nlines 漢字", "/quit"):
        history.add(entry)
    assert History(tmp_path / "chat_history").read() == ["one", "two\nlines 漢字", "/quit"]


def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        History(tmp_path / "state" / "wsclient" / "chat_history").add("secret")
    finally:
        os.umask(before)
    path = tmp_path / "state" / "wsclient" / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.touch(0o644)
    History(path).add("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_no_entry_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.write_bytes(b'"one"\n{"x"\n\xff\xfe\n5\n\n"two"\n')
    assert History(path).read() == ["one", "two"]


def test_a_missing_file_is_an_empty_history(tmp_path: Path) -> None:
    assert History(tmp_path / "chat_history").read() == []


def test_a_long_history_is_shortened_to_its_latest_thousand(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.write_text("".join(json.dumps(str(number)) + "\n" for number in range(2001)))
    expected = [str(number) for number in range(1001, 2001)]
    assert History(path).read() == expected
    assert len(path.read_text().splitlines()) == 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert History(path).read() == expected
