"""An answer on its way to stdout, and the figures about it."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import attrs

from ..client import WSClient
from ..errors import WSClientError
from ..events import GenerationResult
from ..generation import Generation
from . import terminal
from .failures import Failure, refusing_wrong_values
from .waiting import Waiting
from .wrapping import WordWrapper

__all__ = ["Figures", "Page", "TextPage", "duration", "follow", "stop", "stream_answer"]

# How long the server has to acknowledge a stop before the connection is closed, which ends the generation too.
_STOP_PATIENCE = 3.0
# How often somebody who waits sees that it goes on.
_TURN = 0.1
# A shorter stream says nothing about speed: it came in one piece.
_SHORTEST_STREAM = 0.001


@attrs.frozen(kw_only=True)
class Figures:
    """What a generation was like.

    Attributes:
        model: who answered.
        tokens: how many, as the server counted.
        first_token: seconds from sending the prompt to the first token, `None` when none came.
        rate: tokens a second while the model wrote, `None` when that cannot be told.
    """

    model: str | None
    tokens: int
    first_token: float | None
    rate: float | None

    @classmethod
    def of(cls, result: GenerationResult, first_token: float | None, streaming: float) -> Figures:
        """Return a result's figures.

        Args:
            result: the result.
            first_token: see above.
            streaming: seconds between the first token and the end, as seen here.
        """
        usage, tokens, rate = result.usage, result.total_tokens, None
        if usage is not None and usage.completion_tokens and usage.eval_duration:
            # The model's own clock: what was ready together arrives together, and says little about its speed.
            tokens, rate = usage.completion_tokens, usage.completion_tokens / usage.eval_duration
        elif tokens > 1 and streaming >= _SHORTEST_STREAM:
            rate = (tokens - 1) / streaming
        return cls(model=result.model, tokens=tokens, first_token=first_token, rate=rate)

    def __str__(self) -> str:
        parts = [self.model or "default model", "1 token" if self.tokens == 1 else f"{self.tokens:,} tokens"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.1f} tokens/s" if self.rate < 100 else f"{self.rate:,.0f} tokens/s")
        if self.first_token is not None:
            parts.append(f"first token after {duration(self.first_token)}")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


class Page(Protocol):
    """Where an answer is written."""

    def write(self, text: str) -> None:
        """Take a piece of it, or nothing: time has passed."""

    def end(self) -> None:
        """Leave things in order, whether the answer is whole or not."""


class TextPage:
    """Stdout, wrapped between words at a terminal, as it is elsewhere."""

    def __init__(self) -> None:
        self._wrapper = WordWrapper() if terminal.is_terminal(sys.stdout) else None
        self._is_at_line_start = True

    def write(self, token: str) -> None:
        text = terminal.clean(token)
        if not text:
            return
        if self._wrapper is not None:
            terminal.write(self._wrapper.feed(text, shutil.get_terminal_size().columns))
            self._is_at_line_start = self._wrapper.is_at_line_start
        else:
            terminal.write(text)
            self._is_at_line_start = text.endswith("\n")

    def end(self) -> None:
        """Leave the cursor at the start of a line."""
        if not self._is_at_line_start:
            terminal.write("\n")


def follow(generation: Generation, page: Page) -> float | None:
    """Write a generation's text to a page as it comes; at a terminal, say how long the first token takes.

    Returns:
        When the first token came, by the monotonic clock; `None` when none came.

    Raises:
        WSClientError: it failed.
    """
    first: float | None = None
    with Waiting() as waiting:
        while (text := generation.read(_TURN)) is not None:
            if text:
                waiting.end()
                first = first or time.monotonic()
            elif first is None:
                waiting.show("thinking" if generation.thinking else "waiting for the first token")
            page.write(text)
    return first


def stream_answer(
    client: WSClient,
    prompt: str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    page: Page | None = None,
) -> Figures:
    """Generate, and write the text to a page as it comes.

    However this ends before the answer does (Ctrl-C, a pipe that was closed), the server is told to stop.

    Args:
        client: logged in.
        prompt, model, options: as for `WSClient.stream`.
        page: stdout when left out.

    Raises:
        click.UsageError: an option is wrong.
        Failure: somebody else stopped the generation.
        WSClientError: it failed.
    """
    page = page or TextPage()
    begun = time.monotonic()
    with refusing_wrong_values():
        generation = client.stream(prompt, model, options)
    try:
        first = follow(generation, page)
    except WSClientError:
        page.end()
        raise
    except BaseException:
        stop(client, generation)
        raise
    ended = time.monotonic()
    page.end()
    result = generation.result()
    if result.is_cancelled:
        raise Failure("the generation was stopped on the server before its end; run the command again")
    waited = None if first is None else first - begun
    return Figures.of(result, waited, ended - (first or ended))


def stop(client: WSClient, generation: Generation) -> None:
    """Have the server stop a generation, and wait until it says that it did; 3 s at most."""
    patience = threading.Timer(_STOP_PATIENCE, client.close)
    patience.daemon = True
    patience.start()
    try:
        with suppress(WSClientError):
            # By its id: of a generation that was left, which counts as done here, the server is not asked otherwise.
            client.stop_generation(generation.id)
    finally:
        patience.cancel()
