"""One generation: what the reader fills (`GenerationFeed`) and what the user holds (`Generation`).

They are two objects so that dropping the last reference to the second is noticed: the session holds only the first.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Protocol, overload

from .core.messages import StreamEndMessage
from .errors import RequestTimeoutError, WSClientError
from .events import GenerationResult, Usage

if TYPE_CHECKING:
    from .client import WSClient

__all__ = ["Batch", "Generation", "GenerationFeed", "GenerationListener", "Reply", "wait_for"]

# What a token costs in memory besides its text: a str object and its place in a list.
_TOKEN_OVERHEAD = 64


def wait_for(future: Future[Any], timeout: float | None, what: str) -> Any:
    """Wait for a future's result; its own error is raised as a fresh copy, so that many waiters can share it.

    Raises:
        RequestTimeoutError: not there after `timeout` seconds.
        WSClientError: what the future was failed with.
    """
    try:
        return future.result(timeout)
    except WSClientError as error:
        if not future.done():
            raise
        raise error.again() from error.__cause__
    except TimeoutError:
        raise RequestTimeoutError(f"{what} did not end within {timeout:g} s") from None


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
        self.done: Future[GenerationResult] = Future()
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
        if self.done.done():
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
        if self._settle(lambda: self.done.set_result(result)) and (listener := self._listening()) is not None:
            listener.ended(self, result)

    def fail(self, error: WSClientError) -> None:
        """Take the error that ends it; it gets the text received so far."""
        error.text = self.text
        error.id = self.id
        if self._settle(lambda: self.done.set_exception(error)) and (listener := self._listening()) is not None:
            listener.failed(self, error)

    def _listening(self) -> GenerationListener | None:
        return self._listener() if self._listener is not None else None

    def _settle(self, settle: Callable[[], None]) -> bool:
        # The reader and the watchdog (a deadline) may both bring the end; the first one counts.
        try:
            settle()
        except InvalidStateError:
            return False
        self._batches.put(None)
        self._wake()
        return True

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    # --- the readers' side --------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._joined(self._text_pieces)

    @property
    def thinking(self) -> str:
        """The thinking text so far."""
        return self._joined(self._thinking_pieces)

    def _joined(self, pieces: list[str]) -> str:
        # One piece from now on: asking for the text after every token must not join ever more of them. The reader may
        # append meanwhile, so only the pieces that were counted are replaced.
        with self._read_lock:
            count = len(pieces)
            if count > 1:
                pieces[:count] = ["".join(pieces[:count])]
            return pieces[0] if pieces else ""

    def next_batch(self, *, blocking: bool = True) -> list[str] | None:
        """Return the next tokens, `None` at the end.

        Raises:
            queue.Empty: nothing there, and not blocking.
        """
        item = self._batches.get(block=blocking)
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

    def add_waker(self, wake: Callable[[], None]) -> None:
        """Have a function called, on the reader thread, whenever there is something to read."""
        with self._read_lock:
            self._wakers = (*self._wakers, wake)

    def remove_waker(self, wake: Callable[[], None]) -> None:
        """Take a function out again."""
        with self._read_lock:
            self._wakers = tuple(other for other in self._wakers if other is not wake)


class Generation:
    """A generation under way: iterate its tokens, or wait for its `result()`.

    It can be read and stopped from any thread. Leaving a loop over it (`break`, an exception, Ctrl-C) or dropping the
    last reference stops it on the server, without blocking. It keeps its client alive for as long as somebody reads.
    With several iterating threads each token goes to one of them.
    """

    def __init__(self, client: WSClient, feed: GenerationFeed, abandon: Callable[[str], None]) -> None:
        self._client = client
        self._feed = feed
        # Puts a note for the watchdog: it takes no lock, so it is safe in a finalizer.
        self._abandon = abandon
        self._current: Iterator[str] = iter(())

    @property
    def id(self) -> str:
        """The generation's id."""
        return self._feed.id

    @property
    def model(self) -> str | None:
        """The model asked for; the server's choice once it has answered."""
        return self._feed.model

    @property
    def text(self) -> str:
        """The answer received so far, at any time, whoever read it."""
        return self._feed.text

    @property
    def thinking(self) -> str:
        """The thinking text received so far."""
        return self._feed.thinking

    @property
    def is_done(self) -> bool:
        """Whether it ended, one way or another."""
        return self._feed.done.done()

    def __iter__(self) -> Iterator[str]:
        """Iterate the tokens of the answer as they come; blocks between them until the generation's deadlines.

        Raises:
            WSClientError: the generation failed; `text` has what came before.
        """
        # A generator, so that leaving the loop is noticed even while somebody still holds the generation. What an
        # earlier loop left of the last batch comes first.
        try:
            yield from self._current
            while self._advance():
                yield from self._current
            self._raise_error()
        finally:
            self._leave()

    def __next__(self) -> str:
        """Return the next token; blocks as `__iter__`. Raises `StopIteration` at the end, `WSClientError` as there."""
        while True:
            for token in self._current:
                return token
            if not self._advance():
                self._raise_error()
                raise StopIteration

    async def __aiter__(self) -> AsyncIterator[str]:
        """Iterate in an event loop; no thread waits for it, the reader thread wakes the loop.

        Raises:
            WSClientError: the generation failed; `text` has what came before.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        is_ready = asyncio.Event()

        def wake() -> None:
            # A loop that was closed meanwhile has nobody left to wake.
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(is_ready.set)
                except RuntimeError:
                    if not loop.is_closed():
                        raise

        self._feed.add_waker(wake)
        try:
            while True:
                for token in self._current:
                    yield token
                is_ready.clear()
                try:
                    if not self._advance(blocking=False):
                        break
                except queue.Empty:
                    await is_ready.wait()
            self._raise_error()
        finally:
            self._feed.remove_waker(wake)
            self._leave()

    def _advance(self, *, blocking: bool = True) -> bool:
        batch = self._feed.next_batch(blocking=blocking)
        if batch is None:
            return False
        self._current = iter(batch)
        return True

    def _raise_error(self) -> None:
        error = self._feed.done.exception()
        if isinstance(error, WSClientError):
            raise error.again() from error.__cause__

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end and return the whole result; blocks until then, bounded by the generation's deadlines.

        It takes no tokens away from a loop in another thread. Ctrl-C stops the generation.

        Args:
            timeout: seconds to wait at most; the generation goes on after that.

        Raises:
            RequestTimeoutError: it did not end in time.
            WSClientError: it failed; `text` has what came before.
        """
        try:
            return self._feed.wait(timeout)
        except KeyboardInterrupt:
            self._leave()
            raise

    def stop(self) -> bool:
        """Stop it and wait for the server's acknowledgement, `request_timeout` at most.

        Returns:
            Whether it was still running; the loop over it then ends, and its result `is_cancelled`.

        Raises:
            WSClientError: as `WSClient.stop_generation`.
        """
        return self._client.stop_generation(self)

    def close(self) -> None:
        """Stop it if it is still running, without waiting; idempotent."""
        self._leave()

    def _leave(self) -> None:
        if not self._feed.done.done():
            self._abandon(self._feed.id)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def __del__(self) -> None:
        # Not there when __init__ itself failed.
        if hasattr(self, "_abandon"):
            self._leave()

    def __repr__(self) -> str:
        state = "done" if self.is_done else "running"
        return f"<Generation {self.id} {self.model or 'default model'} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Generation cannot be pickled: it belongs to a live connection; pickle its result() instead")


class Reply:
    """The answer to a batch item that is not a generation."""

    def __init__(self, id: str, future: Future[Any], convert: Callable[[Any], Any]) -> None:
        self.id = id
        self._future = future
        self._convert = convert

    @property
    def is_done(self) -> bool:
        """Whether the answer is there."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer: a list of models, or a ping's round trip in seconds.

        Args:
            timeout: seconds to wait at most.

        Raises:
            RequestTimeoutError: it did not come in time.
            WSClientError: the item failed.
        """
        return self._convert(wait_for(self._future, timeout, f"request {self.id}"))


class Batch(Sequence["Generation | Reply"]):
    """The handles of a batch, one an item, in order; each has `.id`, `.is_done` and `.result(timeout)`."""

    def __init__(self, items: Sequence[Generation | Reply]) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Generation | Reply: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Generation | Reply]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def results(self, *, return_errors: bool = False) -> list[Any]:
        """Wait for all items and return their results in order.

        Args:
            return_errors: put an item's error in its place instead of raising it.

        Raises:
            WSClientError: the first item's error, in order.
        """
        results: list[Any] = []
        for item in self._items:
            try:
                results.append(item.result())
            except WSClientError as error:
                if not return_errors:
                    raise
                results.append(error)
        return results


def _field(values: dict[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _seconds(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) else None


def _usage(values: dict[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=_field(values, "promptTokens", int),
        completion_tokens=_field(values, "completionTokens", int),
        total_duration=_seconds(values, "totalDuration"),
        load_duration=_seconds(values, "loadDuration"),
        eval_duration=_seconds(values, "evalDuration"),
    )
