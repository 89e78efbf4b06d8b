"""The program `wsclient`: its commands, and how each of them ends."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import click

from ..version import __version__
from . import terminal
from .batching import batch
from .benching import bench
from .chatting import chat
from .clients import list_clients, register_client, revoke_client
from .command import State, debug_option
from .completion import completion
from .demo import demo
from .doctor import doctor
from .failures import FAILED, INTERRUPTED, Interrupted, describe, exit_code
from .generating import generate, models
from .keys import generate_keys
from .logs import log_nowhere
from .rotating import rotate_key
from .serving import serve
from .status import status
from .stores import store

__all__ = ["program", "run"]

# In the order in which somebody new needs them.
_COMMANDS: tuple[click.Command, ...] = (
    demo,
    generate_keys,
    register_client,
    list_clients,
    rotate_key,
    revoke_client,
    serve,
    store,
    status,
    models,
    generate,
    chat,
    batch,
    bench,
    doctor,
    completion,
)

_EXIT_CODES = """\b
Exit codes: 0 ok, 1 failed, 2 wrong usage (an argument, a variable of the
environment or a configuration file), 130 interrupted by Ctrl-C."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # Here, because click would write an empty line.
            raise Interrupted from error


@click.group(cls=_Program, invoke_without_command=True, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="wsclient", message="%(prog)s %(version)s")
@click.pass_context
def program(context: click.Context) -> None:
    """Text from Ollama models over a WebSocket, with public keys for passwords.

    New here? "wsclient demo" shows all of it on this machine.
    """
    if context.invoked_subcommand is None:
        terminal.write(context.get_help() + "\n")


program.params.append(debug_option())
for _command in _COMMANDS:
    program.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: what stands after `wsclient`; the process's own when left out.
    """
    if not terminal.prepare_streams():
        terminal.complain("stdout is closed, so there is nowhere to write to; to write nowhere, append: >/dev/null")
        return FAILED
    log_nowhere()
    state = State()
    try:
        code = program.main(arguments, "wsclient", standalone_mode=False, obj=state)
        terminal.write("")
    except (Interrupted, click.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        terminal.silence()
        return FAILED
    except Exception as error:
        return _fail(error, state)
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    # Beside the terminal's own ^C it would be hard to see.
    terminal.complain("interrupted by Ctrl-C", on_a_new_line=True)
    return INTERRUPTED


def _fail(error: Exception, state: State) -> int:
    if state.is_debugging:
        terminal.show_traceback(traceback.format_exception(error))
    text = describe(error)
    try:
        terminal.write("")
    except OSError:
        # The error was about stdout itself, such as a full disk; what it still holds cannot be written.
        terminal.silence()
        if isinstance(error, OSError) and not error.filename:
            text = f"stdout: {text}"
    terminal.complain(text)
    return exit_code(error)
