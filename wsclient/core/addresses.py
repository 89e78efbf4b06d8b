"""Where a client dials next, when its gateway can be reached at several addresses.

A round is every address once, in order, with no pause between them; the backoff pauses between rounds. After a loss the
next round begins behind the address that was lost, so that a gateway that logs in and drops is not asked again before
all others were.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import attrs

from ..errors import (
    ClientClosedError,
    ConnectionFailedError,
    InvalidAuthError,
    InvalidKeyError,
    WSClientError,
    may_reconnect,
)

__all__ = ["Addresses", "Target"]


@attrs.frozen
class Target:
    """One place to dial.

    Attributes:
        url: the gateway's URL.
        address: the IP address to dial instead of the URL's host name, which still is the name in TLS and HTTP;
            `None` before it was resolved, and where that is left to a proxy.
    """

    url: str
    address: str | None = None


class Addresses:
    """The addresses of a client's gateway, and how far the present round got.

    Args:
        urls: the gateway's URLs, at least one; a name that resolves to several addresses counts as that many.

    Attributes:
        current: what is in use, or was dialled last.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self.current = Target(self._urls[0])
        self._pending: collections.deque[Target] = collections.deque()
        self._failures: list[tuple[Target, WSClientError]] = []
        # Where the last login went through; it comes last in the next round.
        self._reached: Target | None = None

    def next(self) -> Target:
        """Return what to dial now: the next of the round under way, or the first of a new one."""
        if not self._pending:
            self.end_round()
            first = self._urls.index(self._reached.url) + 1 if self._reached is not None else 0
            self._pending.extend(Target(url) for url in self._urls[first:] + self._urls[:first])
        self.current = self._pending.popleft()
        return self.current

    def resolved(self, addresses: Sequence[str]) -> Target:
        """Take the addresses that the current URL's host name has; the others follow in this round.

        Returns:
            What to dial: the first of them, or what was current when there are none.
        """
        if addresses:
            url, reached = self.current.url, self._reached
            targets = [Target(url, address) for address in addresses]
            if reached in targets:
                first = targets.index(reached) + 1
                targets = targets[first:] + targets[:first]
            self.current = targets[0]
            self._pending.extendleft(reversed(targets[1:]))
        return self.current

    def failed(self, error: WSClientError) -> WSClientError | None:
        """Note that an attempt at the current one failed.

        Returns:
            `None` when the next one is to be dialled at once; else what it all came to, and the round is over: because
            all were tried, or because no other address could say anything else.
        """
        self._failures.append((self.current, error))
        # All addresses lead to one system: a wrong key is wrong everywhere.
        if isinstance(error, InvalidAuthError | InvalidKeyError | ClientClosedError):
            self.end_round()
            return error
        return None if self._pending else self._outcome()

    def reached_current(self) -> None:
        """Note that the login went through."""
        self.end_round()
        self._reached = self.current

    def end_round(self) -> None:
        """Give the present round up: the next dial begins a new one."""
        self._pending.clear()
        # Not for later: they keep the frames that they were raised in.
        self._failures.clear()

    def start_over(self) -> None:
        """Forget where the last login went through: the next round begins with the first address."""
        self.end_round()
        self._reached = None

    def _outcome(self) -> WSClientError:
        """Return the error of a whole round: the only one, or one that names each address."""
        errors = [error for _, error in self._failures]
        if len({error.message for error in errors}) == 1:
            return max(reversed(errors), key=lambda error: (may_reconnect(error), error.retry_after or 0.0))
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else ConnectionFailedError
        told = "; ".join(
            error.message + (f" (at {target.address})" if target.address else "") for target, error in self._failures
        )
        waits = [error.retry_after for error in errors if error.retry_after is not None]
        outcome = kind(
            f"none of {len(errors)} addresses let the client in: {told}",
            retryable=any(may_reconnect(error) for error in errors),
            # The longest: nobody is asked again before the time that it named.
            retry_after=max(waits, default=None),
        )
        outcome.__cause__ = errors[-1]
        return outcome
