"""Who may try to log in, and when again: the blocking of repeated failures (protocol.md section 1); and who may ask.

Pure: the clock is passed in, and any clock that only goes forward will do.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from typing import Protocol

import attrs

__all__ = ["CannotCountError", "Guard", "LoginGuard", "Refusal", "RequestGuard", "blocked_message"]

# Longer ids are kept as their hash: 10,000 ids as long as a frame would be 80 MB of a stranger's choosing.
_MAX_ID_CHARS = 64

_MINUTE = 60.0


def blocked_message(seconds: int) -> str:
    """Return the original's text for a blocked login.

    Args:
        seconds: until the next try.
    """
    return f"Too many authentication attempts. Please try again in {seconds} seconds."


@attrs.frozen(slots=True)
class Refusal:
    """What a failed login is told.

    Attributes:
        remaining_attempts: how many failures more before it is blocked; 0 when it is.
        retry_after: seconds until the next try counts, `None` while it is not blocked.
    """

    remaining_attempts: int
    retry_after: int | None = None


class CannotCountError(Exception):
    """Nothing can be counted now, because the store that several gateways share does not answer.

    Args:
        retry_after: seconds after which another try can make sense.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"nothing can be counted for {retry_after} s")
        self.retry_after = retry_after


class Guard(Protocol):
    """Counts failed logins per address and client id, for one gateway or for several together.

    Each method raises `CannotCountError` when it cannot be done now; then nobody logs in.
    """

    async def blocked_for(self, address: str, client_id: str) -> int | None:
        """Return how long this login is still blocked (`LoginGuard.blocked_for`)."""

    async def failure(self, address: str, client_id: str) -> Refusal:
        """Count a failed login and return what to tell it (`LoginGuard.failure`)."""

    async def success(self, address: str, client_id: str) -> None:
        """Clear what was counted against this login (`LoginGuard.success`)."""


@attrs.define(slots=True)
class _Record:
    failures: int
    blocked_until: float
    expires: float


class LoginGuard:
    """Counts failed logins per address and client id.

    The fifth failure in a row blocks for 16 seconds, the next one after that for 32, and so on: 2^(failures - 1)
    seconds, at most 1800. A try while blocked counts for nothing, right or wrong; a success clears. Failures are
    forgotten when nothing was heard for `max_block` seconds after the block.

    Not thread-safe: it belongs to the gateway's event loop.

    Args:
        max_attempts: the failure that blocks first.
        max_block: the longest block, in seconds.
        max_entries: how many pairs of address and client id are remembered; the oldest is forgotten first.
    """

    def __init__(self, max_attempts: int = 5, max_block: float = 1800.0, max_entries: int = 10_000) -> None:
        for name, value in (("max_attempts", max_attempts), ("max_block", max_block), ("max_entries", max_entries)):
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1 (got {value})")
        self._max_attempts = max_attempts
        self._max_block = max_block
        self._max_entries = max_entries
        # In the order of their last failure, so that the oldest is always first.
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def blocked_for(self, address: str, client_id: str, now: float) -> int | None:
        """Return how long this login is still blocked; ask before looking at the signature.

        Args:
            address: the peer's address.
            client_id: the client id as it came, known or not.
            now: the time in seconds.

        Returns:
            Whole seconds, rounded up; `None` when it is not blocked.
        """
        record = self._record(address, client_id, now)
        return None if record is None else _seconds_left(record, now)

    def failure(self, address: str, client_id: str, now: float) -> Refusal:
        """Count a failed login and return what to tell it.

        Args:
            address: the peer's address.
            client_id: the client id as it came, known or not.
            now: the time in seconds.
        """
        record = self._record(address, client_id, now)
        if record is None:
            record = _Record(failures=0, blocked_until=-math.inf, expires=now)
        elif (left := _seconds_left(record, now)) is not None:
            return Refusal(0, left)
        record.failures += 1
        pause = self._pause(record.failures)
        if pause > 0:
            record.blocked_until = now + pause
        record.expires = now + pause + self._max_block
        key = _key(address, client_id)
        self._records[key] = record
        self._records.move_to_end(key)
        self._forget(now)
        return Refusal(max(0, self._max_attempts - record.failures), _seconds_left(record, now))

    def success(self, address: str, client_id: str) -> None:
        """Clear what was counted against this login.

        Args:
            address: the peer's address.
            client_id: the client that logged in.
        """
        self._records.pop(_key(address, client_id), None)

    def _record(self, address: str, client_id: str, now: float) -> _Record | None:
        record = self._records.get(_key(address, client_id))
        return None if record is None or record.expires <= now else record

    def _pause(self, failures: int) -> float:
        if failures < self._max_attempts:
            return 0.0
        # 2 to the 63rd is beyond every limit; a larger power only makes a larger number.
        return min(self._max_block, float(2 ** min(failures - 1, 63)))

    def _forget(self, now: float) -> None:
        # Two at most for each one added is enough to shrink, and no single login pays for a big cleaning.
        for _ in range(2):
            if not self._records:
                return
            oldest = next(iter(self._records))
            if len(self._records) <= self._max_entries and self._records[oldest].expires > now:
                return
            del self._records[oldest]


class RequestGuard:
    """Counts requests per client, over all its connections: so many within any sixty seconds, and no more.

    One that is turned away does not count, so that who asks too often is served again as soon as who waits.

    Not thread-safe: it belongs to the gateway's event loop.
    """

    def __init__(self) -> None:
        # When each client was admitted; no longer than its limit. In the order of the last time, the oldest first.
        self._admitted: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._admitted)

    def admit(self, client_id: str, per_minute: int, now: float) -> int | None:
        """Count a request, or turn it away.

        Args:
            client_id: who asks.
            per_minute: how many it may; another number than before counts from the next request on.
            now: the time in seconds.

        Returns:
            `None` when it is admitted; else in how many whole seconds, rounded up, the next one will be.
        """
        times = self._admitted.setdefault(client_id, deque())
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if len(times) >= per_minute:
            # The one whose minute must be over, so that one less than the limit are left.
            blocking = times[len(times) - per_minute] if per_minute else now
            return max(1, math.ceil(blocking + _MINUTE - now - 0.001))
        times.append(now)
        self._admitted.move_to_end(client_id)
        self._forget(now)
        return None

    def _forget(self, now: float) -> None:
        # Two at most for each one added, as in LoginGuard.
        for _ in range(2):
            oldest, times = next(iter(self._admitted.items()))
            if times and times[-1] > now - _MINUTE:
                return
            del self._admitted[oldest]


def _seconds_left(record: _Record, now: float) -> int | None:
    if record.blocked_until <= now:
        return None
    # A millisecond off, because (now + 16.0) - now can be a hair more than 16, and 17 would be announced.
    return max(1, math.ceil(record.blocked_until - now - 0.001))


def _key(address: str, client_id: str) -> tuple[str, str]:
    if len(client_id) > _MAX_ID_CHARS:
        client_id = "sha256:" + hashlib.sha256(client_id.encode(errors="surrogatepass")).hexdigest()
    return address, client_id
