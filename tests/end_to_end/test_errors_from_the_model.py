"""What goes wrong behind the gateway: each its own error with the text so far, and the connection is good after it."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from wsclient import (
    ErrorEvent,
    GenerationIncompleteError,
    InvalidRequestError,
    ModelNotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    WSClient,
    WSClientError,
)
from wsclient.gateway.thread import GatewayThread

from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .conftest import MakeClient, StartGateway

# What Ollama does, and what the user sees: the error's class, its code, a part of its message, the text so far.
MISDEEDS: dict[str, tuple[dict[str, Any], type[WSClientError], str, str, str]] = {
    "answers 500": ({"status": 500, "error": "out of memory"}, ServerError, "server_error", "500", ""),
    "is busy": ({"status": 503, "error": "server busy"}, ServerBusyError, "server_busy", "503", ""),
    "limits the rate": ({"status": 429, "error": "slow down"}, RateLimitedError, "rate_limited", "429", ""),
    "refuses the request": ({"status": 400, "error": "bad prompt"}, InvalidRequestError, "invalid_request", "400", ""),
    "does not find the model": (
        {"status": 404, "error": "model 'tiny:1b' not found"},
        ModelNotFoundError,
        "model_not_found",
        "tiny:1b",
        "",
    ),
    "reports an error in the middle": (
        {"mode": "error_line", "after": 2, "error": "the runner crashed"},
        ServerError,
        "server_error",
        "the runner crashed",
        " t000 t001",
    ),
    "reports an error at once": (
        {"mode": "error_line", "after": 0, "error": "the runner crashed"},
        ServerError,
        "server_error",
        "the runner crashed",
        "",
    ),
    "breaks off in the middle": (
        {"mode": "drop", "after": 3},
        GenerationIncompleteError,
        "generation_incomplete",
        "",
        " t000 t001 t002",
    ),
    "ends without a last word": (
        {"mode": "nodone"},
        GenerationIncompleteError,
        "generation_incomplete",
        "final message",
        " t000 t001 t002 t003 t004",
    ),
}


def assert_still_good(client: WSClient, ollama: FakeOllama) -> None:
    ollama.script(prompt="afterwards", tokens=3)
    assert client.complete("afterwards", "tiny:1b").text == " t000 t001 t002"
    assert client.stats().connects == 1


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_result_of_an_ollama_that_(misdeed: str, ollama: FakeOllama, ollama_client: WSClient) -> None:
    behaviour, kind, code, part, text = MISDEEDS[misdeed]
    ollama.script(prompt="hi", **behaviour)
    generation = ollama_client.stream("hi", "tiny:1b")

    with pytest.raises(kind) as caught:
        generation.result(5)

    error = caught.value
    assert type(error) is kind
    assert (error.code, error.text, error.id) == (code, text, generation.id)
    assert part in error.message
    assert error.description
    assert_still_good(ollama_client, ollama)


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_loop_over_an_ollama_that_(misdeed: str, ollama: FakeOllama, ollama_client: WSClient) -> None:
    behaviour, kind, _, _, text = MISDEEDS[misdeed]
    ollama.script(prompt="hi", **behaviour)
    tokens: list[str] = []

    with pytest.raises(kind) as caught:
        # A list keeps what an iterator gave before it raised.
        tokens.extend(ollama_client.stream("hi", "tiny:1b"))

    assert "".join(tokens) == text == caught.value.text
    assert_still_good(ollama_client, ollama)


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_the_error_event_of_an_ollama_that_(misdeed: str, ollama: FakeOllama, ollama_client: WSClient) -> None:
    behaviour, _, code, part, text = MISDEEDS[misdeed]
    ollama.script(prompt="hi", **behaviour)
    errors: queue.SimpleQueue[ErrorEvent] = queue.SimpleQueue()
    id = ollama_client.generate("hi", "tiny:1b")
    ollama_client.on_error(errors.put)

    event = errors.get(timeout=5)

    assert (event.id, event.code, event.text) == (id, code, text)
    assert part in event.message
    assert event.description
    assert_still_good(ollama_client, ollama)


def test_an_unknown_model_is_model_not_found(ollama: FakeOllama, ollama_client: WSClient) -> None:
    with pytest.raises(ModelNotFoundError, match="nope"):
        ollama_client.complete("hi", "nope")

    assert_still_good(ollama_client, ollama)


def test_an_unknown_model_of_the_built_in_backend_is_model_not_found(client: WSClient) -> None:
    with pytest.raises(ModelNotFoundError, match="nope"):
        client.complete("hi", "nope")

    assert client.complete("hi", max_tokens=3).total_tokens == 3


def test_the_error_of_one_generation_is_not_the_others_business(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(prompt="good", mode="hold", tokens=4)
    ollama.script(prompt="bad", mode="error_line", after=1)
    good = ollama_client.stream("good", "tiny:1b")

    with pytest.raises(ServerError):
        ollama_client.complete("bad", "tiny:1b")
    ollama.release()

    assert good.result(5).text == " t000 t001 t002 t003"


def test_an_ollama_that_hangs_before_its_first_token_is_a_timeout(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(prompt="hi", mode="hang", after=0)

    with pytest.raises(RequestTimeoutError, match="no first token") as caught:
        ollama_client.complete("hi", "tiny:1b", first_token_timeout=0.2)

    assert (caught.value.code, caught.value.text) == ("request_timeout", "")
    # Nobody waits for it any more: the gateway lets go of Ollama.
    assert ollama.requests[-1].disconnected.wait(5)
    assert_still_good(ollama_client, ollama)


def test_an_ollama_that_hangs_in_the_middle_is_a_timeout_with_the_text_so_far(
    ollama: FakeOllama, ollama_client: WSClient
) -> None:
    ollama.script(prompt="hi", mode="hang", after=2)

    with pytest.raises(RequestTimeoutError, match="no further token") as caught:
        ollama_client.complete("hi", "tiny:1b", token_timeout=0.2)

    assert (caught.value.code, caught.value.text) == ("request_timeout", " t000 t001")
    assert ollama.requests[-1].disconnected.wait(5)
    assert_still_good(ollama_client, ollama)


def test_a_generation_that_takes_too_long_in_all_is_a_timeout(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(prompt="hi", tokens=100_000, delay=0.01)

    with pytest.raises(RequestTimeoutError, match=r"did not end within 0\.3 s") as caught:
        ollama_client.complete("hi", "tiny:1b", timeout=0.3)

    assert caught.value.text.startswith(" t000")
    assert ollama.requests[-1].disconnected.wait(5)
    assert_still_good(ollama_client, ollama)


@pytest.mark.parametrize(
    ("after", "code", "text"), [(0, "server_error", ""), (2, "generation_incomplete", " t000 t001")]
)
def test_a_gateway_gives_up_an_ollama_that_hangs_of_its_own_accord(
    start_gateway: StartGateway, make_client: MakeClient, ollama: FakeOllama, after: int, code: str, text: str
) -> None:
    gateway = start_gateway("ollama", ollama_url=ollama.url, first_token_timeout=0.2, token_timeout=0.2)
    ollama.script(prompt="hi", mode="hang", after=after)
    client = make_client(gateway.url)

    with pytest.raises(ServerError) as caught:
        client.complete("hi", "tiny:1b")

    assert (caught.value.code, caught.value.text) == (code, text)
    assert_still_good(client, ollama)


def test_an_ollama_that_is_not_there_is_server_error_until_it_is(
    start_gateway: StartGateway, make_client: MakeClient
) -> None:
    with FakeOllama() as ollama:
        url, port = ollama.url, int(ollama.url.rsplit(":", 1)[1])
    client = make_client(start_gateway("ollama", ollama_url=url).url)

    with pytest.raises(ServerError, match="Cannot connect to Ollama") as caught:
        client.complete("hi", "tiny:1b")
    with pytest.raises(ServerError, match="Cannot connect to Ollama"):
        client.list_models()
    assert caught.value.code == "server_error"

    with FakeOllama(port=port) as ollama:
        assert_still_good(client, ollama)


def test_a_list_of_models_that_fails_is_server_error(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.fail("/api/tags", 500, "no list today", times=1)

    with pytest.raises(ServerError, match="no list today") as caught:
        ollama_client.list_models()

    assert caught.value.code == "server_error"
    assert len(ollama_client.list_models()) == 3


def test_lines_that_are_rubbish_are_skipped(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(mode="garbage", after=2, tokens=4)

    assert ollama_client.complete("hi", "tiny:1b").text == " t000 t001 t002 t003"


def test_a_gateway_that_dies_is_connection_lost_with_the_text_so_far(
    ollama: FakeOllama, ollama_gateway: GatewayThread, ollama_client: WSClient
) -> None:
    ollama.script(mode="hang", after=2)
    generation = ollama_client.stream("hi", "tiny:1b")
    wait_until(lambda: generation.text == " t000 t001")

    ollama_gateway.kill()

    with pytest.raises(ConnectionError) as caught:
        generation.result(5)
    assert isinstance(caught.value, WSClientError)
    assert (caught.value.code, caught.value.text) == ("connection_lost", " t000 t001")
    assert caught.value.id == generation.id


def test_an_ollama_s_error_text_is_fit_for_a_terminal(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(status=500, error="\x1b[2J\x07 cleared\r\n" + "x" * 10_000)

    with pytest.raises(ServerError) as caught:
        ollama_client.complete("hi", "tiny:1b")

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
