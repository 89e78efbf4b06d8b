"""What is seen of a generation, a result, models and a client, as HTML and as text. Pure: nothing is shown here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import attrs

from ...client import WSClient
from ...events import ConnectionStatus, GenerationResult, ModelInfo
from ...generation import Generation
from .markdown import clean, escape, one_line, to_html

__all__ = ["View", "client_view", "generation_view", "models_view", "progress_view", "result_view"]

# Half transparent instead of grey: it must be read on a dark page as well.
_DIM = "opacity:.7;font-size:.9em"
_CELL = "text-align:left;white-space:nowrap"
_GREEN = "#43a047"
_COLUMNS = ("Name", "Size", "Family", "Parameters", "Quantisation")


@attrs.frozen
class View:
    """One thing to look at, in both forms.

    Attributes:
        html: for notebooks; everything that came from elsewhere is escaped.
        text: for terminals; without control characters.
    """

    html: str
    text: str

    @property
    def bundle(self) -> dict[str, str]:
        """Both, as frontends choose from them."""
        return {"text/html": self.html, "text/plain": self.text}


def progress_view(generation: Generation, waited: float) -> View:
    """Return what came so far, and for how long somebody has been waiting (seconds)."""
    model = generation.model or "the default model"
    if generation.text:
        line = f"{model} is writing"
    elif generation.thinking:
        line = f"{model} is thinking"
    else:
        line = f"waiting for the first token of {model}"
    return _answer(generation.text, generation.thinking, f"{line} … {waited:.0f} s")


def generation_view(generation: Generation, note: str | None = None) -> View:
    """Return a generation as it is now; the note says how it ended."""
    state = note or ("done" if generation.is_done else "running")
    return _answer(generation.text, generation.thinking, f"{generation.model or 'default model'} · {state}")


def result_view(result: GenerationResult, first_token: float | None = None) -> View:
    """Return a result and its figures.

    Args:
        result: the result.
        first_token: seconds until it came, if somebody looked.
    """
    count = "1 token" if result.total_tokens == 1 else f"{result.total_tokens:,} tokens"
    parts = [result.model or "default model", count]
    if result.elapsed_time is not None:
        parts.append(_duration(result.elapsed_time))
    if first_token is not None:
        parts.append(f"first token after {_duration(first_token)}")
    if result.is_cancelled:
        parts.append("stopped before its end")
    elif result.done_reason == "length":
        parts.append("cut off at max_tokens")
    return _answer(result.text, result.thinking, " · ".join(parts))


def _answer(text: str, thinking: str, line: str) -> View:
    thoughts = ""
    if thinking:
        inside = html.escape(clean(thinking)).strip()
        thoughts = (
            f'<details style="{_DIM}"><summary>Thinking</summary>'
            f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{inside}</div></details>'
        )
    answer = (
        # As much as is wide scrolls by itself, so that the page does not on a phone. Frontends that typeset math leave
        # these classes alone: `$5 or $6` is none.
        '<div class="tex2jax_ignore mathjax_ignore" dir="auto" style="overflow-x:auto;overflow-wrap:break-word">'
        f"{to_html(text)}</div>"
        if text
        else ""
    )
    body = clean(text).rstrip("\n")
    return View(
        html=f'<div style="margin-bottom:.75em">{thoughts}{answer}<div style="{_DIM}">{escape(line)}</div></div>',
        text="\n".join([*([body] if body else []), f"[{one_line(line)}]"]),
    )


def models_view(models: Sequence[ModelInfo]) -> View:
    """Return a table of models."""
    rows = [[one_line(cell) for cell in _row(model)] for model in models]
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in _COLUMNS)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in (_COLUMNS, *rows))
    return View(
        html=f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
        text="\n".join("  ".join(line).rstrip() for line in lines),
    )


def _row(model: ModelInfo) -> Iterable[str]:
    texts = (model.family, model.parameter_size, model.quantization_level)
    return (model.name, "" if model.size is None else _size(model.size), *(text or "" for text in texts))


def _cell(text: str) -> str:
    return f'<td style="{_CELL}">{html.escape(text)}</td>'


def client_view(client: WSClient) -> View:
    """Return where a client is connected, and as whom; its key is never part of it."""
    options, stats = client._options, client.stats()
    parts = [", ".join(options.server_urls), f"client {options.client_id}"]
    if stats.latency is not None:
        parts.append(f"round trip {_duration(stats.latency)}")
    if stats.open_generations:
        parts.append(f"{stats.open_generations} open generation{'s' if stats.open_generations > 1 else ''}")
    is_ready = stats.status is ConnectionStatus.AUTHENTICATED
    status = "connected" if is_ready else stats.status.replace("_", " ")
    light = f'<span style="color:{_GREEN}">●</span>' if is_ready else "○"
    line = escape(" · ".join(parts))
    return View(
        html=f'<div style="overflow-wrap:anywhere">{light} <b>{status}</b> · {line}</div>',
        text=one_line(" · ".join([f"WSClient {status}", *parts])),
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _size(size: int) -> str:
    """Return a number of bytes in powers of 1000, as Ollama shows it."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"
