"""The session's life: dial, login, loss, backoff, close; as a story of plain calls."""

from __future__ import annotations

from typing import Any

import pytest

from wsclient.core.actions import Action, Dial, EndLine, Ready, Sign
from wsclient.core.session import Session
from wsclient.core.states import MOVES, check_move
from wsclient.errors import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ClientClosedError,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    InvalidAuthError,
    InvalidKeyError,
    ProtocolError,
    RateLimitedError,
    ReconnectFailedError,
    WSClientError,
    error_for_close,
)
from wsclient.events import ConnectionStatus as Status

from .sessions import (
    ACCEPTED,
    AUTH_TIMEOUT,
    CHALLENGE,
    CONNECT_TIMEOUT,
    LOST,
    failures,
    log_in,
    logged_in,
    make_session,
    of_kind,
    only,
    opened,
    request,
    statuses,
)

REFUSED = ConnectionFailedError("refused")


def dialled(now: float = 0.0, **options: Any) -> Session:
    session = make_session(**options)
    session.dial(now)
    return session


def connected(now: float = 0.0, **options: Any) -> Session:
    session = dialled(now, **options)
    session.opened(now)
    return session


def error_of(actions: list[Action]) -> WSClientError:
    return only(actions, EndLine).error


# --- login ------------------------------------------------------------------------------------------------------------


def test_a_login_goes_through_connecting_connected_and_authenticated() -> None:
    session = make_session()
    assert session.status is Status.DISCONNECTED
    assert statuses(session.dial(0)) == [Status.CONNECTING]
    assert statuses(session.opened(1)) == [Status.CONNECTED]
    assert only(session.receive([CHALLENGE], 2), Sign).challenge == CHALLENGE["challenge"]
    session.signed(3)
    actions = session.receive([ACCEPTED], 4)
    assert statuses(actions) == [Status.AUTHENTICATED]
    assert len(of_kind(actions, Ready)) == 1
    assert session.is_ready
    assert session.connects == 1


def test_the_status_is_reported_before_ready() -> None:
    session = connected()
    session.receive([CHALLENGE], 0)
    session.signed(0)
    assert [type(action).__name__ for action in session.receive([ACCEPTED], 0)] == ["StatusChanged", "Ready"]


def test_only_one_challenge_a_connection_is_signed() -> None:
    session = connected()
    assert len(of_kind(session.receive([CHALLENGE, CHALLENGE], 0), Sign)) == 1
    session.signed(0)
    assert session.receive([CHALLENGE], 0) == []
    assert session.ignored_messages == 2


def test_each_connection_gets_its_own_signature() -> None:
    session = logged_in()
    session.lost(LOST, 1)
    session.dial(2)
    session.opened(2)
    assert of_kind(session.receive([CHALLENGE], 2), Sign)


def test_a_verdict_before_the_signature_was_sent_is_a_protocol_error() -> None:
    session = connected()
    assert isinstance(error_of(session.receive([ACCEPTED], 0)), ProtocolError)
    session = connected()
    actions = session.receive([CHALLENGE, ACCEPTED], 0)
    assert isinstance(actions[-1], EndLine)
    assert not session.is_ready


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        ({"success": False, "error": "Invalid signature", "remainingAttempts": 4}, InvalidAuthError),
        ({"success": False, "error": "Challenge expired or invalid"}, AuthTimeoutError),
        ({"success": False, "error": "Too many", "retryAfter": 16}, RateLimitedError),
        ({"success": False}, InvalidAuthError),
    ],
)
def test_a_refused_login_ends_the_line_with_its_error(verdict: dict[str, Any], error: type[WSClientError]) -> None:
    session = connected()
    session.receive([CHALLENGE], 0)
    session.signed(0)
    assert type(error_of(session.receive([{"type": "auth_result", **verdict}], 0))) is error


def test_an_error_message_before_the_login_ends_the_line() -> None:
    message = {"type": "error", "error": "Authentication timeout", "code": "auth_timeout"}
    assert isinstance(error_of(connected().receive([message], 0)), AuthTimeoutError)


@pytest.mark.parametrize("value", [5, [], "text", {}, {"type": "challenge"}, {"type": "challenge", "challenge": 5}])
def test_rubbish_before_the_login_ends_the_line(value: Any) -> None:
    assert isinstance(error_of(connected().receive([value], 0)), ProtocolError)


def test_nothing_after_the_end_of_the_line_is_looked_at() -> None:
    session = connected()
    session.receive([CHALLENGE], 0)
    session.signed(0)
    refused = {"type": "auth_result", "success": False, "error": "Invalid signature"}
    assert isinstance(only(session.receive([refused, ACCEPTED], 0), EndLine).error, InvalidAuthError)
    assert not session.is_ready


def test_messages_that_do_not_belong_to_a_login_are_ignored_and_counted() -> None:
    session = connected()
    assert session.receive([{"type": "pong"}, {"type": "hello"}], 0) == []
    assert session.ignored_messages == 2


def test_a_second_verdict_after_the_login_is_ignored() -> None:
    session = logged_in()
    assert session.receive([{"type": "auth_result", "success": False, "error": "Challenge expired"}], 1) == []
    assert session.is_ready


@pytest.mark.parametrize(("said", "kept"), [(1000, 1000), (0, None), (-5, None), (None, None)])
def test_the_servers_message_limit_is_kept_when_it_is_one(said: Any, kept: Any) -> None:
    assert log_in(make_session(), maxMessageBytes=said).max_message_bytes == kept


# --- each step's deadline ---------------------------------------------------------------------------------------------


def test_a_dial_past_connect_timeout_is_a_connection_timeout() -> None:
    session = dialled(100)
    assert session.next_due() == 100 + CONNECT_TIMEOUT
    assert session.tick(100 + CONNECT_TIMEOUT - 0.1) == []
    assert isinstance(error_of(session.tick(100 + CONNECT_TIMEOUT)), ConnectionTimeoutError)


def test_no_challenge_within_auth_timeout_is_a_challenge_timeout() -> None:
    session = connected(100)
    assert session.next_due() == 100 + AUTH_TIMEOUT
    assert isinstance(error_of(session.tick(100 + AUTH_TIMEOUT)), ChallengeTimeoutError)


def test_a_signer_that_takes_too_long_is_an_auth_timeout() -> None:
    session = connected(100)
    session.receive([CHALLENGE], 103)
    assert session.next_due() == 103 + AUTH_TIMEOUT
    assert isinstance(error_of(session.tick(103 + AUTH_TIMEOUT)), AuthTimeoutError)


def test_no_verdict_within_auth_timeout_of_the_signature_is_an_auth_timeout() -> None:
    session = connected(100)
    session.receive([CHALLENGE], 103)
    session.signed(104)
    assert session.next_due() == 104 + AUTH_TIMEOUT
    assert isinstance(error_of(session.tick(104 + AUTH_TIMEOUT)), AuthTimeoutError)


def test_bytes_that_are_no_challenge_do_not_extend_the_deadline() -> None:
    session = connected(100)
    session.heard(103)
    session.receive([{"type": "hello"}], 104)
    assert session.next_due() == 100 + AUTH_TIMEOUT


def test_an_overdue_step_is_reported_once() -> None:
    session = dialled()
    assert len(session.tick(CONNECT_TIMEOUT)) == 1
    assert session.tick(CONNECT_TIMEOUT + 1) == []


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in Status for new in Status if new not in MOVES[old]])
def test_a_move_that_is_not_in_the_table_raises(old: Status, new: Status) -> None:
    with pytest.raises(AssertionError, match=f"{old} cannot become {new}"):
        check_move(old, new)


def test_every_status_has_its_moves() -> None:
    assert set(MOVES) == set(Status)
    assert all(MOVES.values())


def test_an_illegal_step_raises_and_changes_nothing() -> None:
    session = logged_in()
    with pytest.raises(AssertionError):
        session.dial(1)
    assert session.status is Status.AUTHENTICATED


# --- loss -------------------------------------------------------------------------------------------------------------


def test_a_loss_fails_everything_open_with_its_error() -> None:
    session = logged_in()
    opened(session, request("a"))
    opened(session, request("b"), request("c"))
    failed = failures(session.lost(LOST, 5))
    assert list(failed) == ["a", "b", "c"]
    assert {type(error) for error in failed.values()} == {ConnectionLostError}
    assert [error.id for error in failed.values()] == ["a", "b", "c"]
    assert len({id(error) for error in failed.values()}) == 3


def test_the_failures_come_before_the_status() -> None:
    session = logged_in()
    opened(session, request("a"))
    kinds = [type(action).__name__ for action in session.lost(LOST, 5)]
    assert kinds == ["Failed", "StatusChanged", "StatusChanged"]


def test_a_loss_goes_through_disconnected_to_reconnecting() -> None:
    session = logged_in()
    assert statuses(session.lost(LOST, 5)) == [Status.DISCONNECTED, Status.RECONNECTING]
    assert session.keeps_trying


def test_without_auto_reconnect_a_loss_ends_disconnected() -> None:
    session = logged_in(auto_reconnect=False)
    assert statuses(session.lost(LOST, 5)) == [Status.DISCONNECTED]
    assert not session.keeps_trying
    assert session.next_due() == float("inf")
    assert session.last_error is LOST


def test_a_first_attempt_that_fails_is_not_repeated() -> None:
    session = dialled()
    assert statuses(session.lost(REFUSED, 1)) == [Status.DISCONNECTED]
    assert session.next_due() == float("inf")


def test_a_first_attempt_in_the_background_is_repeated() -> None:
    session = make_session()
    session.keep_trying()
    session.dial(0)
    assert statuses(session.lost(REFUSED, 1)) == [Status.RECONNECTING]


def test_the_pauses_double_up_to_the_cap() -> None:
    session = logged_in(attempts=None)
    now, pauses = 100.0, []
    session.lost(LOST, now)
    for _ in range(8):
        pauses.append(session.next_due() - now)
        now = session.next_due()
        only(session.tick(now), Dial)
        session.dial(now)
        session.lost(REFUSED, now)
    # Jitter in the middle; at the cap only its lower half is left.
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 27, 27, 27])


def test_a_dial_is_asked_for_once() -> None:
    session = logged_in()
    session.lost(LOST, 100)
    assert session.tick(100.5) == []
    only(session.tick(101), Dial)
    assert session.tick(102) == []


def test_an_explicit_dial_during_the_pause_ends_the_pause() -> None:
    session = logged_in()
    session.lost(LOST, 100)
    assert statuses(session.dial(100.1)) == [Status.CONNECTING]
    assert session.next_due() == 100.1 + CONNECT_TIMEOUT
    assert statuses(session.lost(REFUSED, 101)) == [Status.RECONNECTING]


def use_up(session: Session, now: float, attempts: int) -> list[Action]:
    actions: list[Action] = []
    for _ in range(attempts):
        session.dial(now)
        actions = session.lost(REFUSED, now)
    return actions


def test_used_up_attempts_end_in_reconnect_failed() -> None:
    session = logged_in(attempts=3)
    session.lost(LOST, 100)
    assert statuses(use_up(session, 100, 3)) == [Status.RECONNECT_FAILED]
    assert not session.keeps_trying
    assert isinstance(session.last_error, ReconnectFailedError)
    assert "3 reconnect attempts failed" in session.last_error.message
    assert session.last_error.__cause__ is REFUSED


def test_after_reconnect_failed_the_next_attempt_starts_afresh() -> None:
    session = logged_in(attempts=3)
    session.lost(LOST, 100)
    use_up(session, 100, 3)
    log_in(session, 200)
    session.lost(LOST, 300)
    assert session.next_due() == pytest.approx(301)


def test_connections_that_never_hold_use_up_the_attempts() -> None:
    session = logged_in(attempts=3)
    for _ in range(3):
        assert statuses(session.lost(LOST, 0)) == [Status.DISCONNECTED, Status.RECONNECTING]
        log_in(session, 0)
    assert statuses(session.lost(LOST, 0)) == [Status.DISCONNECTED, Status.RECONNECT_FAILED]


def test_no_attempts_at_all_end_disconnected() -> None:
    session = logged_in(attempts=0)
    assert statuses(session.lost(LOST, 0)) == [Status.DISCONNECTED]
    assert session.last_error is LOST


def test_no_attempts_at_all_end_a_first_attempt_in_the_background_disconnected() -> None:
    session = make_session(attempts=0)
    session.keep_trying()
    session.dial(0)
    assert statuses(session.lost(REFUSED, 0)) == [Status.DISCONNECTED]
    assert session.status is Status.DISCONNECTED


@pytest.mark.parametrize(("held", "pause"), [(0.9, 2.0), (1.1, 1.0)])
def test_the_count_starts_over_only_after_a_connection_held_for_a_second(held: float, pause: float) -> None:
    session = logged_in()
    session.lost(LOST, 0)
    log_in(session, 10)
    session.lost(LOST, 10 + held)
    assert session.next_due() - (10 + held) == pytest.approx(pause)


@pytest.mark.parametrize(("held", "pause"), [(7.9, 16.0), (8.1, 1.0)])
def test_the_count_starts_over_only_after_a_connection_held_as_long_as_the_last_pause(
    held: float, pause: float
) -> None:
    session = logged_in()
    session.lost(LOST, 0)
    use_up(session, 0, 3)
    log_in(session, 50)
    session.lost(LOST, 50 + held)
    assert session.next_due() - (50 + held) == pytest.approx(pause)


def test_the_servers_retry_after_is_waited_for() -> None:
    session = logged_in()
    session.lost(LOST, 0)
    session.dial(1)
    session.lost(RateLimitedError("too many", retry_after=16), 1)
    assert session.next_due() == 17


@pytest.mark.parametrize("error", [InvalidAuthError("no"), InvalidKeyError("no"), error_for_close(4003)])
def test_a_refusal_for_good_is_final(error: WSClientError) -> None:
    session = logged_in()
    session.lost(LOST, 0)
    session.dial(1)
    assert statuses(session.lost(error, 1)) == [Status.AUTH_FAILED]
    assert not session.keeps_trying
    assert session.next_due() == float("inf")
    assert session.last_error is error


def test_a_revoked_client_ends_in_auth_failed_from_a_live_connection() -> None:
    session = logged_in()
    assert statuses(session.lost(error_for_close(4003), 1)) == [Status.AUTH_FAILED]


def test_a_policy_refusal_is_not_retried() -> None:
    session = logged_in()
    assert statuses(session.lost(error_for_close(1008), 1)) == [Status.DISCONNECTED]
    assert not session.keeps_trying


def test_only_connect_tries_again_after_auth_failed() -> None:
    session = dialled()
    session.lost(InvalidAuthError("no"), 0)
    assert session.tick(1e9) == []
    assert statuses(session.dial(1e9)) == [Status.CONNECTING]


def test_a_login_after_a_loss_is_a_reconnect_and_says_that_the_outage_is_over() -> None:
    session = logged_in()
    session.lost(LOST, 1)
    session.dial(2)
    session.opened(2)
    session.receive([CHALLENGE], 2)
    session.signed(2)
    assert of_kind(session.receive([ACCEPTED], 2), Ready) == [Ready(is_recovery=True)]
    assert (session.connects, session.reconnects) == (2, 1)
    assert session.last_error is None


def test_failed_attempts_between_do_not_count_as_reconnects() -> None:
    session = logged_in()
    session.lost(LOST, 1)
    use_up(session, 1, 5)
    log_in(session, 2)
    assert session.reconnects == 1


# --- close ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        Status.CONNECTING,
        Status.CONNECTED,
        Status.AUTHENTICATED,
        Status.RECONNECTING,
        Status.AUTH_FAILED,
        Status.RECONNECT_FAILED,
    ],
)
def test_a_close_ends_every_status_in_disconnected(status: Status) -> None:
    session = dialled(attempts=1)
    if status in (Status.CONNECTED, Status.AUTHENTICATED):
        session = connected() if status is Status.CONNECTED else logged_in()
    elif status is Status.AUTH_FAILED:
        session.lost(InvalidAuthError("no"), 0)
    elif status is not Status.CONNECTING:
        session = logged_in(attempts=1)
        session.lost(LOST, 0)
        if status is Status.RECONNECT_FAILED:
            use_up(session, 0, 1)
    assert session.status is status
    assert statuses(session.close(1)) == [Status.DISCONNECTED]
    assert session.next_due() == float("inf")
    assert not session.keeps_trying
    assert session.tick(1e9) == []


def test_a_close_fails_what_is_open_with_client_closed() -> None:
    session = logged_in()
    opened(session, request("a"))
    assert isinstance(failures(session.close(1))["a"], ClientClosedError)


def test_a_second_close_does_nothing() -> None:
    session = logged_in()
    session.close(1)
    assert session.close(2) == []


def test_a_login_after_a_close_is_no_reconnect() -> None:
    session = logged_in()
    session.close(1)
    log_in(session, 2)
    assert session.reconnects == 0


def test_a_close_during_the_schedule_starts_it_over() -> None:
    session = logged_in()
    session.lost(LOST, 0)
    use_up(session, 0, 5)
    session.close(1)
    log_in(session, 2)
    session.lost(LOST, 100)
    assert session.next_due() == pytest.approx(101)
