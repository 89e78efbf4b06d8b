"""What every command of the program has: `--debug`, and sections in its help."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import attrs
import click
from click.shell_completion import CompletionItem

from .logs import log_to_stderr

__all__ = ["Command", "State", "debug_option", "path"]


class _PathType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path that a user means: shells leave the tilde in `--option=~/file` alone."""
        try:
            return Path(value).expanduser()
        except RuntimeError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Have the shell complete names of files."""
        return [CompletionItem(incomplete, type="file")]


path = _PathType()
"""An option's type: a path, with the home directory for a tilde."""


@attrs.define
class State:
    """What the commands tell the program.

    Attributes:
        is_debugging: whether an error is shown with its traceback, and the library's log.
    """

    is_debugging: bool = False


def _start_debugging(context: click.Context, _: click.Parameter, value: bool) -> None:
    state = context.find_object(State)
    if value and state is not None:
        state.is_debugging = True
        log_to_stderr(logging.DEBUG)


def debug_option() -> click.Option:
    """Return the option `--debug`, which may stand before or after the command's name."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_start_debugging,
        help="Show the library's log, and where an error comes from.",
    )


class Command(click.Command):
    """A command of the program.

    Args:
        sections: names of options by the heading that they are listed under; the others come first.

    Attributes:
        examples: command lines for the help.
    """

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        sections: dict[str, tuple[str, ...]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())
        self.examples = examples
        self._sections = sections or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        headings = {name: heading for heading, names in self._sections.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            # Arguments are in the first line of the help; newer versions of click would list them here, too.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                rows.setdefault(headings.get(parameter.name or "", "Options"), []).append(record)
        for heading, records in rows.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")
