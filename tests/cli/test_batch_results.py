"""The file of a batch's results. Takes 0 s."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from wsclient.cli.batch_results import ResultFile, encode_result
from wsclient.cli.failures import Failure

ONE = {"line": 1, "input": "aa", "text": "x"}
TWO = {"line": 2, "input": "bb", "text": "漢\x1b\x7f\n"}


def test_a_result_is_a_line_of_ascii_without_controls() -> None:
    line = encode_result(TWO)
    assert json.loads(line) == TWO
    assert line.endswith("}\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()


def test_results_are_there_at_once_and_after_those_of_before(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with ResultFile(path) as results:
        results.write(ONE)
        assert path.read_text() == encode_result(ONE)
    with ResultFile(path) as results:
        assert list(results.finished()) == [ONE]
        results.write(TWO)
        assert list(results.finished()) == [ONE, TWO]


@pytest.mark.parametrize("cut", range(1, len(encode_result(TWO)) + 1))
def test_half_a_line_is_cut_off_wherever_it_ended(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    whole = encode_result(ONE) + encode_result(TWO)
    path.write_text(whole[:-cut])
    with ResultFile(path) as results:
        assert list(results.finished()) == [ONE]
    assert path.read_text() == encode_result(ONE)


def test_half_a_line_that_is_longer_than_what_is_read_at_once_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(encode_result(ONE) + encode_result({**TWO, "text": "x" * 200_000})[:-1])
    with ResultFile(path) as results:
        assert list(results.finished()) == [ONE]


@pytest.mark.parametrize("content", ["important", "important\n", "{}\n", '{"line": 1}\n', '{"line": oops\n', "\0\0\0"])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(Failure, match="holds something else"), ResultFile(path) as results:
        list(results.finished())
    assert path.read_text() == content


def test_two_batches_cannot_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with ResultFile(path), pytest.raises(Failure, match="another batch"):
        ResultFile(path)
    ResultFile(path).__exit__(None, None, None)


def test_what_is_redone_takes_the_place_of_what_was_there_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(encode_result(ONE) + encode_result(TWO))
    path.chmod(0o600)
    with ResultFile(path) as results:
        before = results.finished()
        results.redo()
        results.write({**next(before), "text": "anew"})
        assert path.read_text() == encode_result(ONE) + encode_result(TWO)
    assert path.read_text() == encode_result({**ONE, "text": "anew"}) + encode_result(TWO)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_redoing_that_runs_out_of_room_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(encode_result(ONE))
    with ResultFile(path) as results:
        monkeypatch.setattr(ResultFile, "_draft", property(lambda _: Path("/dev/full")))
        monkeypatch.setattr(Path, "unlink", lambda _: None)
        monkeypatch.setattr(os, "fchmod", lambda *_: None)
        results.redo()
        with pytest.raises(OSError, match="No space left"):
            results.write(TWO)
    assert path.read_text() == encode_result(ONE)
