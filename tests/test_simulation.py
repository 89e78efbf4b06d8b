"""The simulation of clients that come back: what the README says of it holds, for the numbers that it names."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from .simulation import Arrivals, Case, as_bars, as_markdown, cases, come_back, main

LOST = 5000


@pytest.fixture(scope="module")
def all_cases() -> list[Case]:
    return cases(100_000, 20, seed=1)


@pytest.fixture(scope="module")
def found(all_cases: list[Case]) -> dict[str, Arrivals]:
    return {case.words: case.arrivals for case in all_cases}


def test_the_readme_shows_this_very_table(all_cases: list[Case]) -> None:
    assert as_markdown(all_cases) in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_clients_of_a_killed_gateway_come_back_within_the_jitter_of_the_first_pause(
    found: dict[str, Arrivals],
) -> None:
    arrivals = found["one gateway is killed"]
    assert len(arrivals.times) == LOST
    assert 0.8 <= min(arrivals.times) <= max(arrivals.times) <= 1.2
    # A quarter of them in each of the four tenths of a second, and a little more by chance.
    assert LOST / 4 <= arrivals.peak(0.1) < LOST * 0.3


def test_the_clients_of_a_gateway_that_went_dark_come_back_one_ping_interval_after_the_other(
    found: dict[str, Arrivals],
) -> None:
    arrivals = found["one gateway goes dark (no reset, no farewell)"]
    assert arrivals.peak(1.0) < 2 * LOST / 30
    assert max(arrivals.back) < 30 + 10 + 1.2


def test_an_orderly_stop_is_no_wave(found: dict[str, Arrivals]) -> None:
    assert found["one is stopped in good order, 30 s to drain"].peak(1.0) < 2 * LOST / 30


def test_lists_in_different_orders_spread_the_clients_and_equal_ones_do_not(found: dict[str, Arrivals]) -> None:
    spread = found["one is killed; clients have lists, each in an order of its own"]
    assert len(spread.times) < 1.5 * LOST / 19
    assert len(found["one is killed; all lists are the same"].times) == LOST


@pytest.mark.parametrize("seconds", [5, 60])
def test_after_an_outage_nobody_stays_away_longer_than_the_longest_pause(
    found: dict[str, Arrivals], seconds: int
) -> None:
    arrivals = found[f"the balancer is down for {seconds} s"]
    assert len(arrivals.back) == 100_000
    assert seconds <= min(arrivals.back)
    assert max(arrivals.back) < seconds + 30


def test_the_waves_of_an_outage_become_flatter(found: dict[str, Arrivals]) -> None:
    seconds = found["the balancer is down for 60 s"].by_second()
    waves = [max(seconds[start:end]) for start, end in itertools.pairwise((2, 5, 12, 20, 45))]
    assert waves == sorted(waves, reverse=True)
    assert waves[-1] < waves[0] / 3


def test_an_outage_of_ten_minutes_is_longer_than_ten_attempts(found: dict[str, Arrivals]) -> None:
    arrivals = found["the balancer is down for 10 minutes"]
    assert arrivals.given_up == 100_000
    # The pauses of 1, 2, 4, 8 and 16 s with their jitter, and five at the cap.
    assert max(arrivals.times) <= 31 * 1.2 + 5 * 30


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, again, other = ([case.arrivals.times for case in cases(1000, 10, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_peak_is_the_most_within_any_window() -> None:
    assert Arrivals(times=[0.95, 1.05, 3.0, 0.0]).peak(0.2) == 2


def test_a_client_that_is_let_in_tries_no_more() -> None:
    arrivals = come_back([0.0, 0.0], lambda time: time > 2, random.Random(1).random)
    assert len(arrivals.times) == 4
    assert len(arrivals.back) == 2


def test_the_table_and_the_bars_are_for_people() -> None:
    case = Case("it rains", Arrivals(times=[0.5, 1.2, 1.4], back=[1.4], given_up=1), "the balancer")
    assert "| it rains | the balancer | 3 | 1 | 3 | 1.4 s | 1 |" in as_markdown([case])
    assert as_bars(case).splitlines()[-1] == f"   1 s        2 {'#' * 60}"


def test_the_command_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--clients=200", "--gateways=2"])
    printed = capsys.readouterr().out
    assert "200 clients, 2 gateways" in printed
    assert "attempts in each second" in printed
