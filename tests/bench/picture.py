"""One picture for the README: how many times faster than the official `ollama` client, as a hand-made SVG."""

from __future__ import annotations

import statistics
from html import escape

from .table import Rounds

__all__ = ["draw"]

_BARS = (
    ("stream_speed", "wsclient, extra speed", "#1f6feb"),
    ("stream", "wsclient", "#1f6feb"),
    ("node", "Node ws, async iterator", "#8c959f"),
    ("websockets", "websockets (sync)", "#8c959f"),
    ("ollama", "ollama, the official client (HTTP)", "#8c959f"),
    ("naive", "websocket-client + queue.Queue", "#8c959f"),
)
_WIDTH, _LABELS, _ROW = 760, 260, 34
_INK = "#1f2328"


def draw(rounds: Rounds) -> str:
    """Return the SVG; variants that were not measured have no bar.

    It brings its own light card: a file shown as an image cannot know which background it stands on.

    Raises:
        ValueError: the `ollama` client was not measured, so there is nothing to compare with.
    """
    if not rounds.get("ollama"):
        raise ValueError("the picture compares with the official ollama client, which was not measured")
    bars = [(name, words, colour) for name, words, colour in _BARS if rounds.get(name)]
    ratios = {name: _ratio(rounds, name) for name, _, _ in bars}
    scale = (_WIDTH - _LABELS - 90) / max(ratios.values())
    height = 66 + _ROW * len(bars) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="14" role="img">',
        f"<title>Tokens a second, relative to the official ollama client: {_sentence(bars, ratios)}</title>",
        f'<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="10" fill="#ffffff" stroke="#8c959f"/>',
        f'<text x="20" y="36" font-size="16" font-weight="600" fill="{_INK}">'
        "Tokens a second, the official ollama client = 1</text>",
    ]
    for place, (name, words, colour) in enumerate(bars):
        y = 60 + place * _ROW
        width = max(ratios[name] * scale, 1)
        weight = ' font-weight="600"' if name.startswith("stream") else ""
        parts += [
            f'<text x="{_LABELS - 10}" y="{y + 16}" text-anchor="end" fill="{_INK}"{weight}>{escape(words)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="22" rx="3" fill="{colour}"/>',
            f'<text x="{_LABELS + width + 8:.1f}" y="{y + 16}" fill="{_INK}"{weight}>{ratios[name]:.2g} x</text>',
        ]
    parts += [
        f'<text x="20" y="{height - 16}" font-size="12" fill="#57606a">Medians of the ratios of each round: '
        f"{len(rounds['ollama'])} rounds, one reader, loopback. python -m tests.bench</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ratio(rounds: Rounds, name: str) -> float:
    pairs = zip(rounds[name], rounds["ollama"], strict=False)
    return statistics.median(one["rate"] / other["rate"] for one, other in pairs)


def _sentence(bars: list[tuple[str, str, str]], ratios: dict[str, float]) -> str:
    return escape(", ".join(f"{words} {ratios[name]:.2g}" for name, words, _ in bars))
