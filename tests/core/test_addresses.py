"""Rounds over several addresses: their order, their end, and what they come to."""

from __future__ import annotations

import weakref

import pytest

from wsclient.core.addresses import Addresses, Target
from wsclient.errors import (
    ClientClosedError,
    ConnectionFailedError,
    ConnectionTimeoutError,
    InvalidAuthError,
    InvalidKeyError,
    ServerBusyError,
    WSClientError,
    may_reconnect,
)

A, B, C = "wss://a/", "wss://b/", "wss://c/"


def refused(url: str) -> ConnectionFailedError:
    return ConnectionFailedError(f"cannot reach {url}: refused")


def round_of(addresses: Addresses) -> tuple[list[str], WSClientError]:
    """Fail everywhere in one round; return what was dialled, and what it came to."""
    dialled = []
    while True:
        dialled.append(addresses.next().url)
        outcome = addresses.failed(refused(dialled[-1]))
        if outcome is not None:
            return dialled, outcome


def test_a_round_is_every_address_once_in_order() -> None:
    addresses = Addresses([A, B, C])
    assert round_of(addresses)[0] == [A, B, C]
    assert round_of(addresses)[0] == [A, B, C]


def test_a_round_of_one_address_comes_to_its_error_as_it_was() -> None:
    addresses, error = Addresses([A]), refused(A)
    addresses.next()
    assert addresses.failed(error) is error


def test_a_round_comes_to_an_error_that_names_every_address_and_what_it_said() -> None:
    _, outcome = round_of(Addresses([A, B]))
    assert type(outcome) is ConnectionFailedError
    assert outcome.message == (
        "none of 2 addresses let the client in: cannot reach wss://a/: refused; cannot reach wss://b/: refused"
    )


def test_errors_of_one_kind_come_to_that_kind_and_others_to_connection_failed() -> None:
    kinds = []
    for second in (ConnectionTimeoutError("b is silent"), refused(B)):
        addresses = Addresses([A, B])
        addresses.next()
        assert addresses.failed(ConnectionTimeoutError("a is silent")) is None
        addresses.next()
        kinds.append(type(addresses.failed(second)))
    assert kinds == [ConnectionTimeoutError, ConnectionFailedError]


def test_the_longest_wait_that_one_of_them_asked_for_holds_for_all() -> None:
    addresses = Addresses([A, B, C])
    for seconds in (3.0, 7.0):
        addresses.next()
        assert addresses.failed(ServerBusyError(f"busy for {seconds}", retry_after=seconds)) is None
    addresses.next()
    outcome = addresses.failed(refused(C))
    assert outcome is not None
    assert outcome.retry_after == 7.0


@pytest.mark.parametrize(("retryable", "expected"), [((False, False), False), ((False, True), True)])
def test_a_round_is_tried_again_if_one_of_them_may_be(retryable: tuple[bool, bool], expected: bool) -> None:
    addresses = Addresses([A, B])
    outcome = None
    for url, may in zip([A, B], retryable, strict=True):
        addresses.next()
        outcome = addresses.failed(ConnectionFailedError(url, retryable=may))
    assert outcome is not None
    assert may_reconnect(outcome) is expected


@pytest.mark.parametrize("kind", [InvalidAuthError, InvalidKeyError, ClientClosedError])
def test_what_no_other_address_would_say_differently_ends_the_round(kind: type[WSClientError]) -> None:
    addresses, error = Addresses([A, B]), kind("no")
    addresses.next()
    assert addresses.failed(error) is error
    assert addresses.next().url == A


def test_the_round_after_a_login_begins_behind_the_address_that_was_lost() -> None:
    addresses = Addresses([A, B, C])
    addresses.next()
    addresses.failed(refused(A))
    assert addresses.next().url == B
    addresses.reached_current()
    assert round_of(addresses)[0] == [C, A, B]
    assert round_of(addresses)[0] == [C, A, B]


def test_after_the_last_address_the_first_one_follows() -> None:
    addresses = Addresses([A, B])
    addresses.next()
    addresses.failed(refused(A))
    addresses.next()
    addresses.reached_current()
    assert round_of(addresses)[0] == [A, B]


def test_starting_over_begins_with_the_first_address() -> None:
    addresses = Addresses([A, B])
    addresses.next()
    addresses.reached_current()
    addresses.start_over()
    assert addresses.next().url == A


def test_a_round_that_was_given_up_is_not_continued() -> None:
    addresses = Addresses([A, B])
    addresses.next()
    addresses.end_round()
    assert addresses.next().url == A


# --- names with several addresses -------------------------------------------------------------------------------------


def dialled_at(addresses: Addresses, found: list[str]) -> list[str | None]:
    """Fail at every address of one name; return them in the order in which they were dialled."""
    addresses.next()
    dialled = [addresses.resolved(found).address]
    while addresses.failed(ConnectionFailedError(f"no {dialled[-1]}")) is None:
        dialled.append(addresses.next().address)
    return dialled


def test_a_name_with_several_addresses_is_that_many() -> None:
    addresses = Addresses([A])
    assert dialled_at(addresses, ["10.0.0.1", "10.0.0.2"]) == ["10.0.0.1", "10.0.0.2"]


def test_the_addresses_of_a_name_come_before_the_next_name() -> None:
    addresses = Addresses([A, B])
    addresses.next()
    addresses.resolved(["10.0.0.1", "10.0.0.2"])
    assert addresses.failed(refused(A)) is None
    assert addresses.next() == Target(A, "10.0.0.2")
    assert addresses.failed(refused(A)) is None
    assert addresses.next() == Target(B)


def test_the_address_of_a_name_that_was_lost_comes_last() -> None:
    addresses = Addresses([A])
    addresses.next()
    addresses.resolved(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    addresses.reached_current()
    assert dialled_at(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]) == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]


def test_a_name_that_resolves_otherwise_than_before_is_taken_as_it_is_now() -> None:
    addresses = Addresses([A])
    addresses.next()
    addresses.resolved(["10.0.0.1"])
    addresses.reached_current()
    assert dialled_at(addresses, ["10.0.0.8", "10.0.0.9"]) == ["10.0.0.8", "10.0.0.9"]


def test_a_name_that_is_left_to_a_proxy_is_dialled_by_its_name() -> None:
    addresses = Addresses([A])
    addresses.next()
    assert addresses.resolved([]) == Target(A)
    assert addresses.failed(refused(A)) is not None


def test_addresses_of_a_name_that_said_the_same_are_one_fault() -> None:
    addresses, error = Addresses([A]), refused(A)
    addresses.next()
    addresses.resolved(["::1", "127.0.0.1"])
    addresses.failed(refused(A))
    addresses.next()
    assert addresses.failed(error) is error


def test_addresses_of_a_name_that_said_different_things_are_told_apart() -> None:
    addresses = Addresses([A])
    addresses.next()
    addresses.resolved(["::1", "127.0.0.1"])
    addresses.failed(ConnectionTimeoutError("silent"))
    addresses.next()
    outcome = addresses.failed(refused(A))
    assert outcome is not None
    assert "silent (at ::1); cannot reach wss://a/: refused (at 127.0.0.1)" in outcome.message


@pytest.mark.parametrize("is_first", [True, False])
def test_of_addresses_that_said_the_same_the_longest_pause_holds_and_one_that_may_be_tried_again_is_enough(
    is_first: bool,
) -> None:
    errors = [ConnectionFailedError("503", retry_after=30), ConnectionFailedError("503", retry_after=5)]
    outcome = outcome_at_two_addresses(errors if is_first else errors[::-1])
    assert outcome.retry_after == 30
    errors = [ConnectionFailedError("no"), ConnectionFailedError("no", retryable=False)]
    assert may_reconnect(outcome_at_two_addresses(errors if is_first else errors[::-1]))


def outcome_at_two_addresses(errors: list[ConnectionFailedError]) -> WSClientError:
    addresses = Addresses([A])
    addresses.next()
    addresses.resolved(["10.0.0.1", "10.0.0.2"])
    assert addresses.failed(errors[0]) is None
    addresses.next()
    outcome = addresses.failed(errors[1])
    assert outcome is not None
    return outcome


def test_what_went_wrong_before_a_login_is_not_kept() -> None:
    addresses, error = Addresses([A, B]), refused(A)
    kept = weakref.ref(error)
    addresses.next()
    addresses.failed(error)
    addresses.next()
    addresses.reached_current()
    del error
    assert kept() is None
