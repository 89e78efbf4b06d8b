"""The rows of the table, with their targets, and how rounds become figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .timing import Figures
from .variants import VARIANTS

__all__ = ["ROWS", "Rounds", "Row", "as_json", "as_markdown", "line_of", "select"]

Rounds = Mapping[str, list[Figures]]
"""What each variant measured, round by round."""

_UNITS = {"ratio": "x", "cpu": " s", "calls": "", "kib": " KiB", "ms": " ms", "us": " µs"}


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table: a variant's figure, alone or against another's of the same round.

    Attributes:
        key: its name on the command line.
        words: what it says, for the table.
        variant: whose figure it is.
        against: the variant it is compared with, if any.
        figure: which figure of theirs.
        unit: what comes out: `"ratio"`, or a unit of `figure`; with `against` and a unit it is the difference.
        at_least, moonshot: the targets, if it has any.
    """

    key: str
    words: str
    variant: str
    against: str = ""
    figure: str = "rate"
    unit: str = "ratio"
    at_least: float | None = None
    moonshot: float | None = None

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.unit == "ratio" and self.figure == "rate"

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants it needs."""
        return (self.variant, self.against) if self.against else (self.variant,)

    def values(self, rounds: Rounds) -> list[float]:
        """Return its value in each round, none when a variant was skipped."""
        ours = [figures[self.figure] for figures in rounds.get(self.variant, []) if self.figure in figures]
        if not self.against:
            return ours
        theirs = [figures[self.figure] for figures in rounds.get(self.against, [])]
        combine: Callable[[float, float], float] = _ratio if self.unit == "ratio" else _difference
        # A round that was broken off has one without the other.
        return [combine(mine, other) for mine, other in zip(ours, theirs, strict=False)]

    def cpu_ratio(self, rounds: Rounds) -> float | None:
        """Return how many times less CPU time it takes than the other; what else runs on the machine matters less."""
        pairs = zip(rounds.get(self.variant, []), rounds.get(self.against, []), strict=False)
        ratios = [other["cpu"] / mine["cpu"] for mine, other in pairs if mine.get("cpu") and "cpu" in other]
        return statistics.median(ratios) if ratios and self.more_is_better else None

    def reaches(self, target: float | None, value: float) -> bool | None:
        """Return whether a value reaches a target, `None` when there is no target."""
        if target is None:
            return None
        return value >= target if self.more_is_better else value <= target


def _ratio(mine: float, other: float) -> float:
    return mine / other


def _difference(mine: float, other: float) -> float:
    return mine - other


# perf.md's table in its order, and after it what else is worth knowing.
ROWS = (
    Row(
        key="naive",
        words="tokens/s out of `for token in client.stream(...)`, against naive websocket-client + queue.Queue",
        variant="stream",
        against="naive",
        at_least=25,
        moonshot=40,
    ),
    Row(
        key="node",
        words="the same against Node `ws` + JSON.parse + async iterator, stdlib json",
        variant="stream",
        against="node",
        at_least=1.0,
        moonshot=1.4,
    ),
    Row(
        key="node-speed",
        words="the same with extra `speed`",
        variant="stream_speed",
        against="node",
        at_least=1.5,
        moonshot=2.0,
    ),
    Row(
        key="ollama",
        words="tokens/s of `stream`, against the official `ollama` client",
        variant="stream",
        against="ollama",
        at_least=10,
        moonshot=15,
    ),
    Row(
        key="busy",
        words="with one busy Python thread in the process, against naive",
        variant="busy",
        against="naive_busy",
        at_least=30,
        moonshot=60,
    ),
    Row(
        key="cpu",
        words="CPU s per million tokens",
        variant="stream",
        figure="cpu",
        unit="cpu",
        at_least=3,
        moonshot=2,
    ),
    Row(
        key="on_token",
        words="`on_token` callback with an event object a token, against naive",
        variant="on_token",
        against="naive",
        at_least=15,
        moonshot=25,
    ),
    Row(
        key="calls",
        words="receive system calls + futex calls a message in a blast (strace -c -f)",
        variant="calls",
        figure="calls",
        unit="calls",
        at_least=0.05,
        moonshot=0.01,
    ),
    Row(
        key="eight",
        words="8 concurrent generations on one client, total tokens/s, against 1 generation",
        variant="eight",
        against="stream",
        at_least=0.7,
        moonshot=0.9,
    ),
    Row(
        key="models",
        words="`list_models()` round trips/s, against `websockets` sync on the same echo",
        variant="models",
        against="websockets_models",
        at_least=1.0,
        moonshot=1.3,
    ),
    Row(
        key="memory",
        words="memory of an idle connected client (200 in one process, RSS delta / 200)",
        variant="memory",
        figure="kib",
        unit="kib",
        at_least=64,
        moonshot=56,
    ),
    Row(
        key="big",
        words="one 16 MiB message, received whole",
        variant="big",
        figure="ms",
        unit="ms",
        at_least=100,
        moonshot=40,
    ),
    Row(
        key="import",
        words="`import wsclient`, against importing its three packages bare",
        variant="import",
        against="bare_import",
        figure="ms",
        at_least=1.15,
        moonshot=1.05,
    ),
    Row(
        key="latency",
        words="one token on an idle line, later than with a direct `socket.recv()` (p50)",
        variant="latency",
        against="socket_latency",
        figure="us",
        unit="us",
        at_least=60,
    ),
    Row(
        key="latency-recv",
        words="the same, later than with websocket-client's `recv()`",
        variant="latency",
        against="naive_latency",
        figure="us",
        unit="us",
        at_least=60,
    ),
    Row(key="prompt-1", words="a prompt of 1 MiB, sent, against naive", variant="prompt_1", against="naive_prompt_1"),
    Row(
        key="prompt-16", words="a prompt of 16 MiB, sent, against naive", variant="prompt_16", against="naive_prompt_16"
    ),
    Row(key="big-naive", words="one 16 MiB message, against naive", variant="big", against="naive_big"),
    Row(key="complete", words="`complete()`, tokens/s, against naive", variant="complete", against="naive"),
    Row(key="tls", words="`stream` over TLS, against naive over TLS", variant="tls", against="naive_tls"),
    Row(key="websockets", words="`stream` against `websockets` sync", variant="stream", against="websockets"),
    Row(
        key="models-bare",
        words="a bare reader thread's round trips/s, against `websockets` sync",
        variant="bare_models",
        against="websockets_models",
    ),
    Row(key="naive-speed", words="`stream` with `speed`, against naive", variant="stream_speed", against="naive"),
    Row(key="ollama-speed", words="`stream` with `speed`, against `ollama`", variant="stream_speed", against="ollama"),
    Row(key="busy-speed", words="busy thread, with `speed`, against naive", variant="busy_speed", against="naive_busy"),
    Row(
        key="on_token-speed", words="`on_token` with `speed`, against naive", variant="on_token_speed", against="naive"
    ),
    Row(
        key="complete-speed",
        words="`complete()` with `speed`, against naive",
        variant="complete_speed",
        against="naive",
    ),
    Row(key="eight-speed", words="8 at once with `speed`, against 1", variant="eight_speed", against="stream_speed"),
    Row(key="tls-speed", words="TLS with `speed`, against naive over TLS", variant="tls_speed", against="naive_tls"),
    Row(
        key="source",
        words="what the source gives, against `stream` with `speed`",
        variant="drain",
        against="stream_speed",
    ),
    Row(key="source-tls", words="the same over TLS", variant="drain_tls", against="tls_speed"),
)


def select(names: list[str]) -> list[Row]:
    """Return the rows whose key or variant contains one of the names; all when there is none.

    Raises:
        ValueError: a name fits no row.
    """
    for name in names:
        if not any(name in row.key or name in row.variant for row in ROWS):
            raise ValueError(f"no row is called {name!r}; there are {', '.join(row.key for row in ROWS)}")
    return [row for row in ROWS if not names or any(name in row.key or name in row.variant for name in names)]


def as_json(rows: list[Row], rounds: Rounds, facts: dict[str, Any], skipped: dict[str, str]) -> dict[str, Any]:
    """Return everything that was measured, round by round, and what it comes to."""
    return {
        "facts": facts,
        "skipped": skipped,
        "rows": [_summary(row, rounds, skipped) for row in rows],
        "rounds": dict(rounds),
    }


def _summary(row: Row, rounds: Rounds, skipped: dict[str, str]) -> dict[str, Any]:
    values = row.values(rounds)
    summary: dict[str, Any] = {"key": row.key, "what": row.words, "unit": row.unit, "figure": row.figure}
    summary |= {"at_least": row.at_least, "moonshot": row.moonshot}
    if not values:
        reasons = [f"{name}: {skipped[name]}" for name in row.variants if name in skipped]
        return summary | {"skipped": "; ".join(reasons) or "not measured"}
    median = statistics.median(values)
    return summary | {
        "values": values,
        "median": median,
        "lowest": min(values),
        "highest": max(values),
        "cpu_ratio": row.cpu_ratio(rounds),
        "reaches_at_least": row.reaches(row.at_least, median),
        "reaches_moonshot": row.reaches(row.moonshot, median),
    }


def as_markdown(rows: list[Row], rounds: Rounds, facts: dict[str, Any], skipped: dict[str, str]) -> str:
    """Return the tables as Markdown: the rows with their targets, the variants, and where they were taken."""
    lines = [
        "| what | measured | lowest to highest | by CPU time | at least | the moonshot | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row, _summary(row, rounds, skipped)) for row in rows]
    lines += [
        "",
        "| variant | tokens/s or round trips/s | lowest to highest | CPU s per million |",
        "|---|---|---|---|",
    ]
    for name, figures in rounds.items():
        rates = [one["rate"] for one in figures if "rate" in one and "cpu" in one]
        if rates:
            cpu = statistics.median(one["cpu"] for one in figures)
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            lines.append(f"| {words_of(name)} | {statistics.median(rates):,.0f} | {spread} | {cpu:.2f} |")
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += [f"- skipped, {words_of(name)}: {reason}" for name, reason in skipped.items()]
    return "\n".join(lines) + "\n"


def line_of(row: Row, rounds: Rounds) -> str:
    """Return a row of the table."""
    return _line(row, _summary(row, rounds, {}))


def _line(row: Row, summary: dict[str, Any]) -> str:
    targets = [_show(target, row.unit) if target is not None else "" for target in (row.at_least, row.moonshot)]
    if "skipped" in summary:
        return f"| {row.words} | skipped | | | {targets[0]} | {targets[1]} | |"
    spread = f"{_show(summary['lowest'], row.unit)} to {_show(summary['highest'], row.unit)}"
    verdict = {None: "", True: "reached", False: "missed"}[summary["reaches_at_least"]]
    if summary["reaches_moonshot"]:
        verdict = "moonshot"
    cpu = _show(summary["cpu_ratio"], "ratio") if summary["cpu_ratio"] else ""
    median = _show(summary["median"], row.unit)
    return f"| {row.words} | {median} | {spread} | {cpu} | {targets[0]} | {targets[1]} | {verdict} |"


def _show(value: float, unit: str) -> str:
    digits = f"{value:.4f}" if unit == "calls" else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits}{' ' if unit == 'ratio' else ''}{_UNITS[unit]}"


def words_of(name: str) -> str:
    """Return what a variant is, in the table's words."""
    return (
        VARIANTS[name].words if name in VARIANTS else {"node": "Node `ws`, async iterator + JSON.parse"}.get(name, name)
    )
