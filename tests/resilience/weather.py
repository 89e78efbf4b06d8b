"""Bad weather on a client's line: breaks of every kind that a proxy knows, at random times, by a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from wsclient import ConnectionStatus, WSClient
from wsclient.testing.fault_proxy import TO_CLIENT, TO_SERVER, Direction, FaultProxy

from ..support.waiting import wait_until

__all__ = ["Weather"]

# What a loaded machine needs to notice a break and to come back.
PATIENCE = 40.0
_WAYS: tuple[tuple[Direction, ...], ...] = ((TO_CLIENT,), (TO_SERVER,), (TO_CLIENT, TO_SERVER))


class Weather:
    """Breaks the line of one client, and lets it come back.

    Args:
        proxy: what the client connects through.
        client: logged in, with `max_reconnect_attempts=None`.
        seed: of the dice.
        progress: counts up while the client is used; between two breaks it has to.

    Attributes:
        breaks: how many of each kind there were, each of which cost the client its connection.
    """

    def __init__(self, proxy: FaultProxy, client: WSClient, seed: int, progress: Callable[[], int]) -> None:
        self._proxy = proxy
        self._client = client
        self._dice = Random(seed)
        self._progress = progress
        self.breaks: Counter[str] = Counter()
        self._statuses: list[ConnectionStatus] = []
        client.on_connection_change(self._statuses.append)
        self._kinds: tuple[Callable[[], object], ...] = (
            self._fin,
            self._reset,
            self._truncate,
            self._corrupt,
            self._refuse,
            self._silence,
            self._stall,
        )
        self._distortions: tuple[Callable[[], object], ...] = (
            lambda: None,
            lambda: proxy.delay(0.02, *self._ways()),
            lambda: proxy.throttle(1_000_000, *self._ways()),
            lambda: proxy.split(*self._ways()),
        )

    def storm(self, breaks: int) -> None:
        """Break the line this many times, and return when it is well again."""
        for number in range(breaks):
            self._dice.choice(self._distortions)()
            self._wait_for_progress(self._dice.randint(2, 16))
            # Each in its turn, so that none is left out.
            kind = self._kinds[number % len(self._kinds)]
            connects = self._client.stats().connects
            kind()
            wait_until(lambda connects=connects: self._is_lost_since(connects), PATIENCE)
            self._proxy.heal()
            wait_until(lambda connects=connects: self._client.stats().connects > connects, PATIENCE)
            self.breaks[kind.__name__.strip("_")] += 1
            self._close_what_is_over()

    def _is_lost_since(self, connects: int) -> bool:
        return self._client.status != ConnectionStatus.AUTHENTICATED or self._client.stats().connects > connects

    def _wait_for_progress(self, count: int) -> None:
        before = self._progress()
        wait_until(lambda: self._progress() >= before + count, PATIENCE)

    def _close_what_is_over(self) -> None:
        connections = self._proxy.connections
        over = len(connections) - 1
        for connection in connections[:over]:
            connection.close()
        del connections[:over]

    def _ways(self) -> tuple[Direction, ...]:
        return self._dice.choice(_WAYS)

    # --- kinds --------------------------------------------------------------------------------------------------------

    def _fin(self) -> None:
        self._proxy.cut()

    def _reset(self) -> None:
        self._proxy.cut(reset=True)

    def _truncate(self) -> None:
        self._proxy.truncate(self._dice.randint(1, 3000), TO_CLIENT, reset=self._dice.random() < 0.5)

    def _corrupt(self) -> None:
        # All the bits of one byte. Both ends write ASCII: in a text it is no UTF-8 then, and in a header it breaks the
        # frame; so it never goes unnoticed, and no text that is delivered is wrong.
        self._proxy.corrupt(self._dice.randint(0, 1000), direction=self._dice.choice((TO_CLIENT, TO_SERVER)))

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._cut_until_an_attempt_failed()

    def _silence(self) -> None:
        self._proxy.silence()
        self._cut_until_an_attempt_failed()

    def _cut_until_an_attempt_failed(self) -> None:
        begin = len(self._statuses)
        self._proxy.cut()
        # Reconnecting after the loss, and again after an attempt.
        wait_until(lambda: self._statuses[begin:].count(ConnectionStatus.RECONNECTING) > 1, PATIENCE)

    def _stall(self) -> None:
        self._proxy.stall(*self._ways())
