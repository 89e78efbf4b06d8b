"""The built-in model behaves like a small Ollama: options honoured, ends where it should, and never hogs the loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import aclosing
from typing import Any

import pytest

from wsclient.errors import ErrorCode
from wsclient.gateway import ngram
from wsclient.gateway.backends import Backend, BackendError, Final, GenerateRequest, Piece
from wsclient.gateway.backends.builtin import UNLIMITED_TOKENS, BuiltinBackend


async def collect(prompt: str = "hi", model: str = "builtin", fields: Any = None, **options: Any) -> list[list[Any]]:
    """Return the lists of one generation."""
    backend = BuiltinBackend()
    request = GenerateRequest(model=model, prompt=prompt, options=options, fields=fields or {})
    async with aclosing(backend.generate(request)) as lists:
        return [batch async for batch in lists]


def generate(prompt: str = "hi", model: str = "builtin", fields: Any = None, **options: Any) -> tuple[list[str], Final]:
    """Return the words of one generation and its final word."""
    lists = asyncio.run(collect(prompt, model, fields, **options))
    assert all(lists)
    pieces = [piece for batch in lists for piece in batch]
    final = pieces.pop()
    assert isinstance(final, Final)
    assert all(isinstance(piece, Piece) and piece.text and not piece.is_thinking for piece in pieces)
    return [piece.text for piece in pieces], final


def text(**options: Any) -> str:
    return "".join(generate(**options)[0])


def test_it_is_a_backend() -> None:
    backend: Backend = BuiltinBackend()
    assert backend.name == "builtin"


def test_a_generation_is_128_words_unless_told_otherwise() -> None:
    words, final = generate("What is an exception?")
    assert len(words) == 128
    assert (final.done_reason, final.completion_tokens, final.prompt_tokens) == ("length", 128, 5)
    assert final.total_duration is not None
    assert final.total_duration >= 0


@pytest.mark.parametrize("count", [0, 1, 2, 127, 129, 1000])
def test_num_predict_is_the_number_of_pieces(count: int) -> None:
    words, final = generate(num_predict=count)
    assert len(words) == count
    assert (final.done_reason, final.completion_tokens) == ("length", count)


@pytest.mark.parametrize("count", [-1, -2])
def test_no_limit_is_ollamas_cap(count: int) -> None:
    assert len(generate(num_predict=count)[0]) == UNLIMITED_TOKENS == 40_960


def test_sampling_options_are_honoured() -> None:
    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text(seed=7) != text(seed=7, prompt="ho")
    assert text(temperature=0.0) == text(temperature=0.0) == text(top_k=1) == text(top_p=0.0)
    assert text() != text()


@pytest.mark.parametrize("model", ["builtin", "builtin:latest"])
def test_both_of_its_names_mean_the_model(model: str) -> None:
    assert text(model=model, seed=1) == text(seed=1)


def test_a_stop_string_ends_the_text_before_it() -> None:
    whole = text(seed=3)
    stop = whole[100:107]
    words, final = generate(seed=3, stop=[stop, "never this"])
    assert "".join(words) == whole[: whole.index(stop)]
    assert final.done_reason == "stop"
    assert final.completion_tokens is not None
    assert len(words) <= final.completion_tokens < 128


def test_a_stop_string_that_does_not_come_changes_nothing() -> None:
    assert text(seed=3, stop=["the the the", " a a a"]) == text(seed=3)


def test_a_text_that_ends_in_the_beginning_of_a_stop_string_is_whole() -> None:
    whole = text(seed=3)
    assert text(seed=3, stop=[whole[-8:] + " and never this"]) == whole


@pytest.mark.parametrize("model", ["llama2", "", "BUILTIN", "builtin:1b"])
def test_any_other_model_is_not_found_in_ollamas_words(model: str) -> None:
    with pytest.raises(BackendError) as caught:
        generate(model=model)
    assert caught.value.message == f"model '{model}' not found"
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_the_name_of_an_unknown_model_is_shown_bounded() -> None:
    with pytest.raises(BackendError) as caught:
        generate(model="\x1b" + "x" * 10_000)
    assert len(caught.value.message) < 150
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("fields", "ability"),
    [
        ({"think": True}, "thinking"),
        ({"think": "low"}, "thinking"),
        ({"images": ["aGk="]}, "vision"),
        ({"suffix": "x"}, "insert"),
        ({"format": "json"}, "format"),
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], ability: str) -> None:
    with pytest.raises(BackendError) as caught:
        generate(fields=fields)
    assert caught.value.message == f'"builtin" does not support {ability}'
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_what_makes_no_difference_to_it_is_taken() -> None:
    fields = {"system": "Be brief", "keep_alive": "5m", "raw": True, "think": False}
    assert text(seed=1, fields=fields, min_p=0.1, repeat_penalty=1.1) == text(seed=1)


def test_the_list_says_what_the_model_is() -> None:
    [model] = asyncio.run(BuiltinBackend().list_models())
    assert model["name"] == model["model"] == "builtin:latest"
    assert model["details"]["family"] == model["details"]["format"] == "ngram"
    assert model["details"]["families"] == ["ngram"]
    assert model["details"]["parameter_size"].endswith("K")
    assert model["modified_at"].endswith("Z")
    assert len(model["digest"]) == 64


def test_starting_builds_the_model_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start() -> str:
        await BuiltinBackend().start()
        return built_by[0]

    def build() -> ngram.NgramModel:
        built_by.append(threading.current_thread().name)
        return ngram.NgramModel(["a b."])

    built_by: list[str] = []
    monkeypatch.setattr("wsclient.gateway.backends.builtin.default_model", build)
    assert asyncio.run(start()) != "MainThread"


def test_a_python_without_its_documentation_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr("wsclient.gateway.backends.builtin.default_model", ngram.default_model.__wrapped__)
    with pytest.raises(BackendError, match="pydoc_data"):
        asyncio.run(BuiltinBackend().start())


def test_closing_twice_is_fine_and_it_can_be_used_again() -> None:
    async def run() -> int:
        backend = BuiltinBackend()
        await backend.start()
        await backend.start()
        await backend.close()
        await backend.close()
        return len(await backend.list_models())

    assert asyncio.run(run()) == 1


def test_200_000_words_come_quickly_in_small_lists() -> None:
    started = time.thread_time()
    lists = asyncio.run(collect(num_predict=200_000, seed=1))
    assert time.thread_time() - started < 2.0
    assert sum(map(len, lists)) == 200_001
    assert max(map(len, lists)) <= 128


def test_others_get_their_turn_on_the_event_loop() -> None:
    async def drain() -> None:
        request = GenerateRequest(model="builtin", prompt="hi", options={"num_predict": 200_000})
        async for _ in BuiltinBackend().generate(request):
            pass

    async def run() -> list[float]:
        task = asyncio.create_task(drain())
        waits = []
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(time.perf_counter() - before)
        return sorted(waits)

    waits = asyncio.run(run())
    assert len(waits) > 1000
    # Not the longest: on a busy machine the scheduler makes that one.
    assert waits[len(waits) * 9 // 10] < 0.02


def test_a_generation_can_be_cancelled_and_closed_in_the_middle() -> None:
    async def run() -> int:
        task = asyncio.create_task(collect(num_predict=10**12))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        lists = BuiltinBackend().generate(GenerateRequest(model="builtin", prompt="x", options={"num_predict": 10**12}))
        first = await anext(lists)
        await lists.aclose()
        return len(first)

    assert asyncio.run(run()) > 0


def test_two_generations_at_once_are_as_they_are_alone() -> None:
    async def run() -> list[str]:
        results = await asyncio.gather(*(collect(seed=seed, num_predict=1000) for seed in (1, 2, 1)))
        return [
            "".join(piece.text for batch in lists for piece in batch if isinstance(piece, Piece)) for lists in results
        ]

    assert asyncio.run(run()) == [text(seed=seed, num_predict=1000) for seed in (1, 2, 1)]
