"""The pauses between reconnect attempts (seed section "Reconnection Behavior")."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["JITTER", "Backoff"]

JITTER = 0.2


class Backoff:
    """Exponential backoff with proportional jitter.

    The pause doubles by multiplication with a cap, never by a power: a power overflows near attempt 1,025.

    Args:
        first_delay: seconds before the first attempt, jitter aside.
        max_delay: seconds that no pause exceeds, jitter included.
        max_attempts: how many attempts in a row, `None` for ever.
        random: returns a number from 0 to 1; dice are not rolled here.

    Attributes:
        attempts: attempts begun since the last `reset()`.
        last_delay: the last pause given, in seconds.
    """

    __slots__ = ("_first_delay", "_max_attempts", "_max_delay", "_next", "_random", "attempts", "last_delay")

    def __init__(
        self, first_delay: float, max_delay: float, max_attempts: int | None, random: Callable[[], float]
    ) -> None:
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._max_attempts = max_attempts
        self._random = random
        self.reset()

    def reset(self) -> None:
        """Start over, after a connection that held."""
        self._next = min(self._first_delay, self._max_delay)
        self.attempts = 0
        self.last_delay = 0.0

    @property
    def is_exhausted(self) -> bool:
        """Whether all attempts are used up."""
        return self._max_attempts is not None and self.attempts >= self._max_attempts

    def next_delay(self, retry_after: float | None = None) -> float:
        """Count an attempt and return the seconds to wait before it.

        Args:
            retry_after: what the server asked for, in seconds; never waited less than that.
        """
        # Near the cap only the upper side is cut, and the range below it is used evenly: clipping would send half of
        # all clients back at the very same moment.
        low = self._next * (1 - JITTER)
        high = min(self._next * (1 + JITTER), self._max_delay)
        self._next = min(self._next * 2, self._max_delay)
        self.attempts += 1
        # Rounding can carry the sum one step over the cap.
        self.last_delay = min(low + (high - low) * self._random(), high)
        if retry_after is not None:
            self.last_delay = max(self.last_delay, retry_after)
        return self.last_delay
