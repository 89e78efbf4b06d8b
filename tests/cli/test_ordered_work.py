"""Work of several threads with results in order. Takes 1 s."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from wsclient.cli.ordered_work import OrderedWork


def nothing() -> None:
    """Do nothing."""


def test_results_come_in_the_order_of_the_items_whoever_is_first() -> None:
    is_second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert is_second_done.wait(10)
        if number == 1:
            is_second_done.set()
        return number * 10

    assert list(OrderedWork(work, range(50), 2, nothing).results()) == [number * 10 for number in range(50)]


def test_as_many_run_at_once_as_asked_and_no_more() -> None:
    barrier = threading.Barrier(3)
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(10)
        with lock:
            running -= 1
        barrier.wait(10)

    list(OrderedWork(work, range(9), 3, nothing).results())
    assert most == 3


def test_a_slow_item_lets_the_others_run_ahead_only_so_far() -> None:
    taken: list[int] = []
    release = threading.Event()

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        assert number or release.wait(10)
        return number

    def tick() -> None:
        assert len(taken) == 16
        release.set()

    assert len(list(OrderedWork(work, items(), 2, tick).results())) == 1000


def test_an_exception_is_raised_at_its_turn() -> None:
    def work(number: int) -> int:
        return 10 // (3 - number)

    results = OrderedWork(work, range(9), 2, nothing)
    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(results.results())
    results.stop()


def test_after_a_stop_what_is_finished_without_a_gap_is_there() -> None:
    is_stopping = threading.Event()
    are_others_done = threading.Event()

    def work(number: int) -> int:
        if number == 7:
            are_others_done.set()
        if number == 5:
            assert is_stopping.wait(10)
            raise RuntimeError
        return number

    results = OrderedWork(work, range(8), 2, nothing)
    stream = results.results()
    assert next(stream) == 0
    assert are_others_done.wait(10)
    is_stopping.set()
    # The first is handed over and still being handled; 5 has none, and so what is behind it is not to be had.
    assert results.stop() == [0, 1, 2, 3, 4]
