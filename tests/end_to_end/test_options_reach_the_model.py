"""What a call is told has its effect: on the built-in model's text, in Ollama's request body, on the wire."""

from __future__ import annotations

import base64
import queue
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import GenerationEndEvent, InvalidRequestError, WSClient
from wsclient.gateway.ngram import Sampling, default_model
from wsclient.testing.scripted_server import ScriptedServer, polite

from ..support.fake_ollama import MODELS, FakeModel, FakeOllama
from .conftest import MakeClient

PROMPT = "The string is"


def written(tokens: int, **sampling: Any) -> str:
    """Return what the built-in model writes to the prompt, asked directly."""
    return "".join(default_model().walk(PROMPT, Sampling(**sampling)).take(tokens))


# --- the built-in model -----------------------------------------------------------------------------------------------


def test_a_seed_makes_the_text_the_same_each_time(client: WSClient) -> None:
    texts = {client.complete(PROMPT, seed=7, max_tokens=50).text for _ in range(3)}

    assert texts == {written(50, seed=7)}


def test_another_seed_makes_another_text(client: WSClient) -> None:
    texts = {client.complete(PROMPT, seed=seed, max_tokens=50).text for seed in range(5)}

    assert len(texts) == 5


def test_without_a_seed_each_text_is_another(client: WSClient) -> None:
    assert len({client.complete(PROMPT, max_tokens=50).text for _ in range(5)}) == 5


def test_temperature_zero_makes_the_text_the_same_without_a_seed(client: WSClient) -> None:
    texts = {client.complete(PROMPT, temperature=0, max_tokens=50).text for _ in range(3)}

    assert texts == {written(50, temperature=0)}


@pytest.mark.parametrize("option", [{"temperature": 2.5}, {"top_k": 2}, {"top_p": 0.1}], ids=str)
def test_sampling_options_change_the_text_as_they_change_the_model_s(client: WSClient, option: dict[str, Any]) -> None:
    text = client.complete(PROMPT, seed=7, max_tokens=50, **option).text

    assert text == written(50, seed=7, **option)
    assert text != written(50, seed=7)


@pytest.mark.parametrize("count", [1, 5, 129, 500])
def test_max_tokens_is_how_many_tokens_come(client: WSClient, count: int) -> None:
    generation = client.stream(PROMPT, max_tokens=count)

    assert len(list(generation)) == count
    assert (generation.result().total_tokens, generation.result().done_reason) == (count, "length")


def test_a_stop_text_ends_the_answer_before_it(client: WSClient) -> None:
    whole = written(200, seed=3)
    # One that begins in the middle of a token and ends in the middle of another.
    stop = whole[len(whole) // 2 : len(whole) // 2 + 12]
    assert stop not in whole[: len(whole) // 2]

    result = client.complete(PROMPT, seed=3, max_tokens=200, stop=stop)

    assert (result.text, result.done_reason) == (whole[: len(whole) // 2], "stop")


def test_the_first_of_several_stop_texts_counts(client: WSClient) -> None:
    whole = written(200, seed=3)
    early, late = whole[300:310], whole[500:510]

    result = client.complete(PROMPT, seed=3, max_tokens=200, stop=[late, early, "never there"])

    assert result.text == whole[: whole.index(early)]


def test_options_of_the_mapping_count_like_keywords_and_keywords_win(client: WSClient) -> None:
    result = client.complete(PROMPT, None, {"seed": 1, "max_tokens": 40}, seed=7)

    assert result.text == written(40, seed=7)


# --- Ollama's request body --------------------------------------------------------------------------------------------

ALL = {
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 12,
    "max_tokens": 34,
    "seed": 56,
    "stop": ["END", "\n\n"],
}
NESTED = {"temperature": 0.25, "top_p": 0.5, "top_k": 12, "num_predict": 34, "seed": 56, "stop": ["END", "\n\n"]}


def stream(client: WSClient, options: dict[str, Any]) -> None:
    assert list(client.stream("hi", "tiny:1b", **options))


def complete(client: WSClient, options: dict[str, Any]) -> None:
    assert client.complete("hi", "tiny:1b", **options).text


def complete_with_a_mapping(client: WSClient, options: dict[str, Any]) -> None:
    assert client.complete("hi", "tiny:1b", options).text


def generate(client: WSClient, options: dict[str, Any]) -> None:
    ends: queue.SimpleQueue[GenerationEndEvent] = queue.SimpleQueue()
    client.generate("hi", "tiny:1b", options)
    client.on_generation_end(ends.put)
    assert ends.get(timeout=5).total_tokens


def batch(client: WSClient, options: dict[str, Any]) -> None:
    message = {"type": "generate", "prompt": "hi", "model": "tiny:1b", "options": options}
    assert client.send_batch([message]).results()[0].text


WAYS = [stream, complete, complete_with_a_mapping, generate, batch]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_options_arrive_nested_under_ollama_s_names(
    ollama: FakeOllama, ollama_client: WSClient, way: Callable[[WSClient, dict[str, Any]], None]
) -> None:
    way(ollama_client, ALL)

    body = ollama.requests[-1].body
    assert body == {"model": "tiny:1b", "prompt": "hi", "stream": True, "options": NESTED}


def test_without_options_only_the_prompt_arrives(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama_client.complete("hi", "tiny:1b")

    assert ollama.requests[-1].body == {"model": "tiny:1b", "prompt": "hi", "stream": True}


@pytest.mark.parametrize(("name", "theirs"), [(name, "num_predict" if name == "max_tokens" else name) for name in ALL])
def test_each_option_arrives_alone(ollama: FakeOllama, ollama_client: WSClient, name: str, theirs: str) -> None:
    ollama_client.complete("hi", "tiny:1b", **{name: ALL[name]})  # type: ignore[arg-type]

    assert ollama.requests[-1].body["options"] == {theirs: ALL[name]}


def test_a_stop_text_arrives_as_a_list_of_one(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama_client.complete("hi", "tiny:1b", stop="END")

    assert ollama.requests[-1].body["options"] == {"stop": ["END"]}


def test_zero_is_a_value_and_none_is_not_given(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama_client.complete("hi", "tiny:1b", temperature=0, seed=0, top_k=None)

    assert ollama.requests[-1].body["options"] == {"temperature": 0, "seed": 0}


def test_system_format_images_keep_alive_and_think_arrive_at_the_top(
    ollama: FakeOllama, ollama_client: WSClient
) -> None:
    ollama.models = (*MODELS, FakeModel(name="thinker:latest", capabilities=("completion", "thinking", "vision")))
    picture = bytes(range(256))

    ollama_client.complete(
        "hi",
        "thinker",
        system="Answer in verse.",
        format={"type": "object"},
        images=[picture, base64.b64encode(b"another").decode()],
        keep_alive="10m",
        think="high",
        temperature=0.5,
    )

    assert ollama.requests[-1].body == {
        "model": "thinker",
        "prompt": "hi",
        "stream": True,
        "options": {"temperature": 0.5},
        "system": "Answer in verse.",
        "format": {"type": "object"},
        "images": [base64.b64encode(picture).decode(), base64.b64encode(b"another").decode()],
        "keep_alive": "10m",
        "think": "high",
    }


def test_a_prompt_arrives_as_it_was(ollama: FakeOllama, ollama_client: WSClient) -> None:
    prompt = 'first line\r\n\ttabbed "quoted" \\ \u2028 ünïcödé 🦜 \x00 \ud7ff end ' * 100

    ollama_client.complete(prompt, "tiny:1b")

    assert ollama.requests[-1].body["prompt"] == prompt


def test_a_call_without_a_model_gets_the_server_s_default(ollama: FakeOllama, ollama_client: WSClient) -> None:
    generation = ollama_client.stream("hi")

    generation.result()

    assert ollama.requests[-1].body["model"] == "llama2"
    assert generation.model == "llama2"


def test_options_that_make_ollama_load_a_model_anew_do_not_reach_it(
    ollama: FakeOllama, ollama_client: WSClient
) -> None:
    ollama_client.complete("hi", "tiny:1b", {"num_ctx": 1_000_000, "nobody_knows": 1, "min_p": 0.1})

    assert ollama.requests[-1].body["options"] == {"min_p": 0.1}


def test_a_value_that_only_the_gateway_can_judge_is_refused_by_name(
    ollama: FakeOllama, ollama_client: WSClient
) -> None:
    with pytest.raises(InvalidRequestError, match="min_p must be a number from 0 to 1"):
        ollama_client.complete("hi", "tiny:1b", {"min_p": "much"})

    assert all(request.path != "/api/generate" for request in ollama.requests)


def test_a_value_that_the_client_can_judge_is_never_sent(ollama: FakeOllama, ollama_client: WSClient) -> None:
    with pytest.raises(ValueError, match="temperature"):
        ollama_client.complete("hi", "tiny:1b", temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        ollama_client.complete("hi", "tiny:1b", temprature=1)  # type: ignore[call-arg]

    assert all(request.path != "/api/generate" for request in ollama.requests)


# --- the wire ---------------------------------------------------------------------------------------------------------


def sent_generate(make_client: MakeClient, way: Callable[[WSClient, dict[str, Any]], None], options: Any) -> Any:
    """Return the generate message that a call sends."""
    with ScriptedServer(polite) as server:
        way(make_client(server.url), options)
        message = server.peers[0].received[-1]
    return message["messages"][0] if message["type"] == "batch" else message


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_on_the_wire_options_are_flat_as_given_and_nested_under_ollama_s_names(
    make_client: MakeClient, way: Callable[[WSClient, dict[str, Any]], None]
) -> None:
    message = sent_generate(make_client, way, ALL)

    assert message["options"] == {**ALL, "options": NESTED}
    assert (message["type"], message["prompt"], message["model"]) == ("generate", "hi", "tiny:1b")


def test_on_the_wire_a_stop_text_is_flat_a_text_and_nested_a_list(make_client: MakeClient) -> None:
    message = sent_generate(make_client, complete, {"stop": "END"})

    assert message["options"] == {"stop": "END", "options": {"stop": ["END"]}}


def test_on_the_wire_fields_beside_the_sampling_are_flat_only(make_client: MakeClient) -> None:
    options = {"system": "s", "format": "json", "images": ["aGk="], "keep_alive": 30, "think": False}

    assert sent_generate(make_client, complete, options)["options"] == options


def test_on_the_wire_there_are_no_options_when_none_are_given(make_client: MakeClient) -> None:
    assert "options" not in sent_generate(make_client, complete, {})


def test_on_the_wire_deadlines_are_nobody_s_business(make_client: MakeClient) -> None:
    message = sent_generate(make_client, complete, {"timeout": 5, "token_timeout": 5, "first_token_timeout": 5})

    assert "options" not in message


@pytest.mark.parametrize("name", ["model", "prompt", "stream"])
def test_what_would_override_the_request_is_no_option(client: WSClient, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        client.complete("hi", options={name: "x"})
