"""The pauses between reconnect attempts: growing, bounded, spread, and never the same for everybody."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.core.backoff import JITTER, Backoff

fast = settings(deadline=None, database=None, max_examples=300)


def middle() -> float:
    return 0.5


def backoff(first: float = 1.0, cap: float = 30.0, attempts: int | None = 10, seed: int | None = None) -> Backoff:
    return Backoff(first, cap, attempts, middle if seed is None else random.Random(seed).random)


def test_the_pause_doubles_up_to_the_cap() -> None:
    pauses = backoff()
    assert [pauses.next_delay() for _ in range(7)] == pytest.approx([1, 2, 4, 8, 16, 27, 27])


def test_the_jitter_is_a_fifth() -> None:
    assert JITTER == 0.2
    lowest, highest = Backoff(1, 30, None, lambda: 0.0), Backoff(1, 30, None, lambda: 1.0)
    assert [lowest.next_delay() for _ in range(7)] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 24, 24])
    assert [highest.next_delay() for _ in range(7)] == pytest.approx([1.2, 2.4, 4.8, 9.6, 19.2, 30, 30])


def test_10000_outages_keep_within_a_fifth_of_the_doubling_pause_and_never_pass_the_cap() -> None:
    pauses = backoff(seed=1)
    for _ in range(10_000):
        for attempt in range(10):
            nominal = min(30.0, 1.0 * 2**attempt)
            assert 0.8 * nominal <= pauses.next_delay() <= min(30.0, 1.2 * nominal)
        assert pauses.is_exhausted
        pauses.reset()


def test_clients_that_lost_the_same_gateway_come_back_evenly_spread_at_the_cap_too() -> None:
    tenths: Counter[int] = Counter()
    for seed in range(2_000):
        pauses = backoff(attempts=None, seed=seed)
        for _ in range(6):
            pauses.next_delay()
        tenths[int((pauses.next_delay() - 24) / 0.6)] += 1
    # 200 clients in each tenth of the range from 24 s to 30 s, give or take five standard deviations.
    assert tenths.keys() == set(range(10))
    assert all(130 < count < 270 for count in tenths.values()), tenths


def test_attempt_10000_does_not_overflow() -> None:
    pauses = backoff(attempts=None, seed=2)
    for _ in range(10_000):
        assert 0 < pauses.next_delay() <= 30
    assert pauses.attempts == 10_000
    assert not pauses.is_exhausted


@given(
    first=st.floats(0.001, 600),
    cap=st.floats(0.001, 600),
    dice=st.sampled_from([0.0, 1.0, 0.5, 1 - 2**-53]) | st.floats(0, 1),
    attempts=st.integers(1, 40),
)
@fast
def test_no_pause_is_over_the_cap_even_by_rounding(first: float, cap: float, dice: float, attempts: int) -> None:
    pauses = Backoff(first, cap, None, lambda: dice)
    for _ in range(attempts):
        assert 0 < pauses.next_delay() <= cap


def test_a_first_delay_over_the_cap_is_cut_to_it() -> None:
    assert backoff(first=100.0, cap=30.0).next_delay() == pytest.approx(27)


# --- retry_after ------------------------------------------------------------------------------------------------------


def test_the_servers_retry_after_is_waited_even_over_the_cap() -> None:
    pauses = backoff()
    assert pauses.next_delay(retry_after=1800) == 1800
    assert pauses.last_delay == 1800


def test_a_shorter_retry_after_does_not_shorten_the_pause() -> None:
    assert backoff().next_delay(retry_after=0.1) == 1.0
    assert backoff().next_delay(retry_after=0) == 1.0


def test_a_retry_after_counts_as_an_attempt_and_leaves_the_doubling_as_it_is() -> None:
    pauses = backoff()
    pauses.next_delay(retry_after=1800)
    assert pauses.attempts == 1
    assert pauses.next_delay() == 2.0


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 10])
def test_the_attempts_are_exhausted_after_the_limit(limit: int) -> None:
    pauses = backoff(attempts=limit)
    for done in range(limit):
        assert not pauses.is_exhausted
        assert pauses.attempts == done
        pauses.next_delay()
    assert pauses.is_exhausted


def test_the_last_pause_is_remembered() -> None:
    pauses = backoff()
    assert pauses.last_delay == 0
    for _ in range(4):
        assert pauses.next_delay() == pauses.last_delay
    assert pauses.last_delay == 8.0


def test_a_reset_starts_over() -> None:
    pauses = backoff(attempts=3)
    for _ in range(3):
        pauses.next_delay()
    pauses.reset()
    assert (pauses.attempts, pauses.last_delay, pauses.is_exhausted) == (0, 0.0, False)
    assert [pauses.next_delay() for _ in range(3)] == [1.0, 2.0, 4.0]
