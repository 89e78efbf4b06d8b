"""The flags that say how a model is to write, alike in every command that has one write."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

__all__ = ["GENERATION_SECTION", "generation_flags"]

_NAMES = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop", "system")

GENERATION_SECTION = {"Writing": _NAMES}
"""The heading for these flags in a command's help."""

_FLAGS = (
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        metavar="NUMBER",
        help="0 takes the likeliest words; 1 varies more.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1),
        metavar="NUMBER",
        help="Only the likeliest words, with this share together.",
    ),
    click.option("--top-k", type=click.IntRange(min=0), metavar="COUNT", help="Only so many of the likeliest words."),
    click.option("--max-tokens", type=click.IntRange(min=-2), metavar="COUNT", help="At most so many tokens."),
    click.option("--seed", type=int, metavar="NUMBER", help="The same seed gives the same text."),
    click.option("--stop", multiple=True, help="End before this text; may be given several times."),
    click.option("--system", help="Instructions that come before the prompt."),
)


def generation_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags, and the options that they make as its argument `options`: only what was given."""

    @functools.wraps(command)
    def gather_first(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in _NAMES}
        options = {name: list(value) if name == "stop" else value for name, value in given.items()}
        command(*args, options={name: value for name, value in options.items() if value not in (None, [])}, **kwargs)

    with_flags: Callable[..., None] = gather_first
    for flag in reversed(_FLAGS):
        with_flags = flag(with_flags)
    return with_flags
