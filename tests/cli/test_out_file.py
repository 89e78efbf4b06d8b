"""Files that are written as a whole. Takes 0 s."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from wsclient.cli.out_file import OutFile


def test_the_file_is_there_when_all_of_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with OutFile(path) as out:
        out.write("one\n")
        assert not path.exists()
        assert (tmp_path / "x.txt.part").read_text() == "one\n"
    assert path.read_text() == "one\n"
    assert os.listdir(tmp_path) == ["x.txt"]


def fail_after(path: Path, text: str) -> None:
    with OutFile(path) as out:
        out.write(text)
        raise RuntimeError


def test_what_came_before_a_failure_is_kept_beside_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        fail_after(path, "new")
    assert (path.read_text(), (tmp_path / "x.txt.part").read_text()) == ("old", "new")


def test_a_failure_before_anything_came_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_after(tmp_path / "x.txt", "")
    assert os.listdir(tmp_path) == []


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.touch(0o600)
    with OutFile(path) as out:
        out.write("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with OutFile(link) as out:
        out.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    with OutFile(path) as out:
        out.write("text")
    reader.join(10)
    assert read == ["text"]
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_that_is_not_there_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OutFile(tmp_path / "nowhere" / "x.txt")
