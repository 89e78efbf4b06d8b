"""Code that runs in the middle of the library's own: signal handlers and finalizers, in whatever thread they fall."""

from __future__ import annotations

import sys
from types import FrameType

__all__ = ["is_interruption"]

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
