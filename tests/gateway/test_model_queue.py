"""Generations wait for their turn at a model: in a gateway that runs, and alone where moments count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from wsclient.core.auth import Key
from wsclient.gateway import server_pool
from wsclient.gateway.backends import BackendError, Final, GenerateRequest, Piece
from wsclient.gateway.model_queue import QueueingBackend
from wsclient.gateway.pooled_server import queue_name
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.server_pool import ServerPool
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, public_pem

from ..support.gateway_peers import Peer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend

ROOM = 5


@pytest.fixture
def other_client(registry: ClientRegistry) -> tuple[str, Key]:
    """The id and the key of another client, registered before the gateway starts."""
    key = generate_key("ec")
    return registry.register("other", public_pem(key)).id, key


@pytest.fixture
def backend() -> ScriptedBackend:
    """A model server with three models; it answers any name, as llama.cpp's does."""
    backend = ScriptedBackend()
    backend.models = [{"name": name} for name in ("llama2:latest", "big:latest", "small:latest")]
    return backend


@pytest.fixture
def gateway(start_gateway: StartGateway, other_client: tuple[str, Key]) -> GatewayThread:
    """A gateway whose models take one generation at a time, and whose waiting rooms hold five."""
    return knowing_its_models(start_gateway(max_running=1, max_waiting=ROOM))


@pytest.fixture
def other(gateway: GatewayThread, other_client: tuple[str, Key]) -> Iterator[Peer]:
    """Another client than `peer`, logged in too."""
    with Peer(gateway.url) as peer:
        yield peer.log_in(*other_client)


def knowing_its_models(gateway: GatewayThread) -> GatewayThread:
    """Have a gateway ask for its models: who waits for the first list may be overtaken by who comes after it."""
    assert gateway._loop is not None
    asyncio.run_coroutine_threadsafe(gateway.gateway.backend.pool.line_of("x"), gateway._loop).result(5)
    return gateway


def prompts(backend: ScriptedBackend) -> list[str]:
    """Return the prompts that reached the model server."""
    return [request.prompt for request in backend.requests]


def begin(peer: Peer, id: str, prompt: str, model: str = "llama2") -> None:
    """Ask for a generation, and return when the gateway knows of it."""
    peer.send(type="generate", id=id, prompt=prompt, model=model)
    peer.receive_until("stream_start")


def fill(peer: Peer) -> None:
    """Keep the model busy, and the waiting room full."""
    begin(peer, "g0", "hold 0")
    for number in range(1, 1 + ROOM):
        begin(peer, f"g{number}", f"say {number}")


def test_no_more_generations_than_may_reach_the_model_server(
    connect: Callable[[], Peer], backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    peer = connect()
    begin(peer, "g1", "hold 0")
    begin(peer, "g2", "hold 0")
    wait_until(lambda: gateway.gateway.backend.waiting == 1)
    assert len(backend.requests) == 1

    backend.release()
    assert peer.receive_until("stream_end")[-1]["id"] == "g1"
    wait_until(lambda: len(backend.requests) == 2)
    backend.release()
    assert peer.receive_until("stream_end")[-1]["id"] == "g2"
    assert (gateway.gateway.backend.running, gateway.gateway.backend.waiting) == (0, 0)


def test_one_model_does_not_wait_for_another(peer: Peer) -> None:
    begin(peer, "g1", "hang 0", "big")
    assert peer.generate("say hello", id="g2", model="small")[-1]["type"] == "stream_end"


def test_other_names_of_a_model_are_the_same_model(
    peer: Peer, backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    begin(peer, "g1", "hang 0", "llama2")
    names = (
        "llama2:latest",
        "Library/Llama2",
        "registry.ollama.ai/library/llama2",
        "x://registry.ollama.ai/library/llama2",
    )
    for name in names:
        begin(peer, name, "say hello", name)
    wait_until(lambda: gateway.gateway.backend.waiting == len(names))
    assert prompts(backend) == ["hang 0"]


def test_names_that_no_server_lists_share_one_queue(
    peer: Peer, other: Peer, backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    begin(peer, "g0", "hold 0", "made up 0")
    for number in (1, 2):
        begin(peer, f"g{number}", f"say {number}", f"made up {number}")
    begin(other, "m1", "say mine", "small")
    # The models that there are do not wait for them.
    assert other.receive_until("stream_end")[-1]["totalTokens"] == 1
    wait_until(lambda: gateway.gateway.backend.waiting == 2)
    assert prompts(backend) == ["hold 0", "say mine"]
    backend.release()
    assert [peer.receive_until("stream_end")[-1]["id"] for _ in range(3)] == ["g0", "g1", "g2"]


def test_a_model_that_is_new_at_the_server_has_its_own_queue_soon(
    peer: Peer, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pool, "_UNKNOWN_AGE", 0.0)
    begin(peer, "g0", "hang 0", "made up")
    assert isinstance(backend.models, list)
    backend.models = [*backend.models, {"name": "new:1b"}]
    assert peer.generate("say x", id="g1", model="new:1b")[-1]["type"] == "stream_end"


def test_a_server_that_cannot_list_its_models_has_one_queue(
    start_gateway: StartGateway, backend: ScriptedBackend, client_id: str, ec_key: Key
) -> None:
    backend.models = BackendError("no list")
    gateway = knowing_its_models(start_gateway(max_running=1))
    peer = Peer(gateway.url).log_in(client_id, ec_key)
    begin(peer, "g0", "hold 0", "llama2")
    begin(peer, "g1", "say two", "small")
    wait_until(lambda: gateway.gateway.backend.waiting == 1)
    backend.release()
    assert [peer.receive_until("stream_end")[-1]["id"] for _ in range(2)] == ["g0", "g1"]
    peer.close()


@pytest.mark.parametrize(
    ("name", "other"),
    [("llama2", "llama2:7b"), ("a/llama2", "llama2"), ("hf.co/a/b", "b"), ("localhost:5000/a", "localhost:5000/b")],
)
def test_different_models_have_different_queues(name: str, other: str) -> None:
    assert queue_name(name) != queue_name(other)


def test_clients_take_turns_however_many_one_of_them_asks_for(
    peer: Peer, other: Peer, backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    begin(peer, "g0", "hold 0")
    for number in (1, 2, 3):
        begin(peer, f"g{number}", f"say greedy{number}")
    for number in (1, 2):
        begin(other, f"m{number}", f"say modest{number}")
    wait_until(lambda: gateway.gateway.backend.waiting == ROOM)

    backend.release()

    wait_until(lambda: len(backend.requests) == 1 + ROOM)
    order = [prompt.removeprefix("say ") for prompt in prompts(backend)[1:]]
    assert order == ["greedy1", "modest1", "greedy2", "modest2", "greedy3"]


def test_who_finds_the_queue_full_is_told_so_and_the_connection_is_good(peer: Peer, backend: ScriptedBackend) -> None:
    fill(peer)

    error = peer.generate("say more", id="more")[-1]

    assert (error["id"], error["code"], error["retryAfter"]) == ("more", "server_busy", 5)
    assert error["error"] == "Generation failed: server busy: 5 requests wait for this model already"
    backend.release()
    ends = [peer.receive_until("stream_end")[-1]["id"] for _ in range(1 + ROOM)]
    assert ends == ["g0", "g1", "g2", "g3", "g4", "g5"]


def test_who_fills_the_queue_loses_a_place_to_another_client(peer: Peer, other: Peer, backend: ScriptedBackend) -> None:
    fill(peer)

    begin(other, "m1", "say mine")

    error = peer.receive_until("error")[-1]
    assert (error["id"], error["code"]) == ("g5", "server_busy")
    backend.release()
    assert other.receive_until("stream_end")[-1]["totalTokens"] == 1


def test_who_waits_too_long_is_told_so_and_never_reaches_the_model_server(
    start_gateway: StartGateway, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    gateway = knowing_its_models(start_gateway(max_running=1, max_wait=0.1))
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        begin(peer, "g1", "hold 0")
        error = peer.generate("say late", id="g2")[-1]
        assert (error["code"], error["retryAfter"]) == ("server_busy", 5)
        assert error["error"] == "Generation failed: server busy: this model had no turn within 0.1 s"
        backend.release()
        assert peer.receive_until("stream_end")[-1]["id"] == "g1"
        assert peer.generate("say fine", id="g3")[-1]["type"] == "stream_end"
    assert prompts(backend) == ["hold 0", "say fine"]


def test_a_generation_that_is_stopped_while_it_waits_leaves_at_once(
    peer: Peer, backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    begin(peer, "g1", "hold 0")
    begin(peer, "g2", "say never")
    begin(peer, "g3", "say three")
    peer.send(type="stop", id="s", requestId="g2")

    end = peer.receive_until("stream_end")[-1]

    assert (end["id"], end["isCancelled"], end["totalTokens"]) == ("g2", True, 0)
    wait_until(lambda: gateway.gateway.backend.waiting == 1)
    backend.release()
    assert [peer.receive_until("stream_end")[-1]["id"] for _ in range(2)] == ["g1", "g3"]
    assert prompts(backend) == ["hold 0", "say three"]


def test_the_turn_of_a_generation_that_is_stopped_goes_to_the_next(peer: Peer, backend: ScriptedBackend) -> None:
    begin(peer, "g1", "hang 0")
    begin(peer, "g2", "say two")
    peer.send(type="stop", id="s", requestId="g1")
    assert [peer.receive_until("stream_end")[-1]["id"] for _ in range(2)] == ["g1", "g2"]
    assert backend.cancelled.is_set()


def test_a_client_that_is_gone_leaves_its_turn_and_its_places(
    connect: Callable[[], Peer], backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    gone, peer = connect(), connect()
    begin(gone, "g1", "hang 0")
    begin(gone, "g2", "hang 0")
    begin(peer, "p1", "say mine")
    wait_until(lambda: gateway.gateway.backend.waiting == 2)

    gone.close()

    assert peer.receive_until("stream_end")[-1]["totalTokens"] == 1
    wait_until(lambda: gateway.gateway.backend.running == 0)


def test_a_turn_that_fails_is_passed_on(peer: Peer) -> None:
    begin(peer, "g1", "hold 0")
    begin(peer, "g2", "fail no room")
    begin(peer, "g3", "say three")
    peer.send(type="stop", id="s", requestId="g1")
    assert [message["id"] for message in peer.receive_until("error") if message["type"] == "error"] == ["g2"]
    assert peer.receive_until("stream_end")[-1]["id"] == "g3"


# --- alone ------------------------------------------------------------------------------------------------------------


class Slow(ScriptedBackend):
    """A model server that takes its time; it notes when it was asked."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.most_at_once = 0
        self.now = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await asyncio.sleep(self.seconds)
            yield [Final()]
        finally:
            self.now -= 1


async def run(backend: QueueingBackend, client: str = "a") -> BackendError | None:
    try:
        async for _ in backend.generate(GenerateRequest(model="m", prompt="x", client_id=client)):
            pass
    except BackendError as error:
        return error
    return None


def test_turns_are_cancelled_and_timed_out_at_any_moment_and_none_is_lost() -> None:
    async def scenario() -> None:
        slow = Slow(0.001)
        pool = ServerPool([slow], max_running=2, max_wait=0.02)
        backend = QueueingBackend(pool, max_waiting=50, max_wait=0.02)
        for delay in range(200):
            tasks = [asyncio.create_task(run(backend, "abc"[number % 3])) for number in range(12)]
            # Cancelled at every moment of a turn's life.
            for _ in range(delay % 20):
                await asyncio.sleep(0)
            for task in tasks[delay % 3 :: 3]:
                task.cancel()
            await asyncio.wait(tasks)
            assert (backend.running, backend.waiting) == (0, 0)
        assert slow.most_at_once == 2
        assert await run(backend) is None

    asyncio.run(scenario())


def test_waiting_is_no_part_of_the_model_servers_time() -> None:
    async def scenario() -> list[BackendError | None]:
        slow = Slow(0.05)
        pool = ServerPool([slow], max_running=1, max_wait=60)
        backend = QueueingBackend(pool, max_waiting=10, max_wait=60)
        results = await asyncio.gather(*(run(backend) for _ in range(4)))
        assert slow.most_at_once == 1
        return results

    assert asyncio.run(scenario()) == [None] * 4
