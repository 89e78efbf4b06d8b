"""What was measured of a gateway, and its figures. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from .streaming import Figures, duration

__all__ = ["Benchmark", "Sample", "percentile"]


@attrs.frozen(kw_only=True)
class Sample:
    """One generation; times in seconds.

    Attributes:
        figures: about it, `None` when it failed.
        total: until its end.
        error: the code of its failure.
    """

    figures: Figures | None = None
    total: float = 0.0
    error: str | None = None


@attrs.frozen(kw_only=True)
class Benchmark:
    """All that was measured; times in seconds.

    Attributes:
        pings: round trips.
        warm_up: until the end of the first generation, which may have loaded the model and is counted nowhere else.
        samples: the generations after that.
        elapsed: how long these took together.
        parallel: how many ran at the same time.
    """

    pings: Sequence[float]
    warm_up: float
    samples: Sequence[Sample]
    elapsed: float
    parallel: int

    def to_json(self) -> dict[str, Any]:
        """Return every figure; `None` for what cannot be told."""
        done = [sample for sample in self.samples if sample.figures is not None]
        figures = [sample.figures for sample in done if sample.figures is not None]
        tokens = sum(each.tokens for each in figures)
        return {
            "model": next((each.model for each in figures), None),
            "requests": len(self.samples),
            "parallel": self.parallel,
            "failures": dict(Counter(sample.error for sample in self.samples if sample.error is not None)),
            "tokens": tokens,
            "elapsed": self.elapsed,
            "tokens_per_second": tokens / self.elapsed if self.elapsed > 0 else None,
            "requests_per_second": len(done) / self.elapsed if self.elapsed > 0 else None,
            "warm_up": self.warm_up,
            "ping": _spread(self.pings),
            "first_token": _spread(each.first_token for each in figures),
            "whole_answer": _spread(sample.total for sample in done),
            "tokens_per_second_each": _spread((each.rate for each in figures), is_higher_better=True),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Return what a table shows: what it is, its middle, and the value that one in twenty is worse than."""
        told = self.to_json()
        times = [
            (name, _time(told[key]["p50"]), _time(told[key]["p95"]))
            for name, key in (("ping", "ping"), ("first token", "first_token"), ("whole answer", "whole_answer"))
        ]
        each = told["tokens_per_second_each"]
        return [*times, ("tokens/s of one answer", _rate(each["p50"]), _rate(each["p95"]))]

    def summary(self) -> str:
        """Return the line below the table."""
        told = self.to_json()
        failures = "".join(f", {count} failed with {code}" for code, count in told["failures"].items())
        return (
            f"{told['requests']} answers, {self.parallel} at a time{failures}: {told['tokens']:,} tokens in "
            f"{duration(self.elapsed)}, {_rate(told['tokens_per_second'])} tokens/s together"
        )


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that at least this share of the values does not exceed; `None` of none.

    Args:
        values: in any order.
        share: more than 0, at most 1.
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def _spread(values: Iterable[float | None], *, is_higher_better: bool = False) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if is_higher_better:
        worse = percentile((-value for value in known), 0.95)
        return {"p50": percentile(known, 0.5), "p95": None if worse is None else -worse}
    return {"p50": percentile(known, 0.5), "p95": percentile(known, 0.95)}


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else duration(seconds)


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"
