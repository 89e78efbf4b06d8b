"""Noticing that the machine slept, by two clocks of which one stands still meanwhile."""

from __future__ import annotations

import time

from wsclient.clocks import SleepWatch


class Clocks:
    """A machine's two clocks; a sleep moves one of them only."""

    def __init__(self) -> None:
        self.boottime = 5000.0
        self.monotonic = 700.0

    def watch(self) -> SleepWatch:
        return SleepWatch(lambda: self.boottime, lambda: self.monotonic)

    def work(self, seconds: float) -> None:
        self.boottime += seconds
        self.monotonic += seconds

    def sleep(self, seconds: float) -> None:
        self.boottime += seconds


def test_a_machine_that_worked_all_the_time_did_not_sleep() -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.work(86_400)
    assert not watch.has_slept()


def test_a_sleep_is_noticed_once() -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.work(10)
    clocks.sleep(1.5)
    assert [watch.has_slept(), watch.has_slept()] == [True, False]
    clocks.sleep(3600)
    assert watch.has_slept()


def test_a_sleep_before_the_watch_began_does_not_count() -> None:
    clocks = Clocks()
    clocks.sleep(3600)
    assert not clocks.watch().has_slept()


def test_less_than_a_second_is_the_scheduler_and_does_not_add_up() -> None:
    clocks = Clocks()
    watch = clocks.watch()
    for _ in range(10):
        clocks.sleep(0.9)
        assert not watch.has_slept()


def test_the_clocks_of_this_machine_agree_while_it_works() -> None:
    watch = SleepWatch()
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        assert not watch.has_slept()
