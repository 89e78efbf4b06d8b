"""One line of a batch: sent, tried again where that can help, and its result or its failure."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..client import WSClient
from ..core.backoff import Backoff
from ..errors import ErrorCode, WSClientError
from ..events import GenerationResult
from .batch_items import BatchItem

__all__ = ["BatchWorker"]

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# How long a line waits in all because the server asks it to, in seconds. Such waits are no failed attempts: a batch
# that may send 60 prompts a minute has to wait all the time.
_PATIENCE = 900.0

# Every other line would meet these, too: they end the batch, and are the result of no line.
_LASTING = {
    ErrorCode.AUTH_CHALLENGE_TIMEOUT,
    ErrorCode.AUTH_TIMEOUT,
    ErrorCode.CLIENT_CLOSED,
    ErrorCode.CONNECTION_FAILED,
    ErrorCode.CONNECTION_TIMEOUT,
    ErrorCode.INVALID_AUTH,
    ErrorCode.INVALID_KEY,
    ErrorCode.RECONNECT_FAILED,
}


class BatchWorker:
    """Works on the lines of a batch; several threads use one.

    Args:
        client: logged in.
        retries: how often a line is tried again.
        dice: returns a number from 0 to 1, for the pauses.
    """

    def __init__(self, client: WSClient, retries: int, dice: Callable[[], float] = random.random) -> None:
        self._client = client
        self._retries = retries
        self._dice = dice
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        """Have every line that is being worked on end, the server told; returns within about 2 s."""
        self._is_stopping.set()
        self._client.close()

    def run(self, item: BatchItem) -> dict[str, Any]:
        """Return the result of a line, or its failure.

        Raises:
            WSClientError: what every other line would meet, too, or the batch was stopped.
        """
        place = {"line": item.line, **item.given, "input": item.digest}
        if item.problem is not None:
            return {**place, "error": _invalid(item.problem)}
        try:
            result = self._complete(item)
        except (ValueError, TypeError) as error:
            return {**place, "error": _invalid(str(error))}
        except WSClientError as error:
            if self._is_stopping.is_set() or error.code in _LASTING:
                raise
            text = {"text": error.text} if error.text else {}
            return {**place, "error": _facts(error), **text}
        return {**place, **_fields(result)}

    def _complete(self, item: BatchItem) -> GenerationResult:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, self._retries, self._dice)
        patience = _PATIENCE
        while True:
            try:
                self._connect()
                return self._client.complete(item.prompt, item.model, item.options)
            except WSClientError as error:
                if not error.retryable or self._is_stopping.is_set():
                    raise
                if error.retry_after is not None and patience > 0:
                    pause = error.retry_after * (1 + self._dice() / 5)
                    patience -= max(pause, _FIRST_PAUSE)
                elif backoff.is_exhausted:
                    raise
                else:
                    pause = backoff.next_delay()
                if self._is_stopping.wait(pause):
                    raise

    def _connect(self) -> None:
        """Connect again: a request would wait for long for a connection, and not say why there is none.

        Raises:
            WSClientError: there is none.
        """
        if self._client.is_ready():
            return
        self._client.connect()
        if self._is_stopping.is_set():
            # It may just have been closed, and connecting has opened it again.
            self._client.close()


def _invalid(message: str) -> dict[str, Any]:
    return {"code": str(ErrorCode.INVALID_REQUEST), "message": message, "retryable": False}


def _facts(error: WSClientError) -> dict[str, Any]:
    return {"code": str(error.code), "message": error.message, "retryable": error.retryable}


def _fields(result: GenerationResult) -> Mapping[str, Any]:
    thinking = {"thinking": result.thinking} if result.thinking else {}
    text = {"model": result.model, "text": result.text, **thinking}
    if result.is_cancelled:
        error = WSClientError("the generation was stopped on the server before its end", retryable=True)
        return {"error": _facts(error), **text}
    figures = {"total_tokens": result.total_tokens, "done_reason": result.done_reason}
    return {**text, **figures, "elapsed_time": result.elapsed_time}
