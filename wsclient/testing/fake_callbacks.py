"""Callbacks in the thread that makes them due, and the rule that they still come one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..dispatcher import Callbacks, EventKind, _deliver, _Delivery

__all__ = ["FakeCallbacks", "take_in_turn"]

_T = TypeVar("_T")


def take_in_turn(items: queue.SimpleQueue[_T], turn: threading.Lock, take: Callable[[_T], object]) -> None:
    """Take what is queued, in one thread at a time; whoever comes meanwhile leaves theirs to that one."""
    # Asked again after the release: somebody may have come between the last look and that.
    while not items.empty() and turn.acquire(blocking=False):
        try:
            while not items.empty():
                take(items.get())
        finally:
            turn.release()


class FakeCallbacks(Callbacks):
    """The subscriptions of a `FakeClient`: the real ones, with nobody but the callers to deliver."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._turn = threading.Lock()

    def _ensure_thread(self) -> None:
        """Start none."""

    def subscribe(self, kind: EventKind, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Subscribe, and deliver what was missed."""
        unsubscribe = super().subscribe(kind, callback)
        self.deliver()
        return unsubscribe

    def deliver(self) -> None:
        """Call whoever has something to hear; no lock of the library's may be held."""
        take_in_turn(self._queue, self._turn, _take)


def _take(delivery: _Delivery | None) -> None:
    if delivery is not None:
        _deliver(delivery)
