"""Callbacks of a client without threads run where they are due, one after the other, and miss nothing."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient import GenerationEndEvent, ServerBusyError, TokenEvent
from wsclient.testing import FakeClient, Request, Thinking


class Heard:
    """What all handlers of a client heard, in one list."""

    def __init__(self, client: FakeClient | None = None) -> None:
        self.events: list[Any] = []
        self.threads: set[threading.Thread] = set()
        if client is not None:
            self.subscribe(client)

    def subscribe(self, client: FakeClient) -> None:
        for kind in (client.on_generation_start, client.on_token, client.on_generation_end, client.on_error):
            kind(self.take)

    def take(self, event: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread())

    def names(self) -> list[str]:
        return [event.token if isinstance(event, TokenEvent) else type(event).__name__ for event in self.events]


WHOLE = ["GenerationStartEvent", "Hi", " there", "GenerationEndEvent"]


def test_handlers_that_are_there_hear_everything_before_generate_returns() -> None:
    client = FakeClient({"Hello": "Hi there"})
    heard = Heard(client)

    id = client.generate("Hello")

    assert heard.names() == WHOLE
    assert {event.id for event in heard.events} == {id}
    assert heard.threads == {threading.current_thread()}


def test_handlers_that_come_right_after_generate_miss_nothing() -> None:
    client = FakeClient({"Hello": "Hi there"})
    client.generate("Hello")

    assert Heard(client).names() == WHOLE


def test_another_thread_that_subscribes_later_hears_nothing_of_it() -> None:
    client = FakeClient()
    client.generate("Hello")
    heard = Heard()
    thread = threading.Thread(target=heard.subscribe, args=(client,))
    thread.start()
    thread.join(20)

    assert heard.events == []


def test_streams_and_completions_feed_only_their_handles() -> None:
    client = FakeClient()
    heard = Heard(client)

    client.complete("Hello")
    list(client.stream("Hello"))

    assert heard.events == []


def test_an_error_is_an_event_with_the_text_so_far() -> None:
    client = FakeClient({"Hello": ["so", " far", ServerBusyError("full")]})
    heard = Heard(client)

    id = client.generate("Hello")

    assert heard.names() == ["GenerationStartEvent", "so", " far", "ErrorEvent"]
    error = heard.events[-1]
    assert (error.id, error.code, error.text) == (id, "server_busy", "so far")


def test_thinking_is_told_by_its_kind() -> None:
    client = FakeClient([Thinking("hm"), "yes"])
    kinds = []
    client.on_token(lambda event: kinds.append((event.token, event.kind)))

    client.generate("Hello")

    assert kinds == [("hm", "thinking"), ("yes", "answer")]


def test_a_handler_can_stop_an_answer_that_never_ends() -> None:
    def endless(request: Request) -> Iterator[str]:
        while True:
            yield "x"

    client = FakeClient(endless)
    ends: list[GenerationEndEvent] = []
    tokens: list[TokenEvent] = []

    def take(event: TokenEvent) -> None:
        tokens.append(event)
        if len(tokens) == 3:
            assert client.stop_generation(event.id)

    client.on_token(take)
    client.on_generation_end(ends.append)
    client.generate("Hello")

    assert len(tokens) == 3
    assert [(end.is_cancelled, end.total_tokens) for end in ends] == [(True, 3)]


def test_a_generate_in_a_handler_has_its_turn_after_the_present_one() -> None:
    client = FakeClient({"Hello": "Hi there", "More": "and more"})
    heard = Heard(client)
    client.on_generation_start(lambda event: client.generate("More") if len(heard.events) == 1 else None)

    client.generate("Hello")

    assert heard.names() == [*WHOLE, "GenerationStartEvent", "and", " more", "GenerationEndEvent"]


def test_blocking_calls_work_inside_a_handler() -> None:
    client = FakeClient()
    texts: list[str] = []
    client.on_generation_end(lambda event: texts.append(client.complete("inside").text))

    client.generate("Hello")

    assert texts == ["inside"]


def test_a_handler_that_raises_is_logged_and_the_others_hear_on(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()

    def fail(event: TokenEvent) -> None:
        raise LookupError("the bug")

    client.on_token(fail)
    heard = Heard(client)

    with caplog.at_level(logging.ERROR, "wsclient"):
        client.generate("Hello")

    assert heard.names() == ["GenerationStartEvent", "Hello", "GenerationEndEvent"]
    assert "the bug" in caplog.text


def test_who_unsubscribes_hears_no_more() -> None:
    client = FakeClient()
    tokens: list[TokenEvent] = []
    unsubscribe = client.on_token(tokens.append)
    client.generate("one")

    unsubscribe()
    client.generate("two")

    assert [event.token for event in tokens] == ["one"]


def test_threads_that_generate_at_once_are_heard_one_after_the_other() -> None:
    client = FakeClient()
    # Two threads that call handlers at once meet here; one by itself waits once, and goes on.
    meeting = threading.Barrier(2)
    overlaps: list[str] = []
    ended = threading.Semaphore(0)

    def take(event: TokenEvent) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)
            overlaps.append(event.id)

    client.on_token(take)
    client.on_generation_end(lambda event: ended.release())
    begin = threading.Barrier(4)

    def generate() -> None:
        begin.wait(20)
        client.generate("some words to say")

    threads = [threading.Thread(target=generate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert all(ended.acquire(timeout=5) for _ in threads)
    assert overlaps == []
