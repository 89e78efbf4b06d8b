"""What a request comes to."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

from .interruptions import take_ticket

__all__ = ["Future"]

_T = TypeVar("_T")


class Future(Generic[_T]):
    """A request's outcome: settled once, by whoever is first, and waited for by any number of threads.

    Not the one of `concurrent.futures`, whose condition is written in Python: Ctrl-C inside of it can leave its lock
    taken for good, and it takes 5 of the 60 microseconds that a round trip costs (measured).
    """

    __slots__ = ("_error", "_lock", "_ticket", "_value", "is_done")

    def __init__(self) -> None:
        # Taken until there is an outcome: who waits for that takes it, and passes it on at once.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._ticket = [True]
        self._value: Any = None
        self._error: BaseException | None = None
        self.is_done = False

    def set_result(self, value: _T) -> bool:
        """Settle it with a value; return whether it was not settled before."""
        return self._settle(value, None)

    def set_exception(self, error: BaseException) -> bool:
        """Settle it with an error; return whether it was not settled before."""
        return self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        # The reader and the watchdog (a deadline) may both bring the end.
        if not take_ticket(self._ticket):
            return False
        self._value, self._error = value, error
        self.is_done = True
        self._lock.release()
        return True

    def exception(self) -> BaseException | None:
        """Wait for the outcome and return its error, `None` when it is a value."""
        self._wait(None)
        return self._error

    def result(self, timeout: float | None = None) -> _T:
        """Wait for the outcome and return its value.

        Args:
            timeout: seconds; for ever when left out.

        Raises:
            TimeoutError: there is none yet.
            BaseException: what it was settled with.
        """
        if not self._wait(timeout):
            raise TimeoutError("no outcome yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def _wait(self, timeout: float | None) -> bool:
        if self.is_done:
            return True
        taken: list[bool] = []
        seconds = -1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        try:
            # One step for Ctrl-C: a lock that was taken and not noted as taken would keep all others waiting.
            taken.extend(map(self._lock.acquire, (True,), (seconds,)))
        finally:
            if taken and taken[0]:
                self._lock.release()
        return self.is_done
