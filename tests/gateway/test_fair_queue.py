"""Turns are bounded, fair between clients, and never lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.fair_queue import Entry, FairQueue


def turns(queue: FairQueue[str], running: str) -> str:
    """End what runs, again and again, and return the order in which the others had their turn."""
    order = ""
    ticket: str | None = running
    while (ticket := queue.leave(ticket, ticket[0])) is not None:
        order += f"{ticket} "
    return order.rstrip()


def test_as_many_run_as_may_and_the_next_waits() -> None:
    queue: FairQueue[str] = FairQueue(2, 10)
    assert [queue.enter(ticket, "a")[0] for ticket in ("a1", "a2", "a3")] == [Entry.RUNS, Entry.RUNS, Entry.WAITS]
    assert (queue.running, queue.waiting) == (2, 1)
    assert queue.leave("a1", "a") == "a3"
    assert (queue.running, queue.waiting) == (2, 0)


def test_clients_have_their_turns_in_rotation_whoever_asks_how_often() -> None:
    queue: FairQueue[str] = FairQueue(1, 100)
    queue.enter("a0", "a")
    for ticket in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        queue.enter(ticket, ticket[0])
    assert turns(queue, "a0") == "a1 b1 c1 a2 b2 a3 a4"


def test_a_free_place_goes_to_who_has_the_fewest_running() -> None:
    queue: FairQueue[str] = FairQueue(3, 100)
    for ticket in ("a1", "a2", "b1", "a3", "b2", "c1"):
        queue.enter(ticket, ticket[0])
    assert queue.leave("a1", "a") == "c1"
    # One each now, so the rotation decides.
    assert queue.leave("c1", "c") == "a3"
    assert queue.leave("b1", "b") == "b2"


def test_who_comes_to_a_full_room_is_refused() -> None:
    queue: FairQueue[str] = FairQueue(1, 2)
    for ticket in ("a1", "a2", "a3"):
        queue.enter(ticket, "a")
    assert queue.enter("a4", "a") == (Entry.REFUSED, None)
    assert (queue.running, queue.waiting) == (1, 2)


def test_without_a_waiting_room_nobody_waits() -> None:
    queue: FairQueue[str] = FairQueue(1, 0)
    queue.enter("a1", "a")
    assert queue.enter("b1", "b") == (Entry.REFUSED, None)


def test_who_fills_the_room_makes_place_for_others_with_the_youngest() -> None:
    queue: FairQueue[str] = FairQueue(1, 4)
    for ticket in ("a0", "a1", "a2", "a3", "a4"):
        queue.enter(ticket, "a")
    assert queue.enter("b1", "b") == (Entry.WAITS, "a4")
    assert queue.enter("b2", "b") == (Entry.WAITS, "a3")
    # Two each is as even as it gets.
    assert queue.enter("b3", "b") == (Entry.REFUSED, None)
    assert queue.enter("c1", "c")[0] is Entry.WAITS
    assert queue.waiting == 4


def test_who_leaves_while_waiting_never_has_a_turn() -> None:
    queue: FairQueue[str] = FairQueue(1, 10)
    for ticket in ("a1", "b1", "b2", "c1"):
        queue.enter(ticket, ticket[0])
    assert queue.leave("b1", "b") is None
    assert queue.leave("c1", "c") is None
    assert queue.waiting == 1
    assert turns(queue, "a1") == "b2"


def test_leaving_twice_or_without_a_place_changes_nothing() -> None:
    queue: FairQueue[str] = FairQueue(1, 10)
    queue.enter("a1", "a")
    queue.enter("a2", "a")
    assert queue.leave("x", "x") is None
    assert queue.leave("a1", "a") == "a2"
    assert queue.leave("a1", "a") is None
    assert (queue.running, queue.waiting) == (1, 0)


MOVES = st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.sampled_from("abc"), st.integers(0, 30)))


@settings(deadline=None, database=None, max_examples=300)
@given(MOVES, st.integers(1, 3), st.integers(0, 4))
def test_whatever_happens_no_place_is_idle_while_somebody_waits_and_no_bound_is_broken(
    moves: list[tuple[str, str, int]], max_running: int, max_waiting: int
) -> None:
    queue: FairQueue[str] = FairQueue(max_running, max_waiting)
    running: set[str] = set()
    waiting: set[str] = set()
    for number, (move, client, pick) in enumerate(moves):
        if move == "enter":
            ticket = f"{client}{number}"
            entry, dropped = queue.enter(ticket, client)
            if entry is Entry.RUNS:
                running.add(ticket)
            elif entry is Entry.WAITS:
                waiting.add(ticket)
            if dropped is not None:
                waiting.remove(dropped)
        elif present := sorted(running | waiting):
            ticket = present[pick % len(present)]
            following = queue.leave(ticket, ticket[0])
            running.discard(ticket)
            waiting.discard(ticket)
            if following is not None:
                waiting.remove(following)
                running.add(following)
        assert (queue.running, queue.waiting) == (len(running), len(waiting))
        assert len(running) <= max_running
        assert len(waiting) <= max_waiting
        assert not waiting or len(running) == max_running


@settings(deadline=None, database=None, max_examples=100)
@given(st.lists(st.sampled_from("abc"), min_size=40, max_size=60))
def test_clients_that_always_have_something_waiting_get_equal_shares(order: list[str]) -> None:
    queue: FairQueue[str] = FairQueue(1, 1000)
    queue.enter("x0", "x")
    for number, client in enumerate(order):
        queue.enter(f"{client}{number}", client)
    fewest = min(Counter(order)[client] for client in "abc")
    had = turns(queue, "x0").split()[: 3 * fewest]
    assert Counter(ticket[0] for ticket in had) == {client: fewest for client in "abc" if fewest}
