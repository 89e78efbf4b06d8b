"""What the session delivers of the server's answers: to whom, in which order, and what it makes of wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from wsclient.core.actions import Action, Answered, Ended, Failed, Started, StopOnServer, StrayError, Tokens
from wsclient.core.requests import RequestKind
from wsclient.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ProtocolError,
    ServerError,
)

from .sessions import failures, logged_in, of_kind, only, opened, request, token

MODELS, PING, STOP = RequestKind.MODELS, RequestKind.PING, RequestKind.STOP


def story(actions: list[Action]) -> list[str]:
    """What happened to whom, in order."""
    lines = []
    for action in actions:
        if isinstance(action, Tokens):
            lines.append(f"{action.sink.name}: {'(thinks) ' if action.is_thinking else ''}{'|'.join(action.tokens)}")
        elif isinstance(action, Started | Ended | Answered | Failed):
            lines.append(f"{action.sink.name}: {type(action).__name__.lower()}")
        else:
            lines.append(type(action).__name__)
    return lines


# --- requests by id ---------------------------------------------------------------------------------------------------


def test_each_answer_goes_to_the_request_of_its_id() -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    opened(session, request("p", PING))
    opened(session, request("s", STOP))
    actions = session.receive(
        [
            {"type": "ack", "id": "s", "requestId": "g", "action": "stop"},
            {"type": "models_result", "id": "m", "models": ["llama2"]},
            {"type": "pong", "id": "p"},
        ],
        1,
    )
    assert story(actions) == ["s: answered", "m: answered", "p: answered"]
    assert [action.value for action in of_kind(actions, Answered)] == [True, ["llama2"], 1]
    assert session.requests.next_deadline() == float("inf")


def test_an_answer_counts_once() -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    answer = {"type": "models_result", "id": "m", "models": []}
    assert len(session.receive([answer, answer], 1)) == 1
    assert session.ignored_messages == 1


def test_a_stop_of_an_unknown_generation_is_answered_with_false() -> None:
    session = logged_in()
    opened(session, request("s", STOP))
    message = {"type": "error", "id": "s", "error": "No active generation with that ID"}
    assert only(session.receive([message], 1), Answered).value is False


def test_a_stop_of_a_foreign_generation_fails() -> None:
    session = logged_in()
    opened(session, request("s", STOP))
    message = {"type": "error", "id": "s", "error": "Not authorized to stop this generation"}
    assert type(failures(session.receive([message], 1))["s"]) is ServerError


def test_an_answer_of_the_wrong_kind_fails_the_request() -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    error = failures(session.receive([{"type": "pong", "id": "m"}], 1))["m"]
    assert isinstance(error, ProtocolError)
    assert error.message == "the server answered models with ping"


def test_what_was_given_up_gets_nothing() -> None:
    session = logged_in()
    opened(session, request("g"))
    assert session.give_up("g", 1) is not None
    assert session.give_up("g", 1) is None
    assert session.receive([token("g", "a"), {"type": "stream_end", "id": "g"}], 1) == []
    assert session.ignored_messages == 2


# --- generations ------------------------------------------------------------------------------------------------------


def test_tokens_of_one_batch_come_in_one_piece_for_each_generation() -> None:
    session = logged_in()
    opened(session, request("a"))
    opened(session, request("b"))
    actions = session.receive([token("a", "1"), token("b", "x"), token("a", "2"), token("b", "y")], 1)
    assert story(actions) == ["a: 1|2", "b: x|y"]
    assert [action.text for action in of_kind(actions, Tokens)] == ["12", "xy"]
    assert session.tokens == 4


def test_order_is_kept_against_start_end_and_thinking() -> None:
    session = logged_in()
    opened(session, request("a"))
    opened(session, request("b"))
    actions = session.receive(
        [
            {"type": "stream_start", "id": "a", "model": "m"},
            token("a", "hm", kind="thinking"),
            token("a", "1"),
            token("b", "x"),
            token("a", "2"),
            token("a", "hm", kind="thinking"),
            token("a", "3"),
            {"type": "stream_end", "id": "a"},
            token("b", "y"),
        ],
        1,
    )
    assert story(actions) == ["a: started", "a: (thinks) hm", "a: 1|2", "a: (thinks) hm", "a: 3", "a: ended", "b: x|y"]


def test_a_kind_that_is_not_thinking_is_the_answer() -> None:
    session = logged_in()
    opened(session, request("a"))
    assert story(session.receive([token("a", "1", kind="answer")], 1)) == ["a: 1"]


def test_tokens_after_the_end_are_ignored_and_counted() -> None:
    session = logged_in()
    opened(session, request("a"))
    assert story(session.receive([{"type": "stream_end", "id": "a"}, token("a", "1"), token("a", "2")], 1)) == [
        "a: ended"
    ]
    assert session.ignored_messages == 2
    assert session.tokens == 0


def test_the_model_of_a_start_may_be_missing() -> None:
    session = logged_in()
    opened(session, request("a"))
    assert only(session.receive([{"type": "stream_start", "id": "a"}], 1), Started).model is None


def test_an_empty_token_is_a_token() -> None:
    session = logged_in()
    opened(session, request("a"))
    assert only(session.receive([token("a", "")], 1), Tokens).tokens == [""]


def test_the_originals_abort_after_a_stop_is_a_cancellation() -> None:
    session = logged_in()
    opened(session, request("a"))
    abort = {
        "type": "error",
        "id": "a",
        "error": "Generation failed: The user aborted a request.",
        "code": "generation_error",
    }
    actions = session.receive([token("a", "1"), abort], 1)
    assert story(actions) == ["a: 1", "a: ended"]
    assert of_kind(actions, Ended)[0].message.is_cancelled is True


def test_a_failed_generation_fails_after_its_tokens() -> None:
    session = logged_in()
    opened(session, request("a"))
    message = {
        "type": "error",
        "id": "a",
        "error": "Generation failed: Ollama API error: 404 {}",
        "code": "generation_error",
    }
    actions = session.receive([token("a", "1"), message], 1)
    assert story(actions) == ["a: 1", "a: failed"]
    assert isinstance(failures(actions)["a"], ModelNotFoundError)


def test_one_items_failure_leaves_the_rest_of_the_batch_alone() -> None:
    session = logged_in()
    opened(session, request("a"), request("b", MODELS), request("c", PING))
    actions = session.receive(
        [
            {"type": "error", "id": "a", "error": "Missing required fields"},
            {"type": "models_result", "id": "b"},
            {"type": "pong", "id": "c"},
        ],
        1,
    )
    assert story(actions) == ["a: failed", "b: answered", "c: answered"]
    assert isinstance(failures(actions)["a"], InvalidRequestError)


# --- wrong messages ---------------------------------------------------------------------------------------------------


def test_a_token_of_the_wrong_type_fails_its_generation_after_the_text_before_it() -> None:
    session = logged_in()
    opened(session, request("a"))
    opened(session, request("b"))
    actions = session.receive([token("a", "1"), token("b", "x"), token("a", 5), token("a", "3"), token("b", "y")], 1)
    assert story(actions) == ["a: 1", "a: failed", "StopOnServer", "b: x|y"]
    assert failures(actions)["a"].message == "stream_token message: token must be text (got int)"
    assert of_kind(actions, StopOnServer) == [StopOnServer("a")]


def test_a_token_of_the_wrong_type_for_nobody_is_ignored() -> None:
    session = logged_in()
    assert session.receive([token("nobody", 5)], 1) == []
    assert session.ignored_messages == 1


@pytest.mark.parametrize("id", [None, 5, 1.5, True, [], {}, ["a"], ""])
def test_tokens_with_an_id_that_is_no_text_belong_to_nobody(id: Any) -> None:
    session = logged_in()
    opened(session, request("a"))
    actions = session.receive([token("a", "1"), {"type": "pong"}, token(id, "stray"), token("a", "2")], 1)
    assert "".join(action.text for action in of_kind(actions, Tokens)) == "12"
    assert session.ignored_messages == 2


def test_a_token_with_a_null_id_right_after_another_message_belongs_to_nobody() -> None:
    session = logged_in()
    opened(session, request("a"))
    session.receive([token("a", "1"), {"type": "pong"}, token(None, "stray")], 1)
    assert session.tokens == 1


@pytest.mark.parametrize("id", [["a"], {"a": 1}])
def test_an_id_that_cannot_be_hashed_is_no_id(id: Any) -> None:
    session = logged_in()
    opened(session, request("a", MODELS))
    session.receive([token(id, "x"), {"type": "models_result", "id": id}, {"type": "stream_end", "id": id}], 1)
    assert session.requests.get("a") is not None
    assert session.ignored_messages == 3


def test_a_malformed_message_with_an_id_fails_its_request() -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    actions = session.receive([{"type": "models_result", "id": "m", "models": 5}], 1)
    assert isinstance(failures(actions)["m"], ProtocolError)


def test_a_malformed_end_comes_after_the_tokens_before_it() -> None:
    session = logged_in()
    opened(session, request("a"))
    actions = session.receive([token("a", "1"), {"type": "stream_end", "id": "a", "totalTokens": "many"}], 1)
    assert story(actions) == ["a: 1", "a: failed", "StopOnServer"]


@pytest.mark.parametrize(
    "value",
    [5, None, [], "text", {}, {"type": "models_result", "models": 5}, ProtocolError("a message is not JSON")],
)
def test_a_malformed_message_without_an_id_is_an_error_of_nobody(value: Any) -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    assert isinstance(only(session.receive([value], 1), StrayError).error, ProtocolError)
    assert session.requests.get("m") is not None
    assert session.is_ready


def test_an_error_without_an_id_is_an_error_of_nobody() -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    error = only(
        session.receive([{"type": "error", "error": "Server error: x", "code": "server_error"}], 1), StrayError
    )
    assert isinstance(error.error, ServerError)
    assert session.requests.get("m") is not None


@pytest.mark.parametrize(
    "message",
    [
        {"type": "pong", "id": "x"},
        {"type": "pong"},
        {"type": "models_result", "id": "x"},
        {"type": "ack", "id": "x"},
        {"type": "stream_start", "id": "x"},
        {"type": "stream_token", "id": "x", "token": "t"},
        {"type": "stream_token", "id": None, "token": "t"},
        {"type": "stream_token", "token": "t"},
        {"type": "stream_token", "id": "x", "token": "t", "kind": "thinking"},
        {"type": "stream_end", "id": "x"},
        {"type": "error", "id": "x", "error": "no"},
        {"type": "frobnicate", "id": "x"},
        {"type": "frobnicate"},
        {"type": 5},
        {"type": None},
    ],
)
def test_unknown_ids_and_types_are_ignored_and_counted(message: dict[str, Any]) -> None:
    session = logged_in()
    assert session.receive([message], 1) == []
    assert (session.messages_received, session.ignored_messages) == (3, 1)


@pytest.mark.parametrize("kind", ["stream_start", "stream_end", "stream_token"])
def test_a_streams_message_for_a_request_that_is_no_generation_is_ignored(kind: str) -> None:
    session = logged_in()
    opened(session, request("m", MODELS))
    assert session.receive([{"type": kind, "id": "m", "token": "t"}], 1) == []
    assert session.ignored_messages == 1
    assert session.requests.get("m") is not None
