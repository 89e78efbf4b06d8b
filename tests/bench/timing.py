"""What a variant is told, and how its reading is timed."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

__all__ = ["BIG", "MIB", "Figures", "Job", "busy_thread", "delays", "fastest", "round_trips", "timed"]

Figures = dict[str, float]
MIB = 1 << 20
BIG = 16 * MIB


@attrs.frozen(kw_only=True)
class Job:
    """One run of a variant.

    Attributes:
        variant: its name.
        url, tls_url, http_url, certificate, key: as in `Source`.
        amount: how many tokens, round trips or clients it takes.
    """

    variant: str
    url: str
    tls_url: str
    http_url: str
    certificate: str
    key: str
    amount: int

    @property
    def tls(self) -> ssl.SSLContext:
        """A context that trusts the source."""
        return ssl.create_default_context(cafile=self.certificate)


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    is_over = False

    def work() -> None:
        number = 0
        while not is_over:
            number = (number * 31 + 7) % 1_000_003

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over = True
        thread.join()


def timed(read: Callable[[int], int], amount: int) -> Figures:
    """Time the reading of so many tokens: how many a second, and the process's CPU seconds for a million."""
    assert read(min(amount, 2000)) == min(amount, 2000)
    cpu, start = time.process_time(), time.perf_counter()
    seen = read(amount)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert seen == amount, f"{seen} tokens instead of {amount}"
    return {"rate": amount / seconds, "cpu": cpu / amount * 1e6}


def round_trips(ask: Callable[[], object], amount: int) -> Figures:
    for _ in range(50):
        ask()
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(amount):
        ask()
    seconds = time.perf_counter() - start
    return {"rate": amount / seconds, "cpu": (time.process_time() - cpu) / amount * 1e6}


def fastest(ask: Callable[[], Any], at_least: int, amount: int) -> Figures:
    """Time something that takes long enough to be timed alone; the median of a few."""
    times = []
    for _ in range(amount + 1):
        start = time.perf_counter()
        seen = ask()
        times.append((time.perf_counter() - start) * 1e3)
        assert seen >= at_least, f"{seen} bytes instead of {at_least}"
    milliseconds = statistics.median(times[1:])
    return {"ms": milliseconds, "rate": 1e3 / milliseconds}


def delays(tokens: Iterator[str], amount: int) -> Figures:
    delays = [time.monotonic_ns() - int(token) for token in itertools.islice(tokens, amount)]
    assert len(delays) == amount
    # The first ones pay for caches that are cold.
    warm = sorted(delays[10:])
    return {"us": statistics.median(warm) / 1e3, "p99_us": warm[len(warm) * 99 // 100] / 1e3}
