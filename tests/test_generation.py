"""Generations: iterating, leaving, waiting, from one thread and from many; with the feed alone, no client behind it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wsclient.core.messages import StreamEndMessage
from wsclient.errors import ConnectionLostError, RequestTimeoutError, ServerError
from wsclient.feed import GenerationFeed, wait_for
from wsclient.futures import Future
from wsclient.generation import Batch, Generation, Reply

from .support.lines import in_thread
from .support.waiting import wait_until

ANSWER = ["Rain ", "falls ", "on ", "leaves"]


class FakeClient:
    """Stands in for the client that a generation holds."""

    def __init__(self) -> None:
        self.stopped: list[Generation] = []

    def stop_generation(self, generation: Generation) -> bool:
        self.stopped.append(generation)
        return True


class Source:
    """A generation and what fills it.

    Attributes:
        abandoned: ids for which nobody reads any more.
    """

    def __init__(self, *, max_unread_bytes: int = 1 << 20, keeps_tokens: bool = True) -> None:
        self.client = FakeClient()
        self.abandoned: list[str] = []
        self.feed = GenerationFeed("gen_1", "llama2", max_unread_bytes, keeps_tokens=keeps_tokens)

    def generation(self) -> Generation:
        return Generation(self.client, self.feed, self.abandoned.append)  # type: ignore[arg-type]

    def push(self, *tokens: str, is_thinking: bool = False) -> bool:
        return self.feed.push(list(tokens), "".join(tokens), is_thinking)

    def finish(self, **fields: Any) -> None:
        self.feed.finish(StreamEndMessage(id="gen_1", **fields))

    def whole(self) -> Generation:
        self.push(*ANSWER)
        self.finish(total_tokens=4)
        return self.generation()


@pytest.fixture
def source() -> Source:
    return Source()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_iterating_gives_the_tokens_in_order(source: Source) -> None:
    assert list(source.whole()) == ANSWER


def test_tokens_of_several_batches_come_one_after_the_other(source: Source) -> None:
    source.push("a", "b")
    source.push("c")
    source.push()
    source.push("d")
    source.finish()
    assert list(source.generation()) == ["a", "b", "c", "d"]


def test_next_gives_one_token_at_a_time_and_then_stops(source: Source) -> None:
    generation = source.whole()
    assert [next(generation) for _ in ANSWER] == ANSWER  # type: ignore[call-overload]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(generation)  # type: ignore[call-overload]


def test_next_inside_of_a_loop_takes_the_loops_next_token(source: Source) -> None:
    generation = source.whole()
    seen = [(token, next(generation)) for token in generation]  # type: ignore[call-overload]
    assert seen == [("Rain ", "falls "), ("on ", "leaves")]


def test_read_takes_all_text_that_is_there(source: Source) -> None:
    source.push("a", "b")
    source.push("c")
    assert source.generation().read(0) == "abc"


def test_read_gives_none_at_the_end_and_again(source: Source) -> None:
    generation = source.whole()
    assert [generation.read(), generation.read(), generation.read(0)] == ["Rain falls on leaves", None, None]


def test_read_gives_an_empty_text_when_none_came_in_time(source: Source) -> None:
    generation = source.generation()
    begun = time.monotonic()
    assert generation.read(0.05) == ""
    assert time.monotonic() - begun >= 0.05
    assert source.abandoned == []


def test_read_waits_for_text_that_is_still_to_come(source: Source) -> None:
    seen: list[str | None] = []
    generation = source.generation()
    reader = in_thread(lambda: seen.append(generation.read(5)))
    assert reader.is_alive()
    source.push("late")
    reader.join(5)
    assert seen == ["late"]


def test_read_raises_what_failed_the_generation_after_the_text(source: Source) -> None:
    source.push("half")
    source.feed.fail(ServerError("gone"))
    generation = source.generation()
    assert generation.read() == "half"
    with pytest.raises(ServerError, match="gone"):
        generation.read()


def test_what_read_took_is_not_unread_any_more() -> None:
    small = Source(max_unread_bytes=200)
    generation = small.generation()
    for _ in range(20):
        assert small.push("x" * 100)
        assert generation.read(0) == "x" * 100


def test_read_and_a_loop_share_the_tokens(source: Source) -> None:
    generation = source.whole()
    assert next(iter(generation)) == "Rain "
    assert generation.read() == "falls on leaves"


def test_what_read_had_taken_when_ctrl_c_came_is_there_for_the_next_reader(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.push("a", "b")
    generation = source.generation()
    batches = iter([source.feed.next_batch(timeout=0)])

    def interrupted(timeout: float | None = None) -> list[str] | None:
        try:
            return next(batches)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(source.feed, "next_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generation.read()
    monkeypatch.undo()
    assert source.abandoned == ["gen_1"]
    assert generation.read(0) == "ab"


def test_read_refuses_a_negative_timeout(source: Source) -> None:
    with pytest.raises(ValueError, match="timeout is -1"):
        source.generation().read(-1)


def test_reading_goes_on_after_a_break_where_it_left_off(source: Source) -> None:
    generation = source.whole()
    for token in generation:
        if token == "falls ":
            break
    assert next(generation) == "on "  # type: ignore[call-overload]
    assert list(generation) == ["leaves"]


def test_a_second_loop_over_a_finished_generation_is_empty(source: Source) -> None:
    generation = source.whole()
    list(generation)
    assert list(generation) == []


def test_iterating_waits_for_tokens_that_are_still_to_come(source: Source) -> None:
    seen: list[str] = []
    reader = in_thread(lambda: seen.extend(source.generation()))
    for token in ANSWER:
        source.push(token)
        wait_until(lambda token=token: token in seen)
    assert reader.is_alive()
    source.finish()
    reader.join(5)
    assert seen == ANSWER


def test_thinking_is_apart_from_the_answer(source: Source) -> None:
    source.push("Hm. ", is_thinking=True)
    source.push("Rain")
    source.push("So. ", is_thinking=True)
    source.finish()
    generation = source.generation()
    assert list(generation) == ["Rain"]
    assert (generation.text, generation.thinking) == ("Rain", "Hm. So. ")
    assert generation.result().thinking == "Hm. So. "


def test_an_error_comes_after_the_tokens_before_it_with_the_text(source: Source) -> None:
    source.push("so ", "far")
    source.feed.fail(ServerError("no luck"))
    generation = source.generation()
    seen: list[str] = []
    with pytest.raises(ServerError, match="no luck") as caught:
        seen.extend(generation)
    assert seen == ["so ", "far"]
    assert (caught.value.text, caught.value.id) == ("so far", "gen_1")


def test_each_reader_gets_an_error_object_of_its_own(source: Source) -> None:
    source.feed.fail(ServerError("no luck"))
    generation = source.generation()
    errors = []
    for read in (lambda: list(generation), generation.result, lambda: next(generation)):  # type: ignore[call-overload]
        with pytest.raises(ServerError) as caught:
            read()
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3


def test_the_cause_of_an_error_is_kept(source: Source) -> None:
    error, cause = ConnectionLostError("lost"), OSError("cable")
    error.__cause__ = cause
    source.feed.fail(error)
    with pytest.raises(ConnectionLostError) as caught:
        source.generation().result()
    assert caught.value.__cause__ is cause


def test_the_text_is_there_at_any_time_whoever_read_it(source: Source) -> None:
    generation = source.generation()
    assert generation.text == ""
    source.push("a", "b")
    assert generation.text == "ab"
    next(generation)  # type: ignore[call-overload]
    source.push("c")
    assert generation.text == "abc"


def test_the_text_can_be_asked_for_while_tokens_come_in(source: Source) -> None:
    generation = source.generation()
    whole = "".join(f"{number} " for number in range(20_000))
    is_over = threading.Event()
    wrong: list[str] = []

    def ask() -> None:
        while not is_over.is_set():
            text = generation.text
            if not whole.startswith(text):
                wrong.append(text)

    askers = [in_thread(ask) for _ in range(3)]
    for number in range(20_000):
        source.push(f"{number} ")
    is_over.set()
    for asker in askers:
        asker.join(5)
    assert wrong == []
    assert generation.text == whole


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Has threads change after every few instructions: what can come between two of them does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
def test_with_several_loops_each_token_goes_to_exactly_one(source: Source) -> None:
    generation = source.generation()
    seen: list[list[str]] = [[] for _ in range(4)]
    readers = [in_thread(own.extend, generation) for own in seen]
    expected = []
    for batch in range(3000):
        tokens = [f"{batch}.{number}" for number in range(batch % 4)]
        expected += tokens
        source.push(*tokens)
    source.finish()
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()
    assert sorted(token for own in seen for token in own) == sorted(expected)


# --- the result -------------------------------------------------------------------------------------------------------


def test_the_result_has_what_the_server_said(source: Source) -> None:
    source.push(*ANSWER)
    source.feed.start("llama2:7b")
    usage = {"promptTokens": 3, "completionTokens": 4, "doneReason": "stop", "totalDuration": 1500, "evalDuration": 250}
    source.finish(total_tokens=4, elapsed_time=18, is_cancelled=False, usage=usage)
    result = source.generation().result()
    assert (result.id, result.model, result.text, result.total_tokens) == ("gen_1", "llama2:7b", "".join(ANSWER), 4)
    assert (result.elapsed_time, result.is_cancelled, result.done_reason) == (0.018, False, "stop")
    assert result.usage is not None
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 4)
    assert (result.usage.total_duration, result.usage.load_duration, result.usage.eval_duration) == (1.5, None, 0.25)
    assert str(result) == "".join(ANSWER)


def test_what_the_server_did_not_say_is_counted_or_none(source: Source) -> None:
    source.push(*ANSWER)
    source.push("hm", is_thinking=True)
    source.finish()
    result = source.generation().result()
    assert (result.total_tokens, result.elapsed_time, result.usage, result.done_reason) == (5, None, None, None)


@pytest.mark.parametrize(
    "usage", [{"promptTokens": "many"}, {"totalDuration": True}, {"totalDuration": 10**400}, {"doneReason": 5}]
)
def test_nonsense_in_the_usage_is_left_out(source: Source, usage: dict[str, Any]) -> None:
    source.finish(usage=usage)
    result = source.generation().result()
    assert result.usage is not None
    assert (result.usage.prompt_tokens, result.usage.total_duration, result.done_reason) == (None, None, None)


def test_a_cancelled_generation_has_a_result_and_no_error(source: Source) -> None:
    source.push("so far")
    source.finish(is_cancelled=True)
    generation = source.generation()
    assert list(generation) == ["so far"]
    assert generation.result().is_cancelled


def test_the_result_can_be_waited_for_beside_a_loop(source: Source) -> None:
    generation = source.generation()
    seen: list[str] = []
    texts: list[str] = []
    threads = [in_thread(seen.extend, generation), in_thread(lambda: texts.append(generation.result().text))]
    source.push(*ANSWER)
    source.finish()
    for thread in threads:
        thread.join(5)
    assert (seen, texts) == (ANSWER, ["".join(ANSWER)])


def test_a_result_that_is_not_there_in_time_leaves_the_generation_alone(source: Source) -> None:
    generation = source.generation()
    source.push("so far")
    with pytest.raises(RequestTimeoutError) as caught:
        generation.result(0.01)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.id, caught.value.text) == ("gen_1", "so far")
    assert source.abandoned == []
    source.finish()
    assert generation.result(0.01).text == "so far"


def test_ctrl_c_while_waiting_for_the_result_stops_the_generation(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    generation = source.generation()
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generation.result()
    assert source.abandoned == ["gen_1"]


@pytest.mark.parametrize("first", ["finish", "fail"])
def test_the_first_end_counts(source: Source, first: str) -> None:
    if first == "finish":
        source.finish(total_tokens=1)
        source.feed.fail(ServerError("late"))
        assert source.generation().result().total_tokens == 1
    else:
        source.feed.fail(ServerError("early"))
        source.finish(total_tokens=1)
        with pytest.raises(ServerError, match="early"):
            source.generation().result()


def test_tokens_after_the_end_are_dropped(source: Source) -> None:
    source.finish()
    assert source.push("late")
    assert source.generation().text == ""


# --- leaving ----------------------------------------------------------------------------------------------------------


def leave_by_break(generation: Generation) -> None:
    for _ in generation:
        break


def leave_by_exception(generation: Generation, error: type[BaseException] = ZeroDivisionError) -> None:
    def read() -> None:
        for _ in generation:
            raise error

    with pytest.raises(error):
        read()


def leave_by_ctrl_c(generation: Generation) -> None:
    leave_by_exception(generation, KeyboardInterrupt)


def leave_by_with(generation: Generation) -> None:
    with generation as same:
        assert same is generation


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_exception, leave_by_ctrl_c, leave_by_with, Generation.close]
)
def test_leaving_a_generation_that_runs_stops_it(source: Source, leave: Callable[[Generation], None]) -> None:
    generation = source.generation()
    source.push("a", "b")
    leave(generation)
    assert source.abandoned == ["gen_1"]
    assert generation.text == "ab"


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_with, Generation.close, list])
def test_leaving_a_generation_that_ended_stops_nothing(source: Source, leave: Callable[[Generation], None]) -> None:
    leave(source.whole())
    gc.collect()
    assert source.abandoned == []


def test_dropping_the_last_reference_stops_the_generation(source: Source) -> None:
    generation = source.generation()
    gone = weakref.ref(generation)
    del generation
    assert gone() is None
    assert source.abandoned == ["gen_1"]


def test_a_loop_keeps_its_generation_and_its_client_alive(source: Source) -> None:
    client = weakref.ref(source.client)
    loop = iter(source.generation())
    source.client = FakeClient()
    source.push("a")
    gc.collect()
    assert next(loop) == "a"
    assert client() is not None
    del loop
    gc.collect()
    assert client() is None
    assert "gen_1" in source.abandoned


def test_finalizers_take_no_lock_of_the_generation(source: Source) -> None:
    generation = source.generation()
    # As if the collector ran right inside of them, in this very thread or another.
    with source.feed._read_lock:
        dropper = in_thread(generation.__del__)
        dropper.join(2)
        assert not dropper.is_alive()
    assert source.abandoned == ["gen_1"]


def test_stop_asks_the_client_with_the_generation_itself(source: Source) -> None:
    generation = source.generation()
    assert generation.stop() is True
    assert source.client.stopped == [generation]


# --- async for --------------------------------------------------------------------------------------------------------


def test_async_for_gives_the_tokens_as_they_come(source: Source) -> None:
    async def read() -> list[str]:
        return [token async for token in source.generation()]

    def fill() -> None:
        for token in ANSWER:
            source.push(token)
            time.sleep(0.005)
        source.finish()

    filler = in_thread(fill)
    assert asyncio.run(read()) == ANSWER
    filler.join()


def test_async_for_needs_no_thread_and_leaves_the_loop_free(source: Source) -> None:
    async def read() -> tuple[list[str], int]:
        seen: list[str] = []

        async def consume() -> None:
            seen.extend([token async for token in source.generation()])

        task = asyncio.create_task(consume())
        threads = threading.active_count()
        ticks = 0
        while ticks < 20:
            await asyncio.sleep(0)
            ticks += 1
        assert threading.active_count() == threads
        source.push("a")
        source.finish()
        await task
        return seen, ticks

    assert asyncio.run(read()) == (["a"], 20)


def test_async_for_raises_the_error_after_the_tokens(source: Source) -> None:
    source.push("so far")
    source.feed.fail(ServerError("no luck"))

    seen: list[str] = []

    async def read() -> None:
        async for token in source.generation():
            seen.append(token)  # noqa: PERF401

    with pytest.raises(ServerError, match="no luck"):
        asyncio.run(read())
    assert seen == ["so far"]


def test_leaving_an_async_loop_stops_the_generation(source: Source) -> None:
    async def read() -> None:
        source.push("a", "b")
        async for _ in source.generation():
            break

    asyncio.run(read())
    gc.collect()
    assert "gen_1" in source.abandoned
    assert source.feed._wakers == ()


def test_a_cancelled_task_stops_the_generation(source: Source) -> None:
    async def consume() -> None:
        async for _ in source.generation():
            pass

    async def read() -> None:
        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(read())
    assert "gen_1" in source.abandoned


def test_tokens_for_a_loop_that_was_closed_hurt_nobody(source: Source) -> None:
    loop = asyncio.new_event_loop()
    generation = source.generation()
    reading = generation.__aiter__()
    task = loop.create_task(anext(reading))  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert source.push("a")


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_text_that_nobody_reads_is_bounded() -> None:
    source = Source(max_unread_bytes=2000)
    generation = source.generation()
    assert source.push("x" * 900)
    assert source.push("x" * 900)
    assert not source.push("x" * 900)
    assert generation.text == "x" * 2700


def test_each_token_counts_what_it_costs_besides_its_text() -> None:
    source = Source(max_unread_bytes=2000)
    assert source.push(*[""] * 31)
    assert not source.push("")


def test_text_counts_in_bytes() -> None:
    source = Source(max_unread_bytes=2000)
    assert not source.push("€" * 700)


def test_what_was_read_does_not_count() -> None:
    source = Source(max_unread_bytes=2000)
    generation = source.generation()
    for _ in range(10):
        assert source.push("x" * 1500)
        assert next(generation) == "x" * 1500  # type: ignore[call-overload]


def test_whoever_waits_for_the_result_counts_as_a_reader() -> None:
    source = Source(max_unread_bytes=2000)
    generation = source.generation()
    waiter = in_thread(generation.result)
    wait_until(lambda: source.feed._result_waiters)
    assert all(source.push("x" * 1500) for _ in range(10))
    source.finish()
    waiter.join(5)


def test_what_came_in_during_a_wait_for_the_result_that_ran_out_is_not_unread_afterwards() -> None:
    source = Source(max_unread_bytes=2000)
    generation = source.generation()
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            polling = pool.submit(generation.result, 0.05)
            wait_until(lambda: source.feed._result_waiters)
            assert source.push("x" * 1500)
            assert isinstance(polling.exception(5), RequestTimeoutError)
        assert source.push("x" * 100)


def test_thinking_and_a_generation_without_tokens_are_not_counted() -> None:
    source = Source(max_unread_bytes=2000)
    assert source.push("x" * 5000, is_thinking=True)
    assert Source(max_unread_bytes=2000, keeps_tokens=False).push("x" * 5000)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_generation_cannot_be_pickled_and_says_why(source: Source) -> None:
    with pytest.raises(TypeError, match=r"pickle its result\(\) instead"):
        pickle.dumps(source.generation())
    source.finish()
    assert pickle.loads(pickle.dumps(source.generation().result())).id == "gen_1"


def test_the_repr_shows_no_text(source: Source) -> None:
    generation = source.whole()
    assert repr(generation) == "<Generation gen_1 llama2 done>"


def test_a_waiter_at_the_very_last_moment_gets_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    wait = Future._wait

    def too_late(future: Future[Any], timeout: float | None) -> bool:
        try:
            return wait(future, 0)
        finally:
            source.finish()

    monkeypatch.setattr(Future, "_wait", too_late)
    assert wait_for(source.feed.done, 1, "it").id == "gen_1"


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_a_timeout_error_that_a_signal_handler_raises_comes_through(source: Source, timeout: float | None) -> None:
    mine = TimeoutError("mine")

    def ring(*_: object) -> None:
        raise mine

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeoutError) as caught:
            source.generation().result(timeout)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value is mine


def test_an_end_that_ctrl_c_took_away_is_there_for_the_next_reader(source: Source) -> None:
    class Interrupted:
        def __init__(self, batches: Any) -> None:
            self.put = batches.put
            self._get = batches.get

        def get(self, *, timeout: float | None) -> None:
            self._get(timeout=timeout)
            raise KeyboardInterrupt

    source.finish()
    batches: Any = source.feed._batches
    source.feed._batches = Interrupted(batches)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        next(source.generation())
    source.feed._batches = batches
    assert source.feed.next_batch(timeout=0) is None


def test_aread_gives_text_that_comes_while_it_waits(source: Source) -> None:
    async def read() -> list[str | None]:
        generation = source.generation()
        waiting = asyncio.ensure_future(generation.aread(10))
        await asyncio.sleep(0)
        source.push("late")
        text = await waiting
        source.finish()
        return [text, await generation.aread()]

    assert asyncio.run(read()) == ["late", None]


def test_aread_gives_an_empty_text_when_none_came_in_time(source: Source) -> None:
    generation = source.generation()
    assert asyncio.run(generation.aread(0.01)) == ""
    assert source.feed._wakers == ()


def test_a_cancelled_aread_leaves_the_generation_running(source: Source) -> None:
    generation = source.generation()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(generation.aread(), 0.01)

    asyncio.run(give_up())
    assert source.abandoned == []
    source.push("on")
    assert generation.read() == "on"


def test_next_batch_says_that_nothing_is_there(source: Source) -> None:
    with pytest.raises(queue.Empty):
        source.feed.next_batch(timeout=0)


def test_a_batch_is_a_sequence_of_its_handles_in_order(source: Source) -> None:
    reply = Reply("models_1", source.feed.done, lambda result: result.text)  # type: ignore[arg-type]
    batch = Batch([source.generation(), reply])
    assert (len(batch), batch[1], list(batch[1:])) == (2, reply, [reply])
    assert not reply.is_done
    source.push("text")
    source.finish()
    assert reply.is_done
    assert batch.results()[1] == "text"


def test_a_batch_gives_errors_in_place_when_asked(source: Source) -> None:
    other = Source()
    batch = Batch([source.generation(), other.generation()])
    source.feed.fail(ServerError("no luck"))
    other.finish()
    results = batch.results(return_errors=True)
    assert isinstance(results[0], ServerError)
    assert results[1].id == "gen_1"
    with pytest.raises(ServerError):
        batch.results()


def test_a_reply_that_does_not_come_in_time_is_a_timeout(source: Source) -> None:
    with pytest.raises(RequestTimeoutError, match=r"request models_1 did not end within 0\.01 s"):
        Reply("models_1", source.feed.done, str).result(0.01)  # type: ignore[arg-type]
    source.finish()
