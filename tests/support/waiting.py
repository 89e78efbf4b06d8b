"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

_T = TypeVar("_T")


def wait_until(condition: Callable[[], _T], timeout: float = 5.0) -> _T:
    """Wait until a condition holds, and return what it returned.

    Args:
        condition: asked every few milliseconds; anything true ends the wait.
        timeout: seconds until the test fails.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{getattr(condition, '__name__', 'the condition')} did not hold within {timeout} s")
        time.sleep(0.002)
