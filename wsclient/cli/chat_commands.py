"""The commands of a chat: lines such as "/model llama3.2"."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

import attrs

from . import terminal
from .chat_session import ChatSession
from .command import path
from .conversation import to_markdown
from .out_file import OutFile

__all__ = ["COMMANDS", "EndOfChat", "run_command"]


class EndOfChat(Exception):
    """Somebody wants to leave."""


@attrs.frozen
class _ChatCommand:
    usage: str
    help: str
    run: Callable[[ChatSession, str], None]


def run_command(session: ChatSession, line: str) -> bool:
    """Run a line if it is a command.

    Returns:
        Whether it was one: "/etc/hosts is ..." is not.

    Raises:
        EndOfChat: the command is to leave.
        KeyboardInterrupt, WSClientError: as `ChatSession.ask`.
    """
    found = re.fullmatch(r"\s*(/[a-z]+)(?:\s+(.*))?", line, re.DOTALL)
    if found is None:
        return False
    name, rest = found[1], (found[2] or "").strip()
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        terminal.complain(f"there is no command {name}; " + (f"did you mean {near[0]}?" if near else "see /help"))
    else:
        command.run(session, rest)
    return True


def _help(session: ChatSession, _: str) -> None:
    terminal.show_facts((command.usage, command.help) for command in COMMANDS.values())
    terminal.show_line('Ctrl-C stops an answer, Ctrl-D leaves; """ begins and ends a longer text.')


def _model(session: ChatSession, name: str) -> None:
    if name:
        known = [model.name for model in session.asking.client.list_models()]
        if known and name not in known and f"{name}:latest" not in known:
            near = difflib.get_close_matches(name, known, 1, 0.4)
            terminal.complain(f"there is no model {name}" + (f"; did you mean {near[0]}?" if near else "; see /models"))
            return
        session.model = name
    terminal.show_line(f"model: {session.model or 'the default of the server'}")


def _models(session: ChatSession, _: str) -> None:
    for model in session.asking.client.list_models():
        is_current = session.model in (model.name, model.name.removesuffix(":latest"))
        terminal.show_line(f"{'*' if is_current else ' '} {model.name}")


def _system(session: ChatSession, text: str) -> None:
    if text:
        session.system = None if text == "-" else text
    terminal.show_line(f"instructions: {session.system or 'none'}")


def _retry(session: ChatSession, _: str) -> None:
    session.retry()


def _clear(session: ChatSession, _: str) -> None:
    session.clear()
    terminal.show_line("Forgotten: the next prompt begins a new conversation.")


def _save(session: ChatSession, name: str) -> None:
    turns = session.conversation.turns
    if not name:
        terminal.complain("where to? /save FILE")
    elif not turns:
        terminal.complain("there is nothing to save")
    else:
        _write(path(name), to_markdown(turns), f"{len(turns)} turn{'s' if len(turns) > 1 else ''}")


def _write(file: Path, text: str, what: str) -> None:
    try:
        if os.path.lexists(file) and not terminal.ask(f"{file} is there already; replace it?"):
            terminal.show_line("Nothing was saved.")
            return
        with OutFile(file) as out:
            out.write(text)
    except OSError as error:
        terminal.complain(f"{error.filename or file}: {error.strerror}")
    else:
        terminal.show_line(f"{what} saved to {file}")


def _quit(session: ChatSession, _: str) -> None:
    raise EndOfChat


COMMANDS = {
    "/model": _ChatCommand("/model [NAME]", "whom to ask", _model),
    "/models": _ChatCommand("/models", "who can be asked", _models),
    "/system": _ChatCommand("/system [TEXT]", "instructions before each prompt; - for none", _system),
    "/retry": _ChatCommand("/retry", "ask the last prompt once more", _retry),
    "/clear": _ChatCommand("/clear", "begin a new conversation", _clear),
    "/save": _ChatCommand("/save FILE", "write the conversation to a file, as Markdown", _save),
    "/help": _ChatCommand("/help", "this list", _help),
    "/quit": _ChatCommand("/quit", "leave", _quit),
}
