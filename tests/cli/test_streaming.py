"""The figures about a generation."""

from __future__ import annotations

import pytest

from wsclient import GenerationResult, Usage
from wsclient.cli.streaming import Figures, duration


def figures(tokens: int = 10, usage: Usage | None = None, streaming: float = 3.0) -> Figures:
    result = GenerationResult(id="gen_1", model="llama2", text="", total_tokens=tokens, usage=usage)
    return Figures.of(result, 0.5, streaming)


def test_the_rate_is_the_models_own_if_the_server_says() -> None:
    assert figures(usage=Usage(completion_tokens=20, eval_duration=0.5)).rate == 40


def test_the_tokens_are_the_models_own_if_the_server_says() -> None:
    assert figures(usage=Usage(completion_tokens=20, eval_duration=0.5)).tokens == 20


@pytest.mark.parametrize("usage", [None, Usage(), Usage(completion_tokens=10), Usage(eval_duration=1.0)])
def test_the_rate_is_else_what_came_after_the_first_token(usage: Usage | None) -> None:
    assert figures(usage=usage).rate == 3


@pytest.mark.parametrize(("tokens", "streaming"), [(1, 3.0), (10, 0.0), (0, 0.0)])
def test_there_is_no_rate_where_none_can_be_told(tokens: int, streaming: float) -> None:
    assert figures(tokens=tokens, streaming=streaming).rate is None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (Figures(model="m", tokens=1, first_token=0.0123, rate=None), "m, 1 token, first token after 12 ms"),
        (Figures(model="m", tokens=0, first_token=None, rate=None), "m, 0 tokens"),
        (
            Figures(model=None, tokens=1234, first_token=1.234, rate=61.04),
            "default model, 1,234 tokens, 61.0 tokens/s, first token after 1.23 s",
        ),
        (
            Figures(model="m", tokens=2, first_token=0.1, rate=70_000.4),
            "m, 2 tokens, 70,000 tokens/s, first token after 100 ms",
        ),
    ],
)
def test_the_line_of_figures_reads(given: Figures, line: str) -> None:
    assert str(given) == line


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (75, "75.00 s")])
def test_times_read(seconds: float, text: str) -> None:
    assert duration(seconds) == text
