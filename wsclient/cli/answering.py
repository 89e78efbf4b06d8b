"""An answer in a chat: Ctrl-C ends the answer and not the chat, and whatever happens its text is kept."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from ..client import WSClient
from ..errors import WSClientError
from ..generation import Generation
from . import terminal
from .line_input import quiet_keyboard
from .streaming import Figures, Page, TextPage, follow, stop

__all__ = ["Answer", "Asking"]


@attrs.frozen(kw_only=True)
class Answer:
    """What came of a prompt.

    Attributes:
        text: the answer, as far as it came.
        figures: about it, `None` when it was stopped or failed.
        is_stopped: whether Ctrl-C stopped it.
        error: why it failed.
    """

    text: str
    figures: Figures | None = None
    is_stopped: bool = False
    error: WSClientError | None = None


class _KeptPage:
    """A page, and the text that was written to it."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def write(self, text: str) -> None:
        self._pieces.append(terminal.clean(text))
        self._page.write(text)

    def end(self) -> None:
        self._page.end()


@attrs.frozen
class Asking:
    """How prompts are sent, and answers shown.

    Attributes:
        client: who sends them.
        is_plain: whether to show the text as it comes, also at a terminal.
    """

    client: WSClient
    is_plain: bool = False

    def ask(self, prompt: str, model: str | None, options: Mapping[str, Any]) -> Answer:
        """Send a prompt and show the answer as it comes; blocks until it ended.

        Args:
            prompt, model, options: as for `WSClient.stream`.

        Raises:
            KeyboardInterrupt: Ctrl-C before the prompt was sent.
            ValueError, TypeError: an option is wrong.
            WSClientError: there is no connection.
        """
        if not self.client.is_ready():
            terminal.show_progress("connecting again ...")
            self.client.connect()
        page = _KeptPage(self._make_page())
        begun = time.monotonic()
        generation = self.client.stream(prompt, model, options)
        try:
            with quiet_keyboard(), _leaving_at_ctrl_c(generation) as interruptions:
                first = follow(generation, page)
        except WSClientError as error:
            page.end()
            return Answer(text=page.text, error=error)
        except BaseException:
            with suppress(OSError):
                # It has hidden the cursor.
                page.end()
            stop(self.client, generation)
            raise
        ended = time.monotonic()
        page.end()
        if interruptions:
            stop(self.client, generation)
            return Answer(text=page.text, is_stopped=True)
        result = generation.result()
        if result.is_cancelled:
            return Answer(text=page.text, error=_stopped_by_others())
        figures = Figures.of(result, None if first is None else first - begun, ended - (first or ended))
        return Answer(text=page.text, figures=figures)

    def _make_page(self) -> Page:
        if self.is_plain or not terminal.is_terminal(sys.stdout):
            return TextPage()
        # Here, because every command would wait for it to load.
        from .live_markdown import MarkdownPage

        return MarkdownPage()


def _stopped_by_others() -> WSClientError:
    return WSClientError("the generation was stopped on the server before its end", description="Ask again with /retry")


@contextmanager
def _leaving_at_ctrl_c(generation: Generation) -> Iterator[list[int]]:
    """Have Ctrl-C leave a generation instead of raising: an exception could tear a drawing, or a line, apart.

    Yields:
        As many numbers as there were interruptions.
    """
    interruptions: list[int] = []

    def leave(number: int, _: object) -> None:
        interruptions.append(number)
        # A note for another thread, which takes no lock: that is all a signal handler may do.
        generation.close()

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield interruptions
    finally:
        signal.signal(signal.SIGINT, before)
