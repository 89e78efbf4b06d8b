"""`completion`: the script with which a shell completes command lines of `wsclient`, by click's own engine."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from . import terminal
from .command import Command

__all__ = ["completion"]

# Where click looks for what a shell asks; its own choice for a program of this name.
_VARIABLE = "_WSCLIENT_COMPLETE"


@click.command(
    "completion",
    cls=Command,
    examples="""
        wsclient completion bash >> ~/.bashrc
        wsclient completion zsh >> ~/.zshrc
        wsclient completion fish > ~/.config/fish/completions/wsclient.fish
        """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, files and clients.

    Clients are looked up in the clients file, or in the store if one is named; no gateway is asked.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    terminal.write(kind(context.find_root().command, {}, "wsclient", _VARIABLE).source() + "\n")
