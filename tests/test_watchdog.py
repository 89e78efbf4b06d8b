"""The watchdog thread: it wakes when something is due or noted, survives its own bugs, and ends when told."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator

import pytest

from wsclient.watchdog import Abandon, CloseDown, Wake, Watchdog

from .support.waiting import wait_until


class FakeConnection:
    """Stands in for what the watchdog looks after.

    Attributes:
        due: seconds until something is due.
        events: what the watchdog did, in order.
    """

    def __init__(self, due: float = math.inf) -> None:
        self.due = due
        self.events: list[str] = []
        self.plans = 0
        self.fails = False

    def plan_wake_up(self) -> float:
        self.plans += 1
        return self.due

    def tick(self, now: float) -> None:
        assert abs(now - time.monotonic()) < 5
        if self.fails:
            self.fails = False
            raise ZeroDivisionError("oops")
        self.events.append("tick")

    def abandon(self, id: str) -> None:
        self.events.append(f"abandon {id}")

    def close(self) -> None:
        self.events.append("close")


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog("test")
    yield watchdog
    thread = watchdog.detach()
    if thread is not None:
        thread.join(5)


def start(watchdog: Watchdog, connection: FakeConnection) -> None:
    watchdog.ensure_started(connection)  # type: ignore[arg-type]
    wait_until(lambda: connection.plans)


def test_there_is_one_thread_named_and_a_daemon(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    start(watchdog, connection)
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("wsclient-watchdog")]
    assert (thread.name, thread.daemon) == ("wsclient-watchdog-test", True)


def test_it_sleeps_while_nothing_is_due(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    thread = watchdog._thread
    assert thread is not None
    thread.join(0.05)
    assert (connection.plans, connection.events) == (1, [])


def test_it_ticks_when_something_is_due(watchdog: Watchdog) -> None:
    connection = FakeConnection(0.01)
    start(watchdog, connection)
    wait_until(lambda: connection.events.count("tick") >= 3)


def test_what_is_overdue_is_done_at_once(watchdog: Watchdog) -> None:
    connection = FakeConnection(-5.0)
    start(watchdog, connection)
    wait_until(lambda: "tick" in connection.events)


def test_a_note_wakes_it_to_plan_anew(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    watchdog.note(Wake())
    wait_until(lambda: connection.plans == 2)
    assert connection.events == ["tick"]


def test_notes_are_carried_out_in_order(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    for note in (Abandon("a"), Abandon("b"), CloseDown()):
        watchdog.note(note)
    wait_until(lambda: "close" in connection.events)
    assert [event for event in connection.events if event != "tick"] == ["abandon a", "abandon b", "close"]


def test_it_survives_its_own_bugs_and_logs_them(
    watchdog: Watchdog, connection: FakeConnection, caplog: pytest.LogCaptureFixture
) -> None:
    start(watchdog, connection)
    connection.fails = True
    watchdog.note(Wake())
    wait_until(lambda: "unexpected error" in caplog.text)
    watchdog.note(Wake())
    wait_until(lambda: connection.events == ["tick"])
    assert "unexpected error" in caplog.text


def test_it_ends_when_it_is_detached_after_what_was_noted(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    watchdog.note(Abandon("a"))
    thread = watchdog.detach()
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    assert "abandon a" in connection.events
    assert watchdog.detach() is None


def test_it_can_be_started_again_and_hears_only_new_notes(watchdog: Watchdog, connection: FakeConnection) -> None:
    start(watchdog, connection)
    first = watchdog.detach()
    assert first is not None
    first.join(5)
    watchdog.note(Abandon("between"))
    again = FakeConnection()
    start(watchdog, again)
    watchdog.note(Abandon("after"))
    wait_until(lambda: "abandon after" in again.events)
    assert "abandon between" not in again.events


def test_a_note_is_safe_while_the_queue_is_being_read(watchdog: Watchdog, connection: FakeConnection) -> None:
    class Dropped:
        def __del__(self) -> None:
            watchdog.note(Abandon("dropped"))

    start(watchdog, connection)
    for _ in range(200):
        loop = [Dropped()]
        loop.append(loop)  # type: ignore[arg-type]
        del loop
        watchdog.note(Wake())
    gc.collect()
    wait_until(lambda: connection.events.count("abandon dropped") == 200)


def test_without_room_for_a_thread_the_next_start_tries_again(
    watchdog: Watchdog, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        with pytest.raises(RuntimeError):
            watchdog.ensure_started(connection)  # type: ignore[arg-type]
    start(watchdog, connection)


@pytest.mark.parametrize("comes_up", [False, True])
def test_when_ctrl_c_falls_into_the_start_there_is_one_thread_after_the_next(
    watchdog: Watchdog, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch, comes_up: bool
) -> None:
    start_thread = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if comes_up:
            start_thread(thread)
            wait_until(lambda: connection.plans)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            watchdog.ensure_started(connection)  # type: ignore[arg-type]
    start(watchdog, connection)
    watchdog.note(Abandon("gen_1"))
    wait_until(lambda: connection.events)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("wsclient-watchdog-test") == 1


def test_a_thread_that_comes_up_after_its_start_was_given_up_ends_at_once(
    watchdog: Watchdog, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            watchdog.ensure_started(connection)  # type: ignore[arg-type]
    late[0].start()
    late[0].join(5)
    assert not late[0].is_alive()
    assert connection.plans == 0


def test_notes_that_wait_together_take_one_look_at_the_deadlines(
    watchdog: Watchdog, connection: FakeConnection
) -> None:
    begins, may_go_on = threading.Event(), threading.Event()

    def abandon(id: str) -> None:
        begins.set()
        may_go_on.wait(5)
        connection.events.append(id)

    connection.abandon = abandon  # type: ignore[method-assign]
    start(watchdog, connection)
    for number in range(5):
        watchdog.note(Abandon(str(number)))
    assert begins.wait(5)
    may_go_on.set()
    wait_until(lambda: "tick" in connection.events)
    assert connection.events == ["0", "1", "2", "3", "4", "tick"]
