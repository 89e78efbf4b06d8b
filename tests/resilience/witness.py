"""A client that streams on and on beside whatever a test does, and compares each text with what it must be."""

from __future__ import annotations

import threading
import time
from typing import Self

from wsclient import WSClient
from wsclient.gateway.ngram import Sampling, default_model

from ..support.lines import in_thread
from ..support.waiting import wait_until

__all__ = ["Witness"]

PROMPT = "what happens"
TOKENS = 400


class Witness:
    """Streams the built-in model's text, which a seed makes the same each time; a context manager.

    Args:
        client: logged in, at a gateway with the built-in model.

    Attributes:
        texts: how many were received whole and right.
        longest: seconds that the slowest of them took.
    """

    def __init__(self, client: WSClient) -> None:
        self._client = client
        self._expected = "".join(default_model().walk(PROMPT, Sampling(seed=7)).take(TOKENS))
        self._is_over = threading.Event()
        self._failure: BaseException | None = None
        self.texts = 0
        self.longest = 0.0

    def __enter__(self) -> Self:
        self._thread = in_thread(self._run)
        wait_until(lambda: self.texts or self._failure, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the witness hangs"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            # The pause leaves the machine to those who are watched.
            while not self._is_over.wait(0.02):
                began = time.monotonic()
                tokens = list(self._client.stream(PROMPT, seed=7, max_tokens=TOKENS))
                assert "".join(tokens) == self._expected
                assert len(tokens) == TOKENS
                self.longest = max(self.longest, time.monotonic() - began)
                self.texts += 1
        except BaseException as error:
            self._failure = error
