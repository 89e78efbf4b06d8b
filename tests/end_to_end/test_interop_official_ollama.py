"""What comes through our client and our gateway is what Ollama's own Python client reads from the same server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import ollama as official
import pytest

from wsclient import ModelNotFoundError, Usage, WSClient

from ..support.fake_ollama import MODELS, FakeModel, FakeOllama

ANSWERS: dict[str, dict[str, Any]] = {
    "plain": {"tokens": 50},
    "unicode": {"pieces": ["ünï", "🦜👩‍👩‍👧‍👦", "\n\r\n", "<b>&amp;</b>", "\u2028", "日本語", "", "\x00"]},
    "text in the final line": {"pieces": ["a", "b"], "final_text": "c"},
    "no metrics": {"tokens": 3, "has_metrics": False, "done_reason": None},
    "lines cut anywhere": {"pieces": ["🦜é"] * 50, "split": 5},
    "twenty thousand tokens": {"tokens": 20_000, "unlimited": True},
}


@pytest.fixture
def theirs(ollama: FakeOllama) -> Iterator[official.Client]:
    """Ollama's own client, talking to the fake directly."""
    with official.Client(host=ollama.url) as client:
        yield client


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_text_and_its_figures_are_those_that_the_official_client_reads(
    kind: str, ollama: FakeOllama, theirs: official.Client, ollama_client: WSClient
) -> None:
    ollama.script(**ANSWERS[kind])
    chunks = list(theirs.generate("tiny:1b", "three words here", stream=True))

    result = ollama_client.complete("three words here", "tiny:1b")

    text = "".join(chunk.response for chunk in chunks)
    assert hashlib.sha256(result.text.encode()).digest() == hashlib.sha256(text.encode()).digest()
    assert result.done_reason == chunks[-1].done_reason
    usage = result.usage or Usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (chunks[-1].prompt_eval_count, chunks[-1].eval_count)


def test_thinking_is_what_the_official_client_takes_for_thinking(
    ollama: FakeOllama, theirs: official.Client, ollama_client: WSClient
) -> None:
    ollama.models = (*MODELS, FakeModel(name="thinker:latest", capabilities=("completion", "thinking")))
    ollama.script(thinking=["let me", " think"], pieces=["an", " answer"])
    whole = theirs.generate("thinker", "hi", think=True)

    result = ollama_client.complete("hi", "thinker", think=True)

    assert (result.text, result.thinking) == (whole.response, whole.thinking)


def test_the_request_is_the_one_that_the_official_client_sends(
    ollama: FakeOllama, theirs: official.Client, ollama_client: WSClient
) -> None:
    options = {"temperature": 0.5, "top_k": 10, "top_p": 0.9, "num_predict": 20, "seed": 3, "stop": ["END"]}
    list(theirs.generate("tiny:1b", "hi", system="Be brief.", keep_alive="5m", options=options, stream=True))

    ollama_client.complete(
        "hi",
        "tiny:1b",
        system="Be brief.",
        keep_alive="5m",
        temperature=0.5,
        top_k=10,
        top_p=0.9,
        max_tokens=20,
        seed=3,
        stop="END",
    )

    # Ours is asked for its models in between.
    sent_by_theirs, sent_by_ours = (request.body for request in ollama.requests if request.path == "/api/generate")
    assert sent_by_ours == {name: value for name, value in sent_by_theirs.items() if value is not None}


def test_the_models_are_those_that_the_official_client_lists(theirs: official.Client, ollama_client: WSClient) -> None:
    listed = theirs.list().models

    models = ollama_client.list_models()

    assert [(model.name, model.size, model.digest) for model in models] == [
        (model.model, model.size, model.digest) for model in listed
    ]


def test_a_model_that_is_not_there_is_not_there_for_both(theirs: official.Client, ollama_client: WSClient) -> None:
    with pytest.raises(official.ResponseError, match="nope"):
        list(theirs.generate("nope", "hi", stream=True))
    with pytest.raises(ModelNotFoundError, match="nope"):
        ollama_client.complete("hi", "nope")
