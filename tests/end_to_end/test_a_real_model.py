"""A real model behind the gateway: llama.cpp's own server, with SmolLM2-135M-Instruct.

What it says is its own business: only what it must be like, and that it says the same again, is looked at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient import GenerationResult, ServerError, WSClient
from wsclient.gateway.thread import GatewayThread

from ..support.llama_server import MISSING, MODEL, LlamaServer
from ..support.waiting import wait_until
from .conftest import MakeClient, StartGateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]

# More than fits into the times that are waited here, even for a fast machine.
LONG = {"prompt": "Count from one to one thousand, in words.", "max_tokens": 1900, "temperature": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    """The model server, made once."""
    with LlamaServer() as server:
        yield server


@pytest.fixture
def llama_gateway(start_gateway: StartGateway, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch) -> GatewayThread:
    """A gateway in front of it."""
    monkeypatch.setenv("OPENAI_API_KEY", llama.api_key)
    return start_gateway("openai", openai_url=llama.url)


@pytest.fixture
def llama_client(make_client: MakeClient, llama_gateway: GatewayThread) -> WSClient:
    """A client that is logged in there."""
    client = make_client(llama_gateway.url, request_timeout=120.0)
    client.connect()
    return client


def test_the_model_is_listed_with_what_is_known_of_it(llama_client: WSClient) -> None:
    (model,) = llama_client.list_models()
    assert model.name == MODEL
    assert model.size is not None
    assert model.size > 50_000_000
    assert model.parameter_size == "134.5M"


def test_a_text_comes_in_pieces_and_its_figures_are_the_servers(llama_client: WSClient) -> None:
    generation = llama_client.stream("Write a haiku about rain", max_tokens=12, temperature=0)
    tokens = list(generation)
    result = generation.result()

    assert len(tokens) > 5
    assert "".join(tokens) == result.text
    assert result.text.strip()
    usage = result.usage
    assert usage is not None
    assert (result.done_reason, usage.completion_tokens) == ("length", 12)
    assert usage.prompt_tokens is not None
    assert usage.prompt_tokens > 10
    assert usage.eval_duration is not None
    assert usage.eval_duration > 0


def options_of(name: str) -> dict[str, Any]:
    greedy = {"temperature": 0}
    dice = {"temperature": 1.5, "top_k": 60, "top_p": 0.95, "seed": 11}
    return {"max_tokens": 24, **(greedy if name == "greedy" else dice)}


@pytest.mark.parametrize("name", ["greedy", "dice"])
def test_the_same_request_gives_the_same_text(llama_client: WSClient, name: str) -> None:
    first, second = (llama_client.complete("Tell me a story", **options_of(name)).text for _ in range(2))
    assert first == second != ""


def test_another_seed_gives_another_text(llama_client: WSClient) -> None:
    options = options_of("dice")
    texts = {llama_client.complete("Tell me a story", **{**options, "seed": seed}).text for seed in (11, 12, 13)}
    assert len(texts) > 1


def test_a_system_text_and_a_stop_string_are_heard(llama_client: WSClient) -> None:
    plain = llama_client.complete("Tell me a story", **options_of("greedy")).text
    assert llama_client.complete("Tell me a story", **options_of("greedy"), system="Answer in French.").text != plain
    middle = plain[len(plain) // 2]
    stopped = llama_client.complete("Tell me a story", **options_of("greedy"), stop=middle)
    assert middle not in stopped.text
    assert plain.startswith(stopped.text)
    assert stopped.done_reason == "stop"


def test_a_schema_is_kept_to(llama_client: WSClient) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    result = llama_client.complete("Which colour is the sky?", format=schema, max_tokens=60, temperature=0)
    assert json.loads(result.text)["colour"] in ("red", "blue")


def prompt_tokens(result: GenerationResult) -> int:
    assert result.usage is not None
    assert result.usage.prompt_tokens is not None
    return result.usage.prompt_tokens


def test_a_raw_prompt_is_gone_on_with_instead_of_answered(llama_client: WSClient) -> None:
    options = options_of("greedy")
    raw = llama_client.complete("Once upon a time", options={**options, "raw": True})
    assert raw.text.strip()
    # The template of a chat makes a longer prompt of it.
    chat = llama_client.complete("Once upon a time", **options)
    assert prompt_tokens(raw) < prompt_tokens(chat)


def test_two_generations_at_once_do_not_mix(llama_client: WSClient) -> None:
    prompts = ("Name three fruits", "Name three cities")
    generations = [llama_client.stream(prompt, max_tokens=16, temperature=0) for prompt in prompts]
    results = [generation.result() for generation in generations]
    assert all(result.text.strip() for result in results)
    assert results[0].text != results[1].text


def test_a_stop_frees_the_model_servers_slot(llama_client: WSClient, llama: LlamaServer) -> None:
    generation = llama_client.stream(**LONG)  # type: ignore[arg-type]
    tokens = iter(generation)
    next(tokens)
    assert llama.busy_slots() == 1

    assert generation.stop()

    wait_until(lambda: llama.busy_slots() == 0, timeout=5)
    assert generation.result(10).is_cancelled
    assert llama_client.complete("Hello", max_tokens=4).text


def test_a_client_that_leaves_frees_the_model_servers_slot(llama_client: WSClient, llama: LlamaServer) -> None:
    tokens = iter(llama_client.stream(**LONG))  # type: ignore[arg-type]
    next(tokens)
    assert llama.busy_slots() == 1

    llama_client.close()

    wait_until(lambda: llama.busy_slots() == 0, timeout=5)


def test_a_deadline_frees_the_model_servers_slot(llama_client: WSClient, llama: LlamaServer) -> None:
    with pytest.raises(TimeoutError):
        llama_client.complete(**LONG, timeout=1.0)  # type: ignore[arg-type]

    wait_until(lambda: llama.busy_slots() == 0, timeout=5)


def test_a_wrong_key_is_the_administrators_business(
    start_gateway: StartGateway,
    make_client: MakeClient,
    llama: LlamaServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-the-right-one")
    client = make_client(start_gateway("openai", openai_url=llama.url).url)
    with caplog.at_level(logging.DEBUG), pytest.raises(ServerError, match="it refuses the gateway"):
        client.complete("Hello", MODEL)
    assert "does it get the right API key?" in caplog.text
    assert "not-the-right-one" not in caplog.text
