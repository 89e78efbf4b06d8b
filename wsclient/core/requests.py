"""The open requests: who waits, and until when."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import attrs

__all__ = ["OpenRequest", "RequestKind", "RequestTable"]


class RequestKind(StrEnum):
    """What was asked for."""

    MODELS = "models"
    PING = "ping"
    STOP = "stop"
    GENERATION = "generation"


@attrs.define(slots=True, eq=False)
class OpenRequest:
    """A request that the server still owes an answer; all times in seconds of one monotonic clock.

    Attributes:
        id: the request's id on the wire.
        kind: what was asked for.
        sink: where the outcome goes.
        answer_timeout: until the answer; for a generation until its first token.
        token_timeout: between two tokens.
        total_timeout: in all, `None` for no bound.
        previous: the batch item before this one: a server works through a batch in sequence, so the clock of this one
            starts when that one ended.
        started_at: when the clock started, `None` while it waits for `previous`.
        opened_at: when it was filed, right before it was sent.
        last_token_at: when the last token came in, `None` before the first.
    """

    id: str
    kind: RequestKind
    sink: Any
    answer_timeout: float
    token_timeout: float = math.inf
    total_timeout: float | None = None
    previous: OpenRequest | None = None
    next: OpenRequest | None = None
    started_at: float | None = None
    opened_at: float = 0.0
    last_token_at: float | None = None

    @property
    def is_generation(self) -> bool:
        """Whether it answers with a stream."""
        return self.kind is RequestKind.GENERATION

    def deadline(self) -> float:
        """Return when it is given up; infinity while its clock has not started."""
        if self.started_at is None:
            return math.inf
        if self.last_token_at is None:
            silence = self.started_at + self.answer_timeout
        else:
            silence = self.last_token_at + self.token_timeout
        return silence if self.total_timeout is None else min(silence, self.started_at + self.total_timeout)

    def describe_timeout(self) -> str:
        """Return what did not come in time, for the error's text."""
        if not self.is_generation:
            return f"no answer to {self.kind} within {self.answer_timeout:g} s"
        started, total = self.started_at or 0.0, self.total_timeout
        if total is not None and self.deadline() == started + total:
            return f"the generation did not end within {total:g} s"
        if self.last_token_at is None:
            return f"no first token within {self.answer_timeout:g} s"
        return f"no further token within {self.token_timeout:g} s"


class RequestTable:
    """The open requests by id.

    Attributes:
        new_due: the earliest deadline of a batch item whose clock started; the session resets it.
    """

    def __init__(self) -> None:
        self._open: dict[str, OpenRequest] = {}
        self.new_due = math.inf

    def open(self, requests: Iterable[OpenRequest], now: float) -> None:
        """File requests.

        Args:
            requests: one, or the items of a batch in order.
            now: the time, from which the first one's clock runs unless it was started before.
        """
        previous: OpenRequest | None = None
        for request in requests:
            self._open[request.id] = request
            request.opened_at = now
            if previous is None:
                request.started_at = now if request.started_at is None else request.started_at
            else:
                request.previous, previous.next = previous, request
            previous = request

    def get(self, id: str) -> OpenRequest | None:
        """Return a request, `None` when it is not open."""
        return self._open.get(id)

    def finish(self, id: str, now: float) -> OpenRequest | None:
        """Take a request out and start the clock of the batch item after it; `None` when it is not open."""
        request = self._open.pop(id, None)
        if request is None:
            return None
        before, after = request.previous, request.next
        request.previous = request.next = None
        if before is not None:
            before.next = after
        if after is not None:
            after.previous = before
            if before is None:
                after.started_at = now
                self.new_due = min(self.new_due, after.deadline())
        return request

    def take_all(self) -> list[OpenRequest]:
        """Take all requests out, in the order they were opened."""
        requests = list(self._open.values())
        self._open.clear()
        for request in requests:
            request.previous = request.next = None
        return requests

    def next_deadline(self) -> float:
        """Return the earliest deadline, infinity when there is none."""
        return min((request.deadline() for request in self._open.values()), default=math.inf)

    def overdue(self, now: float) -> list[OpenRequest]:
        """Return the requests whose deadline has passed; they stay open."""
        return [request for request in self._open.values() if request.deadline() <= now]

    def generations(self) -> list[str]:
        """Return the ids of the open generations, in the order they were opened."""
        return [request.id for request in self._open.values() if request.is_generation]

    def count(self, *, generations: bool) -> int:
        """Return how many generations, or how many other requests, are open."""
        return sum(request.is_generation is generations for request in self._open.values())
