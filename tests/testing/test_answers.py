"""A script says the same through a real gateway and through a client without a network."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient import (
    GenerationIncompleteError,
    InvalidRequestError,
    ModelNotFoundError,
    RateLimitedError,
    ServerBusyError,
    ServerError,
    WSClientError,
)
from wsclient.testing import FakeClient, Gateway, Request, Thinking

from .conftest import MakeClient, MakeGateway


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ("Hi there", ["Hi", " there"]),
        ("  a\n b  ", ["  a", "\n b", "  "]),
        ("", []),
        (["Hi the", "re"], ["Hi the", "re"]),
        (("a", "", "b"), ["a", "b"]),
        (lambda request: request.prompt.upper(), ["HELLO"]),
        (lambda request: [request.model, "!"], ["scripted:latest", "!"]),
        (lambda request: (str(number) for number in range(3)), ["0", "1", "2"]),
        (lambda request: lambda inner: inner.prompt, ["Hello"]),
    ],
    ids=str,
)
def test_an_answer_comes_in_its_tokens(make_client: MakeClient, answer: Any, tokens: list[str]) -> None:
    client = make_client({"Hello": answer})

    generation = client.stream("Hello")

    assert list(generation) == tokens
    result = generation.result()
    assert (result.text, result.total_tokens) == ("".join(tokens), len(tokens))
    assert (result.is_cancelled, result.done_reason, result.model) == (False, "stop", "scripted:latest")


def test_one_answer_can_stand_for_all_prompts(make_client: MakeClient) -> None:
    client = make_client("the same")

    assert client.complete("a").text == client.complete("b").text == "the same"


def test_a_defaultdict_answers_every_prompt(make_client: MakeClient) -> None:
    client = make_client(defaultdict(lambda: "whatever", {"a": "A"}))

    assert [client.complete(prompt).text for prompt in "ab"] == ["A", "whatever"]


def test_a_prompt_without_an_answer_is_refused_by_name(make_client: MakeClient) -> None:
    client = make_client({"Hello": "Hi"})

    with pytest.raises(InvalidRequestError, match=r"no answer to the prompt 'Helo'; it has: 'Hello'"):
        client.complete("Helo")


def test_thinking_is_apart_from_the_answer(make_client: MakeClient) -> None:
    client = make_client({"Hello": [Thinking("hm "), Thinking("so"), "yes"]})

    generation = client.stream("Hello")

    assert list(generation) == ["yes"]
    assert (generation.text, generation.thinking) == ("yes", "hm so")


@pytest.mark.parametrize(
    "error",
    [
        ServerError("oh"),
        ServerBusyError("full"),
        ModelNotFoundError("none"),
        InvalidRequestError("no"),
        GenerationIncompleteError("cut"),
        RateLimitedError("slow down", retry_after=3.0),
    ],
    ids=lambda error: str(error.code),
)
def test_an_error_in_an_answer_comes_after_the_text_before_it(make_client: MakeClient, error: WSClientError) -> None:
    client = make_client({"Hello": ["so", " far", error]})
    generation = client.stream("Hello")

    assert [next(generation), next(generation)] == ["so", " far"]
    with pytest.raises(type(error), match=error.message) as caught:
        next(generation)

    assert (caught.value.code, caught.value.text) == (error.code, "so far")
    assert (caught.value.retryable, caught.value.retry_after) == (error.retryable, error.retry_after)


def test_an_error_can_be_the_whole_answer_and_a_class_will_do(make_client: MakeClient) -> None:
    client = make_client({"a": ServerBusyError("full"), "b": ServerBusyError})

    for prompt in "ab":
        with pytest.raises(ServerBusyError):
            client.complete(prompt)


def test_a_function_can_raise_the_error(make_client: MakeClient) -> None:
    def answer(request: Request) -> Iterator[str]:
        yield "so far"
        raise ServerBusyError("full")

    client = make_client(answer)

    with pytest.raises(ServerBusyError) as caught:
        client.complete("Hello")

    assert caught.value.text == "so far"


def test_models_are_listed_and_no_other_is_taken(make_client: MakeClient) -> None:
    client = make_client("Hi", models=["llama2", {"name": "tiny:1b", "size": 7}])

    assert [(model.name, model.size) for model in client.list_models()] == [("llama2", None), ("tiny:1b", 7)]
    assert client.complete("Hello").model == "llama2"
    assert client.complete("Hello", "llama2:latest").text == "Hi"
    with pytest.raises(ModelNotFoundError, match=r"'llama3'"):
        client.complete("Hello", "llama3")


def test_without_a_list_any_model_is_taken(make_client: MakeClient) -> None:
    client = make_client("Hi")

    assert [model.name for model in client.list_models()] == ["scripted:latest"]
    assert client.complete("Hello", "llama3").model == "llama3"


def test_requests_tell_what_was_asked_for_by_the_names_that_the_caller_used(make_gateway: MakeGateway) -> None:
    asked = {"temperature": 0.7, "max_tokens": 5, "stop": "x", "system": "Be brief", "keep_alive": "5m", "top_k": 3}
    gateway, fake = make_gateway("Hi"), FakeClient("Hi")

    for client, requests in ((gateway.client(), gateway.requests), (fake, fake.requests)):
        generation = client.stream("Hello", "llama2", asked)
        generation.result()

        (request,) = requests
        assert (request.prompt, request.model, request.id) == ("Hello", "llama2", generation.id)
        assert request.options == asked | {"stop": ["x"]}
        assert request.outcome == "done"


def test_an_answer_that_never_ends_can_be_stopped_and_left(make_client: MakeClient) -> None:
    is_closed = threading.Semaphore(0)

    def endless(request: Request) -> Iterator[str]:
        try:
            yield from map(str, itertools.count())
        finally:
            is_closed.release()

    client = make_client(endless)
    stopped, left = client.stream("a"), client.stream("b")
    assert [next(stopped), next(stopped)] == ["0", "1"]

    assert stopped.stop()
    for _ in left:
        break

    assert stopped.result(5).is_cancelled
    assert left.result(5).is_cancelled
    assert is_closed.acquire(timeout=5)
    assert is_closed.acquire(timeout=5)


@pytest.mark.parametrize("answers", [5, {"Hello": 5}, {"Hello": ["a", 5]}, [None], {"Hello": iter("ab")}], ids=str)
def test_what_is_no_answer_is_refused_at_once(answers: Any) -> None:
    for make in (Gateway, FakeClient):
        with pytest.raises(TypeError, match="an answer is text, a list of tokens, a WSClientError or a function"):
            make(answers)
