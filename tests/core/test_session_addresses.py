"""The session with several addresses: what goes on at once, what waits, and what counts."""

from __future__ import annotations

import pytest

from wsclient.core.actions import Dial
from wsclient.core.session import Session
from wsclient.errors import (
    ClientClosedError,
    ConnectionFailedError,
    InvalidAuthError,
    ReconnectFailedError,
    ServerBusyError,
)
from wsclient.events import ConnectionStatus as Status

from .sessions import ACCEPTED, CHALLENGE, LOST, make_session, only, statuses

A, B, C = "wss://a/", "wss://b/", "wss://c/"
REFUSED = ConnectionFailedError("refused")


def dial(session: Session, now: float) -> str:
    session.dial(now)
    return session.addresses.current.url


def log_in(session: Session, now: float) -> None:
    session.opened(now)
    session.receive([CHALLENGE], now)
    session.signed(now)
    session.receive([ACCEPTED], now)


def test_a_first_attempt_goes_on_with_the_next_address_at_once() -> None:
    session = make_session(urls=[A, B])
    assert dial(session, 0) == A
    only(session.lost(REFUSED, 1), Dial)
    assert session.status is Status.CONNECTING
    assert dial(session, 1) == B


def test_each_address_has_the_whole_time_to_connect() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    first = session.next_due()
    session.lost(REFUSED, 7)
    session.dial(7)
    assert session.next_due() == first + 7


def test_a_first_attempt_fails_when_every_address_did() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    session.lost(ConnectionFailedError("a refused"), 1)
    session.dial(1)
    assert statuses(session.lost(ConnectionFailedError("b refused"), 2)) == [Status.DISCONNECTED]
    assert "a refused; b refused" in str(session.last_error)


def test_a_gateway_that_is_busy_at_the_login_is_left_for_the_next() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    session.opened(1)
    only(session.lost(ServerBusyError("full", retry_after=60), 1), Dial)
    assert dial(session, 1) == B
    assert session.status is Status.CONNECTING


def test_a_wrong_key_ends_it_at_the_first_address() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    session.opened(1)
    assert statuses(session.lost(InvalidAuthError("wrong key"), 1)) == [Status.AUTH_FAILED]


def test_the_backoff_counts_rounds() -> None:
    session = make_session(urls=[A, B, C], attempts=2)
    session.keep_trying()
    now, pauses = 0.0, []
    for _ in range(3):
        for _ in range(3):
            session.dial(now)
            actions = session.lost(REFUSED, now)
        pauses.append(session.next_due() - now)
        now = session.next_due()
        session.tick(now)
    assert pauses[:2] == pytest.approx([1, 2])
    assert statuses(actions) == [Status.RECONNECT_FAILED]
    assert isinstance(session.last_error, ReconnectFailedError)
    assert session.last_error.message.startswith("2 reconnect attempts failed")


def test_after_a_loss_the_pause_comes_first_and_then_the_address_behind_the_lost_one() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    log_in(session, 1)
    assert statuses(session.lost(LOST, 100)) == [Status.DISCONNECTED, Status.RECONNECTING]
    assert session.next_due() == 101
    assert dial(session, 101) == B


def test_an_attempt_that_somebody_gave_up_is_not_continued_elsewhere() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    assert statuses(session.lost(REFUSED, 1, ends_round=True)) == [Status.DISCONNECTED]
    assert dial(session, 2) == A


def test_a_close_in_the_middle_of_a_round_ends_it() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    session.lost(REFUSED, 1)
    session.dial(1)
    assert statuses(session.close(2)) == [Status.DISCONNECTED]
    assert isinstance(session.last_error, ClientClosedError)
    assert dial(session, 3) == A


def test_a_close_makes_the_first_address_the_first_again() -> None:
    session = make_session(urls=[A, B])
    session.dial(0)
    log_in(session, 1)
    session.close(2)
    assert dial(session, 3) == A
