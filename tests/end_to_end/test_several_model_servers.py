"""Several model servers behind one gateway: who works at what, and what becomes of a generation whose server fails.

Takes eight seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from wsclient import (
    Generation,
    GenerationIncompleteError,
    ModelNotFoundError,
    ServerBusyError,
    ServerError,
    WSClient,
)
from wsclient.gateway import server_pool
from wsclient.gateway.pooled_server import PooledServer
from wsclient.gateway.thread import GatewayThread

from ..support.asking import ask
from ..support.fake_ollama import FakeModel, FakeOllama, RecordedRequest
from ..support.fake_openai import FakeOpenAI
from ..support.waiting import wait_until
from .conftest import MakeClient, StartGateway

MODEL = "tiny:1b"
TEXT = " t000 t001 t002 t003 t004"
TINY = FakeModel(name=MODEL)

StartServers = Callable[[FakeOllama], GatewayThread]


@pytest.fixture(params=[FakeOllama, FakeOpenAI])
def kind(request: pytest.FixtureRequest) -> type[FakeOllama]:
    """What kind of model servers there are."""
    made: type[FakeOllama] = request.param
    return made


@pytest.fixture
def servers(kind: type[FakeOllama]) -> Iterator[list[FakeOllama]]:
    """Two model servers that do as they are told; what a test kills it takes out of the list."""
    running = [kind().__enter__(), kind().__enter__()]
    yield running
    while running:
        kill(running, 0)


@pytest.fixture
def settings() -> dict[str, Any]:
    """The gateway's settings, when they are not the usual ones."""
    return {}


@pytest.fixture
def gateway(start_gateway: StartGateway, servers: list[FakeOllama], settings: dict[str, Any]) -> GatewayThread:
    """A gateway with both of them behind it."""
    if isinstance(servers[0], FakeOpenAI):
        return start_gateway("openai", openai_url=[server.url for server in servers], **settings)
    return start_gateway("ollama", ollama_url=[server.url for server in servers], **settings)


@pytest.fixture
def client(make_client: MakeClient, gateway: GatewayThread) -> WSClient:
    """A client that is logged in there, when the gateway knows both model servers."""
    client = make_client(gateway.url)
    assert MODEL in [model.name for model in client.list_models()]
    return client


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model servers are looked at all the time."""
    monkeypatch.setattr(server_pool, "_CHECK_EVERY", 0.05)
    monkeypatch.setattr(server_pool, "_PROBE_EVERY", 0.05)
    monkeypatch.setattr(server_pool, "_LAST_RESORT_AGE", 0.05)


def eventually(condition: Callable[[], object]) -> None:
    """Wait longer than any of this takes, on a machine that has much else to do."""
    wait_until(condition, timeout=20)


def kill(servers: list[FakeOllama], number: int) -> Callable[[], None]:
    """End a server; return what starts it again at the same place."""
    server = servers.pop(number)
    server.__exit__(None, None, None)
    port = urlsplit(server.url).port
    assert port is not None

    def restart() -> None:
        servers.insert(number, type(server)(port=port).__enter__())

    return restart


def generations(server: FakeOllama) -> list[RecordedRequest]:
    """Return the generations that reached a server."""
    return [request for request in server.requests if request.method == "POST"]


def counts(servers: Sequence[FakeOllama]) -> list[int]:
    return [len(generations(server)) for server in servers]


def pooled(gateway: GatewayThread, number: int) -> PooledServer:
    """Return a server as the gateway sees it."""
    return gateway.gateway.backend.pool.servers[number]


def hold(client: WSClient, servers: Sequence[FakeOllama], count: int) -> list[Generation]:
    """Begin generations that wait for their servers' release, each when the one before it has a token."""
    for server in servers:
        server.script(prompt="hold", mode="hold", after=1, tokens=2)
    held = []
    for _ in range(count):
        generation = client.stream("hold", MODEL)
        eventually(lambda generation=generation: generation.text)
        held.append(generation)
    return held


# --- who works --------------------------------------------------------------------------------------------------------


def test_equals_take_turns(client: WSClient, servers: list[FakeOllama]) -> None:
    for _ in range(4):
        assert client.complete("hi", MODEL).text == TEXT
    assert counts(servers) == [2, 2]


def test_the_least_busy_server_gets_the_next_generation(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread
) -> None:
    held = hold(client, servers, 4)
    assert counts(servers) == [2, 2]

    servers[1].release(2)
    eventually(lambda: pooled(gateway, 1).total_running == 0)
    held += hold(client, servers, 2)

    assert counts(servers) == [2, 4]
    for server in servers:
        server.release(4)
    assert [generation.result(10).text for generation in held] == [" t000 t001"] * 6


def test_only_a_server_that_has_the_model_gets_its_generations(
    start_gateway: StartGateway, make_client: MakeClient, servers: list[FakeOllama], kind: type[FakeOllama]
) -> None:
    servers[1].models = [TINY, FakeModel(name="special:1b")]
    urls = {"openai_url" if kind is FakeOpenAI else "ollama_url": [server.url for server in servers]}
    gateway = start_gateway("openai" if kind is FakeOpenAI else "ollama", **urls)
    client = make_client(gateway.url)

    for _ in range(3):
        assert client.complete("hi", "special:1b").text == TEXT
    assert counts(servers) == [0, 3]

    with pytest.raises(ModelNotFoundError, match="model 'nope' not found"):
        client.complete("hi", "nope")

    kill(servers, 1)
    with pytest.raises(ServerBusyError, match="no model server that has this model answers") as caught:
        client.complete("hi", "special:1b")
    assert caught.value.retry_after == 5
    assert client.complete("hi", MODEL).text == TEXT


@pytest.mark.parametrize("settings", [{"max_running": 1}])
def test_max_running_counts_for_each_server(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread
) -> None:
    held = hold(client, servers, 2)
    third = client.stream("hold", MODEL)
    eventually(lambda: gateway.gateway.backend.waiting == 1)
    assert counts(servers) == [1, 1]

    servers[1].release()

    eventually(lambda: third.text)
    assert counts(servers) == [1, 2]
    assert held[1].result(10).text == " t000 t001"
    assert not held[0].is_done


def test_listings_are_merged_with_each_name_once_as_the_first_server_has_it(
    start_gateway: StartGateway, make_client: MakeClient
) -> None:
    with (
        FakeOllama([FakeModel(name="b:1b", size=1), FakeModel(name="a:1b", size=2)]) as first,
        FakeOllama([FakeModel(name="c:1b", size=3), FakeModel(name="b:1b", size=4)]) as second,
    ):
        gateway = start_gateway("ollama", ollama_url=f"{first.url},{second.url}")
        client = make_client(gateway.url)
        for _ in range(2):
            models = [(model.name, model.size) for model in client.list_models()]
            assert models == [("b:1b", 1), ("a:1b", 2), ("c:1b", 3)]
        second.models = [FakeModel(name="d:1b", size=5)]
        eventually(lambda: [model.name for model in client.list_models()] == ["b:1b", "a:1b", "d:1b"])


def test_default_is_the_same_model_at_every_server_of_openais_api(
    start_gateway: StartGateway, make_client: MakeClient
) -> None:
    two, one = FakeModel(name="two"), FakeModel(name="one")
    with FakeOpenAI([two, one]) as first, FakeOpenAI([one, two]) as second:
        client = make_client(start_gateway("openai", openai_url=[first.url, second.url]).url)
        for _ in range(4):
            assert client.complete("hi").text == TEXT
        assert [[request.body["model"] for request in generations(server)] for server in (first, second)] == [
            ["two", "two"],
            ["two", "two"],
        ]


# --- what fails -------------------------------------------------------------------------------------------------------

FAILURES: dict[str, dict[str, Any]] = {
    "answers 500": {"status": 500},
    "is busy": {"status": 503},
    "breaks off before its first token": {"mode": "drop", "after": 0},
    "ends without a token": {"mode": "nodone", "tokens": 0, "done_reason": None},
    "reports an error before its first token": {"mode": "error_line", "after": 0},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_another_server_takes_over_from_one_that_(
    failure: str, client: WSClient, servers: list[FakeOllama], gateway: GatewayThread
) -> None:
    servers[0].script(**FAILURES[failure])
    if isinstance(servers[0], FakeOpenAI):
        servers[0].says_done = False

    result = client.complete("hi", MODEL)

    assert (result.text, result.total_tokens) == (TEXT, 5)
    assert counts(servers) == [1, 1]
    assert [pooled(gateway, number).failovers for number in (0, 1)] == [1, 0]
    assert client.stats().connects == 1


def test_another_server_takes_over_from_one_that_died_and_no_further_generation_is_sent_there(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread, caplog: pytest.LogCaptureFixture
) -> None:
    url = pooled(gateway, 0).url
    # Between two looks at it.
    kill(servers, 0)
    with caplog.at_level(logging.INFO, "wsclient.gateway"):
        assert client.complete("hi", MODEL).text == TEXT
    assert not pooled(gateway, 0).is_up
    assert client.complete("hi", MODEL).text == TEXT
    assert pooled(gateway, 0).failovers == 1
    # It was looked at again at once, and is not waited for.
    eventually(lambda: pooled(gateway, 0).watch.failure)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith(
        f"the model server at {url} does not answer and is left out until it does: Cannot connect"
    )


@pytest.mark.parametrize(
    ("behaviour", "text", "thinking"),
    [({"mode": "drop", "after": 2}, " t000 t001", ""), ({"thinking": ["hm"], "mode": "drop", "after": 1}, "", "hm")],
)
def test_shown_text_is_never_replaced_thinking_included(
    client: WSClient, servers: list[FakeOllama], behaviour: dict[str, Any], text: str, thinking: str
) -> None:
    servers[0].script(**behaviour)
    generation = client.stream("hi", MODEL)

    with pytest.raises(GenerationIncompleteError):
        generation.result(10)

    assert (generation.text, generation.thinking) == (text, thinking)
    assert counts(servers) == [1, 0]


def test_a_generation_is_tried_once_at_each_server_and_ends_with_the_last_ones_words(
    client: WSClient, servers: list[FakeOllama]
) -> None:
    servers[0].script(status=500, error="first")
    servers[1].script(status=500, error="second")
    with pytest.raises(ServerError, match="second"):
        client.complete("hi", MODEL)
    assert counts(servers) == [1, 1]


def test_what_is_the_requests_own_fault_is_not_tried_elsewhere(client: WSClient, servers: list[FakeOllama]) -> None:
    servers[0].script(status=400, error="bad prompt")
    with pytest.raises(ServerError, match="bad prompt"):
        client.complete("hi", MODEL)
    assert counts(servers) == [1, 0]


@pytest.mark.parametrize("settings", [{"max_running": 1}])
def test_a_generation_that_lost_its_server_waits_for_a_place_at_the_other(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread
) -> None:
    held = hold(client, servers, 1)
    servers[1].script(prompt="hi", status=500)
    unlucky = client.stream("hi", MODEL)
    assert servers[1].wait_for_request(1, path=generations(servers[0])[0].path).finished.wait(10)
    eventually(lambda: pooled(gateway, 1).total_running == 0)
    assert counts(servers) == [1, 1]

    servers[0].release()

    assert held[0].result(10).text == " t000 t001"
    assert unlucky.result(10).text == TEXT
    assert counts(servers) == [2, 1]
    eventually(lambda: pooled(gateway, 0).total_running == 0)


def test_a_stop_stops_at_the_right_server(client: WSClient, servers: list[FakeOllama]) -> None:
    first, second = hold(client, servers, 2)

    assert second.stop()

    assert generations(servers[1])[0].disconnected.wait(10)
    assert second.result(10).is_cancelled
    assert not generations(servers[0])[0].finished.is_set()
    servers[0].release()
    assert first.result(10).text == " t000 t001"


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"metrics_port": 0}])
@pytest.mark.usefixtures("quick_checks")
def test_a_dead_server_is_left_out_and_shown_until_it_is_back(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread, caplog: pytest.LogCaptureFixture
) -> None:
    operator, url = gateway.gateway.metrics_url, pooled(gateway, 1).url
    states = [{"url": pooled(gateway, 0).url, "answers": True}, {"url": url, "answers": True}]
    assert ask(operator, "/readyz").json == {"ready": True, "reasons": [], "modelServers": states}
    with caplog.at_level(logging.INFO, "wsclient.gateway"):
        restart = kill(servers, 1)
        eventually(lambda: not pooled(gateway, 1).is_up)

        for _ in range(3):
            assert client.complete("hi", MODEL).text == TEXT
        assert counts(servers) == [3]
        states[1] = {"url": url, "answers": False}
        assert ask(operator, "/readyz").json == {"ready": True, "reasons": [], "modelServers": states}
        # Strangers hear how many there are, not where.
        assert ask(gateway.url, "/readyz").json == {
            "ready": True,
            "reasons": [],
            "modelServers": [{"answers": True}, {"answers": False}],
        }
        figures = ask(operator, "/metrics").body.decode()
        assert f'wsclient_gateway_model_server_up{{server="{url}"}} 0.0' in figures

        restart()
        eventually(lambda: pooled(gateway, 1).is_up)

    for _ in range(2):
        assert client.complete("hi", MODEL).text == TEXT
    assert counts(servers) == [4, 1]
    said = [record.getMessage() for record in caplog.records if f"server at {url}" in record.getMessage()]
    assert [text.partition(url)[2].partition(":")[0] for text in said] == [
        " does not answer and is left out until it does",
        " answers again",
    ]


@pytest.mark.parametrize("settings", [{"max_running": 1}])
@pytest.mark.usefixtures("quick_checks")
def test_who_waits_has_a_turn_when_a_server_comes_back(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread
) -> None:
    restart = kill(servers, 1)
    eventually(lambda: not pooled(gateway, 1).is_up)
    (held,) = hold(client, servers, 1)
    waiting = client.stream("hi", MODEL)
    eventually(lambda: gateway.gateway.backend.waiting == 1)

    restart()

    assert waiting.result(10).text == TEXT
    assert counts(servers) == [1, 1]
    assert not held.is_done


def test_all_down_is_one_clear_error_until_the_first_request_after_one_is_back(
    client: WSClient, servers: list[FakeOllama], gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody but a request will look at them.
    monkeypatch.setattr(server_pool, "_PROBE_EVERY", 1000.0)
    restart = kill(servers, 0)
    kill(servers, 0)
    for _ in range(2):
        with pytest.raises(ServerBusyError, match="no model server answers; please try again later") as caught:
            client.complete("hi", MODEL)
        assert (caught.value.retryable, caught.value.retry_after) == (True, 5)
    with pytest.raises(ServerBusyError, match="no model server answers"):
        client.list_models()
    assert ask(gateway.url, "/readyz").json["reasons"] == ["the model server does not answer"]

    restart()

    def answers() -> bool:
        try:
            return client.complete("hi", MODEL).text == TEXT
        except ServerBusyError:
            return False

    eventually(answers)
    assert client.stats().connects == 1
