"""Whether the model server answers, asked no more often than need be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wsclient.gateway import backend_watch
from wsclient.gateway.backend_watch import BackendWatch
from wsclient.gateway.backends import BackendError

from .scripted_backend import ScriptedBackend


class CountingBackend(ScriptedBackend):
    """Counts how often it is asked for its models, and can keep its answer to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.is_hanging = False
        self.go_on = asyncio.Event()

    async def list_models(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.is_hanging:
            await self.go_on.wait()
        return await super().list_models()


def test_however_many_ask_the_model_server_is_asked_once() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        watch = BackendWatch(backend, "x")
        assert await asyncio.gather(*(watch.is_answering() for _ in range(50))) == [True] * 50
        assert await watch.is_answering()
        assert backend.asked == 1
        assert await watch.is_answering(max_age=0)
        assert backend.asked == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", [BackendError("no"), RuntimeError("bug"), None])
def test_an_error_of_any_kind_or_silence_is_no_answer(
    trouble: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_watch, "_TIMEOUT", 0.05)

    async def scenario() -> None:
        backend = CountingBackend()
        watch = BackendWatch(backend, "x")
        assert await watch.is_answering()
        backend.is_hanging = trouble is None
        backend.models = trouble or backend.models
        assert not await watch.is_answering(max_age=0)
        # What it was known by stays known: the figures' names do not change with the weather.
        assert watch.label("tiny:1b") == "tiny:1b"

    asyncio.run(scenario())


def test_who_stops_waiting_takes_the_answer_from_nobody() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.is_hanging = True
        watch = BackendWatch(backend, "x")
        impatient, patient = (asyncio.create_task(watch.is_answering()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        backend.go_on.set()
        assert await patient
        assert backend.asked == 1

    asyncio.run(scenario())


def test_closing_lets_go_of_the_question_under_way() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.is_hanging = True
        watch = BackendWatch(backend, "x")
        asking = asyncio.create_task(watch.is_answering())
        await asyncio.sleep(0)
        watch.close()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(scenario())


def test_labels_are_the_servers_names_the_default_model_and_other() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        names: list[Any] = ["a:1b", "b:latest", "", 7, None]
        backend.models = [*({"name": name} for name in names), {}]
        watch = BackendWatch(backend, "mine")
        assert BackendWatch(backend, "b").label("b") == "b"
        assert watch.label("a:1b") == "other"
        await watch.is_answering()
        labels = {name: watch.label(name) for name in ("a:1b", "a", "b", "b:latest", "mine", "", "7")}
        assert labels == {
            "a:1b": "a:1b",
            "a": "other",
            "b": "b:latest",
            "b:latest": "b:latest",
            "mine": "mine",
            "": "other",
            "7": "other",
        }

    asyncio.run(scenario())


def test_a_model_server_with_endless_models_has_a_hundred_labels() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.models = [{"name": f"m{number}"} for number in range(1000)]
        watch = BackendWatch(backend, "x")
        await watch.is_answering()
        assert len({watch.label(f"m{number}") for number in range(1000)}) == 101

    asyncio.run(scenario())
