"""Work that Ctrl-C must not cut in two."""

from __future__ import annotations

import signal
import threading

import pytest

from wsclient.interruptions import run_whole

from .support.calls import Call
from .support.waiting import wait_until


def test_ctrl_c_ends_the_waiting_and_the_work_is_done_all_the_same() -> None:
    goes_on, done = threading.Event(), threading.Event()

    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if goes_on.wait(5):
            done.set()

    with pytest.raises(KeyboardInterrupt):
        run_whole(work, "work")
    assert not done.is_set()
    goes_on.set()
    assert done.wait(5)
    wait_until(lambda: "work" not in [thread.name for thread in threading.enumerate()])


def test_when_ctrl_c_comes_before_the_work_it_is_not_begun_later(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_whole(done.set, "work")
    late[0].start()
    late[0].join(5)
    assert not done.is_set()


def run_and_name_the_thread() -> str:
    names: list[str] = []
    run_whole(lambda: names.append(threading.current_thread().name), "work")
    (name,) = names
    return name


def test_without_room_for_a_thread_the_work_is_done_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert run_and_name_the_thread() == "work"
    monkeypatch.setattr(threading.Thread, "start", no_room)
    assert run_and_name_the_thread() == "MainThread"


def test_a_thread_that_gets_no_signals_does_the_work_itself() -> None:
    assert Call(run_and_name_the_thread).end() not in ("work", "MainThread")
