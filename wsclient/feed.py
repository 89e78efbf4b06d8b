"""The receiving end of one generation: the reader thread fills it, any number of threads read it."""

from __future__ import annotations

import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any, Protocol

from .core.messages import StreamEndMessage
from .errors import ConnectionLostError, RequestTimeoutError, WSClientError
from .events import GenerationResult, Usage
from .forks import renewing
from .futures import Future

__all__ = ["GenerationFeed", "GenerationListener", "inherited_error", "wait_for"]

# What a token costs in memory besides its text: a str object and its place in a list.
_TOKEN_OVERHEAD = 64


def wait_for(future: Future[Any], timeout: float | None, what: str) -> Any:
    """Wait for a future's result; its own error is raised as a fresh copy, so that many waiters can share it.

    A `TimeoutError` that a signal handler raises meanwhile (the usual use of `signal.alarm`) comes through as it is.

    Raises:
        RequestTimeoutError: not there after `timeout` seconds.
        WSClientError: what the future was failed with.
    """
    try:
        return future.result(timeout)
    except WSClientError as error:
        raise error.again() from error.__cause__
    except TimeoutError as error:
        if _origin(error) is not Future.result.__code__:
            raise
        if future.is_done:
            # It came at the very last moment.
            return wait_for(future, None, what)
        raise RequestTimeoutError(f"{what} did not end within {timeout:g} s") from None


def _origin(error: BaseException) -> CodeType | None:
    """Return the code that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code if trace is not None else None


def inherited_error(what: str) -> ConnectionLostError:
    """Return the error of something that a forked child has from its parent, and that can never end there."""
    return ConnectionLostError(
        f"{what} belongs to the process that this one was forked from",
        description="Begin it in the process that reads it",
    )


def _set(future: Future[Any], outcome: object) -> bool:
    return future.set_exception(outcome) if isinstance(outcome, BaseException) else future.set_result(outcome)


class GenerationListener(Protocol):
    """Who else hears of a generation: the callbacks of a client whose `generate()` made it. Reader thread, mostly."""

    def started(self, feed: GenerationFeed) -> None:
        """The server accepted it."""

    def received(self, feed: GenerationFeed, tokens: list[str], cost: int, is_thinking: bool) -> None:
        """Tokens came in; `feed.note_read(cost)` says when they were taken."""

    def ended(self, feed: GenerationFeed, result: GenerationResult) -> None:
        """It ended, complete or cancelled."""

    def failed(self, feed: GenerationFeed, error: WSClientError) -> None:
        """It failed."""


class GenerationFeed:
    """The receiving end of a generation. The reader thread fills it, any number of threads read it.

    Args:
        id: the generation's id.
        model: the model asked for.
        max_unread_bytes: how much may wait unread.
        keeps_tokens: whether somebody may iterate; without it only the text is kept.
        listener: who else hears of it; held weakly, because callbacks often hold the client.
    """

    def __init__(
        self,
        id: str,
        model: str | None,
        max_unread_bytes: int,
        *,
        keeps_tokens: bool,
        listener: weakref.ref[GenerationListener] | None = None,
    ) -> None:
        self.id = id
        self.model = model
        self._done: Future[GenerationResult] = Future()
        self._outcome: GenerationResult | WSClientError | None = None
        self._process = os.getpid()
        self._max_unread_bytes = max_unread_bytes
        self._keeps_tokens = keeps_tokens
        self._listener = listener
        # Lists of tokens, and None as the end; one put and one wake-up a batch.
        self._batches: queue.SimpleQueue[tuple[list[str], int] | None] = queue.SimpleQueue()
        self._text_pieces: list[str] = []
        self._thinking_pieces: list[str] = []
        self._token_count = 0
        self._received_cost = 0
        # Guards the readers' counts and the joining of pieces; held for moments only, nothing is taken inside it.
        self._read_lock = threading.Lock()
        self._read_cost = 0
        self._result_waiters = 0
        self._wakers: tuple[Callable[[], None], ...] = ()

    # --- reader thread ------------------------------------------------------------------------------------------------

    def start(self, model: str | None) -> None:
        """Note that the server accepted it."""
        self.model = model or self.model
        if (listener := self._listening()) is not None:
            listener.started(self)

    def push(self, tokens: list[str], text: str, is_thinking: bool) -> bool:
        """Take a batch of tokens.

        Returns:
            Whether there is room for more; if not, the caller fails the generation with `slow_consumer`.
        """
        if self.is_done:
            return True
        self._token_count += len(tokens)
        cost = len(text if text.isascii() else text.encode(errors="surrogatepass")) + _TOKEN_OVERHEAD * len(tokens)
        (self._thinking_pieces if is_thinking else self._text_pieces).append(text)
        if (listener := self._listening()) is not None:
            self._received_cost += cost
            listener.received(self, tokens, cost, is_thinking)
        elif self._keeps_tokens and not is_thinking:
            self._received_cost += cost
            self._batches.put((tokens, cost))
            self._wake()
        return self._result_waiters > 0 or self._received_cost - self._read_cost <= self._max_unread_bytes

    def finish(self, message: StreamEndMessage) -> None:
        """Take the end."""
        usage = message.usage or {}
        elapsed = message.elapsed_time
        result = GenerationResult(
            id=self.id,
            model=self.model,
            text=self.text,
            thinking=self.thinking,
            total_tokens=message.total_tokens if isinstance(message.total_tokens, int) else self._token_count,
            elapsed_time=elapsed / 1000 if isinstance(elapsed, int | float) else None,
            is_cancelled=bool(message.is_cancelled),
            done_reason=_field(usage, "doneReason", str),
            usage=_usage(usage) if usage else None,
        )
        if self._settle(result) and (listener := self._listening()) is not None:
            listener.ended(self, result)

    def fail(self, error: WSClientError) -> None:
        """Take the error that ends it; it gets the text received so far."""
        error.text = self.text
        error.id = self.id
        if self._settle(error) and (listener := self._listening()) is not None:
            listener.failed(self, error)

    def _listening(self) -> GenerationListener | None:
        return self._listener() if self._listener is not None else None

    def _settle(self, outcome: GenerationResult | WSClientError) -> bool:
        if not _set(self._done, outcome):
            return False
        self._outcome = outcome
        self._batches.put(None)
        self._wake()
        return True

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    # --- the readers' side --------------------------------------------------------------------------------------------

    @property
    def done(self) -> Future[GenerationResult]:
        """The result, once it is there."""
        self._use_process()
        return self._done

    @property
    def has_ended(self) -> bool:
        """Whether the result is there."""
        self._use_process()
        return self.is_done

    @property
    def is_done(self) -> bool:
        """The same, in the process that filled it; finalizers may ask, for it takes no lock."""
        return self._done.is_done

    def _use_process(self) -> None:
        """End it in a forked child: its tokens go on coming in where it was begun, and nobody would fill it here."""
        if self._process == os.getpid():
            return
        with renewing():
            if self._process == os.getpid():
                return
            # The parent's locks may be held by threads that do not exist here; what came in before the fork stays.
            self._read_lock = threading.Lock()
            self._wakers, self._result_waiters = (), 0
            self._done = Future()
            if self._outcome is None:
                error = inherited_error(f"generation {self.id}")
                error.id, error.text = self.id, "".join(self._text_pieces)
                self._outcome = error
                self._batches.put(None)
            _set(self._done, self._outcome)
            # Last: other threads go by it.
            self._process = os.getpid()

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._joined(self._text_pieces)

    @property
    def thinking(self) -> str:
        """The thinking text so far."""
        return self._joined(self._thinking_pieces)

    def _joined(self, pieces: list[str]) -> str:
        self._use_process()
        # One piece from now on: asking for the text after every token must not join ever more of them. The reader may
        # append meanwhile, so only the pieces that were counted are replaced.
        with self._read_lock:
            count = len(pieces)
            if count > 1:
                pieces[:count] = ["".join(pieces[:count])]
            return pieces[0] if pieces else ""

    def next_batch(self, timeout: float | None = None) -> list[str] | None:
        """Return the next tokens, `None` at the end.

        Args:
            timeout: seconds to wait for them at most.

        Raises:
            queue.Empty: nothing came in that time.
        """
        self._use_process()
        try:
            item = self._batches.get(timeout=timeout)
        except BaseException:
            # Ctrl-C may come right after the get: the end must not be lost for the next one who asks.
            if self.is_done:
                self._batches.put(None)
            raise
        if item is None:
            # For the next one who asks, in this thread or another.
            self._batches.put(None)
            return None
        tokens, cost = item
        self.note_read(cost)
        return tokens

    def note_read(self, cost: int) -> None:
        """Note that somebody took text of this cost."""
        with self._read_lock:
            self._read_cost += cost

    def wait(self, timeout: float | None) -> GenerationResult:
        """Wait for the end; waiting counts as reading."""
        self._use_process()
        with self._read_lock:
            self._result_waiters += 1
        try:
            result: GenerationResult = wait_for(self.done, timeout, f"generation {self.id}")
            return result
        except RequestTimeoutError as error:
            error.id, error.text = self.id, self.text
            raise
        finally:
            with self._read_lock:
                self._result_waiters -= 1
                # Who asks again and again must not find it failed for what came in while they waited.
                self._read_cost = max(self._read_cost, self._received_cost)

    def add_waker(self, wake: Callable[[], None]) -> None:
        """Have a function called, on the reader thread, whenever there is something to read."""
        with self._read_lock:
            self._wakers = (*self._wakers, wake)

    def remove_waker(self, wake: Callable[[], None]) -> None:
        """Take a function out again."""
        with self._read_lock:
            self._wakers = tuple(other for other in self._wakers if other is not wake)


def _field(values: dict[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _seconds(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # JSON's integers have no end, and dividing one that no float can hold raises OverflowError.
    return value / 1000 if abs(value) <= sys.float_info.max else None


def _usage(values: dict[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=_field(values, "promptTokens", int),
        completion_tokens=_field(values, "completionTokens", int),
        total_duration=_seconds(values, "totalDuration"),
        load_duration=_seconds(values, "loadDuration"),
        eval_duration=_seconds(values, "evalDuration"),
    )
