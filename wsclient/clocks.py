"""Whether the machine slept: a suspended laptop's connections look alive, and nobody may be at their other end."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["SleepWatch"]

# Below this it is the scheduler's doing: the two clocks are read one after the other.
_SLEPT = 1.0


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def _read_boottime() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class SleepWatch:
    """Notices that the machine was suspended since it was asked last.

    `CLOCK_BOOTTIME` goes on while the machine sleeps, the monotonic clock stands still. Without the former (it is
    Linux's) a sleep goes unnoticed until the next ping is due.

    Args:
        boottime: reads the clock that goes on, in seconds.
        monotonic: reads the clock that stands still, in seconds.
    """

    def __init__(
        self, boottime: Callable[[], float] = _read_boottime, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._boottime = boottime
        self._monotonic = monotonic
        self._ahead = self._read()

    def _read(self) -> float:
        return self._boottime() - self._monotonic()

    def has_slept(self) -> bool:
        """Return whether it slept for a second or more since the last call; two reads of a clock, no more."""
        before, self._ahead = self._ahead, self._read()
        return self._ahead - before >= _SLEPT
