"""Somebody does not read what they asked for: they alone pay, at their bound, and the server stops writing."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from wsclient import Generation, SlowConsumerError, WSClient
from wsclient.gateway.ngram import Sampling, default_model
from wsclient.gateway.thread import GatewayThread

from ..support.waiting import wait_until
from .conftest import MakeClient, StartProcess

ENDLESS = 1_000_000_000
OTHERS = 7
TOKENS = 50_000
MIB = 1 << 20
# Above what one of the others has in all, so that a reader that a loaded machine keeps from reading is no slow one.
BOUND = 5 * MIB
MEMORY_BOUND = 4 * MIB
# What one receive brings at most, and so what can be over the bound.
BATCH = MIB


def cost(tokens: list[str]) -> int:
    """Return what tokens count as unread bytes."""
    return sum(64 + len(token.encode()) for token in tokens)


def digest(tokens: list[str]) -> str:
    return sha256("".join(tokens).encode()).hexdigest()


def read_to_the_error(generation: Generation) -> tuple[list[str], SlowConsumerError]:
    tokens: list[str] = []
    try:
        for token in generation:
            tokens += [token]
    except SlowConsumerError as error:
        return tokens, error
    raise AssertionError("it ended without an error")


@pytest.mark.slow
def test_one_that_is_not_read_fails_at_its_bound_and_7_others_are_whole(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, max_unread_bytes=BOUND, request_timeout=60.0)
    client.connect()
    unread = client.stream("unread", seed=99, max_tokens=ENDLESS)

    def read(number: int) -> str:
        return digest(list(client.stream(f"Chapter {number}", seed=number, max_tokens=TOKENS)))

    with ThreadPoolExecutor(OTHERS) as pool:
        digests = list(pool.map(read, range(OTHERS)))
    wait_until(lambda: unread.is_done, 30)
    # Nothing but a stop ends it there: the connection stays.
    wait_until(lambda: gateway.gateway.stats().generations == 0)
    _, error = read_to_the_error(unread)

    written = [default_model().walk(f"Chapter {number}", Sampling(seed=number)) for number in range(OTHERS)]
    assert digests == [digest(walk.take(TOKENS)) for walk in written]
    assert (error.code, error.id) == ("slow_consumer", unread.id)
    assert client.stats().connects == gateway.gateway.stats().total_connections == 1
    assert client.is_ready()


def test_what_came_before_the_bound_is_kept_whole_and_is_little_more_than_the_bound(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, max_unread_bytes=MIB)
    unread = client.stream("unread", seed=99, max_tokens=ENDLESS)
    wait_until(lambda: unread.is_done, 30)

    tokens, error = read_to_the_error(unread)

    assert error.text == unread.text == "".join(tokens)
    assert tokens == default_model().walk("unread", Sampling(seed=99)).take(len(tokens))
    assert MIB < cost(tokens) < MIB + BATCH


def test_an_unread_generation_keeps_little_more_memory_than_its_bound(
    start_process: StartProcess, make_client: MakeClient
) -> None:
    # In a process of its own, so that only the client's memory is measured.
    server = start_process("--backend=builtin")
    client: WSClient = make_client(server.url, max_unread_bytes=MEMORY_BOUND)
    client.complete("hi", max_tokens=1000)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        unread = client.stream("unread", max_tokens=ENDLESS)
        wait_until(lambda: unread.is_done, 40)
        # The answer comes after all that the server sent before it: the reader is through with the batch by then.
        client.ping()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Its text and the error's copy of it come on top, and the batch that was one too many.
    assert after - before < 2 * MEMORY_BOUND
    with pytest.raises(SlowConsumerError):
        unread.result()
