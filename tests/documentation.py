"""The README's reference, drawn from the code: python -m tests.documentation writes it into the README.

Options, errors, close codes, events and the diagram of the statuses stand where the code has them: in docstrings, in
the classes' attributes and in the tables of the legal moves and of what is retried. A test holds the README to them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from wsclient import (
    ClientOptions,
    ClientStats,
    ConnectionStatus,
    ErrorCode,
    ErrorEvent,
    GenerationEndEvent,
    GenerationResult,
    GenerationStartEvent,
    ModelInfo,
    TokenEvent,
    Usage,
)
from wsclient.core.states import MOVES
from wsclient.errors import _CLOSE_MEANINGS, error_for_close, error_for_code, may_reconnect

__all__ = ["README", "SECTIONS", "anchor_of", "attributes_of", "write_into"]

README = Path(__file__).parents[1] / "README.md"
_ATTRIBUTE = re.compile(r"    ((?:\w+, )*\w+): (.*)")
_SIZES = {64 * 1024 * 1024: "64 MiB"}
_FROM_CALLBACKS: dict[type[Any], str] = {
    ConnectionStatus: "`on_connection_change`",
    TokenEvent: "`on_token`",
    GenerationStartEvent: "`on_generation_start`",
    GenerationEndEvent: "`on_generation_end`",
    ErrorEvent: "`on_error`",
}
_FROM_CALLS: dict[type[Any], str] = {
    GenerationResult: "`complete()`, `Generation.result()`",
    Usage: "`.usage` of both",
    ModelInfo: "`list_models()`",
    ClientStats: "`stats()`",
}


def attributes_of(cls: type[Any]) -> dict[str, str]:
    """Return what a class's docstring says of each of its attributes."""
    section = inspect.getdoc(cls) or ""
    section = section.partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _default(field: attrs.Attribute[Any]) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return "none"
    return _SIZES.get(field.default, f"`{field.default!r}`") if field.default is not None else "`None`"


def _options() -> Iterator[str]:
    yield "| option | default | meaning |"
    yield "|---|---|---|"
    meanings = attributes_of(ClientOptions)
    for field in attrs.fields(ClientOptions):
        yield f"| `{field.name}` | {_default(field)} | {meanings[field.name].rstrip('.')} |"


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> disconnected"
    for status, nexts in MOVES.items():
        for following in ConnectionStatus:
            if following in nexts:
                yield f"    {status} --> {following}"
    yield "```"


def _first_line(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").splitlines()[0].rstrip(".")


def _errors() -> Iterator[str]:
    yield "| code | class | meaning | the same call again | the client dials again |"
    yield "|---|---|---|---|---|"
    for code in ErrorCode:
        cls = error_for_code(code)
        error = cls("")
        kinds = [base.__name__ for base in (ConnectionError, TimeoutError) if issubclass(cls, base)]
        name = f"`{cls.__name__}`" + "".join(f" (a `{kind}`)" for kind in kinds)
        again = "can succeed" if error.retryable else "fails"
        dials = "yes" if may_reconnect(error) else "no"
        yield f"| `{code}` | {name} | {_first_line(cls)} | {again} | {dials} |"


def _close_codes() -> Iterator[str]:
    yield "| close code | meaning | error | the client dials again |"
    yield "|---|---|---|---|"
    for code, (cls, _, meaning) in _CLOSE_MEANINGS.items():
        dials = "yes" if may_reconnect(error_for_close(code)) else "no"
        yield f"| {code} | {meaning} | `{cls.code}` | {dials} |"


def _classes(classes: dict[type[Any], str]) -> Iterator[str]:
    yield "| from | class | what it says |"
    yield "|---|---|---|"
    for cls, source in classes.items():
        if cls is ConnectionStatus:
            yield f"| {source} | `{cls.__name__}` | one of the statuses, a text |"
            continue
        meanings = attributes_of(cls)
        told = "; ".join(f"`{field.name}`: {meanings[field.name].rstrip('.')}" for field in attrs.fields(cls))
        yield f"| {source} | `{cls.__name__}` | {told} |"


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "options": _options,
    "statuses": _diagram,
    "errors": _errors,
    "close codes": _close_codes,
    "events": lambda: _classes(_FROM_CALLBACKS),
    "results": lambda: _classes(_FROM_CALLS),
}
"""What is drawn from the code, by the name in its marks."""


def write_into(text: str) -> str:
    """Return a README with all that is drawn from the code made anew.

    Args:
        text: the README; each section has its two marks.

    Raises:
        ValueError: the marks of a section, or of the contents, are not there, once.
    """
    for name, draw in SECTIONS.items():
        text = _replaced(text, name, draw())
    chapters = re.findall(r"^## (.*)$", text, re.MULTILINE)
    return _replaced(text, "contents", (f"- [{chapter}](#{anchor_of(chapter)})" for chapter in chapters))


def _replaced(text: str, name: str, lines: Iterable[str]) -> str:
    begin, end = f"<!-- from the code: {name} -->\n", f"<!-- end: {name} -->\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the README needs {begin.strip()} and {end.strip()}, once each")
    before, rest = text.split(begin)
    return before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]


def anchor_of(chapter: str) -> str:
    """Return the name by which a link within the page finds a chapter."""
    return re.sub(r"[^\w\- ]", "", chapter.lower()).replace(" ", "-")


if __name__ == "__main__":
    README.write_text(write_into(README.read_text(encoding="utf-8")), encoding="utf-8")
