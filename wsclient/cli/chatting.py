"""The command `chat`: somebody at a terminal, or one prompt a line from a pipe."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..client import WSClient
from ..errors import WSClientError
from ..options import ClientOptions
from . import terminal
from .answering import Asking
from .chat_commands import COMMANDS, EndOfChat, run_command
from .chat_session import ChatSession
from .command import Command
from .connecting import CONNECTION_SECTION, connection_flags
from .conversation import DEFAULT_MAX_BYTES
from .failures import FAILED, Failure, describe
from .generation_flags import GENERATION_SECTION, generation_flags
from .line_input import History, LineInput, state_folder
from .signals import ending_in_order

__all__ = ["chat"]


@click.command(
    "chat",
    cls=Command,
    sections=GENERATION_SECTION | CONNECTION_SECTION,
    examples="""
        wsclient chat --config=keys/my-client_config.json
        wsclient chat llama3.2 --system="Answer in one sentence"
        printf 'My name is Ada\\nWhat is my name?\\n' | wsclient chat > answers.txt
        """,
)
@click.argument("model", required=False)
@click.option("--plain", is_flag=True, help="Show the text as it comes, not as Markdown.")
@click.option("--no-history", is_flag=True, help="Keep what is typed in no file.")
@click.option(
    "--context",
    type=click.IntRange(min=0),
    default=DEFAULT_MAX_BYTES,
    show_default=True,
    metavar="BYTES",
    help="How much of the chat the model is told with each prompt; 0 for nothing.",
)
@generation_flags
@connection_flags
def chat(
    model: str | None,
    plain: bool,
    no_history: bool,
    context: int,
    options: dict[str, Any],
    connection: ClientOptions,
) -> None:
    """Talk with MODEL, the server's default when left out.

    At a terminal, answers are shown as Markdown, Ctrl-C stops an answer, Ctrl-D leaves, and "/help" lists the commands.
    From a pipe each line is a prompt, whatever it is; a failed one makes the exit code 1.

    The server remembers nothing, so the chat so far goes along with each prompt, its oldest turns left out when it
    gets too long. What is typed is kept for the next time in ~/.local/state/wsclient/chat_history.
    """
    with ending_in_order(), WSClient.from_options(connection) as client:
        session = ChatSession(Asking(client, is_plain=plain), model, options, context)
        if not sys.stdin.isatty():
            click.get_current_context().exit(_answer_lines(session))
        lines = LineInput(None if no_history else _history(), list(COMMANDS))
        _greet(model or "the default model", ", ".join(connection.server_urls))
        _converse(session, lines)


def _greet(model: str, url: str) -> None:
    terminal.show_line(f"Chatting with {model} at {url}", "dim", to_stderr=True)
    terminal.show_line("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.", "dim", to_stderr=True)


def _history() -> History | None:
    try:
        return History(state_folder() / "chat_history")
    except RuntimeError as error:
        terminal.warn(f"no history is kept: {error}")
        return None


def _converse(session: ChatSession, lines: LineInput) -> None:
    while True:
        try:
            text = lines.read()
            if text.strip() and not run_command(session, text):
                session.ask(text)
        except EOFError:
            # The shell's prompt belongs on a line of its own.
            terminal.show_line(to_stderr=True)
            return
        except EndOfChat:
            return
        except KeyboardInterrupt:
            terminal.show_line(to_stderr=True)
            terminal.show_line("(Ctrl-D or /quit leaves)", "dim", to_stderr=True)
        except (WSClientError, click.ClickException) as error:
            # A gateway may come back, a prompt be put differently: the chat goes on.
            terminal.complain(describe(error))


def _answer_lines(session: ChatSession) -> int:
    """Answer what comes from a pipe, an empty line between two answers.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C: there is nobody to go on with.
        WSClientError: there is no connection any more: every further line would wait for it.
    """
    code, is_first = 0, True
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise Failure(f"line {number} must be text in UTF-8; its byte {error.start} is not") from error
        if not text:
            continue
        if not is_first:
            terminal.write("\n")
        is_first = False
        answer = session.ask(text)
        if answer.is_stopped:
            raise KeyboardInterrupt
        if answer.error is not None:
            code = FAILED
    return code
