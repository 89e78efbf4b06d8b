"""The session's clock: liveness, deadlines, and when the watchdog has to wake at the latest."""

from __future__ import annotations

import math

import pytest

from wsclient.core.actions import Action, EndLine, Probe, StopOnServer
from wsclient.core.requests import RequestKind
from wsclient.errors import ConnectionLostError, RequestTimeoutError, WSClientError

from .sessions import (
    ACCEPTED,
    AUTH_TIMEOUT,
    CHALLENGE,
    LOST,
    PING_INTERVAL,
    PONG_TIMEOUT,
    failures,
    logged_in,
    make_session,
    of_kind,
    only,
    opened,
    request,
    token,
)

# --- liveness ---------------------------------------------------------------------------------------------------------


def test_silence_for_ping_interval_is_probed() -> None:
    session = logged_in(100)
    assert session.next_due() == 100 + PING_INTERVAL
    assert session.tick(100 + PING_INTERVAL - 0.1) == []
    only(session.tick(100 + PING_INTERVAL), Probe)


def test_any_bytes_put_the_probe_off() -> None:
    session = logged_in(100)
    session.heard(110)
    assert session.next_due() == 110 + PING_INTERVAL
    assert session.tick(100 + PING_INTERVAL) == []


def test_a_probe_without_an_answer_within_pong_timeout_ends_the_line() -> None:
    session = logged_in(100)
    session.probed(140)
    assert session.next_due() == 140 + PONG_TIMEOUT
    assert session.tick(140 + PONG_TIMEOUT - 0.1) == []
    error = only(session.tick(140 + PONG_TIMEOUT), EndLine).error
    assert isinstance(error, ConnectionLostError)
    assert "silent for 38 s" in error.message


def test_any_bytes_after_the_probe_are_an_answer() -> None:
    session = logged_in(100)
    session.probed(140)
    session.heard(141)
    assert session.next_due() == 141 + PING_INTERVAL
    assert session.tick(140 + PONG_TIMEOUT) == []


def test_in_the_middle_of_a_frame_the_server_is_not_asked_and_has_as_long_as_an_answer_would() -> None:
    session = logged_in(100)
    session.heard(110, is_whole=False)
    end = 110 + PING_INTERVAL + PONG_TIMEOUT
    assert session.next_due() == end
    assert session.tick(end - 0.1) == []
    assert "silent for 38 s and left a frame unfinished" in only(session.tick(end), EndLine).error.message


def test_a_large_message_may_take_its_time_and_after_it_the_line_is_probed_again() -> None:
    session = logged_in(100)
    for now in range(110, 300, int(PING_INTERVAL + PONG_TIMEOUT) - 1):
        session.heard(now, is_whole=False)
        assert session.tick(now) == []
    session.heard(300)
    only(session.tick(300 + PING_INTERVAL), Probe)


def test_an_answer_to_a_probe_that_vanishes_in_a_frame_is_the_last() -> None:
    session = logged_in(100)
    session.probed(140)
    session.heard(141, is_whole=False)
    only(session.tick(141 + PING_INTERVAL + PONG_TIMEOUT), EndLine)


def test_the_half_frame_of_a_lost_line_does_not_count_against_the_next() -> None:
    session = logged_in(100)
    session.heard(141, is_whole=False)
    session.lost(LOST, 141)
    session.dial(142)
    session.opened(142)
    session.receive([CHALLENGE], 142)
    session.signed(142)
    session.receive([ACCEPTED], 142)
    only(session.tick(142 + PING_INTERVAL), Probe)


def test_an_answer_to_a_probe_brings_the_next_one_nearer_than_the_end_that_was_planned() -> None:
    session = logged_in(100)
    session.take_new_due()
    session.heard(110)
    # Bytes that nobody asked for put off what is planned: the watchdog finds that out when it wakes.
    assert session.take_new_due() == math.inf
    session.probed(140)
    session.heard(141)
    assert session.take_new_due() == 141 + PING_INTERVAL


def test_a_probe_that_waits_behind_a_long_send_cannot_be_late_yet() -> None:
    session = logged_in(100)
    session.sent(110)
    assert session.next_due() == 100 + PING_INTERVAL
    session.probed(140)
    session.sent(145)
    assert session.next_due() == 145 + PONG_TIMEOUT
    assert session.tick(140 + PONG_TIMEOUT) == []
    only(session.tick(145 + PONG_TIMEOUT), EndLine)


def test_after_a_sleep_of_the_machine_the_line_is_probed_at_once() -> None:
    session = logged_in(100)
    session.take_new_due()
    session.mistrust(103)
    assert session.take_new_due() == session.next_due() == 103
    only(session.tick(103), Probe)
    session.probed(103)
    only(session.tick(103 + PONG_TIMEOUT), EndLine)


def test_an_answer_after_a_sleep_restores_the_trust() -> None:
    session = logged_in(100)
    session.mistrust(103)
    session.probed(103)
    session.heard(104)
    assert session.next_due() == 104 + PING_INTERVAL


def test_a_sleep_while_a_probe_is_under_way_gives_it_no_more_time() -> None:
    session = logged_in(100)
    session.probed(140)
    session.mistrust(143)
    assert session.next_due() == 140 + PONG_TIMEOUT


def test_a_sleep_before_the_login_changes_no_deadline() -> None:
    session = make_session()
    session.dial(0)
    due = session.next_due()
    session.mistrust(3)
    assert session.next_due() == due
    assert session.tick(3) == []


def test_a_line_without_a_login_is_not_probed() -> None:
    session = make_session()
    session.dial(0)
    session.opened(0)
    assert of_kind(session.tick(PING_INTERVAL * 10), Probe) == []


def test_the_probe_of_a_lost_line_does_not_count_against_the_next() -> None:
    session = logged_in(100)
    session.probed(140)
    session.lost(LOST, 141)
    session.dial(142)
    session.opened(142)
    session.heard(142)
    session.receive([CHALLENGE], 142)
    session.signed(142)
    session.receive([ACCEPTED], 142)
    assert session.next_due() == 142 + PING_INTERVAL


def test_a_pong_sets_the_latency() -> None:
    session = logged_in(100)
    opened(session, request("p", RequestKind.PING), now=110)
    session.receive([{"type": "pong", "id": "p"}], 110.25)
    assert session.latency == 0.25


# --- deadlines of requests --------------------------------------------------------------------------------------------


def sentence(actions: list[Action]) -> str:
    (error,) = failures(actions).values()
    assert isinstance(error, RequestTimeoutError)
    return error.message


def test_a_request_without_an_answer_fails_at_its_deadline() -> None:
    session = logged_in()
    opened(session, request("m", RequestKind.MODELS, answer_timeout=7), now=3)
    assert session.next_due() == 10
    assert session.tick(9.9) == []
    assert sentence(session.tick(10)) == "no answer to models within 7 s"
    assert session.requests.get("m") is None


def test_a_clock_that_was_started_before_is_kept() -> None:
    session = logged_in()
    opened(session, request("m", RequestKind.MODELS, answer_timeout=7, started_at=1.0), now=3)
    assert session.next_due() == 8


def test_a_generation_without_a_first_token_fails_and_is_stopped() -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=7))
    session.receive([{"type": "stream_start", "id": "g"}], 6)
    actions = session.tick(7)
    assert sentence(actions) == "no first token within 7 s"
    assert of_kind(actions, StopOnServer) == [StopOnServer("g")]


def test_a_request_that_is_no_generation_is_not_stopped() -> None:
    session = logged_in()
    opened(session, request("m", RequestKind.MODELS, answer_timeout=7))
    assert of_kind(session.tick(7), StopOnServer) == []


def test_silence_between_tokens_fails_a_generation() -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=7, token_timeout=2))
    session.receive([token("g", "a")], 6)
    session.receive([token("g", "b")], 7.5)
    session.heard(8)
    assert session.tick(9.4) == []
    assert sentence(session.tick(9.5)) == "no further token within 2 s"


@pytest.mark.parametrize("kind", [None, "thinking"])
def test_thinking_is_life_too(kind: str | None) -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=7, token_timeout=2))
    session.receive([token("g", "hm", kind=kind) if kind else token("g", "hm")], 6)
    assert session.next_due() == 8


def test_the_total_timeout_bounds_a_generation_that_keeps_talking() -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=7, token_timeout=5, total_timeout=10))
    for now in range(1, 10):
        session.receive([token("g", "a")], now)
        session.heard(now)
    assert session.next_due() == 10
    assert sentence(session.tick(10)) == "the generation did not end within 10 s"


def test_the_total_timeout_counts_before_the_first_token_too() -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=300, total_timeout=10))
    assert sentence(session.tick(10)) == "the generation did not end within 10 s"


def test_a_timeout_carries_the_id() -> None:
    session = logged_in()
    opened(session, request("g", answer_timeout=7))
    errors: dict[str, WSClientError] = failures(session.tick(7))
    assert errors["g"].id == "g"


def test_an_overdue_request_leaves_the_others_alone() -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=5))
    opened(session, request("b", answer_timeout=6))
    assert list(failures(session.tick(5))) == ["a"]
    assert session.requests.get("b") is not None


# --- the items of a batch, one after the other ------------------------------------------------------------------------


def test_a_batch_items_clock_starts_when_the_one_before_it_ended() -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=20), request("b", answer_timeout=5), now=0)
    session.receive([{"type": "stream_end", "id": "a"}], 12)
    assert session.next_due() == 17
    assert list(failures(session.tick(17))) == ["b"]


@pytest.mark.parametrize("how", ["failed", "overdue", "given up"])
def test_however_an_item_ends_the_next_ones_clock_starts(how: str) -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=8), request("b", answer_timeout=5), request("c", answer_timeout=1))
    if how == "failed":
        session.receive([{"type": "error", "id": "a", "error": "no"}], 8)
    elif how == "overdue":
        session.tick(8)
    else:
        session.give_up("a", 8)
    assert session.next_due() == 13


def test_an_item_given_up_out_of_turn_starts_no_clock() -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=8), request("b", answer_timeout=5), request("c", answer_timeout=1))
    session.give_up("b", 2)
    assert session.next_due() == 8
    session.receive([{"type": "stream_end", "id": "a"}], 3)
    assert session.next_due() == 4


def test_an_items_total_timeout_starts_with_its_own_clock() -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=25), request("b", answer_timeout=25, total_timeout=5))
    session.receive([{"type": "stream_end", "id": "a"}], 20)
    assert session.next_due() == 25


# --- what came nearer than planned ------------------------------------------------------------------------------------


def test_nothing_new_is_due_at_rest() -> None:
    session = logged_in()
    session.take_new_due()
    assert session.take_new_due() == math.inf


def test_a_login_brings_the_first_probe_nearer() -> None:
    assert logged_in(100).take_new_due() == 100 + PING_INTERVAL


def test_a_first_token_brings_the_silence_between_tokens() -> None:
    session = logged_in()
    session.take_new_due()
    opened(session, request("g", answer_timeout=300, token_timeout=2))
    session.receive([token("g", "a")], 5)
    assert session.take_new_due() == 7
    session.receive([token("g", "b")], 6)
    assert session.take_new_due() == math.inf


def test_the_end_of_a_batch_item_brings_the_next_ones_deadline() -> None:
    session = logged_in()
    session.take_new_due()
    opened(session, request("a", answer_timeout=300), request("b", RequestKind.MODELS, answer_timeout=2))
    session.receive([{"type": "stream_end", "id": "a"}], 5)
    assert session.take_new_due() == 7


# --- when the watchdog has to wake ------------------------------------------------------------------------------------


def test_nothing_is_due_before_the_first_connection() -> None:
    assert make_session().next_due() == math.inf


def test_the_nearest_of_all_is_due() -> None:
    session = logged_in()
    opened(session, request("a", answer_timeout=25))
    assert session.next_due() == 25
    opened(session, request("b", answer_timeout=2))
    assert session.next_due() == 2
    session.requests.take_all()
    assert session.next_due() == PING_INTERVAL


def test_a_step_and_not_the_probe_is_due_during_a_login() -> None:
    session = make_session()
    session.dial(0)
    session.opened(1)
    assert session.next_due() == 1 + AUTH_TIMEOUT
