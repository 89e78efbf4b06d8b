"""Commands that talk to a gateway: `models` and `generate`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import click

from ..client import WSClient
from ..events import ModelInfo
from ..options import ClientOptions
from . import terminal
from .command import Command, path
from .connecting import CONNECTION_SECTION, connection_flags
from .failures import Failure
from .file_page import FilePage
from .generation_flags import GENERATION_SECTION, generation_flags
from .out_file import OutFile
from .signals import ending_in_order
from .streaming import Figures, stream_answer

__all__ = ["generate", "models"]


@click.command(
    "models",
    cls=Command,
    sections=CONNECTION_SECTION,
    examples="""
        wsclient models --config=keys/my-client_config.json
        wsclient models --json | jq -r '.[].name'
        """,
)
@click.option("--json", "as_json", is_flag=True, help="Write the list as JSON.")
@connection_flags
def models(as_json: bool, connection: ClientOptions) -> None:
    """List the models that the gateway offers."""
    with WSClient.from_options(connection) as client:
        found = client.list_models()
    if as_json:
        terminal.show_json([attrs.asdict(model, filter=attrs.filters.exclude("raw")) for model in found])
        return
    if not found:
        terminal.show_line("The gateway offers no models; install one with: ollama pull llama3.2", to_stderr=True)
        return
    rows = [_row(model) for model in found]
    terminal.show_table(("Name", "Size", "Family", "Parameters", "Quantisation"), rows)


def _row(model: ModelInfo) -> tuple[str, ...]:
    texts = (model.family, model.parameter_size, model.quantization_level)
    return (model.name, "" if model.size is None else readable_size(model.size), *(text or "" for text in texts))


def readable_size(size: int) -> str:
    """Return a number of bytes as people read it, in powers of 1000 as Ollama shows it."""
    if size < 1000:
        return f"{size} B"
    amount = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":
            break
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"


@click.command(
    "generate",
    cls=Command,
    sections=GENERATION_SECTION | CONNECTION_SECTION,
    examples="""
        wsclient generate "A haiku about rain" --config=keys/my-client_config.json
        export WSCLIENT_CONFIG=keys/my-client_config.json
        wsclient generate "Three names for a cat" --model=llama3.2 --seed=7
        git diff | wsclient generate - --system="Review this change" > review.md
        """,
)
@click.argument("prompt")
@click.option("--model", metavar="NAME", help="The server's default when left out.")
@click.option("--out", type=path, metavar="FILE", help="Write to this file instead, once all of it is there.")
@generation_flags
@connection_flags
def generate(
    prompt: str, model: str | None, out: Path | None, options: dict[str, Any], connection: ClientOptions
) -> None:
    """Generate text from PROMPT; "-" reads it from stdin.

    The text goes to stdout as it comes, the figures about it to stderr. Ctrl-C stops the generation on the server,
    too; with --out, what came before it stays in FILE.part. Control characters are taken out of the text, in a pipe
    as well.
    """
    text = _read_prompt(prompt)
    if out is None:
        with WSClient.from_options(connection) as client:
            figures = stream_answer(client, text, model, options)
    else:
        figures = _generate_to_file(out, text, model, options, connection)
    terminal.show_line(str(figures), "dim", to_stderr=True)


def _generate_to_file(
    path: Path, prompt: str, model: str | None, options: dict[str, Any], connection: ClientOptions
) -> Figures:
    with ending_in_order(), OutFile(path) as out:
        page = FilePage(out)
        try:
            with WSClient.from_options(connection) as client:
                return stream_answer(client, prompt, model, options, page)
        except BaseException:
            with suppress(OSError):
                page.end()
            if out.part is not None and out.size:
                state = f"{path} is as it was" if path.exists() else f"there is no {path}"
                terminal.show_line(f"{state}; what came so far is in {out.part}", to_stderr=True)
            raise


def _read_prompt(prompt: str) -> str:
    try:
        # In a plain locale Python hides bad bytes in both; they would go to the server as something else.
        text = sys.stdin.buffer.read().decode() if prompt == "-" else os.fsencode(prompt).decode()
    except UnicodeDecodeError as error:
        raise Failure(f"the prompt must be text in UTF-8; its byte {error.start} is not") from error
    if not text.strip():
        raise click.UsageError("the prompt is empty", click.get_current_context())
    return text
