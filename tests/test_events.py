"""What callers receive: frozen, comparable, picklable, and silent about texts where it must be."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

import wsclient.events
from wsclient.errors import ConnectionLostError, ErrorCode, RateLimitedError, ServerError
from wsclient.events import (
    ClientStats,
    ConnectionStatus,
    ErrorEvent,
    GenerationEndEvent,
    GenerationResult,
    GenerationStartEvent,
    ModelInfo,
    TokenEvent,
    Usage,
)

USAGE = Usage(prompt_tokens=3, completion_tokens=5, total_duration=1.5, load_duration=0.2, eval_duration=1.0)
EVENTS: list[Any] = [
    TokenEvent("g", "Hi", "thinking"),
    GenerationStartEvent("g", "llama2"),
    GenerationStartEvent("g", None),
    USAGE,
    GenerationEndEvent("g", 5, 0.018, True, "stop", USAGE),
    ErrorEvent.of(RateLimitedError("slow down", id="g", retry_after=2.5, text="so far")),
    GenerationResult("g", "llama2", "Hi", "Hm", 5, 0.018, False, "length", USAGE),
    ModelInfo("llama2", 1, "78e2", "2025-05-01T10:20:30Z", "llama", "7B", "Q4_0", "gguf", {"name": "llama2"}),
    ClientStats(ConnectionStatus.AUTHENTICATED, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0.01),
]
EACH = pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)


def test_these_are_all_event_classes() -> None:
    assert {type(event).__name__ for event in EVENTS} | {"ConnectionStatus"} == set(wsclient.events.__all__)


@EACH
def test_an_event_cannot_be_changed(event: Any) -> None:
    for field in attrs.fields(type(event)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(event, field.name, "other")
    with pytest.raises(AttributeError):
        event.something_else = 1
    assert not hasattr(event, "__dict__")


@EACH
def test_an_event_pickles_and_copies_to_an_equal_one(event: Any) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(event, protocol))
        assert twin == event
        assert attrs.astuple(twin, recurse=False) == attrs.astuple(event, recurse=False)
    assert copy.copy(event) == copy.deepcopy(event) == event


@EACH
def test_events_are_equal_when_all_their_facts_are(event: Any) -> None:
    assert attrs.evolve(event) == event
    for field in attrs.fields(type(event)):
        if field.eq:
            assert attrs.evolve(event, **{field.name: "other"}) != event, field.name


@EACH
def test_an_event_can_be_a_key(event: Any) -> None:
    assert len({event, attrs.evolve(event)}) == 1


def test_a_models_raw_object_is_no_part_of_its_identity() -> None:
    assert ModelInfo("a", raw={"x": 1}) == ModelInfo("a")
    assert "SECRET" not in repr(ModelInfo("a", raw={"x": "SECRET"}))


def test_the_defaults_are_what_a_silent_server_means() -> None:
    assert TokenEvent("g", "Hi").kind == "answer"
    assert GenerationEndEvent("g", 5) == GenerationEndEvent("g", 5, None, False, None, None)
    assert GenerationResult("g", None, "Hi") == GenerationResult("g", None, "Hi", "", 0, None, False, None, None)
    assert Usage() == Usage(None, None, None, None, None)
    assert ModelInfo("a").raw == {}
    assert ErrorEvent("m", ErrorCode.SERVER_ERROR, "d") == ErrorEvent.of(ServerError("m", description="d"))
    assert attrs.astuple(ClientStats(ConnectionStatus.DISCONNECTED))[1:] == (0,) * 10 + (None,)


def test_a_result_prints_as_its_text_and_a_model_as_its_name() -> None:
    assert str(GenerationResult("g", "llama2", "Hi there")) == "Hi there"
    assert f"{ModelInfo('llama2:7b', 1)}" == "llama2:7b"


def test_a_status_is_its_text() -> None:
    assert [str(status) for status in ConnectionStatus] == [
        "disconnected",
        "connecting",
        "connected",
        "authenticated",
        "auth_failed",
        "reconnecting",
        "reconnect_failed",
    ]
    assert ConnectionStatus.AUTH_FAILED == "auth_failed"
    assert f"{ConnectionStatus('connected')}" == "connected"


# --- ErrorEvent -------------------------------------------------------------------------------------------------------


def test_an_error_event_has_every_fact_of_its_error() -> None:
    error = RateLimitedError("slow down", description="Wait", id="g", retryable=True, retry_after=2.5, text="so far")
    event = ErrorEvent.of(error)
    assert attrs.asdict(event) == {"message": "slow down", "code": "rate_limited", **error.facts()}
    assert event.code is ErrorCode.RATE_LIMITED


def test_an_error_event_of_a_plain_error_has_its_defaults() -> None:
    event = ErrorEvent.of(ConnectionLostError("gone"))
    assert event.description == ConnectionLostError("gone").description
    assert (event.id, event.retryable, event.retry_after, event.text) == (None, True, None, "")


def test_the_repr_of_an_error_event_does_not_show_the_generated_text() -> None:
    assert "SECRET" not in repr(ErrorEvent.of(ConnectionLostError("gone", text="SECRET")))
    assert "gone" in repr(ErrorEvent.of(ConnectionLostError("gone", text="SECRET")))
