"""What the user holds: a generation under way, and the handles of a batch.

A `Generation` reads a `GenerationFeed`, which is all that the session holds: so dropping the last reference is noticed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from .errors import WSClientError
from .events import GenerationResult
from .feed import GenerationFeed, inherited_error, wait_for
from .futures import Future

if TYPE_CHECKING:
    import asyncio

    from .client import WSClient

__all__ = ["Batch", "Generation", "Reply"]

# What no token is equal to.
_NO_TOKEN = object()


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
        # Tokens handed over and not read yet: shared by all loops, and what a loop that was left leaves for the next.
        self._tokens: collections.deque[str] = collections.deque()

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
        return self._feed.has_ended

    def __iter__(self) -> Iterator[str]:
        """Iterate the tokens of the answer as they come; blocks between them until the generation's deadlines.

        Raises:
            WSClientError: the generation failed; `text` has what came before.
        """
        # A generator, so that leaving the loop is noticed even while somebody still holds the generation.
        try:
            while self._tokens or self._advance():
                # This runs in C from token to token, and ends with the deque's IndexError.
                try:  # noqa: SIM105 - suppress() costs more than the token
                    yield from iter(self._tokens.popleft, _NO_TOKEN)
                except IndexError:
                    pass
            self._raise_error()
        finally:
            self._leave()

    def __next__(self) -> str:
        """Return the next token; blocks as `__iter__`. Raises `StopIteration` at the end, `WSClientError` as there.

        Ctrl-C stops the generation.
        """
        try:
            while True:
                try:
                    return self._tokens.popleft()
                except IndexError:
                    pass
                if not self._advance():
                    self._raise_error()
                    raise StopIteration
        except KeyboardInterrupt:
            self._leave()
            raise

    async def __aiter__(self) -> AsyncIterator[str]:
        """Iterate in an event loop; no thread waits for it, the reader thread wakes the loop.

        Raises:
            WSClientError: the generation failed; `text` has what came before.
        """
        try:
            with self._waking() as is_ready:
                while True:
                    while self._tokens:
                        try:
                            token = self._tokens.popleft()
                        except IndexError:
                            # Another thread was faster.
                            break
                        yield token
                    is_ready.clear()
                    try:
                        if not self._advance(timeout=0):
                            break
                    except queue.Empty:
                        await is_ready.wait()
            self._raise_error()
        finally:
            self._leave()

    def read(self, timeout: float | None = None) -> str | None:
        """Return all text of the answer that came in and nobody has read yet; for who has something to do meanwhile.

        It shares its tokens with the loops: what is read here is not seen there. Leaving is not noticed, so put it into
        a `with generation:`, which stops the generation when it is left. Ctrl-C stops it too.

        Args:
            timeout: seconds to wait for text at most; 0 takes what is there.

        Returns:
            The text; an empty one when none came in that time; `None` at the end.

        Raises:
            WSClientError: the generation failed; `text` has what came before.
            ValueError: the time-out is negative.
        """
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout is {timeout:g}; it must not be negative")
        pieces: list[str] = []
        try:
            while True:
                # It ends when the last one is taken, by another thread perhaps.
                with contextlib.suppress(IndexError):
                    while True:
                        pieces.append(self._tokens.popleft())
                if not self._advance(0 if pieces else timeout):
                    break
        except queue.Empty:
            return "".join(pieces)
        except KeyboardInterrupt:
            # For the next who reads.
            self._tokens.extendleft(reversed(pieces))
            self._leave()
            raise
        if pieces:
            return "".join(pieces)
        self._raise_error()
        return None

    async def aread(self, timeout: float | None = None) -> str | None:
        """Read as `read()` does, in an event loop, without blocking it; a cancellation does not stop the generation.

        Args:
            timeout: seconds to wait for text at most.

        Returns:
            As `read()`.

        Raises:
            WSClientError, ValueError: as `read()`.
        """
        import asyncio

        with self._waking() as is_ready:
            if (text := self.read(0)) != "":
                return text
            try:
                await asyncio.wait_for(is_ready.wait(), timeout)
            except TimeoutError:
                return ""
            return self.read(0)

    @contextlib.contextmanager
    def _waking(self) -> Iterator[asyncio.Event]:
        """Have an event of the running loop set by the reader thread whenever there is something to read."""
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
            yield is_ready
        finally:
            self._feed.remove_waker(wake)

    def _advance(self, timeout: float | None = None) -> bool:
        batch = self._feed.next_batch(timeout)
        if batch is None:
            return False
        self._tokens.extend(batch)
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
        try:
            return self._client.stop_generation(self)
        except KeyboardInterrupt:
            # The server may not have been told yet.
            self._leave()
            raise

    def close(self) -> None:
        """Stop it if it is still running, without waiting; idempotent."""
        self._leave()

    def _leave(self) -> None:
        if not self._feed.is_done:
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
        self._process = os.getpid()

    @property
    def is_done(self) -> bool:
        """Whether the answer is there."""
        return self._future.is_done

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer: a list of models, or a ping's round trip in seconds.

        Args:
            timeout: seconds to wait at most.

        Raises:
            RequestTimeoutError: it did not come in time.
            WSClientError: the item failed.
        """
        if self._process != os.getpid():
            # Its answer comes in where it was asked for.
            raise inherited_error(f"request {self.id}")
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
