"""Who may use one model now, who waits, and who is turned away. Pure: no clock, no event loop.

Turns are fair between clients, whoever asks how often: a free place goes to the waiting client with the fewest
generations running, in rotation among equals; and when the waiting room is full, the client that fills it most makes
room for one that has less in it.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["Entry", "FairQueue"]

T = TypeVar("T")


class Entry(Enum):
    """What becomes of who asks for a turn."""

    RUNS = "runs"
    WAITS = "waits"
    REFUSED = "refused"


class FairQueue(Generic[T]):
    """The generations of one model.

    Args:
        max_running: how many at the same time.
        max_waiting: how many may wait for their turn.

    Attributes:
        max_running: may be changed at any time; who has a turn keeps it.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self._max_waiting = max_waiting
        self._running: dict[T, str] = {}
        self._per_client: Counter[str] = Counter()
        # In the order of their turns. A client without anything waiting is not in it.
        self._waiting: dict[str, deque[T]] = {}
        self._waiting_count = 0

    @property
    def running(self) -> int:
        """Return how many have their turn."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return how many wait for it."""
        return self._waiting_count

    def enter(self, ticket: T, client: str) -> tuple[Entry, T | None]:
        """Ask for a turn.

        Args:
            ticket: for one generation, hashable.
            client: whose it is.

        Returns:
            What becomes of it, and the ticket that has lost its place to it, if there is one.
        """
        if len(self._running) < self.max_running:
            self._run(ticket, client)
            return Entry.RUNS, None
        dropped = None
        if self._waiting_count >= self._max_waiting:
            dropped = self._make_room(client)
            if dropped is None:
                return Entry.REFUSED, None
        self._waiting.setdefault(client, deque()).append(ticket)
        self._waiting_count += 1
        return Entry.WAITS, dropped

    def leave(self, ticket: T, client: str) -> T | None:
        """Give up a turn or a place; a ticket that has neither is no error.

        Returns:
            The ticket whose turn it is now, if there is one.
        """
        if ticket not in self._running:
            if ticket in self._waiting.get(client, ()):
                self._waiting[client].remove(ticket)
                self._forget_one(client)
            return None
        del self._running[ticket]
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]
        return self.next_turn()

    def next_turn(self) -> T | None:
        """Give the next one its turn if there is a place for it; return its ticket, if there is one."""
        return self._next() if len(self._running) < self.max_running else None

    def _run(self, ticket: T, client: str) -> None:
        self._running[ticket] = client
        self._per_client[client] += 1

    def _next(self) -> T | None:
        if not self._waiting:
            return None
        client = min(self._waiting, key=self._per_client.__getitem__)
        tickets = self._waiting[client]
        ticket = tickets.popleft()
        # To the end of the rotation, if there is more.
        del self._waiting[client]
        self._waiting[client] = tickets
        self._forget_one(client)
        self._run(ticket, client)
        return ticket

    def _make_room(self, client: str) -> T | None:
        """Take away the youngest waiting ticket of the client that has most, if that is more than the asking one's."""
        most = max(self._waiting, key=lambda name: len(self._waiting[name]), default=client)
        if most == client or len(self._waiting[most]) <= len(self._waiting.get(client, ())) + 1:
            return None
        dropped = self._waiting[most].pop()
        self._forget_one(most)
        return dropped

    def _forget_one(self, client: str) -> None:
        self._waiting_count -= 1
        if not self._waiting[client]:
            del self._waiting[client]
