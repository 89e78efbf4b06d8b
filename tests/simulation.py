"""How clients come back when a gateway dies: python -m tests.simulation [--clients N] [--gateways N] [--seed N]

No sockets and no waiting: each client is the backoff of `wsclient.core` with seeded dice, and time is a number. An
attempt at a gateway or balancer that is down fails at once, as a refused connection does; one that is up lets everybody
in. So these are the attempts that arrive, which is what a balancer sees; what a gateway makes of them is measured by
`python -m tests.bench.capacity`.
"""

from __future__ import annotations

import argparse
import collections
import random
from collections.abc import Callable, Iterable, Sequence

import attrs

from wsclient import ClientOptions
from wsclient.core.addresses import Addresses
from wsclient.core.backoff import Backoff

__all__ = ["Arrivals", "Case", "cases", "come_back", "main"]

_OPTIONS = {field.name: field.default for field in attrs.fields(ClientOptions)}
_WIDTH = 60


@attrs.define
class Arrivals:
    """Attempts to connect, over time.

    Attributes:
        times: of each, in seconds from the fault, in no order.
        back: when each client that came back did.
        given_up: how many used their attempts up.
    """

    times: list[float] = attrs.field(factory=list)
    back: list[float] = attrs.field(factory=list)
    given_up: int = 0

    def peak(self, window: float) -> int:
        """Return the most attempts within any window of so many seconds."""
        times, first, most = sorted(self.times), 0, 0
        for number, time in enumerate(times):
            while times[first] < time - window:
                first += 1
            most = max(most, number - first + 1)
        return most

    def by_second(self) -> list[int]:
        """Return how many came in each second."""
        counts = collections.Counter(map(int, self.times))
        return [counts[second] for second in range(max(counts) + 1)]


@attrs.frozen
class Case:
    """Something that happens.

    Attributes:
        words: what.
        arrivals: what it comes to.
        at: where these arrive.
    """

    words: str
    arrivals: Arrivals
    at: str


def come_back(losses: Iterable[float], is_up: Callable[[float], bool], dice: Callable[[], float]) -> Arrivals:
    """Have clients come back on the schedule of design.md, with the default options.

    Args:
        losses: when each notices that its connection is gone, in seconds.
        is_up: whether an attempt at a time succeeds.
        dice: returns numbers from 0 to 1.
    """
    arrivals = Arrivals()
    for time in losses:
        backoff = Backoff(
            _OPTIONS["reconnect_delay"],
            _OPTIONS["max_reconnect_delay"],
            _OPTIONS["max_reconnect_attempts"],
            dice,
        )
        while not backoff.is_exhausted:
            time += backoff.next_delay()
            arrivals.times.append(time)
            if is_up(time):
                arrivals.back.append(time)
                break
        else:
            arrivals.given_up += 1
    return arrivals


def _fullest(lists: Iterable[Sequence[str]], died: str, dice: Callable[[], float]) -> Arrivals:
    """Return what arrives at the gateway that gets the most, when each client has a list of all of them."""
    at: dict[str, list[float]] = {}
    for urls in lists:
        addresses = Addresses(urls)
        while addresses.next().url != died:
            pass
        addresses.reached_current()
        backoff = Backoff(_OPTIONS["reconnect_delay"], _OPTIONS["max_reconnect_delay"], None, dice)
        at.setdefault(addresses.next().url, []).append(backoff.next_delay())
    times = max(at.values(), key=len)
    return Arrivals(times=times, back=list(times))


def cases(clients: int, gateways: int, seed: int) -> list[Case]:
    """Return what happens in each case.

    Args:
        clients: how many there are, evenly spread over the gateways.
        gateways: how many.
        seed: of the dice.
    """
    dice = random.Random(seed)
    lost = clients // gateways
    urls = [f"wss://gateway-{number}/" for number in range(gateways)]
    ping, pong = _OPTIONS["ping_interval"], _OPTIONS["pong_timeout"]
    # Idle clients were heard last at any time within one interval, and notice when the pong after the next ping is due.
    notices = [dice.uniform(0, ping) + pong for _ in range(lost)]
    shuffled = (dice.sample(urls, gateways) for _ in range(lost))
    rnd = dice.random
    return [
        Case("one gateway is killed", come_back([0.0] * lost, lambda _: True, rnd), "the balancer"),
        Case("one gateway goes dark (no reset, no farewell)", come_back(notices, lambda _: True, rnd), "the balancer"),
        Case(
            "one is stopped in good order, 30 s to drain",
            come_back([30 * number / lost for number in range(lost)], lambda _: True, rnd),
            "the balancer",
        ),
        Case(
            "one is killed; clients have lists, each in an order of its own",
            _fullest(shuffled, urls[0], rnd),
            "the fullest gateway",
        ),
        Case("one is killed; all lists are the same", _fullest([urls] * lost, urls[0], rnd), "the fullest gateway"),
        Case("the balancer is down for 5 s", come_back([0.0] * clients, lambda time: time >= 5, rnd), "the balancer"),
        Case("the balancer is down for 60 s", come_back([0.0] * clients, lambda time: time >= 60, rnd), "the balancer"),
        Case(
            "the balancer is down for 10 minutes",
            come_back([0.0] * clients, lambda time: time >= 600, rnd),
            "the balancer",
        ),
    ]


def as_markdown(found: Iterable[Case]) -> str:
    """Return the table."""
    lines = [
        "| what happens | seen by | attempts | most in 100 ms | most in 1 s | last one back after | gave up |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in found:
        arrivals = case.arrivals
        back = f"{max(arrivals.back):.1f} s" if arrivals.back else "never"
        lines.append(
            f"| {case.words} | {case.at} | {len(arrivals.times):,} | {arrivals.peak(0.1):,} | {arrivals.peak(1.0):,}"
            f" | {back} | {arrivals.given_up:,} |"
        )
    return "\n".join(lines)


def as_bars(case: Case) -> str:
    """Return a case's attempts in each second, as text."""
    counts = case.arrivals.by_second()
    lines = [f"{case.words}: attempts in each second"]
    for second, count in enumerate(counts):
        if count:
            lines.append(f"{second:4} s {count:8,} {'#' * max(1, round(_WIDTH * count / max(counts)))}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, and print the table and the waves of an outage."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate clients that come back.")
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--gateways", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    found = cases(options.clients, options.gateways, options.seed)
    print(f"{options.clients:,} clients, {options.gateways} gateways, seed {options.seed}\n\n{as_markdown(found)}\n")
    print(as_bars(next(case for case in found if "60 s" in case.words)))


if __name__ == "__main__":
    main()
