"""Code that runs in the middle of the library's own: signal handlers and finalizers, in whatever thread they fall."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .futures import Future

__all__ = ["is_interruption", "run_aside", "run_whole", "take_ticket"]

_T = TypeVar("_T")

_PACKAGE = __name__.partition(".")[0]
# They hold none of the client's locks while they call it.
_USERS = tuple(f"{_PACKAGE}.{part}" for part in ("cli", "contrib", "gateway", "testing"))
# Callbacks run from here, with no lock held.
_CALLS_BACK = (f"{_PACKAGE}.dispatcher", "_deliver")


def is_interruption() -> bool:
    """Return whether whoever called the library interrupted another call of the library in this very thread.

    Such code must not take a lock: the call below it may hold that very lock, and can only let go of it afterwards.
    """
    frame: FrameType | None = sys._getframe(1)
    # First the call itself, whose own frames mean nothing.
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _CALLS_BACK:
            return False
        if _is_library(frame):
            return True
        frame = frame.f_back
    return False


def _is_library(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.startswith(f"{_PACKAGE}.") and not name.startswith(_USERS)


def take_ticket(ticket: list[bool]) -> bool:
    """Return whether the caller is the one who gets it.

    A thread's `start()` that Ctrl-C ends leaves open whether the thread comes up. Either it takes the ticket and runs,
    or the one that wanted to start it does, and it will not.

    Args:
        ticket: a list with one element.
    """
    try:
        return ticket.pop()
    except IndexError:
        return False


def run_whole(work: Callable[[], None], name: str) -> None:
    """Do something that Ctrl-C must not cut in two; it ends the waiting at once, and the work is done all the same.

    Signals fall into the main thread, so there another thread does the work.

    Args:
        work: what to do; its end is waited for.
        name: the other thread's name.
    """
    if threading.current_thread() is threading.main_thread():
        ticket = [True]

        def run() -> None:
            if take_ticket(ticket):
                work()

        # Daemon: the work may be about to wait, and a program must be able to end meanwhile.
        thread = threading.Thread(target=run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No room for a thread, or (from CPython 3.12 on) the interpreter exits: then by this one after all.
            if not take_ticket(ticket):
                return
        except BaseException:
            # Ctrl-C came before the work, or in it; it must not begin later, when nobody reckons with it any more.
            take_ticket(ticket)
            raise
        else:
            thread.join()
            return
    work()


def run_aside(work: Callable[[], _T], name: str, outcome: Future[_T]) -> _T:
    """Do something in a thread of its own, and wait for it: what it leaves in a thread's stacks goes with that thread.

    Args:
        work: what to do; what it raises is raised here.
        name: the thread's name.
        outcome: settled by the work; whoever settles it before ends the waiting.
    """

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    # Daemon: the work may hang, and a program must be able to end.
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # No room for a thread: here, then.
        run()
    return outcome.result()
