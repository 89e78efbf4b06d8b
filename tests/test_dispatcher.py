"""Callbacks: order, who hears what, what a late subscriber is told, exceptions, and the thread's life."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient.core.messages import StreamEndMessage
from wsclient.dispatcher import Callbacks, EventKind
from wsclient.errors import ServerError
from wsclient.events import ConnectionStatus, ErrorEvent, GenerationEndEvent, GenerationStartEvent, TokenEvent
from wsclient.feed import GenerationFeed

from .support.lines import MIB, in_thread
from .support.waiting import wait_until

TOKEN, START, END, ERROR, CHANGE = (
    EventKind.TOKEN,
    EventKind.GENERATION_START,
    EventKind.GENERATION_END,
    EventKind.ERROR,
    EventKind.CONNECTION_CHANGE,
)


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    callbacks = Callbacks("test")
    yield callbacks
    callbacks.stop(5)


def generate(callbacks: Callbacks, id: str = "gen_1", limit: int = MIB) -> GenerationFeed:
    """Begin a generation whose events go to the callbacks, as `generate()` does."""
    callbacks.record(id)
    return GenerationFeed(id, "llama2", limit, keeps_tokens=False, listener=weakref.ref(callbacks))


def push(feed: GenerationFeed, *tokens: str, is_thinking: bool = False) -> bool:
    return feed.push(list(tokens), "".join(tokens), is_thinking)


def end(feed: GenerationFeed) -> None:
    feed.finish(StreamEndMessage(id=feed.id, total_tokens=2, elapsed_time=18))


def dispatcher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wsclient-dispatcher")]


# --- delivery ---------------------------------------------------------------------------------------------------------


def test_each_kind_of_event_goes_to_its_subscribers(callbacks: Callbacks) -> None:
    heard: dict[EventKind, list[Any]] = {kind: [] for kind in EventKind}
    for kind in EventKind:
        callbacks.subscribe(kind, heard[kind].append)
    feed = generate(callbacks)
    feed.start("llama2:7b")
    push(feed, "a", "b")
    push(feed, "hm", is_thinking=True)
    end(feed)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    callbacks.publish_error(ServerError("no luck", id="x"))
    callbacks.stop(5)
    assert heard == {
        START: [GenerationStartEvent("gen_1", "llama2:7b")],
        TOKEN: [TokenEvent("gen_1", "a"), TokenEvent("gen_1", "b"), TokenEvent("gen_1", "hm", "thinking")],
        END: [GenerationEndEvent("gen_1", total_tokens=2, elapsed_time=0.018)],
        CHANGE: [ConnectionStatus.CONNECTING],
        ERROR: [ErrorEvent.of(ServerError("no luck", id="x"))],
    }


def test_callbacks_of_all_kinds_run_in_the_order_of_the_events(callbacks: Callbacks) -> None:
    heard: list[str] = []
    for kind in (END, TOKEN, START, ERROR):
        callbacks.subscribe(kind, lambda event: heard.append(type(event).__name__))
    for number in range(3):
        feed = generate(callbacks, f"gen_{number}")
        feed.start(None)
        push(feed, "a")
        feed.fail(ServerError("no")) if number == 1 else end(feed)
    callbacks.stop(5)
    start, token = "GenerationStartEvent", "TokenEvent"
    last = "GenerationEndEvent"
    assert heard == [start, token, last, start, token, "ErrorEvent", start, token, last]


def test_two_subscribers_of_a_kind_both_hear_every_event_in_the_order_they_came(callbacks: Callbacks) -> None:
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(f"first {event.token}"))
    callbacks.subscribe(TOKEN, lambda event: heard.append(f"second {event.token}"))
    push(generate(callbacks), "a", "b")
    callbacks.stop(5)
    assert heard == ["first a", "second a", "first b", "second b"]


def test_callbacks_run_on_one_thread_that_is_not_the_callers(callbacks: Callbacks) -> None:
    threads: set[str] = set()
    callbacks.subscribe(CHANGE, lambda _: threads.add(threading.current_thread().name))
    callers = [in_thread(callbacks.publish, CHANGE, ConnectionStatus.CONNECTING) for _ in range(5)]
    for caller in callers:
        caller.join()
    callbacks.stop(5)
    assert threads == {"wsclient-dispatcher-test"}


def test_publishing_does_not_wait_for_a_slow_callback(callbacks: Callbacks) -> None:
    go_on = threading.Event()
    callbacks.subscribe(CHANGE, lambda _: go_on.wait(10))
    started = time.monotonic()
    for _ in range(100):
        callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    assert time.monotonic() - started < 2
    go_on.set()


def test_no_lock_is_held_while_a_callback_runs(callbacks: Callbacks) -> None:
    heard: list[str] = []

    def everything(_: Any) -> None:
        off = callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
        callbacks.record("gen_2")
        callbacks.publish(ERROR, "an error")
        callbacks.expire()
        off()
        heard.append("done")

    callbacks.subscribe(CHANGE, everything)
    callbacks.subscribe(ERROR, heard.append)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    wait_until(lambda: len(heard) == 2)
    assert heard == ["done", "an error"]


def test_what_is_no_function_cannot_subscribe(callbacks: Callbacks) -> None:
    with pytest.raises(TypeError, match=r"on_token takes a function \(got str\)"):
        callbacks.subscribe(TOKEN, "print")  # type: ignore[arg-type]


# --- unsubscribing ----------------------------------------------------------------------------------------------------


def test_who_unsubscribed_hears_nothing_more(callbacks: Callbacks) -> None:
    first: list[Any] = []
    second: list[Any] = []
    off = callbacks.subscribe(CHANGE, first.append)
    callbacks.subscribe(CHANGE, second.append)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    wait_until(lambda: second)
    off()
    off()
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTED)
    callbacks.stop(5)
    assert first == [ConnectionStatus.CONNECTING]
    assert second == [ConnectionStatus.CONNECTING, ConnectionStatus.CONNECTED]


def test_unsubscribing_takes_queued_events_back_too(callbacks: Callbacks) -> None:
    heard: list[str] = []

    def once(event: TokenEvent) -> None:
        heard.append(event.token)
        off()

    off = callbacks.subscribe(TOKEN, once)
    push(generate(callbacks), "a", "b", "c")
    callbacks.stop(5)
    assert heard == ["a"]


def test_the_same_function_can_subscribe_twice(callbacks: Callbacks) -> None:
    heard: list[Any] = []
    off = callbacks.subscribe(CHANGE, heard.append)
    callbacks.subscribe(CHANGE, heard.append)
    off()
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    callbacks.stop(5)
    assert heard == [ConnectionStatus.CONNECTING]


# --- exceptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_callback_raises_is_logged_and_the_others_run(
    callbacks: Callbacks, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    heard: list[str] = []

    def fail(event: TokenEvent) -> None:
        raise error

    callbacks.subscribe(TOKEN, fail)
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    push(generate(callbacks), "a", "b")
    callbacks.stop(5)
    assert heard == ["a", "b"]
    records = [record for record in caplog.records if record.name == "wsclient.callbacks"]
    assert [record.getMessage() for record in records] == ["an on_token callback raised"] * 2
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is error


# --- subscribing after generate() -------------------------------------------------------------------------------------


def test_who_subscribes_after_generate_in_the_same_thread_misses_nothing(callbacks: Callbacks) -> None:
    feed = generate(callbacks)
    feed.start(None)
    push(feed, "a", "b")
    end(feed)
    heard: list[str] = []
    for kind in (TOKEN, END, START):
        callbacks.subscribe(kind, lambda event: heard.append(getattr(event, "token", type(event).__name__)))
    callbacks.stop(5)
    assert heard == ["a", "b", "GenerationEndEvent", "GenerationStartEvent"]


def test_who_subscribes_in_the_middle_hears_every_token_once_and_in_order(callbacks: Callbacks) -> None:
    feed = generate(callbacks)
    heard: list[str] = []
    expected = [f"{number} " for number in range(3000)]
    filler = in_thread(lambda: [push(feed, token) for token in expected])
    wait_until(lambda: len(feed.text) > 100)
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    filler.join()
    callbacks.stop(5)
    assert heard == expected


def test_a_late_subscriber_hears_the_error_of_its_generation(callbacks: Callbacks) -> None:
    feed = generate(callbacks)
    push(feed, "so far")
    feed.fail(ServerError("no luck"))
    heard: list[ErrorEvent] = []
    callbacks.subscribe(ERROR, heard.append)
    callbacks.stop(5)
    assert [(event.message, event.id, event.text) for event in heard] == [("no luck", "gen_1", "so far")]


def test_who_subscribes_in_another_thread_hears_only_what_is_to_come(callbacks: Callbacks) -> None:
    feed = generate(callbacks)
    push(feed, "before")
    heard: list[str] = []
    in_thread(callbacks.subscribe, TOKEN, lambda event: heard.append(event.token)).join()
    push(feed, "after")
    callbacks.stop(5)
    assert heard == ["after"]


def test_only_the_latest_generate_of_a_thread_is_told_again(callbacks: Callbacks) -> None:
    push(generate(callbacks, "gen_1"), "first")
    push(generate(callbacks, "gen_2"), "second")
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    callbacks.stop(5)
    assert heard == ["second"]


def test_each_late_subscriber_is_told(callbacks: Callbacks) -> None:
    push(generate(callbacks), "a")
    heard: list[str] = []
    for name in ("first", "second"):
        callbacks.subscribe(TOKEN, lambda event, name=name: heard.append(f"{name} {event.token}"))
    callbacks.stop(5)
    assert heard == ["first a", "second a"]


def test_a_recording_keeps_at_most_a_mebibyte_and_says_when_tokens_are_gone(
    callbacks: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    feed = generate(callbacks, limit=1 << 40)
    feed.start(None)
    for number in range(20):
        push(feed, f"{number:02} " + "x" * 100_000)
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token[:2]))
    callbacks.subscribe(START, lambda event: heard.append("start"))
    callbacks.stop(5)
    # Ten of 100 KB fit; the start costs nothing and is kept.
    assert heard == [f"{number:02}" for number in range(10, 20)] + ["start"]
    assert "10 early tokens are gone" in caplog.text


def test_a_log_handler_may_use_the_callbacks(callbacks: Callbacks, caplog: pytest.LogCaptureFixture) -> None:
    def generate_and_subscribe() -> None:
        feed = generate(callbacks, limit=1 << 40)
        push(feed, "x" * (2 * MIB))
        callbacks.subscribe(TOKEN, print)

    def filter_that_publishes(_: logging.LogRecord) -> bool:
        callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
        return True

    with caplog.filtering(filter_that_publishes):
        thread = in_thread(generate_and_subscribe)
        thread.join(2)
        assert not thread.is_alive()
    assert "1 early tokens are gone" in caplog.text


def test_a_recording_is_forgotten_a_minute_after_its_end(callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = generate(callbacks)
    push(feed, "a")
    end(feed)
    now = time.monotonic()
    monkeypatch.setattr("wsclient.dispatcher.time.monotonic", lambda: now + 61)
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    callbacks.expire()
    assert callbacks._recordings == {}
    callbacks.stop(5)
    assert heard == []


def test_a_recording_of_a_generation_that_runs_is_kept_however_long(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(generate(callbacks), "a")
    now = time.monotonic()
    monkeypatch.setattr("wsclient.dispatcher.time.monotonic", lambda: now + 3600)
    callbacks.expire()
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    callbacks.stop(5)
    assert heard == ["a"]


def test_recordings_of_threads_that_are_gone_are_forgotten(callbacks: Callbacks) -> None:
    thread = in_thread(generate, callbacks)
    thread.join()
    del thread
    gc.collect()
    callbacks.expire()
    assert callbacks._recordings == {}


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_slow_callback_fails_the_generation_when_its_bound_is_reached(callbacks: Callbacks) -> None:
    go_on = threading.Event()
    callbacks.subscribe(TOKEN, lambda _: go_on.wait(10))
    feed = generate(callbacks, limit=1000)
    assert push(feed, "x" * 400)
    assert push(feed, "x" * 400)
    assert not push(feed, "x" * 400)
    go_on.set()


def test_what_callbacks_took_does_not_count(callbacks: Callbacks) -> None:
    heard: list[str] = []
    callbacks.subscribe(TOKEN, lambda event: heard.append(event.token))
    feed = generate(callbacks, limit=1000)
    for number in range(1, 20):
        assert push(feed, "x" * 800)
        wait_until(lambda number=number: len(heard) == number and feed._read_cost == number * 864)


def test_tokens_that_nobody_subscribed_to_do_not_count(callbacks: Callbacks) -> None:
    feed = generate(callbacks, limit=1000)
    assert all(push(feed, "x" * 800) for _ in range(10))


# --- the thread's life ------------------------------------------------------------------------------------------------


def test_there_is_no_thread_before_the_first_subscription(callbacks: Callbacks) -> None:
    before = dispatcher_threads()
    feed = generate(callbacks)
    push(feed, "a")
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    assert dispatcher_threads() == before


def test_a_stop_delivers_what_came_before_it_and_ends_the_thread(callbacks: Callbacks) -> None:
    heard: list[Any] = []

    def slow(event: Any) -> None:
        time.sleep(0.001)
        heard.append(event)

    callbacks.subscribe(CHANGE, slow)
    for _ in range(50):
        callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    callbacks.stop(5)
    assert len(heard) == 50
    assert dispatcher_threads() == []


def test_a_stop_waits_no_longer_than_told(callbacks: Callbacks) -> None:
    go_on = threading.Event()
    callbacks.subscribe(CHANGE, lambda _: go_on.wait(10))
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    started = time.monotonic()
    callbacks.stop(0.05)
    assert time.monotonic() - started < 2
    go_on.set()


def test_events_after_a_stop_are_delivered_by_a_new_thread(callbacks: Callbacks) -> None:
    heard: list[Any] = []
    callbacks.subscribe(CHANGE, heard.append)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    callbacks.stop(5)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTED)
    callbacks.stop(5)
    assert heard == [ConnectionStatus.CONNECTING, ConnectionStatus.CONNECTED]


def test_order_is_kept_across_a_stop_from_a_callback(callbacks: Callbacks) -> None:
    heard: list[str] = []

    def restart(event: str) -> None:
        heard.append(event)
        if event == "first":
            callbacks.stop(5)
            callbacks.publish(CHANGE, "third")
            time.sleep(0.05)

    callbacks.subscribe(CHANGE, restart)
    callbacks.publish(CHANGE, "first")
    callbacks.publish(CHANGE, "second")
    wait_until(lambda: len(heard) == 3)
    assert heard == ["first", "second", "third"]


def test_a_second_stop_waits_for_a_thread_that_a_callback_told_to_end(callbacks: Callbacks) -> None:
    stopped, go_on = threading.Event(), threading.Event()

    def stop(_: Any) -> None:
        callbacks.stop(5)
        stopped.set()
        go_on.wait(10)

    callbacks.subscribe(CHANGE, stop)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    assert stopped.wait(5)
    threading.Timer(0.05, go_on.set).start()
    callbacks.stop(5)
    assert dispatcher_threads() == []


def test_dropped_callbacks_end_their_thread_although_a_callback_holds_them() -> None:
    def subscribe(callbacks: Callbacks) -> None:
        callbacks.subscribe(CHANGE, lambda _: callbacks)

    callbacks = Callbacks("dropped")
    subscribe(callbacks)
    assert dispatcher_threads() == ["wsclient-dispatcher-dropped"]
    del callbacks
    gc.collect()
    wait_until(lambda: dispatcher_threads() == [])


def test_whoever_keeps_the_unsubscribe_function_does_not_keep_the_thread() -> None:
    callbacks = Callbacks("dropped")
    off = callbacks.subscribe(CHANGE, print)
    del callbacks
    gc.collect()
    wait_until(lambda: dispatcher_threads() == [])
    off()


def test_delivered_events_do_not_keep_a_callback_alive(callbacks: Callbacks) -> None:
    class Handler:
        def hear(self, _: Any) -> None:
            heard.set()

    heard = threading.Event()
    handler = Handler()
    gone = weakref.ref(handler)
    off = callbacks.subscribe(CHANGE, handler.hear)
    callbacks.publish(CHANGE, ConnectionStatus.CONNECTING)
    assert heard.wait(5)
    off()
    del off, handler
    wait_until(lambda: gone() is None)


def test_without_room_for_a_thread_publishing_goes_on_and_the_event_is_kept(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    callbacks.subscribe(CHANGE, heard.append)
    callbacks.stop(5)

    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        callbacks.publish(CHANGE, "first")
        with pytest.raises(RuntimeError):
            callbacks.subscribe(CHANGE, heard.append)
    callbacks.publish(CHANGE, "second")
    callbacks.stop(5)
    assert heard == ["first", "second"]


def test_when_ctrl_c_falls_into_the_threads_start_the_next_event_is_heard(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            callbacks.subscribe(CHANGE, heard.append)
    callbacks.subscribe(CHANGE, heard.append)
    callbacks.publish(CHANGE, "first")
    callbacks.stop(5)
    assert heard == ["first"]
