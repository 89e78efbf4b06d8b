"""The figures of a benchmark. Takes 0 s."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsclient.cli.benchmark import Benchmark, Sample, percentile
from wsclient.cli.streaming import Figures


def sample(number: int) -> Sample:
    figures = Figures(model="m", tokens=10, first_token=number / 100, rate=100.0 * number)
    return Sample(figures=figures, total=number / 10)


MEASURED = Benchmark(
    pings=[0.0004, 0.0002, 0.0003],
    warm_up=2.5,
    samples=[*map(sample, range(1, 21)), Sample(error="server_busy")],
    elapsed=4.0,
    parallel=2,
)
NOTHING = Benchmark(pings=[], warm_up=0.0, samples=[Sample(error="server_error")], elapsed=0.0, parallel=1)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.51, 3), (0.95, 4), (1, 4), (0.01, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], share) == value


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 0.5) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_at_least_its_share_of_the_values_is_not_above_a_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values)


def test_the_figures_are_those_of_the_answers_that_came() -> None:
    told = MEASURED.to_json()
    assert told["first_token"] == {"p50": 0.1, "p95": 0.19}
    assert told["whole_answer"] == {"p50": 1.0, "p95": 1.9}
    assert told["ping"] == {"p50": 0.0003, "p95": 0.0004}
    assert (told["tokens"], told["tokens_per_second"], told["requests_per_second"]) == (200, 50, 5)
    assert (told["requests"], told["failures"], told["model"]) == (21, {"server_busy": 1}, "m")


def test_of_speeds_the_slow_ones_are_the_worse() -> None:
    assert MEASURED.to_json()["tokens_per_second_each"] == {"p50": 1000, "p95": 200}


def test_the_table_reads() -> None:
    assert MEASURED.rows() == [
        ("ping", "0.3 ms", "0.4 ms"),
        ("first token", "100 ms", "190 ms"),
        ("whole answer", "1.00 s", "1.90 s"),
        ("tokens/s of one answer", "1,000", "200"),
    ]
    assert MEASURED.summary() == (
        "21 answers, 2 at a time, 1 failed with server_busy: 200 tokens in 4.00 s, 50.0 tokens/s together"
    )


def test_nothing_measured_is_no_error() -> None:
    assert NOTHING.to_json()["first_token"] == {"p50": None, "p95": None}
    assert [row[1:] for row in NOTHING.rows()] == [("", "")] * 4
    assert NOTHING.summary().startswith("1 answers, 1 at a time, 1 failed with server_error: 0 tokens")
