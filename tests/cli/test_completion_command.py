"""`completion`: scripts for shells, and what a real bash makes of them. Takes 2 s."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
from click.shell_completion import BashComplete

from wsclient.cli.program import program
from wsclient.gateway.registry import ClientRegistry

from ..support.client_files import new_pem
from ..support.terminal_sessions import TerminalSession, needs_tmux
from .conftest import Run
from .programs import environment

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="this needs bash")


@pytest.fixture
def path(folder: Path) -> str:
    """A search path on which `wsclient` is this one."""
    script = folder / "bin" / "wsclient"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsclient "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def client_id(folder: Path) -> str:
    """The id of a registered client."""
    return ClientRegistry(folder / "data" / "authorized_clients.json").register("alice", new_pem()).id


def completions(*words: str) -> list[str]:
    """Return what a shell is told about the last of some words that follow `wsclient`."""
    *before, last = words
    engine = BashComplete(program, {}, "wsclient", "_WSCLIENT_COMPLETE")
    return [engine.format_completion(item) for item in engine.get_completions(before, last)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_this_program(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert f"_WSCLIENT_COMPLETE={shell}_complete" in done.out


def test_another_shell_is_one_line(run: Run) -> None:
    done = run("completion", "tcsh")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_clients_are_completed_by_name_and_id(folder: Path, client_id: str) -> None:
    assert completions("revoke-client", "") == ["plain,alice", f"plain,{client_id}"]
    assert completions("rotate-key", client_id[:3]) == [f"plain,{client_id}"]


def test_clients_are_those_of_the_clients_file_that_is_meant(folder: Path, client_id: str) -> None:
    (folder / "data").rename(folder / "elsewhere")
    words = ("revoke-client", "al")
    assert completions(*words) == []
    with mock.patch.dict(os.environ, DATA_DIR="elsewhere"):
        assert completions(*words) == ["plain,alice"]
    words = ("revoke-client", "--clients-file", "elsewhere/authorized_clients.json", "al")
    assert completions(*words) == ["plain,alice"]


def test_a_name_that_could_talk_to_the_shell_is_not_offered(folder: Path) -> None:
    registry = ClientRegistry(folder / "data" / "authorized_clients.json")
    ids = [registry.register(name, new_pem()).id for name in ("al $(reboot)", "al;ice")]
    assert completions("revoke-client", "al") == []
    assert completions("revoke-client", "") == [f"plain,{id}" for id in ids]


def test_a_broken_clients_file_offers_nobody(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "authorized_clients.json").write_text("[")
    assert completions("revoke-client", "") == []


def test_where_a_file_is_wanted_files_are_completed(folder: Path) -> None:
    assert completions("register-client", "--key-path", "ke") == ["file,ke"]


@needs_tmux
@needs_bash
def test_the_tab_key_works_in_a_real_bash(folder: Path, path: str, client_id: str) -> None:
    command = ["bash", "--norc", "--noprofile", "-i"]
    with TerminalSession(command, cwd=folder, env={**environment(PS1="> "), "PATH": path}) as bash:
        bash.wait_for(">")
        bash.type('eval "$(wsclient completion bash)" && echo is ready\n')
        bash.wait_for("\nis ready")
        bash.type("wsclient rev")
        bash.press("Tab")
        bash.wait_for("wsclient revoke-client")
        bash.type("al")
        bash.press("Tab")
        bash.wait_for("wsclient revoke-client alice")
        bash.type("--yes\n")
        bash.wait_for("Revoked the client 'alice'.")
