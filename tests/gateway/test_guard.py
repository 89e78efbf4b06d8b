"""The blocking of repeated failed logins, with a clock that the tests move."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsclient.gateway.guard import LoginGuard, Refusal, blocked_message

HERE = ("192.0.2.1", "client")


def fail(guard: LoginGuard, times: int, now: float = 0.0) -> list[Refusal]:
    return [guard.failure(*HERE, now) for _ in range(times)]


def test_the_first_failures_count_down_and_the_fifth_blocks_for_16_seconds() -> None:
    assert fail(LoginGuard(), 5) == [Refusal(4), Refusal(3), Refusal(2), Refusal(1), Refusal(0, 16)]


def test_a_blocked_login_is_told_the_seconds_that_are_left_rounded_up() -> None:
    guard = LoginGuard()
    fail(guard, 5)
    assert [guard.blocked_for(*HERE, now) for now in (0.0, 0.5, 1.0, 1.5, 15.5, 15.9999)] == [16, 16, 15, 15, 1, 1]


def test_the_block_ends_when_its_time_is_over() -> None:
    guard = LoginGuard()
    fail(guard, 5)
    assert guard.blocked_for(*HERE, 16.0) is None


def test_fewer_failures_block_nobody() -> None:
    guard = LoginGuard()
    fail(guard, 4)
    assert guard.blocked_for(*HERE, 0.0) is None


def test_a_failure_while_blocked_counts_for_nothing() -> None:
    guard = LoginGuard()
    fail(guard, 5)
    assert fail(guard, 20, now=8.0) == [Refusal(0, 8)] * 20
    assert guard.blocked_for(*HERE, 16.0) is None


def test_each_failure_after_a_block_doubles_the_next_up_to_1800_seconds() -> None:
    guard = LoginGuard()
    fail(guard, 4)
    now, pauses = 0.0, []
    for _ in range(12):
        refusal = guard.failure(*HERE, now)
        pauses.append(refusal.retry_after)
        now += refusal.retry_after or 0
    assert pauses == [16, 32, 64, 128, 256, 512, 1024, 1800, 1800, 1800, 1800, 1800]


def test_thousands_of_failures_do_not_overflow() -> None:
    guard, now = LoginGuard(), 0.0
    for _ in range(3000):
        now += guard.failure(*HERE, now).retry_after or 0
    assert guard.failure(*HERE, now).retry_after == 1800


def test_a_success_clears_the_count() -> None:
    guard = LoginGuard()
    fail(guard, 4)
    guard.success(*HERE)
    assert fail(guard, 5) == [Refusal(4), Refusal(3), Refusal(2), Refusal(1), Refusal(0, 16)]


def test_a_success_of_somebody_without_failures_is_nothing() -> None:
    guard = LoginGuard()
    guard.success(*HERE)
    assert len(guard) == 0


def test_another_address_and_another_id_are_not_blocked() -> None:
    guard = LoginGuard()
    fail(guard, 5)
    assert guard.blocked_for("192.0.2.2", "client", 0.0) is None
    assert guard.blocked_for("192.0.2.1", "other", 0.0) is None
    assert guard.blocked_for(*HERE, 0.0) == 16


@pytest.mark.parametrize(("max_attempts", "first_block"), [(1, 1), (3, 4), (10, 512)])
def test_the_number_of_attempts_can_be_set(max_attempts: int, first_block: int) -> None:
    refusals = fail(LoginGuard(max_attempts=max_attempts), max_attempts)
    assert [refusal.remaining_attempts for refusal in refusals] == list(range(max_attempts - 1, -1, -1))
    assert refusals[-1].retry_after == first_block
    assert not any(refusal.retry_after for refusal in refusals[:-1])


@pytest.mark.parametrize("option", ["max_attempts", "max_block", "max_entries"])
def test_a_limit_below_one_is_a_value_error_that_names_it(option: str) -> None:
    limits: dict[str, Any] = {option: 0}
    with pytest.raises(ValueError, match=rf"{option} must be at least 1 \(got 0\)"):
        LoginGuard(**limits)


def test_failures_are_forgotten_half_an_hour_after_they_count_for_nothing() -> None:
    guard = LoginGuard()
    fail(guard, 4)
    assert guard.failure(*HERE, 1799.0) == Refusal(0, 16)
    assert guard.failure(*HERE, 1799.0 + 16 + 1800) == Refusal(4)


def test_forgotten_failures_leave_the_memory() -> None:
    guard = LoginGuard()
    for number in range(100):
        guard.failure("192.0.2.1", f"client {number}", 0.0)
    for number in range(100):
        guard.failure("192.0.2.2", f"client {number}", 10_000.0)
    assert len(guard) == 100


def test_the_memory_is_bounded_and_the_oldest_is_forgotten_first() -> None:
    guard = LoginGuard(max_entries=10)
    fail(guard, 5)
    for number in range(9):
        guard.failure("192.0.2.9", str(number), 1.0)
    assert guard.blocked_for(*HERE, 1.0) == 15
    guard.failure("192.0.2.9", "one more", 1.0)
    assert guard.blocked_for(*HERE, 1.0) is None
    assert len(guard) == 10


def test_a_new_failure_makes_a_login_the_youngest() -> None:
    guard = LoginGuard(max_entries=2)
    guard.failure(*HERE, 0.0)
    guard.failure("192.0.2.9", "a", 1.0)
    guard.failure(*HERE, 2.0)
    guard.failure("192.0.2.9", "b", 3.0)
    assert guard.failure(*HERE, 4.0) == Refusal(2)


def test_a_long_id_takes_no_more_memory_than_a_short_one() -> None:
    guard = LoginGuard()
    guard.failure("192.0.2.1", "x" * 100_000 + "\ud800", 0.0)
    assert all(len(client_id) < 100 for _, client_id in guard._records)
    assert guard.failure("192.0.2.1", "x" * 100_000 + "\ud800", 0.0) == Refusal(3)
    assert guard.failure("192.0.2.1", "x" * 100_000 + "y", 0.0) == Refusal(4)


@given(now=st.floats(0, 4e9))
def test_the_seconds_are_whole_at_any_time_of_the_clock(now: float) -> None:
    guard = LoginGuard()
    assert fail(guard, 5, now)[-1] == Refusal(0, 16)
    assert guard.blocked_for(*HERE, now) == 16


def test_the_text_is_the_originals() -> None:
    assert blocked_message(16) == "Too many authentication attempts. Please try again in 16 seconds."


def test_the_recorded_answers_of_the_original_are_ours(
    transcript: Callable[[str], list[dict[str, Any]]],
) -> None:
    guard = LoginGuard()
    sent: dict[str, dict[str, Any]] = {}
    ours, originals = [], []
    for record in transcript("1_auth"):
        message = json.loads(record["raw"]) if record.get("raw", "").startswith('{"type":"auth') else {}
        if message.get("type") == "authenticate":
            sent[record["conn"]] = message
        # H-xff came with another address in X-Forwarded-For, which the original believes.
        if message.get("type") != "auth_result" or record["conn"] == "H-xff":
            continue
        login = ("127.0.0.1", str(sent[record["conn"]].get("clientId")))
        now = record["ms"] / 1000
        text = message.get("error")
        if message["success"]:
            assert guard.blocked_for(*login, now) is None
            guard.success(*login)
        elif text == "Invalid signature" or text.startswith("Too many"):
            blocked = guard.blocked_for(*login, now)
            refusal = guard.failure(*login, now) if blocked is None else Refusal(0, blocked)
            told = (refusal.remaining_attempts, None) if refusal.retry_after is None else (None, refusal.retry_after)
            ours.append(told)
            originals.append((message.get("remainingAttempts"), message.get("retryAfter")))
            if refusal.retry_after is not None:
                assert blocked_message(refusal.retry_after) == text
    assert ours == originals
    assert (None, 32) in originals
    assert len(originals) == 30
