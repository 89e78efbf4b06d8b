"""The program `wsclient`: its commands, and how each of them ends."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import click

from ..version import __version__
from . import terminal
from .batching import batch
from .benching import bench
from .chatting import chat
from .clients import list_clients, register_client, revoke_client
from .command import Command, State, debug_option
from .completion import completion
from .demo import demo
from .failures import FAILED, INTERRUPTED, describe, exit_code
from .generating import generate, models
from .keys import generate_keys
from .logs import log_nowhere
from .rotating import rotate_key
from .serving import serve
from .status import status

__all__ = ["program", "run"]

# In the order in which somebody new needs them.
_COMMANDS: tuple[Command, ...] = (
    demo,
    generate_keys,
    register_client,
    list_clients,
    rotate_key,
    revoke_client,
    serve,
    status,
    models,
    generate,
    chat,
    batch,
    bench,
    completion,
)

_EXIT_CODES = """\b
Exit codes: 0 ok, 1 failed, 2 wrong usage (an argument, a variable of the
environment or a configuration file), 130 interrupted by Ctrl-C."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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
    terminal.prepare_streams()
    log_nowhere()
    state = State()
    try:
        code = program.main(arguments, "wsclient", standalone_mode=False, obj=state)
        terminal.write("")
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        terminal.silence()
        return FAILED
    except Exception as error:
        return _fail(error, state)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, state: State) -> int:
    if state.is_debugging:
        terminal.show_traceback(traceback.format_exception(error))
    terminal.complain(describe(error))
    try:
        terminal.write("")
    except OSError:
        # The error was about stdout itself, such as a full disk.
        terminal.silence()
    return exit_code(error)
