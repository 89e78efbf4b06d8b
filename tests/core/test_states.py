"""The seven statuses and the moves between them."""

from __future__ import annotations

import itertools

import pytest

from wsclient.core.states import MOVES, check_move
from wsclient.events import ConnectionStatus as Status

LEGAL = {
    "disconnected": {"connecting", "reconnecting", "reconnect_failed"},
    "connecting": {"connected", "disconnected", "reconnecting", "reconnect_failed", "auth_failed"},
    "connected": {"authenticated", "connecting", "auth_failed", "disconnected", "reconnecting", "reconnect_failed"},
    "authenticated": {"disconnected", "auth_failed"},
    "reconnecting": {"connecting", "disconnected"},
    "auth_failed": {"connecting", "disconnected"},
    "reconnect_failed": {"connecting", "disconnected"},
}


def test_there_are_the_seven_statuses_of_the_seed() -> None:
    assert {str(status) for status in Status} == LEGAL.keys() == {str(status) for status in MOVES}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Status, Status)))
def test_exactly_the_legal_moves_pass(old: Status, new: Status) -> None:
    if new in LEGAL[old]:
        check_move(old, new)
    else:
        with pytest.raises(AssertionError, match=f"^status {old} cannot become {new}$"):
            check_move(old, new)


@pytest.mark.parametrize(
    "story",
    [
        "disconnected connecting connected authenticated disconnected",
        "disconnected connecting disconnected",
        "authenticated disconnected reconnecting connecting connected authenticated",
        "reconnecting connecting reconnecting connecting reconnect_failed connecting",
        "connected reconnecting connecting connected reconnect_failed disconnected",
        "authenticated disconnected reconnect_failed",
        "disconnected connecting connected auth_failed connecting",
        "authenticated auth_failed disconnected",
        "reconnecting disconnected",
    ],
)
def test_a_clients_life_may_go_like_this(story: str) -> None:
    for old, new in itertools.pairwise(Status(word) for word in story.split()):
        check_move(old, new)


def test_every_status_can_be_reached_and_closed() -> None:
    reached, border = set(), {Status.DISCONNECTED}
    while border:
        reached |= border
        border = {new for old in border for new in MOVES[old]} - reached
    assert reached == set(Status)
    assert all(Status.DISCONNECTED in MOVES[old] for old in set(Status) - {Status.DISCONNECTED})


def test_only_a_connection_that_stands_can_become_authenticated() -> None:
    assert [old for old in Status if Status.AUTHENTICATED in MOVES[old]] == [Status.CONNECTED]
    assert [old for old in Status if Status.CONNECTED in MOVES[old]] == [Status.CONNECTING]
