"""Our client, read in each of the ways that it offers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

from .timing import BIG, Figures, Job, busy_thread, delays, fastest, round_trips, timed

__all__ = [
    "big",
    "complete",
    "eight",
    "latency",
    "memory",
    "models",
    "on_token",
    "prompt",
    "stream",
    "stream_busy",
    "stream_tls",
]


def _client(job: Job, *, secure: bool = False) -> Any:
    from wsclient import WSClient

    return WSClient(
        job.tls_url if secure else job.url,
        client_id="0123456789abcdef0123456789abcdef",
        private_key_path=job.key,
        ssl_context=job.tls if secure else None,
    )


def _count(tokens: Any) -> int:
    seen = 0
    for _ in tokens:
        seen += 1
    return seen


def stream(job: Job, *, secure: bool = False) -> Figures:
    with _client(job, secure=secure) as client:
        return timed(lambda tokens: _count(client.stream("x", f"tokens:{tokens}")), job.amount)


def stream_busy(job: Job) -> Figures:
    with _client(job) as client, busy_thread():
        return timed(lambda tokens: _count(client.stream("x", f"tokens:{tokens}")), job.amount)


def stream_tls(job: Job) -> Figures:
    return stream(job, secure=True)


def eight(job: Job) -> Figures:
    def read(tokens: int) -> int:
        seen = [0] * 8

        def read_one(place: int) -> None:
            seen[place] = _count(client.stream("x", f"tokens:{tokens // 8}"))

        threads = [threading.Thread(target=read_one, args=(place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(seen)

    with _client(job) as client:
        return timed(read, job.amount)


def complete(job: Job) -> Figures:
    with _client(job) as client:
        # The source's words are six characters each.
        return timed(lambda tokens: len(client.complete("x", f"tokens:{tokens}").text) // 6, job.amount)


def on_token(job: Job) -> Figures:
    seen = 0
    is_over = threading.Event()

    def take(event: Any) -> None:
        nonlocal seen
        seen += 1

    def read(tokens: int) -> int:
        nonlocal seen
        seen = 0
        is_over.clear()
        client.generate("x", f"tokens:{tokens}")
        assert is_over.wait(60)
        return seen

    with _client(job) as client:
        client.on_token(take)
        client.on_generation_end(lambda event: is_over.set())
        return timed(read, job.amount)


def models(job: Job) -> Figures:
    with _client(job) as client:
        return round_trips(client.list_models, job.amount)


def memory(job: Job) -> Figures:
    clients = [_client(job)]
    clients[0].connect()
    gc.collect()
    before = _resident_kib()
    for _ in range(job.amount):
        clients.append(_client(job))
        clients[-1].connect()
    gc.collect()
    after = _resident_kib()
    for client in clients:
        client.close()
    return {"kib": (after - before) / job.amount}


def _resident_kib() -> float:
    with open("/proc/self/smaps_rollup") as file:
        return next(float(line.split()[1]) for line in file if line.startswith("Rss:"))


def prompt(size: int) -> Callable[[Job], Figures]:
    def run(job: Job) -> Figures:
        with _client(job) as client:
            return fastest(lambda: client.complete("x" * size, "size").total_tokens, size, job.amount)

    return run


def big(job: Job) -> Figures:
    with _client(job) as client:
        return fastest(lambda: len(client.complete("x", f"big:{BIG}").text), BIG, job.amount)


def latency(job: Job) -> Figures:
    with _client(job) as client:
        return delays(iter(client.stream("x", f"idle:{job.amount}")), job.amount)
