"""Everything that a model server can do wrong: each its own error at the client, and the connection is good after it.

The same misdeeds by both kinds of model server, each behind a real gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from wsclient import (
    GenerationIncompleteError,
    ModelNotFoundError,
    ServerBusyError,
    ServerError,
    WSClient,
    WSClientError,
)
from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama
from ..support.fake_openai import FakeOpenAI
from .conftest import MakeClient, StartGateway

MODEL = "tiny:1b"
TOO_LONG = "x" * (8 * 1024 * 1024 + 1)


@attrs.frozen
class Misdeed:
    """What a model server does, and what the user sees of it. `{}` in the message stands for what it is called."""

    behaviour: dict[str, Any]
    kind: type[WSClientError]
    message: str
    text: str = ""
    model: str = MODEL


MISDEEDS = {
    "hangs before its first word": Misdeed({"mode": "hang", "after": 0}, ServerError, "{} did not answer in time"),
    "hangs in the middle": Misdeed(
        {"mode": "hang", "after": 2}, GenerationIncompleteError, "{} fell silent", " t000 t001"
    ),
    "dies in the middle of a line": Misdeed(
        {"mode": "cut", "after": 2}, GenerationIncompleteError, "Premature close", " t000 t001"
    ),
    "sends half a character": Misdeed(
        {"mode": "half", "after": 2}, ServerError, "{} sent text that is not UTF-8", " t000 t001"
    ),
    "sends an error": Misdeed({"mode": "error_line", "after": 2}, ServerError, "exit status 2", " t000 t001"),
    "sends a line of more than 8 MiB": Misdeed(
        {"mode": "garbage", "after": 2, "garbage": TOO_LONG}, ServerError, "{} sent a line without an end", " t000 t001"
    ),
    "ends without its last word": Misdeed(
        {"mode": "nodone", "tokens": 2},
        GenerationIncompleteError,
        "{} ended the stream without its final message",
        " t000 t001",
    ),
    "is busy": Misdeed({"status": 503, "error": "come back later"}, ServerBusyError, "503"),
    "does not have the model": Misdeed({}, ModelNotFoundError, "model 'nope' not found", model="nope"),
}


@pytest.fixture(params=["ollama", "openai"])
def model_server(request: pytest.FixtureRequest) -> Iterator[FakeOllama]:
    """A model server that does as it is told, of both kinds."""
    with FakeOpenAI() if request.param == "openai" else FakeOllama() as server:
        yield server


@pytest.fixture
def deadlines() -> dict[str, float]:
    """The gateway's deadlines, when they are not the usual ones."""
    return {}


@pytest.fixture
def served(start_gateway: StartGateway, model_server: FakeOllama, deadlines: dict[str, float]) -> GatewayThread:
    """A gateway with that model server behind it."""
    if isinstance(model_server, FakeOpenAI):
        return start_gateway("openai", openai_url=model_server.base_url, **deadlines)
    return start_gateway("ollama", ollama_url=model_server.url, **deadlines)


@pytest.fixture
def served_client(make_client: MakeClient, served: GatewayThread) -> WSClient:
    """A client that is logged in there."""
    client = make_client(served.url)
    client.connect()
    return client


def cases() -> list[Any]:
    """Return every misdeed, with deadlines that only a model server that hangs can miss."""
    names = {"hangs before its first word": "first_token_timeout", "hangs in the middle": "token_timeout"}
    return [pytest.param(name, {names[name]: 1.5} if name in names else {}, id=name) for name in MISDEEDS]


@pytest.mark.parametrize(("name", "deadlines"), cases())
def test_a_model_server_that_(
    name: str, model_server: FakeOllama, served: GatewayThread, served_client: WSClient
) -> None:
    misdeed = MISDEEDS[name]
    model_server.script(prompt="hi", **misdeed.behaviour)
    tokens: list[str] = []

    with pytest.raises(misdeed.kind) as caught:
        # A list keeps what an iterator gave before it raised.
        tokens.extend(served_client.stream("hi", misdeed.model))

    error = caught.value
    assert type(error) is misdeed.kind
    called = "The model server" if isinstance(model_server, FakeOpenAI) else "Ollama"
    assert misdeed.message.format(called) in error.message
    assert "".join(tokens) == error.text == misdeed.text
    # The model server is let go of, its place is free again, and nothing is wrong with the connection.
    assert model_server.requests[-1].finished.wait(10)
    model_server.script(prompt="afterwards", tokens=3)
    assert served_client.complete("afterwards", MODEL).text == " t000 t001 t002"
    assert served_client.stats().connects == 1
    assert served.gateway.backend.running == served.gateway.backend.waiting == 0


def test_no_two_of_them_look_alike() -> None:
    assert len({(misdeed.kind, misdeed.message) for misdeed in MISDEEDS.values()}) == len(MISDEEDS)


def test_other_generations_do_not_notice(model_server: FakeOllama, served_client: WSClient) -> None:
    model_server.script(prompt="good", tokens=200, delay=0.01)
    good = served_client.stream("good", MODEL)
    for name, misdeed in MISDEEDS.items():
        if "hang" not in name:
            model_server.script(prompt="hi", **misdeed.behaviour)
            with pytest.raises(misdeed.kind):
                served_client.complete("hi", misdeed.model)
    assert good.result(30).text == "".join(f" t{number:03}" for number in range(200))


def test_a_stop_closes_the_request_to_the_model_server(model_server: FakeOllama, served_client: WSClient) -> None:
    model_server.script(prompt="hi", tokens=100_000, delay=0.001)
    generation = served_client.stream("hi", MODEL)
    # Kept: dropping the loop would stop it too.
    tokens = iter(generation)
    next(tokens)

    assert generation.stop()

    assert model_server.requests[-1].disconnected.wait(10)
    assert generation.result(10).is_cancelled


def test_a_client_that_leaves_closes_the_request_to_the_model_server(
    model_server: FakeOllama, served_client: WSClient
) -> None:
    model_server.script(prompt="hi", mode="hang", after=1)
    tokens = iter(served_client.stream("hi", MODEL))
    next(tokens)

    served_client.close()

    assert model_server.requests[-1].disconnected.wait(10)


def test_a_deadline_of_the_client_closes_the_request_to_the_model_server(
    model_server: FakeOllama, served_client: WSClient
) -> None:
    model_server.script(prompt="hi", tokens=100_000, delay=0.01)

    with pytest.raises(TimeoutError):
        served_client.complete("hi", MODEL, timeout=0.3)

    assert model_server.requests[-1].disconnected.wait(10)


def test_options_and_fields_reach_the_model_server_under_its_own_names(
    model_server: FakeOllama, served_client: WSClient
) -> None:
    served_client.complete(
        "hi", MODEL, temperature=0.5, max_tokens=7, stop="x", seed=3, top_k=5, system="be brief", format="json"
    )
    body = model_server.requests[-1].body
    if isinstance(model_server, FakeOpenAI):
        assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        assert body["response_format"] == {"type": "json_object"}
        wanted = {"temperature": 0.5, "max_tokens": 7, "stop": ["x"], "seed": 3, "top_k": 5}
        assert body.items() >= wanted.items()
    else:
        assert (body["system"], body["format"]) == ("be brief", "json")
        assert body["options"] == {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "seed": 3, "top_k": 5}


def test_the_models_are_listed(model_server: FakeOllama, served_client: WSClient) -> None:
    assert [model.name for model in served_client.list_models()] == [model.name for model in model_server.models]
