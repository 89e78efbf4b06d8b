"""How the program starts and ends: `wsclient`, `python -m wsclient`, missing extras, exit codes, broken pipes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest

import wsclient
import wsclient.cli
from wsclient.cli.command import Command
from wsclient.cli.program import program

from .conftest import Run
from .programs import environment, run_program

COMMANDS = {
    "batch",
    "bench",
    "chat",
    "completion",
    "demo",
    "doctor",
    "generate",
    "generate-keys",
    "list-clients",
    "models",
    "register-client",
    "revoke-client",
    "rotate-key",
    "serve",
    "status",
    "store",
}


def leaves(group: click.Group = program) -> list[click.Command]:
    """Return the commands, those of groups among them."""
    found: list[click.Command] = []
    for command in group.commands.values():
        found += leaves(command) if isinstance(command, click.Group) else [command]
    return found


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=20
    )


def run_without(package: str, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules[{package!r}] = None\n"
    return python(f"{blocked}from wsclient.cli import main\nsys.exit(main({arguments!r}))", cwd)


def test_the_command_wsclient_is_the_function_main() -> None:
    (script,) = (each for each in entry_points(group="console_scripts") if each.name == "wsclient")
    assert script.load() is wsclient.cli.main


def test_python_m_wsclient_runs_the_command_line(folder: Path) -> None:
    done = run_program(["--version"], folder)
    assert (done.code, done.out, done.err) == (0, f"wsclient {wsclient.__version__}\n", "")


def test_without_a_command_it_shows_its_help(run: Run) -> None:
    done = run()
    assert done.code == 0
    assert done.out.startswith("Usage: wsclient")


def test_the_help_names_every_command_and_the_exit_codes(run: Run) -> None:
    text = run("--help").out
    assert set(program.commands) == COMMANDS
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "0 ok, 1 failed, 2 wrong usage" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_a_help_with_examples(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: wsclient {name}")
    assert f"\nExamples:\n  wsclient {name}" in done.out


def test_the_help_lists_options_only_under_options(run: Run) -> None:
    assert "\n  PROMPT" not in run("generate", "--help").out


def examples() -> list[Any]:
    commands = [command for command in leaves() if isinstance(command, Command)]
    lines = [line.strip() for command in commands for line in command.examples.strip().splitlines()]
    return [pytest.param(line, id=line) for line in lines]


@pytest.mark.parametrize("example", examples())
def test_each_example_is_a_valid_command_line_that_fits_80_columns(folder: Path, example: str) -> None:
    assert len(example) <= 78
    words = shlex.split(example, comments=True)
    if "wsclient" not in words:
        assert words[0] == "export"
        return
    name, *arguments = words[words.index("wsclient") + 1 :]
    ends = [number for number, word in enumerate(arguments) if word in ("|", ">", ">>")]
    arguments = arguments[: ends[0]] if ends else arguments
    command = program.commands[name]
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    # Wrong usage is an exception.
    assert command.make_context(name, arguments).info_name == name


@pytest.mark.parametrize("package", ["click", "rich", "filelock"])
def test_without_the_extra_it_says_in_one_line_what_to_install(folder: Path, package: str) -> None:
    done = run_without(package, ["--help"], folder)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "ws-system-client" in line
    assert "pip install '.[cli]'" in line
    assert "pip install wsclient" not in line


@pytest.mark.parametrize("command", ["list-clients", "serve"])
def test_without_redis_a_store_says_in_one_line_what_to_install(folder: Path, command: str) -> None:
    done = run_without("redis", [command, "--store=redis://127.0.0.1:1"], folder)
    (line,) = done.stderr.splitlines()
    assert line.endswith("this command needs redis; in a checkout of ws-system-client run: pip install '.[cli,redis]'")
    assert done.returncode == 1


def test_without_aiohttp_serve_says_in_one_line_what_to_install(folder: Path) -> None:
    done = run_without("aiohttp", ["serve"], folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "aiohttp" in line
    assert "pip install '.[cli]'" in line


def test_without_aiohttp_the_clients_can_be_listed(folder: Path) -> None:
    done = run_without("aiohttp", ["list-clients", "--json"], folder)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_importing_the_entry_point_loads_neither_click_nor_rich(folder: Path) -> None:
    done = python("import sys, wsclient.cli; print({'click', 'rich'} & set(sys.modules))", folder)
    assert done.stdout == "set()\n"


def test_the_program_starts_without_loading_aiohttp(folder: Path) -> None:
    done = python(
        "import sys; from wsclient.cli import main; main(['--help']); print('aiohttp' in sys.modules)", folder
    )
    assert done.stdout.endswith("False\n")


def test_an_unknown_command_is_one_line_and_exit_code_2(run: Run) -> None:
    done = run("frobnicate")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: No such command 'frobnicate'")
    assert line.endswith("(see: wsclient --help)")


def test_an_unknown_option_is_one_line_and_exit_code_2(run: Run) -> None:
    done = run("list-clients", "--frobnicate")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: No such option")
    assert line.endswith("(see: wsclient list-clients --help)")


def raise_unexpectedly(*_: object) -> None:
    raise RuntimeError("nobody foresaw this")


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsclient.cli.registries.ClientRegistry", raise_unexpectedly)
    done = run("list-clients")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: unexpected RuntimeError: nobody foresaw this; to see where, run: wsclient --debug ...\n"


@pytest.mark.parametrize("arguments", [("--debug", "list-clients"), ("list-clients", "--debug")])
def test_debug_shows_the_traceback_before_the_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("wsclient.cli.registries.ClientRegistry", raise_unexpectedly)
    done = run(*arguments)
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "in raise_unexpectedly" in done.err


def test_an_interruption_is_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsclient.cli.registries.ClientRegistry", interrupt)
    assert run("list-clients").code == 130


def test_an_interruption_while_it_still_loads_is_exit_code_130(folder: Path) -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from wsclient.cli import main
sys.exit(main([]))
"""
    done = python(code, folder)
    assert (done.returncode, done.stderr) == (130, "")


def run_into(descriptor: int, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wsclient", "list-clients", "--json"]
    return subprocess.run(
        command, cwd=cwd, env=environment(), stdout=descriptor, stderr=subprocess.PIPE, check=False, timeout=20
    )


def test_a_reader_that_has_seen_enough_is_no_error_message(folder: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run_into(write_end, folder)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run_into(full.fileno(), folder)
    assert (done.returncode, done.stderr) == (1, b"error: stdout: No space left on device; free some space there\n")


def test_a_file_that_may_not_grow_is_one_line(folder: Path) -> None:
    script = f'ulimit -f 0; exec "{sys.executable}" -m wsclient list-clients --json > out'
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=environment(), stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stderr) == (1, b"error: stdout: File too large; see: ulimit -f\n")


def test_every_command_is_a_command_of_the_program_with_debug() -> None:
    for command in leaves():
        assert isinstance(command, Command)
        assert any(isinstance(option, click.Option) and option.name == "debug" for option in command.params)
