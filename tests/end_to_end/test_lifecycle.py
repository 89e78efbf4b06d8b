"""Beginnings and ends: closing from anywhere, dropping, leaving a loop, exit, Ctrl-C, fork, and asyncio programs."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wsclient import ClientClosedError, Generation, ServerError, WSClient
from wsclient.gateway.ngram import Sampling, default_model
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.scripted_server import Peer, ScriptedServer, polite

from ..support.fake_ollama import FakeOllama
from ..support.holdings import Holdings
from ..support.waiting import wait_until
from .conftest import MakeClient
from .programs import expect_line, program

ENDLESS = 1_000_000_000
# What a close may take (design.md section 2), whatever is under way.
CLOSE = 2.0


def generations(gateway: GatewayThread) -> int:
    return gateway.gateway.stats().generations


def wait_for_status(client: WSClient, status: str) -> None:
    wait_until(lambda: client.status == status)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


# --- close ------------------------------------------------------------------------------------------------------------


def test_with_connects_and_closes(gateway: GatewayThread, make_client: MakeClient) -> None:
    with make_client(gateway.url) as client:
        assert client.is_ready()

    assert client.status == "disconnected"
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_with_closes_when_its_body_raises(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)

    with pytest.raises(KeyError), client:
        raise KeyError("the user's own")

    assert client.status == "disconnected"


@pytest.mark.parametrize(
    "request_",
    [
        lambda client: client.complete("hi"),
        lambda client: client.stream("hi"),
        lambda client: client.generate("hi"),
        lambda client: client.list_models(),
        lambda client: client.ping(),
        lambda client: client.send_batch([{"type": "models"}]),
        lambda client: client.stop_generation("gen_1"),
    ],
    ids=["complete", "stream", "generate", "list_models", "ping", "send_batch", "stop_generation"],
)
def test_after_close_a_request_raises_client_closed_until_connect(
    client: WSClient, request_: Callable[[WSClient], Any]
) -> None:
    client.close()

    with pytest.raises(ClientClosedError) as caught:
        request_(client)
    assert caught.value.code == "client_closed"

    client.connect()
    request_(client)


def test_close_twice_is_close_once(client: WSClient) -> None:
    client.close()
    with within(1.0):
        client.close()
        client.disconnect()

    assert client.status == "disconnected"


def test_close_of_a_client_that_never_connected_does_nothing(make_client: MakeClient) -> None:
    client = make_client("ws://127.0.0.1:9")

    client.close()

    assert client.status == "disconnected"


def test_close_from_many_threads_at_once_is_close_once(client: WSClient, gateway: GatewayThread) -> None:
    client.stream("hi", max_tokens=ENDLESS)
    start = threading.Barrier(8)

    def close(_: int) -> None:
        start.wait()
        client.close()

    with within(CLOSE), ThreadPoolExecutor(8) as pool:
        list(pool.map(close, range(8)))

    assert client.status == "disconnected"
    wait_until(lambda: generations(gateway) == 0)


@pytest.mark.parametrize("kind", ["token", "generation_start"])
def test_close_from_a_callback_closes(client: WSClient, gateway: GatewayThread, kind: str) -> None:
    is_closed = threading.Event()

    def close(event: Any) -> None:
        with within(CLOSE):
            client.close()
        is_closed.set()

    getattr(client, f"on_{kind}")(close)
    client.generate("hi", max_tokens=ENDLESS)

    assert is_closed.wait(5)
    assert client.status == "disconnected"
    wait_until(lambda: generations(gateway) == 0)


def test_close_from_the_callback_that_tells_of_connecting_ends_the_attempt(make_client: MakeClient) -> None:
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        client = make_client(server.url)
        client.on_connection_change(lambda status: client.close())

        with within(CLOSE), pytest.raises(ClientClosedError):
            client.connect()

        wait_for_status(client, "disconnected")


def test_close_ends_a_loop_in_another_thread_with_the_text_so_far(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(mode="hang", after=3)
    generation = ollama_client.stream("hi")
    tokens: list[str] = []

    def read() -> ClientClosedError:
        with pytest.raises(ClientClosedError) as caught:
            tokens.extend(generation)
        return caught.value

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        wait_until(lambda: generation.text == " t000 t001 t002")
        with within(CLOSE):
            ollama_client.close()
        error = reading.result(5)

    assert tokens == [" t000", " t001", " t002"]
    assert (error.text, error.id) == (" t000 t001 t002", generation.id)
    assert ollama.requests[-1].disconnected.wait(5)


def test_close_tells_the_server(make_client: MakeClient) -> None:
    with ScriptedServer(polite) as server:
        with make_client(server.url) as client:
            client.list_models()

        assert wait_until(lambda: server.peers[0].closed).code == 1000


def test_close_answers_every_waiter(make_client: MakeClient) -> None:
    def say_nothing(peer: Peer) -> None:
        peer.login()
        peer.accept_and_say_nothing()

    waits = [
        lambda: client.complete("hi"),
        lambda: client.list_models(),
        lambda: client.ping(),
        lambda: list(client.stream("hi")),
        lambda: client.stop_generation("gen_1"),
        lambda: client.send_batch([{"type": "models"}]).results(),
    ]
    with ScriptedServer(say_nothing) as server, ThreadPoolExecutor(12) as pool:
        client = make_client(server.url)
        client.connect()
        futures = [pool.submit(wait) for wait in waits * 2]
        wait_until(lambda: client.stats().open_requests + client.stats().open_generations == len(futures))

        with within(CLOSE):
            client.close()

        codes = [getattr(future.exception(5), "code", None) for future in futures]
    assert codes == ["client_closed"] * len(futures)


def test_close_while_connecting_ends_the_attempt(make_client: MakeClient) -> None:
    with (
        ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        client = make_client(server.url)
        connecting = pool.submit(client.connect)
        wait_for_status(client, "connecting")

        with within(1.0):
            client.close()

        assert isinstance(connecting.exception(1), ClientClosedError)


def test_close_while_reconnecting_ends_the_attempts(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url, reconnect_delay=0.05)
    client.connect()
    gateway.kill()
    wait_for_status(client, "reconnecting")

    with within(CLOSE):
        client.close()
    gateway.start()

    assert client.status == "disconnected"
    assert not client.wait_ready(0.3)
    assert gateway.gateway.stats().total_connections == 0


def test_events_that_came_in_before_close_are_delivered(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(mode="hang", after=100, tokens=100)
    delivered: list[str] = []

    def take_your_time(event: Any) -> None:
        time.sleep(0.001)
        delivered.append(event.token)

    ollama_client.on_token(take_your_time)
    ollama_client.generate("hi")
    wait_until(lambda: ollama_client.stats().tokens == 100)
    ollama_client.close()

    assert len(delivered) == 100


# --- letting go -------------------------------------------------------------------------------------------------------


def test_dropping_a_client_closes_it(gateway: GatewayThread, make_client: MakeClient) -> None:
    before = Holdings.now()
    client = make_client(gateway.url)
    client.connect()
    assert before.gained()

    del client

    before.wait_until_none_gained()


def test_dropping_a_client_whose_callbacks_hold_it_closes_it(gateway: GatewayThread, make_client: MakeClient) -> None:
    before = Holdings.now()
    client = make_client(gateway.url)
    client.connect()
    client.on_token(lambda event, client=client: client.stats())  # type: ignore[misc]
    client.generate("hi", max_tokens=ENDLESS)

    def is_nothing_left() -> bool:
        # More than once: a callback that is running at that moment holds the client.
        gc.collect()
        return not before.gained()

    del client

    wait_until(is_nothing_left)
    assert generations(gateway) == 0


def test_dropping_a_client_that_tries_to_reconnect_ends_the_attempts(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    before = Holdings.now()
    client = make_client(gateway.url, reconnect_delay=0.05)
    client.connect()
    gateway.kill()
    wait_for_status(client, "reconnecting")

    del client

    before.wait_until_none_gained()


def test_a_generation_keeps_its_client_alive(gateway: GatewayThread, make_client: MakeClient) -> None:
    generation = make_client(gateway.url).stream("hi", max_tokens=50_000)
    gc.collect()

    assert sum(1 for _ in generation) == 50_000


def leave_by_break(generation: Generation) -> None:
    for _ in generation:
        break


def leave_by_an_exception(generation: Generation) -> None:
    with suppress(KeyError):
        for _ in generation:
            raise KeyError


def leave_a_with_block(generation: Generation) -> None:
    with generation:
        next(generation)


def close_it(generation: Generation) -> None:
    next(generation)
    generation.close()


def stop_it(generation: Generation) -> None:
    next(generation)
    assert generation.stop() is True


@pytest.mark.parametrize(
    "leave",
    [leave_by_break, leave_by_an_exception, leave_a_with_block, close_it, stop_it],
    ids=lambda leave: leave.__name__,
)
def test_leaving_stops_the_generation_on_the_server(
    gateway: GatewayThread, client: WSClient, leave: Callable[[Generation], None]
) -> None:
    generation = client.stream("hi", max_tokens=ENDLESS)

    leave(generation)

    wait_until(lambda: generations(gateway) == 0)
    assert generation.result(5).is_cancelled
    assert client.complete("hi", max_tokens=2).total_tokens == 2


def test_dropping_a_generation_stops_it_on_the_server_and_leaves_the_others(
    gateway: GatewayThread, client: WSClient
) -> None:
    dropped = client.stream("hi", max_tokens=ENDLESS)
    kept = client.stream("hi", max_tokens=50_000, seed=1)
    next(dropped)

    del dropped

    wait_until(lambda: generations(gateway) <= 1)
    expected = "".join(default_model().walk("hi", Sampling(seed=1)).take(50_000))
    assert kept.result(10).text == expected


def test_stopping_from_another_thread_ends_the_loop_without_an_error(gateway: GatewayThread, client: WSClient) -> None:
    generation = client.stream("hi", max_tokens=ENDLESS)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: "".join(generation))
        wait_until(lambda: len(generation.text) > 1000)

        assert generation.stop() is True

        text = reading.result(5)
    result = generation.result(1)
    assert result.is_cancelled
    assert text == generation.text == result.text
    wait_until(lambda: generations(gateway) == 0)


def test_a_dropped_batch_lets_go_of_its_generations(gateway: GatewayThread, client: WSClient) -> None:
    message = {"type": "generate", "prompt": "hi", "options": {"max_tokens": ENDLESS}}
    batch = client.send_batch([message, message])
    next(batch[0])  # type: ignore[call-overload]

    del batch

    wait_until(lambda: client.stats().open_generations == 0)
    assert client.complete("hi", max_tokens=2).total_tokens == 2


def test_nothing_holds_a_client_that_was_closed(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)
    client.connect()
    client.on_token(print)
    client.complete("hi", max_tokens=3)
    client.close()
    reference = weakref.ref(client)

    del client

    assert reference() is None


# --- whole programs ---------------------------------------------------------------------------------------------------

EXITS = {
    "falls off its end": """
generation = client.stream("hi", max_tokens=10**9)
next(generation)
print("leaving", flush=True)
""",
    "calls sys.exit in a loop": """
for token in client.stream("hi", max_tokens=10**9):
    print("leaving", flush=True)
    sys.exit(0)
""",
    "has a thread in a loop": """
first = threading.Event()
def read():
    for token in client.stream("hi", max_tokens=10**9):
        first.set()
threading.Thread(target=read, daemon=True).start()
first.wait()
print("leaving", flush=True)
""",
    "has callbacks": """
first = threading.Event()
client.on_token(lambda event: first.set())
client.on_connection_change(print)
client.on_error(print)
client.generate("hi", max_tokens=10**9)
first.wait()
print("leaving", flush=True)
""",
    "is in a callback": """
first = threading.Event()
def sit(event):
    first.set()
    time.sleep(60)
client.on_token(sit)
client.generate("hi", max_tokens=10**9)
first.wait()
print("leaving", flush=True)
""",
    "has many clients": """
clients = [WSClient(url, client_id=client_id, private_key_path=key) for _ in range(5)]
generations = [client.stream("hi", max_tokens=10**9) for client in clients]
[next(generation) for generation in generations]
print("leaving", flush=True)
""",
    "closed its client": """
with client:
    client.complete("hi", max_tokens=3)
print("leaving", flush=True)
""",
    "kept a cycle of it all": """
class Holder: pass
holder = Holder()
holder.me, holder.client, holder.generation = holder, client, client.stream("hi", max_tokens=10**9)
next(holder.generation)
print("leaving", flush=True)
""",
}


@pytest.mark.parametrize("how", EXITS)
def test_a_program_ends_at_once_and_without_a_word_when_it_(
    how: str, gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    with program(EXITS[how], gateway.url, client_id, key_path) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert "leaving\n" in lines
        _, errors = process.communicate(timeout=3)

    assert (errors, process.returncode) == ("", 0)
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_a_program_waits_for_its_own_threads_as_python_does(
    gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    # Connected before the end: from Python 3.12 on no thread can be started after it.
    text = """
client.connect()
threading.Thread(target=lambda: print(client.complete("hi", seed=1, max_tokens=20_000).total_tokens)).start()
"""
    with program(text, gateway.url, client_id, key_path) as process:
        output, errors = process.communicate(timeout=10)

    assert (output, errors, process.returncode) == ("20000\n", "", 0)


def test_a_program_ends_at_once_and_without_a_word_while_it_connects(client_id: str, key_path: Path) -> None:
    text = """
client = WSClient(url, client_id=client_id, private_key_path=key, auto_connect=True)
while client.status != "connecting":
    time.sleep(0.001)
print("leaving", flush=True)
"""
    with (
        ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server,
        program(text, server.url, client_id, key_path) as process,
    ):
        expect_line(process, "leaving")
        _, errors = process.communicate(timeout=3)

    assert (errors, process.returncode) == ("", 0)


FORK = """
import stat

def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False

generation = client.stream("parent")
tokens = [next(generation), next(generation)]
child = os.fork()
if not child:
    assert not [fd for fd in range(3, 100) if is_socket(fd)], "the child holds its parent's connection"
    print(client.complete("child").text, client.stats().connects, flush=True)
    # The ordinary way out, which drops the parent's client and generation in the child.
    sys.exit(0)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
sys.stdin.readline()
tokens += generation
print("".join(tokens), client.stats().connects, flush=True)
client.close()
"""


def test_a_fork_in_the_middle_of_a_stream_gives_the_child_a_connection_and_leaves_the_parent_s(
    ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="parent", mode="hold", after=3, tokens=6)
    ollama.script(prompt="child", tokens=2)

    # Python 3.12 and newer warn about every fork beside threads.
    with program(FORK, ollama_gateway.url, client_id, key_path, "-W", "ignore::DeprecationWarning") as process:
        expect_line(process, " t000 t001 1")
        expect_line(process, "child ended with 0")
        assert ollama_gateway.gateway.stats().total_logins == 2
        ollama.release()
        output, errors = process.communicate("\n", timeout=5)

    assert (output, errors, process.returncode) == (" t000 t001 t002 t003 t004 t005 1\n", "", 0)


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_async_for_gives_the_tokens_without_a_thread_a_stream(client: WSClient) -> None:
    async def read(seed: int) -> list[str]:
        return [token async for token in client.stream("hi", seed=seed, max_tokens=2000)]

    async def main() -> tuple[list[list[str]], int]:
        reading = asyncio.gather(*(read(seed) for seed in range(8)))
        await asyncio.sleep(0)
        threads = threading.active_count()
        return await reading, threads

    before = threading.active_count()
    texts, threads = asyncio.run(main())

    assert texts == [default_model().walk("hi", Sampling(seed=seed)).take(2000) for seed in range(8)]
    assert threads == before


def test_the_loop_turns_while_a_stream_is_silent(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(mode="hold", after=1, tokens=2)

    async def main() -> tuple[list[str], int]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while turns < 50:
                turns += 1
                await asyncio.sleep(0.001)
            ollama.release()

        turning = asyncio.create_task(turn())
        tokens = [token async for token in ollama_client.stream("hi")]
        await turning
        return tokens, turns

    assert asyncio.run(main()) == ([" t000", " t001"], 50)


def test_leaving_an_async_loop_stops_the_generation_on_the_server(gateway: GatewayThread, client: WSClient) -> None:
    async def main() -> None:
        async for _ in client.stream("hi", max_tokens=ENDLESS):
            break

    asyncio.run(main())

    wait_until(lambda: generations(gateway) == 0)


def test_cancelling_the_task_of_an_async_loop_stops_the_generation_on_the_server(
    ollama: FakeOllama, ollama_client: WSClient
) -> None:
    ollama.script(mode="hang", after=1)

    async def read(first: asyncio.Event) -> None:
        async for _ in ollama_client.stream("hi"):
            first.set()

    async def main() -> None:
        first = asyncio.Event()
        reading = asyncio.create_task(read(first))
        await first.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(main())

    assert ollama.requests[-1].disconnected.wait(5)


def test_an_error_comes_out_of_an_async_loop(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(mode="error_line", after=1, error="the runner crashed")
    generation = ollama_client.stream("hi")

    async def main() -> list[str]:
        return [token async for token in generation]

    with pytest.raises(ServerError, match="the runner crashed") as caught:
        asyncio.run(main())

    assert caught.value.text == " t000"
