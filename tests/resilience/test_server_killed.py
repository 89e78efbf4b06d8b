"""The server dies in the middle of everything: everybody is told at once, and it goes on when it is back."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from wsclient import ConnectionLostError, Generation, WSClient, WSClientError

from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .conftest import MakeClient, MakeProxy, StartProcess

GENERATIONS = 50
REQUESTS = 20


def outcome(call: Callable[[], Any]) -> tuple[WSClientError, float]:
    """Return what a waiter got, and when."""
    with pytest.raises(WSClientError) as caught:
        call()
    return caught.value, time.monotonic()


def consume(generation: Generation) -> None:
    for _ in generation:
        pass


def test_a_kill_tells_50_generations_and_20_requests_within_a_second_and_the_next_server_is_found(
    start_process: StartProcess, ollama: FakeOllama, make_client: MakeClient
) -> None:
    ollama.script(prompt="hi", mode="hang", after=3)
    ollama.script(prompt="again", tokens=2)
    server = start_process("--backend=ollama", f"--ollama-url={ollama.url}", f"--max-running={GENERATIONS}")
    client = make_client(server.url, reconnect_delay=0.2, max_reconnect_delay=0.5, max_reconnect_attempts=None)
    client.connect()
    # The waiters must not be dropped: that would stop their generations.
    generations = [client.stream("hi") for _ in range(GENERATIONS)]
    with ThreadPoolExecutor(GENERATIONS + REQUESTS) as pool:
        waiters = [
            pool.submit(outcome, generation.result if number % 2 else functools.partial(consume, generation))
            for number, generation in enumerate(generations)
        ]
        wait_until(lambda: all(generation.text == " t000 t001 t002" for generation in generations), 20)
        # Frozen first, so that the requests are out and without an answer when it dies.
        server.freeze()
        waiters += [
            pool.submit(outcome, client.ping if number % 2 else client.list_models) for number in range(REQUESTS)
        ]
        wait_until(lambda: open_things(client) == (GENERATIONS, REQUESTS))

        killed = time.monotonic()
        server.kill()
        done, _ = wait(waiters, 10)

    assert len(done) == GENERATIONS + REQUESTS
    outcomes = [waiter.result() for waiter in waiters]
    assert {(type(error), error.code) for error, _ in outcomes} == {(ConnectionLostError, "connection_lost")}
    assert max(at for _, at in outcomes) - killed < 1.0
    assert [error.text for error, _ in outcomes[:GENERATIONS]] == [" t000 t001 t002"] * GENERATIONS
    assert [error.id for error, _ in outcomes[:GENERATIONS]] == [generation.id for generation in generations]
    assert {generation.text for generation in generations} == {" t000 t001 t002"}
    assert open_things(client) == (0, 0)

    server.start()

    assert client.wait_ready(20)
    assert client.list_models()
    assert client.complete("again").text == " t000 t001"
    assert client.stats().reconnects == 1


def open_things(client: WSClient) -> tuple[int, int]:
    stats = client.stats()
    return stats.open_generations, stats.open_requests


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_request_made_while_the_server_is_away_waits_for_the_next_one(
    start_process: StartProcess, make_client: MakeClient, make_proxy: MakeProxy, reset: bool
) -> None:
    server = start_process("--backend=builtin")
    proxy = make_proxy(server.port)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", reconnect_delay=0.1, max_reconnect_attempts=None)
    client.connect()
    generation = client.stream("hi", max_tokens=1_000_000_000)
    next(generation)

    proxy.refuse()
    proxy.cut(reset=reset)
    with pytest.raises(ConnectionLostError) as caught:
        generation.result(5)
    with ThreadPoolExecutor(1) as pool:
        completing = pool.submit(client.complete, "hi", seed=1, max_tokens=3)
        wait_until(lambda: client.status == "reconnecting")
        proxy.accept()

        assert completing.result(10).total_tokens == 3

    assert caught.value.text == generation.text != ""
    assert client.stats().reconnects == 1
