"""The variants: each reads the source in a process of its own, once a round.

    python -m tests.bench.variants '{"variant": "stream", "url": "ws://127.0.0.1:...", ...}'

That process prints one JSON object of figures. Nothing of a client is imported before its variant runs: what it
imports, its garbage and its JSON decoder are its own. Each variant logs in and reads a small generation first; that is
not timed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import attrs

from . import others, ours
from .timing import MIB, Figures, Job

__all__ = ["VARIANTS", "Variant"]


@attrs.frozen(kw_only=True)
class Variant:
    """A way to read the source.

    Attributes:
        words: what it is, for the table.
        run: measures it.
        amount: how many tokens, round trips or clients make a round of 0.3 to 1 s.
        needs: the package it needs besides the client's own; `"tls"` when it needs the source's TLS.
    """

    words: str
    run: Callable[[Job], Figures]
    amount: int
    needs: str = ""


def _import(statement: str) -> Callable[[Job], Figures]:
    """Time an import in processes that are fresher than this one, which has imported attrs."""
    script = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    # As a user's: in a checkout whose byte code may not be written each import would compile the sources again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def once() -> float:
        command = [sys.executable, "-c", script]
        return float(subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout)

    def run(job: Job) -> Figures:
        once()
        return {"ms": statistics.median(once() for _ in range(job.amount)) * 1e3}

    return run


_BARE = "import attr, websocket, Crypto.Hash.SHA256, Crypto.PublicKey.RSA, Crypto.Signature.pkcs1_15"


def _table(*, speed: bool) -> dict[str, Variant]:
    """Ours, with either decoder."""
    words = ", extra `speed`" if speed else ""
    runs = {
        "stream": (ours.stream, 300_000, "`for token in client.stream(...)`"),
        "on_token": (ours.on_token, 200_000, "`on_token`, an event object a token"),
        "complete": (ours.complete, 300_000, "`complete()`"),
        "eight": (ours.eight, 300_000, "8 generations at once on one client"),
        "busy": (ours.stream_busy, 50_000, "`stream`, a busy Python thread in the process"),
        "tls": (ours.stream_tls, 300_000, "`stream` over TLS"),
    }
    return {
        name + ("_speed" if speed else ""): Variant(
            words=f"ours: {text}{words}",
            run=run if speed else _blocking_orjson(run),
            amount=amount * (2 if speed else 1),
            needs="tls" if name == "tls" else "orjson" if speed else "",
        )
        for name, (run, amount, text) in runs.items()
    }


def _blocking_orjson(run: Callable[[Job], Figures]) -> Callable[[Job], Figures]:
    def without(job: Job) -> Figures:
        # The decoder is chosen when wsclient is imported.
        sys.modules["orjson"] = None  # type: ignore[assignment]
        if "wsclient" in sys.modules:
            raise RuntimeError("wsclient was imported before orjson could be blocked: it decodes with that")
        return run(job)

    return without


VARIANTS: dict[str, Variant] = {
    **_table(speed=False),
    **_table(speed=True),
    "naive": Variant(words="naive websocket-client + queue.Queue", run=others.naive, amount=8_000),
    "naive_busy": Variant(words="naive, a busy Python thread in the process", run=others.naive_busy, amount=1_000),
    "naive_tls": Variant(words="naive over TLS", run=others.naive_tls, amount=8_000, needs="tls"),
    "websockets": Variant(words="`websockets` sync", run=others.websockets, amount=40_000, needs="websockets"),
    "ollama": Variant(words="the official `ollama` client, HTTP", run=others.ollama, amount=20_000, needs="ollama"),
    "drain": Variant(words="bytes read and thrown away", run=others.drain, amount=2_000_000),
    "drain_tls": Variant(words="bytes read and thrown away, TLS", run=others.drain_tls, amount=1_000_000, needs="tls"),
    "models": Variant(words="ours: `list_models()`", run=_blocking_orjson(ours.models), amount=2_000),
    "bare_models": Variant(
        words="a bare reader thread that hands messages on by a lock, the same request",
        run=others.bare_models,
        amount=2_000,
    ),
    "websockets_models": Variant(
        words="`websockets` sync, the same request", run=others.websockets_models, amount=2_000, needs="websockets"
    ),
    "memory": Variant(words="ours: an idle connected client", run=_blocking_orjson(ours.memory), amount=200),
    "latency": Variant(words="ours: a token on an idle line", run=_blocking_orjson(ours.latency), amount=200),
    "socket_latency": Variant(
        words="`socket.recv()` + json.loads on an idle line", run=others.socket_latency, amount=200
    ),
    "naive_latency": Variant(words="websocket-client's `recv()` on an idle line", run=others.naive_latency, amount=200),
    "big": Variant(words="ours: a message of 16 MiB", run=_blocking_orjson(ours.big), amount=5),
    "naive_big": Variant(words="websocket-client, a message of 16 MiB", run=others.naive_big, amount=1),
    "prompt_1": Variant(words="ours: a prompt of 1 MiB", run=_blocking_orjson(ours.prompt(MIB)), amount=20),
    "naive_prompt_1": Variant(words="websocket-client, a prompt of 1 MiB", run=others.naive_prompt(MIB), amount=20),
    "prompt_16": Variant(words="ours: a prompt of 16 MiB", run=_blocking_orjson(ours.prompt(16 * MIB)), amount=3),
    "naive_prompt_16": Variant(
        words="websocket-client, a prompt of 16 MiB", run=others.naive_prompt(16 * MIB), amount=3
    ),
    "import": Variant(words="`import wsclient`", run=_import("from wsclient import WSClient"), amount=5),
    "bare_import": Variant(words="importing its three packages bare", run=_import(_BARE), amount=5),
}


if __name__ == "__main__":
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(VARIANTS[job.variant].run(job)))
