"""The watchdog thread of a client: it wakes when something is due (a probe, a deadline, a dial) or noted.

Notes come by a queue that is safe everywhere: `SimpleQueue.put` takes no lock that the collector could be inside of, so
finalizers and signal-time code may use it. Its `get(timeout)` is also the watchdog's sleep, so an idle client's thread
sleeps until the next probe is due.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from .interruptions import take_ticket
from .logs import Logger

if TYPE_CHECKING:
    from .line import Line

__all__ = ["Watchdog"]

_logger = Logger("wsclient.watchdog")

_LONGEST_SLEEP = 3600.0


@attrs.frozen(eq=False, repr=False)
class Abandon:
    """Note: nobody reads the generation any more."""

    id: str


@attrs.frozen(eq=False, repr=False)
class CloseDown:
    """Note: the client was dropped without a close."""


@attrs.frozen(eq=False, repr=False)
class Wake:
    """Note: something became due earlier than planned."""


@attrs.frozen(eq=False, repr=False)
class _Stop:
    """Note: the thread is to end."""


_Notes: TypeAlias = "queue.SimpleQueue[Abandon | CloseDown | Wake | _Stop]"


class Watchdog:
    """A client's watchdog; started with its first connection attempt, ended by a close.

    Attributes:
        wakes_at: monotonic time of the next planned wake-up; read and set under the connection's lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._notes: _Notes = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.wakes_at = math.inf

    def ensure_started(self, line: Line) -> None:
        """Start the thread if it does not run. The caller holds the connection's lock."""
        if self._thread is None:
            # Who takes the ticket decides: the thread, which runs then, or this one, which starts another next time.
            ticket = [True]
            # Daemon: it sleeps for long, and a program must be able to end meanwhile.
            self._thread = threading.Thread(
                target=_run, args=(ticket, self._notes, line), name=f"wsclient-watchdog-{self._name}", daemon=True
            )
            try:
                self._thread.start()
            except BaseException:
                # No room for a thread now, or Ctrl-C: it may never come up, or only later.
                if take_ticket(ticket):
                    self._thread = None
                raise

    def note(self, note: Abandon | CloseDown | Wake) -> None:
        """Leave a note; never blocks, takes no lock, from any thread or finalizer."""
        # Without a thread there is no connection either, and notes that nobody reads would pile up.
        if self._thread is not None:
            self._notes.put(note)

    def detach(self) -> threading.Thread | None:
        """Tell the thread to end and return it, for a join. The caller holds the connection's lock."""
        thread, self._thread = self._thread, None
        if thread is not None:
            # The next thread gets a queue of its own, or it might take this one's note to end.
            notes, self._notes = self._notes, queue.SimpleQueue()
            notes.put(_Stop())
        return thread


def _run(ticket: list[bool], notes: _Notes, line: Line) -> None:
    if not take_ticket(ticket):
        return
    while True:
        pause = line.plan_wake_up()
        try:
            note: Abandon | CloseDown | Wake | _Stop | None = notes.get(timeout=min(max(pause, 0.0), _LONGEST_SLEEP))
        except queue.Empty:
            note = Wake()
        while note is not None:
            if isinstance(note, _Stop):
                return
            _guarded(_handle, note, line)
            # All that wait, before one look at the deadlines: each costs as much as there are open requests, and a
            # program that drops thousands of generations at once leaves as many notes.
            note = None if notes.empty() else notes.get()
        _guarded(line.tick, time.monotonic())


def _guarded(do: Callable[..., None], *arguments: Any) -> None:
    try:
        do(*arguments)
    except Exception:
        # Nobody else would notice dead lines and deadlines, so the thread survives its own bugs.
        _logger.exception("the watchdog thread met an unexpected error")


def _handle(note: Abandon | CloseDown | Wake, line: Line) -> None:
    if isinstance(note, Abandon):
        line.abandon(note.id)
    elif isinstance(note, CloseDown):
        line.close()
