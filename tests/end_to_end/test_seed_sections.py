"""What the seed document describes, section by section, has a Python counterpart that works.

The sections are named in comments. The example in "Basic Usage" and the one in "Multiple Concurrent Generations" are
here in the seed's own order of calls.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from wsclient import (
    ConnectionStatus,
    ErrorEvent,
    GenerationEndEvent,
    GenerationStartEvent,
    InvalidAuthError,
    ModelInfo,
    ModelNotFoundError,
    TokenEvent,
    WSClient,
)
from wsclient.gateway.ngram import Sampling, default_model
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .conftest import MakeClient, StartGateway

PROMPT = "Write a short story about a robot learning to paint"


def written(prompt: str, tokens: int, seed: int) -> str:
    """Return what the built-in model writes, asked directly."""
    return "".join(default_model().walk(prompt, Sampling(seed=seed)).take(tokens))


@attrs.define
class Heard:
    """What a client's callbacks were told about one generation."""

    id: str
    tokens: list[str] = attrs.field(factory=list)
    end: Future[GenerationEndEvent] = attrs.field(factory=Future)

    def on_token(self, event: TokenEvent) -> None:
        if event.id == self.id:
            self.tokens.append(event.token)

    def on_end(self, event: GenerationEndEvent) -> None:
        if event.id == self.id:
            self.end.set_result(event)

    def on_error(self, event: ErrorEvent) -> None:
        if event.id == self.id:
            self.end.set_exception(AssertionError(f"{event.code}: {event.message}"))


# --- "Importing the Client", "Constructor Options" --------------------------------------------------------------------


def test_the_client_is_imported_from_the_package_itself() -> None:
    namespace: dict[str, Any] = {}

    exec("from wsclient import WSClient", namespace)

    assert namespace["WSClient"] is WSClient


def test_all_nine_options_of_the_constructor_make_a_client_that_works(
    gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    with WSClient(
        server_url=gateway.url,
        client_id=client_id,
        private_key_path=str(key_path),
        signature_algorithm="RSA-SHA256",
        auto_reconnect=True,
        reconnect_delay=1.0,
        ping_interval=30.0,
        request_timeout=60.0,
        auto_connect=True,
    ) as client:
        assert client.complete(PROMPT, max_tokens=12, seed=1).text == written(PROMPT, 12, seed=1)


def test_auto_connect_connects_without_being_told(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url, auto_connect=True)

    assert client.wait_ready(5)


def test_without_auto_connect_nothing_is_dialled(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)
    assert client.get_status() == "disconnected"

    # A second client's login: had the first one dialled, it would have been counted by now.
    make_client(gateway.url).connect()

    assert gateway.gateway.stats().total_connections == 1


def test_the_ping_interval_is_how_long_a_silent_line_is_trusted(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, ping_interval=0.1)
    client.connect()

    assert client.latency is None
    assert 0 < wait_until(lambda: client.latency) < 1


def test_the_request_timeout_bounds_a_request(make_client: MakeClient) -> None:
    def log_in_and_say_no_more(peer: Peer) -> None:
        peer.login()
        peer.accept_and_say_nothing()

    with ScriptedServer(log_in_and_say_no_more) as server:
        client = make_client(server.url, request_timeout=0.2)
        client.connect()

        with pytest.raises(TimeoutError, match=r"no answer to models within 0\.2 s \[request_timeout\]"):
            client.list_models()

        client.close()


# --- "Authentication", "Connection Methods" ---------------------------------------------------------------------------


def test_connect_returns_when_the_login_is_through(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)

    client.connect()

    assert client.is_ready()
    assert client.get_status() == "authenticated"
    assert gateway.gateway.stats().clients == 1


def test_disconnect_ends_the_connection_on_both_sides(gateway: GatewayThread, client: WSClient) -> None:
    client.disconnect()

    assert not client.is_ready()
    assert client.get_status() == "disconnected"
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_a_client_can_connect_again_after_disconnect(client: WSClient) -> None:
    client.disconnect()

    client.connect()

    assert client.complete(PROMPT, max_tokens=3).total_tokens == 3


def test_is_ready_says_no_before_connect_and_after_disconnect(client: WSClient, make_client: MakeClient) -> None:
    assert not make_client("ws://127.0.0.1:9").is_ready()
    assert client.is_ready()
    client.disconnect()
    assert not client.is_ready()


def test_a_connection_goes_through_the_statuses_in_order(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)
    seen: list[ConnectionStatus] = []
    client.on_connection_change(seen.append)

    client.connect()
    client.disconnect()

    assert seen == ["connecting", "connected", "authenticated", "disconnected"]


def test_a_wrong_key_ends_in_auth_failed(gateway: GatewayThread, make_client: MakeClient, other_rsa_key: Any) -> None:
    client = make_client(gateway.url, private_key=other_rsa_key)
    seen: list[ConnectionStatus] = []
    client.on_connection_change(seen.append)

    with pytest.raises(InvalidAuthError):
        client.connect()

    assert client.get_status() == "auth_failed"
    wait_until(lambda: seen == ["connecting", "connected", "auth_failed"])


def test_a_gateway_that_is_gone_ends_in_reconnect_failed(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url, reconnect_delay=0.01, max_reconnect_attempts=2)
    client.connect()
    seen: queue.SimpleQueue[ConnectionStatus] = queue.SimpleQueue()
    client.on_connection_change(seen.put)

    gateway.kill()

    attempt = ["reconnecting", "connecting"]
    assert [seen.get(timeout=5) for _ in range(6)] == ["disconnected", *attempt, *attempt, "reconnect_failed"]
    assert client.get_status() == "reconnect_failed"


def test_the_statuses_are_the_seven_of_the_seed() -> None:
    assert list(ConnectionStatus) == [
        "disconnected",
        "connecting",
        "connected",
        "authenticated",
        "auth_failed",
        "reconnecting",
        "reconnect_failed",
    ]


# --- "Basic Usage", "Text Generation Methods" -------------------------------------------------------------------------


def test_generate_returns_the_id_that_its_events_carry(client: WSClient) -> None:
    starts: queue.SimpleQueue[GenerationStartEvent] = queue.SimpleQueue()
    client.on_generation_start(starts.put)

    generation_id = client.generate("Explain quantum computing", "builtin", {"temperature": 0.7, "max_tokens": 5})

    assert isinstance(generation_id, str)
    assert starts.get(timeout=5) == GenerationStartEvent(generation_id, "builtin")


def test_the_basic_example_prints_the_story_and_its_figures(client: WSClient) -> None:
    heard = Heard("")

    heard.id = client.generate(PROMPT, "builtin", {"temperature": 0.7, "seed": 4, "max_tokens": 60})
    client.on_token(heard.on_token)
    client.on_generation_end(heard.on_end)

    end = heard.end.result(5)
    text = "".join(default_model().walk(PROMPT, Sampling(temperature=0.7, seed=4)).take(60))
    assert ("".join(heard.tokens), end.total_tokens, end.is_cancelled) == (text, 60, False)
    assert end.elapsed_time is not None
    assert 0 <= end.elapsed_time < 5


def test_handlers_subscribed_after_generate_miss_nothing(client: WSClient) -> None:
    # As the seed's example does it; a hundred times, because the tokens race the subscription.
    for seed in range(100):
        heard = Heard(client.generate(PROMPT, options={"seed": seed, "max_tokens": 40}))
        unsubscribe = [client.on_token(heard.on_token), client.on_generation_end(heard.on_end)]

        assert heard.end.result(5).total_tokens == 40
        assert "".join(heard.tokens) == written(PROMPT, 40, seed)
        for stop in unsubscribe:
            stop()


def test_handlers_subscribed_after_the_last_token_came_in_miss_nothing(client: WSClient) -> None:
    heard = Heard(client.generate(PROMPT, options={"seed": 9, "max_tokens": 3000}))
    wait_until(lambda: client.stats().open_generations == 0)
    starts: list[GenerationStartEvent] = []

    client.on_generation_start(starts.append)
    client.on_token(heard.on_token)
    client.on_generation_end(heard.on_end)

    assert heard.end.result(5).total_tokens == 3000
    assert "".join(heard.tokens) == written(PROMPT, 3000, seed=9)
    assert [start.id for start in starts] == [heard.id]


def test_handlers_subscribed_after_generate_by_many_threads_miss_nothing(client: WSClient) -> None:
    def example(seed: int) -> tuple[str, str]:
        heard = Heard(client.generate(PROMPT, options={"seed": seed, "max_tokens": 200}))
        unsubscribe = [client.on_token(heard.on_token), client.on_generation_end(heard.on_end)]
        heard.end.result(10)
        for stop in unsubscribe:
            stop()
        return "".join(heard.tokens), written(PROMPT, 200, seed)

    with ThreadPoolExecutor(8) as pool:
        for got, expected in pool.map(example, range(40)):
            assert got == expected


def test_stop_generation_ends_it_as_cancelled(gateway: GatewayThread, client: WSClient) -> None:
    first = threading.Event()
    ends: queue.SimpleQueue[GenerationEndEvent] = queue.SimpleQueue()
    client.on_token(lambda event: first.set())
    client.on_generation_end(ends.put)
    generation_id = client.generate(PROMPT, max_tokens=100_000_000)
    assert first.wait(5)

    assert client.stop_generation(generation_id) is True

    end = ends.get(timeout=5)
    assert (end.id, end.is_cancelled) == (generation_id, True)
    assert gateway.gateway.stats().generations == 0


def test_stopping_what_has_ended_is_no_error(client: WSClient) -> None:
    result = client.complete(PROMPT, max_tokens=3)

    assert client.stop_generation(result.id) is False
    assert client.stop_generation("gen_that_never_was") is False


# --- "Model Management Methods", "Batch Operations" -------------------------------------------------------------------


def test_list_models_returns_what_the_server_offers(ollama_client: WSClient) -> None:
    models = ollama_client.list_models()

    assert [model.name for model in models] == ["llama2:latest", "llama3.2:latest", "tiny:1b"]
    assert all(isinstance(model, ModelInfo) for model in models)
    assert models[0].family == "llama"


def test_send_batch_answers_every_message_in_order(client: WSClient) -> None:
    batch = client.send_batch(
        [
            {"type": "generate", "prompt": "Hello world", "model": "builtin", "options": {"seed": 5, "max_tokens": 8}},
            {"type": "models"},
            {"type": "ping"},
            {"type": "generate", "prompt": "Hello again", "model": "nope"},
        ]
    )

    generated, models, round_trip, refused = batch.results(return_errors=True)
    assert generated.text == written("Hello world", 8, seed=5)
    assert [model.name for model in models] == ["builtin:latest"]
    assert 0 < round_trip < 5
    assert isinstance(refused, ModelNotFoundError)
    assert refused.id == batch[3].id


# --- "Event Handling" -------------------------------------------------------------------------------------------------


def test_all_five_events_arrive_and_unsubscribing_ends_each(gateway: GatewayThread, client: WSClient) -> None:
    seen: list[str] = []
    last = threading.Event()
    unsubscribe = [
        client.on_connection_change(lambda status: seen.append("connection_change")),
        client.on_token(lambda event: seen.append("token")),
        client.on_generation_start(lambda event: seen.append("start")),
        client.on_generation_end(lambda event: seen.append("end")),
        client.on_error(lambda event: seen.append("error")),
    ]

    def make_every_event_happen() -> None:
        last.clear()
        client.generate(PROMPT, max_tokens=1)
        wait_until(lambda: client.stats().open_generations == 0)
        client.generate(PROMPT, "nope")
        wait_until(lambda: client.stats().open_generations == 0)
        client.disconnect()
        client.connect()

    make_every_event_happen()
    # One thread delivers in order, so this one comes after all of them.
    client.on_generation_end(lambda event: last.set())
    client.generate(PROMPT, max_tokens=1)
    assert last.wait(5)
    first_seven = ["start", "token", "end", "start", "error", "connection_change", "connection_change"]
    assert seen[:7] == first_seven
    assert seen.count("connection_change") == 4

    for stop in unsubscribe:
        stop()
    seen.clear()
    make_every_event_happen()
    client.generate(PROMPT, max_tokens=1)
    assert last.wait(5)
    assert seen == []


def test_unsubscribing_one_handler_leaves_the_others(client: WSClient) -> None:
    gone: list[TokenEvent] = []
    kept: list[TokenEvent] = []
    is_over = threading.Event()
    unsubscribe = client.on_token(gone.append)
    client.on_token(kept.append)
    client.on_generation_end(lambda event: is_over.set())

    unsubscribe()
    unsubscribe()
    client.generate(PROMPT, max_tokens=10)

    assert is_over.wait(5)
    assert (len(kept), gone) == (10, [])


# --- "Error Handling" -------------------------------------------------------------------------------------------------


def test_a_raised_error_has_message_code_description_and_id(client: WSClient) -> None:
    generation = client.stream(PROMPT, "nope")

    with pytest.raises(ModelNotFoundError) as caught:
        generation.result()

    error = caught.value
    assert "nope" in error.message
    assert error.code == "model_not_found"
    assert "list_models()" in error.description
    assert error.id == generation.id


def test_an_error_event_has_message_code_description_and_id(client: WSClient) -> None:
    errors: queue.SimpleQueue[ErrorEvent] = queue.SimpleQueue()
    generation_id = client.generate(PROMPT, "nope")
    client.on_error(errors.put)

    error = errors.get(timeout=5)

    assert "nope" in error.message
    assert error.code == "model_not_found"
    assert "list_models()" in error.description
    assert error.id == generation_id


def test_an_error_of_the_login_has_no_request_id(
    gateway: GatewayThread, make_client: MakeClient, other_rsa_key: Any
) -> None:
    with pytest.raises(InvalidAuthError) as caught:
        make_client(gateway.url, private_key=other_rsa_key).connect()

    assert (caught.value.code, caught.value.id) == ("invalid_auth", None)
    assert caught.value.description


# --- "Reconnection Behavior" ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_client_reconnects_when_the_gateway_is_back(
    how: str, gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, reconnect_delay=0.05)
    client.connect()
    seen: queue.SimpleQueue[ConnectionStatus] = queue.SimpleQueue()
    client.on_connection_change(seen.put)

    if how == "restart":
        gateway.restart()
    else:
        gateway.kill()
        gateway.start()

    statuses = [seen.get(timeout=5)]
    while statuses[-1] != "authenticated":
        statuses.append(seen.get(timeout=5))
    assert statuses[:3] == ["disconnected", "reconnecting", "connecting"]
    assert client.complete(PROMPT, max_tokens=5, seed=1).text == written(PROMPT, 5, seed=1)
    assert client.stats().reconnects == 1


def test_a_request_made_while_the_gateway_restarts_waits_for_it(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, reconnect_delay=0.05)
    client.connect()
    attempts = 0

    def count(status: ConnectionStatus) -> None:
        nonlocal attempts
        attempts += status == "connecting"

    client.on_connection_change(count)
    gateway.kill()
    wait_until(lambda: not client.is_ready())

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(client.complete, PROMPT, max_tokens=5, seed=1)
        # It sits out the attempts that fail meanwhile.
        wait_until(lambda: attempts >= 3)
        assert not result.done()
        gateway.start()

        assert result.result(10).text == written(PROMPT, 5, seed=1)


def test_without_auto_reconnect_a_lost_client_stays_disconnected(
    gateway: GatewayThread, make_client: MakeClient
) -> None:
    client = make_client(gateway.url, auto_reconnect=False, reconnect_delay=0.001)
    client.connect()
    seen: queue.SimpleQueue[ConnectionStatus] = queue.SimpleQueue()
    client.on_connection_change(seen.put)

    gateway.restart()

    assert seen.get(timeout=5) == "disconnected"
    with pytest.raises(queue.Empty):
        seen.get(timeout=0.2)
    assert gateway.gateway.stats().total_connections == 0


# --- "Examples" -------------------------------------------------------------------------------------------------------


def test_several_generations_at_once_from_several_threads_are_told_apart_by_id(client: WSClient) -> None:
    # "Multiple Concurrent Generations": handlers set up once, a map of the active ones.
    active: dict[str, Heard] = {}
    is_known = threading.Condition()

    def find(id: str) -> Heard:
        # The handlers were there first, so an event can be faster than the line after generate().
        with is_known:
            assert is_known.wait_for(lambda: id in active, 5)
            return active[id]

    client.on_token(lambda event: find(event.id).on_token(event))
    client.on_generation_end(lambda event: find(event.id).on_end(event))

    def generate(seed: int) -> tuple[str, int]:
        id = client.generate(f"Write a poem about the ocean, part {seed}", options={"seed": seed, "max_tokens": 500})
        with is_known:
            active[id] = Heard(id)
            is_known.notify_all()
        end = active[id].end.result(10)
        return "".join(active[id].tokens), end.total_tokens

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(generate, range(24)))

    expected = [written(f"Write a poem about the ocean, part {seed}", 500, seed) for seed in range(24)]
    assert results == [(text, 500) for text in expected]


def test_generations_run_at_the_same_time_and_not_one_after_the_other(
    ollama: FakeOllama, start_gateway: StartGateway, make_client: MakeClient
) -> None:
    # None ends before all have begun: in sequence this would never end.
    ollama.script(mode="hold", tokens=2)
    client = make_client(start_gateway("ollama", ollama_url=ollama.url, max_running=8).url)
    generations = [client.stream(f"part {number}") for number in range(8)]
    for generation in generations:
        next(iter_kept(generation))

    ollama.release(8)

    assert [generation.result(5).text for generation in generations] == [" t000 t001"] * 8


def iter_kept(generation: Any) -> Any:
    """Iterate without leaving a loop, which would stop the generation."""
    return iter(lambda: next(generation), None)


def test_own_reconnect_logic_can_connect_from_the_callback(gateway: GatewayThread, make_client: MakeClient) -> None:
    # "Custom Reconnection Logic"
    client = make_client(gateway.url, auto_reconnect=False)
    client.connect()
    is_back = threading.Event()
    attempts = 0

    def on_change(status: ConnectionStatus) -> None:
        nonlocal attempts
        if status == "disconnected" and attempts < 50:
            attempts += 1
            client.connect()
        elif status == "authenticated":
            is_back.set()

    unsubscribe = client.on_connection_change(on_change)

    gateway.restart()

    assert is_back.wait(10)
    unsubscribe()
    assert client.complete(PROMPT, max_tokens=3).total_tokens == 3


# --- "Troubleshooting" ------------------------------------------------------------------------------------------------


def test_a_revoked_client_is_thrown_out_and_told_so(
    gateway: GatewayThread, client: WSClient, client_id: str, registry: Any
) -> None:
    registry.revoke(client_id)

    wait_until(lambda: client.get_status() == "auth_failed")
    with pytest.raises(InvalidAuthError, match="revoked"):
        client.list_models()
