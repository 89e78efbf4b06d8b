"""A line that is dead and says nothing: it is noticed in time; and one that only takes nothing still delivers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsclient import ConnectionLostError, Generation
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.fault_proxy import TO_CLIENT, TO_SERVER, Direction

from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .conftest import MakeClient, MakeProxy

PING = 0.5
PONG = 0.5
# Far more than the kernel keeps for a reader that does not read.
BIG = 16 * 1024 * 1024


def read_to_the_error(generation: Generation) -> tuple[ConnectionLostError, float]:
    with pytest.raises(ConnectionLostError) as caught:
        for _ in generation:
            pass
    return caught.value, time.monotonic()


@pytest.mark.parametrize(
    "directions",
    [(TO_CLIENT,), (TO_SERVER,), (TO_CLIENT, TO_SERVER)],
    ids=["nothing comes", "nothing goes", "neither"],
)
def test_a_half_open_line_is_noticed_in_time_and_wakes_who_waits_for_a_token(
    ollama: FakeOllama,
    ollama_gateway: GatewayThread,
    make_client: MakeClient,
    make_proxy: MakeProxy,
    directions: tuple[Direction, ...],
) -> None:
    ollama.script(prompt="hi", mode="hang", after=3)
    proxy = make_proxy(ollama_gateway.port)
    client = make_client(
        f"ws://127.0.0.1:{proxy.port}", ping_interval=PING, pong_timeout=PONG, reconnect_delay=0.1, connect_timeout=1.0
    )
    client.connect()
    generation = client.stream("hi")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_to_the_error, generation)
        wait_until(lambda: generation.text == " t000 t001 t002")

        stalled = time.monotonic()
        proxy.stall(*directions)
        error, at = reading.result(10)

    assert at - stalled < PING + PONG + 1.0
    assert "silent" in error.message
    assert (error.code, error.id, error.text) == ("connection_lost", generation.id, " t000 t001 t002")

    proxy.heal()

    assert client.wait_ready(10)
    assert client.list_models()
    assert client.stats().reconnects == 1


def test_a_silent_line_is_pinged_each_interval_even_when_an_answer_may_take_longer(
    ollama: FakeOllama, ollama_gateway: GatewayThread, make_client: MakeClient, make_proxy: MakeProxy
) -> None:
    ollama.script(prompt="hi", mode="hold", after=1, tokens=2)
    proxy = make_proxy(ollama_gateway.port)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", ping_interval=0.02, pong_timeout=10.0)
    client.connect()
    generation = client.stream("hi")

    # Every message of the server's but the first few is an answer to a ping.
    wait_until(lambda: client.stats().messages_received > 30, 20)
    ollama.release()

    assert generation.result(5).text == " t000 t001"
    assert client.stats().connects == 1


# aiohttp's advice about large bodies, on the gateway's way to the model server.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_stalled_send_of_16_mib_does_not_keep_tokens_from_arriving(
    ollama: FakeOllama, ollama_gateway: GatewayThread, make_client: MakeClient, make_proxy: MakeProxy
) -> None:
    ollama.script(prompt="x" * 1000, tokens=2)
    ollama.script(prompt="hi", mode="hold", after=3, tokens=2000)
    proxy = make_proxy(ollama_gateway.port)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", pong_timeout=60.0, request_timeout=60.0)
    client.connect()
    generation = client.stream("hi")
    wait_until(lambda: generation.text == " t000 t001 t002")
    proxy.stall(TO_SERVER)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.complete, "x" * BIG)
        wait_until(lambda: client.stats().bytes_sent > 100_000)

        ollama.release()

        assert "".join(generation) == "".join(f" t{number:03}" for number in range(2000))
        assert client.stats().bytes_sent < BIG
        assert not sending.done()

        proxy.resume(TO_SERVER)
        assert sending.result(40).text == " t000 t001"
    assert client.stats().connects == 1


@pytest.mark.slow
# aiohttp's advice about large bodies, on the gateway's way to the model server.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_large_send_that_makes_progress_is_no_dead_line_however_long_it_takes(
    ollama: FakeOllama, ollama_gateway: GatewayThread, make_client: MakeClient, make_proxy: MakeProxy
) -> None:
    ollama.script(tokens=2)
    proxy = make_proxy(ollama_gateway.port)
    proxy.throttle(2 * 1024 * 1024, TO_SERVER)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", ping_interval=0.1, pong_timeout=5.5, request_timeout=60.0)

    # Eight seconds on the line, in which the server has nothing to say and a ping has to wait its turn.
    assert client.complete("x" * BIG).text == " t000 t001"
    assert client.stats().connects == 1
