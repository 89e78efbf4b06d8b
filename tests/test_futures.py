"""A request's outcome: settled once, and waited for by any number of threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsclient.futures import Future

from .support.lines import in_thread


def test_a_value_is_returned_to_everybody_before_and_after() -> None:
    future: Future[int] = Future()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(future.result, 10) for _ in range(8)]
        assert future.set_result(7)
        assert [waiter.result(10) for waiter in waiting] == [7] * 8
    assert future.result() == future.result(0) == 7
    assert future.exception() is None


def test_an_error_is_raised_as_it_is() -> None:
    future: Future[int] = Future()
    error = KeyError("x")
    assert future.set_exception(error)
    with pytest.raises(KeyError) as caught:
        future.result()
    assert caught.value is error
    assert future.exception() is error


def test_the_first_outcome_counts_whoever_brings_it() -> None:
    for _ in range(200):
        future: Future[int] = Future()
        start = threading.Barrier(4)

        def settle(number: int, future: Future[int] = future, start: threading.Barrier = start) -> bool:
            start.wait()
            return future.set_result(number) if number % 2 else future.set_exception(KeyError(number))

        with ThreadPoolExecutor(4) as pool:
            were_first = list(pool.map(settle, range(4)))
        assert were_first.count(True) == 1
        first = were_first.index(True)
        if first % 2:
            assert future.result(0) == first
        else:
            assert str(future.exception()) == str(first)


@pytest.mark.parametrize("timeout", [0, -1.0, 0.02])
def test_a_wait_that_runs_out_is_a_timeout_and_leaves_the_rest_alone(timeout: float) -> None:
    future: Future[int] = Future()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        future.result(timeout)
    assert time.monotonic() - started >= timeout
    assert not future.is_done
    assert future.set_result(1)
    assert future.result(timeout) == 1


def test_a_wait_may_be_longer_than_any_clock() -> None:
    future: Future[int] = Future()
    waiter = in_thread(future.result, 1e300)
    future.set_result(1)
    waiter.join(5)
    assert not waiter.is_alive()
