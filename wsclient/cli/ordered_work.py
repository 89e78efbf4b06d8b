"""Work that several threads do, with its results in the order of the items, and bounded in how far it runs ahead."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

__all__ = ["OrderedWork"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Items begun for each thread and not handed over yet: one that takes long must not make the others wait at once, and
# must not let results pile up for ever.
_AHEAD = 8
_TICK = 0.1


class OrderedWork(Generic[_Item, _Result]):
    """Applies a function to items, several at a time.

    Args:
        function: called on threads of its own; what it raises is raised at its turn.
        items: taken one by one, on the thread that asks for results; `None` says that there is none just now.
        parallel: how many threads.
        tick: called by who waits for a result, or an item, about ten times a second.
    """

    def __init__(
        self,
        function: Callable[[_Item], _Result],
        items: Iterable[_Item | None],
        parallel: int,
        tick: Callable[[], None],
    ) -> None:
        self._function = function
        self._items = iter(items)
        self._tick = tick
        self._room = parallel * _AHEAD
        self._begun: collections.deque[Future[_Result]] = collections.deque()
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="wsclient-work")

    def results(self) -> Iterator[_Result]:
        """Yield the results in the order of the items."""
        is_at_end = False
        while not is_at_end or self._begun:
            is_at_end = is_at_end or self._begin()
            if not self._begun or not wait([self._begun[0]], _TICK).done:
                self._tick()
            while self._begun and self._begun[0].done():
                # Left in its place until it was handed over: an interruption before that must not lose it.
                yield self._begun[0].result()
                self._begun.popleft()
        self._pool.shutdown()

    def _begin(self) -> bool:
        """Begin as many items as there is room for; return whether these were the last."""
        while len(self._begun) < self._room:
            try:
                item = next(self._items)
            except StopIteration:
                return True
            if item is None:
                break
            self._begun.append(self._pool.submit(self._function, item))
        return False

    def stop(self) -> list[_Result]:
        """Begin nothing more, wait for the threads, and return what they have finished without a gap, in order.

        The caller sees to it that the function returns soon. A result that is being handled when this is called is
        among them.
        """
        self._pool.shutdown(cancel_futures=True)
        finished = []
        for future in self._begun:
            if future.cancelled() or future.exception() is not None:
                break
            finished.append(future.result())
        return finished
