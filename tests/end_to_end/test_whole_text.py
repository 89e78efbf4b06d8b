"""Every token arrives, once, in order and unchanged: long ones, many at once, and text of every kind."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest

from wsclient import GenerationEndEvent, WSClient
from wsclient.gateway.ngram import Sampling, default_model
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.fake_ollama import MODELS, FakeModel, FakeOllama
from ..support.waiting import wait_until
from .conftest import MakeClient

LONG = 200_000
AT_ONCE = 16
EACH = 6_000
MEDIUM = 50_000


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def written(prompt: str, tokens: int, seed: int) -> list[str]:
    """Return what the built-in model writes, asked directly."""
    return default_model().walk(prompt, Sampling(seed=seed)).take(tokens)


def scripted(tokens: int) -> str:
    """Return what the fake Ollama says by default."""
    return "".join(f" t{number:03}" for number in range(tokens))


# --- long ones --------------------------------------------------------------------------------------------------------


def test_a_result_of_200_000_tokens_of_the_built_in_model_is_whole(client: WSClient) -> None:
    result = client.complete("Tell me everything", seed=1, max_tokens=LONG)

    assert digest(result.text) == digest("".join(written("Tell me everything", LONG, seed=1)))
    assert result.total_tokens == LONG


def test_a_stream_of_200_000_tokens_of_the_built_in_model_is_whole_token_by_token(client: WSClient) -> None:
    generation = client.stream("Tell me everything", seed=2, max_tokens=LONG)

    # A token is a word: none is split, none is joined with its neighbour.
    assert list(generation) == written("Tell me everything", LONG, seed=2)
    assert generation.text == "".join(written("Tell me everything", LONG, seed=2))


def test_a_result_of_200_000_tokens_of_ollama_is_whole(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(tokens=LONG, unlimited=True)

    result = ollama_client.complete("Tell me everything")

    assert digest(result.text) == digest(scripted(LONG))
    assert result.total_tokens == LONG


def test_a_stream_of_200_000_tokens_of_ollama_is_whole(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(tokens=LONG, unlimited=True)
    read = sha256()
    count = 0

    for token in ollama_client.stream("Tell me everything"):
        read.update(token.encode())
        count += 1

    assert (read.hexdigest(), count) == (digest(scripted(LONG)), LONG)


def test_a_stream_that_is_read_only_after_its_end_is_whole(client: WSClient) -> None:
    generation = client.stream("Tell me everything", seed=3, max_tokens=MEDIUM)
    wait_until(lambda: generation.is_done, 20)

    assert digest("".join(generation)) == digest("".join(written("Tell me everything", MEDIUM, seed=3)))


def test_events_of_a_long_generation_are_whole(client: WSClient) -> None:
    pieces: list[str] = []
    ends: queue.SimpleQueue[GenerationEndEvent] = queue.SimpleQueue()
    client.on_token(lambda event: pieces.append(event.token))
    client.on_generation_end(ends.put)

    client.generate("Tell me everything", seed=4, max_tokens=MEDIUM)

    assert ends.get(timeout=20).total_tokens == MEDIUM
    assert digest("".join(pieces)) == digest("".join(written("Tell me everything", MEDIUM, seed=4)))


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stream", "complete"])
def test_16_at_once_from_16_threads_of_the_built_in_model_are_whole(client: WSClient, how: str) -> None:
    start = threading.Barrier(AT_ONCE)

    def ask(number: int) -> str:
        start.wait()
        if how == "complete":
            return digest(client.complete(f"Chapter {number}", seed=number, max_tokens=EACH).text)
        return digest("".join(client.stream(f"Chapter {number}", seed=number, max_tokens=EACH)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        digests = list(pool.map(ask, range(AT_ONCE)))

    expected = [digest("".join(written(f"Chapter {number}", EACH, seed=number))) for number in range(AT_ONCE)]
    assert digests == expected
    assert len(set(digests)) == AT_ONCE


def test_16_at_once_from_16_threads_of_ollama_are_whole(ollama: FakeOllama, ollama_client: WSClient) -> None:
    for number in range(AT_ONCE):
        ollama.script(prompt=f"Chapter {number}.", tokens=EACH, token=f" {number}-é", unlimited=True)
    start = threading.Barrier(AT_ONCE)

    def ask(number: int) -> str:
        start.wait()
        return "".join(ollama_client.stream(f"Chapter {number}."))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, text in enumerate(pool.map(ask, range(AT_ONCE))):
            assert digest(text) == digest(f" {number}-é" * EACH)


def test_one_long_generation_and_many_short_ones_do_not_mix(client: WSClient) -> None:
    long = client.stream("Tell me everything", seed=5, max_tokens=MEDIUM)

    for seed in range(50):
        assert client.complete("Be brief", seed=seed, max_tokens=20).text == "".join(written("Be brief", 20, seed))

    assert digest("".join(long)) == digest("".join(written("Tell me everything", MEDIUM, seed=5)))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_16_times_200_000_tokens_from_16_threads_are_whole(client: WSClient) -> None:
    def ask(number: int) -> str:
        return digest("".join(client.stream(f"Chapter {number}", seed=number, max_tokens=LONG)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        digests = list(pool.map(ask, range(AT_ONCE)))

    assert digests == [digest("".join(written(f"Chapter {number}", LONG, seed=number))) for number in range(AT_ONCE)]


# --- text of every kind -----------------------------------------------------------------------------------------------

PIECES = [
    "plain",
    " ünïcödé",
    " 日本語",
    "🦜",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x1b[31m",
    "\u2028\u2029",
    "\ufeff",
    '"quoted\\"',
    "</script>",
    "{}",
    "e\u0301",
    " ",
]


@pytest.mark.parametrize("split", [0, 1, 3], ids="split {}".format)
def test_unicode_emoji_and_control_characters_arrive_piece_by_piece(
    ollama: FakeOllama, ollama_client: WSClient, split: int
) -> None:
    ollama.script(pieces=PIECES, split=split)

    assert list(ollama_client.stream("hi")) == PIECES


def test_a_cut_between_two_halves_of_a_character_does_no_harm(ollama: FakeOllama, ollama_client: WSClient) -> None:
    # Writes of seven bytes: they end anywhere, and mostly inside a character.
    ollama.script(pieces=["🦜é日"] * 400, split=7)

    assert ollama_client.complete("hi").text == "🦜é日" * 400


def test_empty_tokens_add_nothing_and_end_nothing(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(pieces=["a", "", "", "b", ""])

    generation = ollama_client.stream("hi")

    assert "".join(generation) == "ab"
    assert generation.result().text == "ab"


def test_empty_tokens_of_another_server_add_nothing_and_end_nothing(make_client: MakeClient) -> None:
    def script(peer: Peer) -> None:
        peer.login()
        id = peer.expect("generate")["id"]
        peer.send_all({"id": id, "type": "stream_token", "token": token} for token in ("", "a", "", "b", ""))
        peer.send({"id": id, "type": "stream_end"})
        peer.wait_until_gone()

    with ScriptedServer(script) as server, make_client(server.url) as client:
        assert "".join(client.stream("hi")) == "ab"


def test_a_generation_without_any_text_has_an_end_all_the_same(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(pieces=[])

    generation = ollama_client.stream("hi")

    assert list(generation) == []
    assert (generation.result().text, generation.result().is_cancelled) == ("", False)


def test_text_in_ollama_s_final_line_belongs_to_the_answer(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(pieces=["begin"], final_text=" end")

    assert ollama_client.complete("hi").text == "begin end"


def test_one_token_of_a_megabyte_arrives(ollama: FakeOllama, ollama_client: WSClient) -> None:
    token = "é" * 500_000
    ollama.script(pieces=["a", token, "b"])

    assert list(ollama_client.stream("hi")) == ["a", token, "b"]


def test_a_long_final_line_is_no_obstacle(ollama: FakeOllama, ollama_client: WSClient) -> None:
    # Ollama's last line has a number for each token of the conversation.
    ollama.script(tokens=3, context=200_000)

    assert ollama_client.complete("hi").text == " t000 t001 t002"


@pytest.fixture
def thinking_ollama(ollama: FakeOllama) -> FakeOllama:
    """An Ollama whose model thinks before it speaks."""
    ollama.models = (*MODELS, FakeModel(name="thinker:latest", capabilities=("completion", "thinking")))
    ollama.script(thinking=["Let me", " think 🤔"], pieces=["It", " is", " so."])
    return ollama


def test_thinking_is_apart_from_the_answer(thinking_ollama: FakeOllama, ollama_client: WSClient) -> None:
    generation = ollama_client.stream("hi", "thinker", think=True)

    assert list(generation) == ["It", " is", " so."]
    assert (generation.text, generation.thinking) == ("It is so.", "Let me think 🤔")
    result = generation.result()
    assert (result.text, result.thinking) == ("It is so.", "Let me think 🤔")


def test_token_events_say_which_are_thinking(thinking_ollama: FakeOllama, ollama_client: WSClient) -> None:
    events: list[Any] = []
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ollama_client.on_token(events.append)
    ollama_client.on_generation_end(ends.put)

    ollama_client.generate("hi", "thinker")

    ends.get(timeout=5)
    assert [(event.kind, event.token) for event in events] == [
        ("thinking", "Let me"),
        ("thinking", " think 🤔"),
        ("answer", "It"),
        ("answer", " is"),
        ("answer", " so."),
    ]


def test_a_model_told_not_to_think_only_answers(thinking_ollama: FakeOllama, ollama_client: WSClient) -> None:
    result = ollama_client.complete("hi", "thinker", think=False)

    assert (result.text, result.thinking) == ("It is so.", "")


def test_figures_of_the_model_server_arrive_in_seconds(ollama: FakeOllama, ollama_client: WSClient) -> None:
    ollama.script(tokens=4, delay=0.02)

    result = ollama_client.complete("three words here", "tiny:1b")

    assert (result.total_tokens, result.done_reason, result.model) == (4, "stop", "tiny:1b")
    assert result.usage is not None
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 4)
    assert result.elapsed_time is not None
    assert result.usage.total_duration is not None
    assert 0.05 < result.usage.total_duration < 5
    assert 0.05 < result.elapsed_time < 5
