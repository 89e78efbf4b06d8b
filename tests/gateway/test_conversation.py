"""The conversation: messages in, answers out, without a socket."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from wsclient.core.json_values import decode_values
from wsclient.gateway.conversation import (
    Close,
    Conversation,
    Generate,
    ListModels,
    Phase,
    RunBatch,
    Send,
    Step,
    StopGeneration,
    Verify,
)
from wsclient.gateway.guard import Refusal
from wsclient.gateway.settings import GatewaySettings
from wsclient.version import __version__

CHALLENGE = "c" * 64
LOGIN = {"type": "authenticate", "clientId": "me", "signature": "s"}


def fresh(open_everywhere: Counter[str] | None = None, **settings: Any) -> Conversation:
    return Conversation(
        GatewaySettings(**settings), CHALLENGE, open_everywhere if open_everywhere is not None else Counter()
    )


@pytest.fixture
def talk() -> Conversation:
    """A conversation with a client that has logged in."""
    return logged_in()


def logged_in(open_everywhere: Counter[str] | None = None, **settings: Any) -> Conversation:
    talk = fresh(open_everywhere, **settings)
    talk.receive(LOGIN)
    talk.accept("me")
    return talk


def wire(steps: list[Step]) -> list[Any]:
    """Return steps with messages as they go over the wire."""
    return [step.message.to_wire() if isinstance(step, Send) else step for step in steps]


def generate(talk: Conversation, id: Any = "g", **fields: Any) -> list[Step]:
    return talk.receive({"type": "generate", "id": id, "prompt": "p", **fields})


# --- login ------------------------------------------------------------------------------------------------------------


def test_the_server_speaks_first() -> None:
    assert wire(fresh().open()) == [{"type": "challenge", "challenge": CHALLENGE}]


def test_a_login_has_its_signature_verified_over_the_challenge() -> None:
    talk = fresh()
    assert talk.receive(LOGIN) == [Verify("me", CHALLENGE, "s")]
    assert talk.phase is Phase.VERIFYING


def test_a_right_login_hears_who_the_server_is_and_what_it_takes() -> None:
    talk = fresh(max_message_size=65536)
    talk.receive(LOGIN)
    server = {"name": "wsclient-gateway", "version": __version__}
    expected = {"type": "auth_result", "success": True, "server": server, "maxMessageBytes": 65536}
    assert wire(talk.accept("me")) == [expected]
    assert (talk.phase, talk.client_id) == (Phase.LOGGED_IN, "me")


def test_a_wrong_login_hears_how_many_attempts_remain_and_is_closed_with_4000() -> None:
    talk = fresh()
    talk.receive(LOGIN)
    refused = {
        "type": "auth_result",
        "success": False,
        "error": "Invalid signature",
        "code": "invalid_auth",
        "remainingAttempts": 3,
    }
    assert wire(talk.refuse(Refusal(3))) == [refused, Close(4000, "auth failed")]
    assert talk.phase is Phase.OVER


def test_a_blocked_login_hears_when_to_come_back_and_is_closed_with_4002() -> None:
    talk = fresh()
    talk.receive(LOGIN)
    refused = {
        "type": "auth_result",
        "success": False,
        "error": "Too many authentication attempts. Please try again in 16 seconds.",
        "code": "rate_limited",
        "retryAfter": 16,
    }
    assert wire(talk.refuse(Refusal(0, 16))) == [refused, Close(4002, "rate limited")]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"clientId": "me"},
        {"signature": "s"},
        {"clientId": "", "signature": "s"},
        {"clientId": "me", "signature": ""},
        {"clientId": None, "signature": "s"},
        {"clientId": 0, "signature": "s"},
    ],
)
def test_missing_login_data_leaves_the_challenge_usable(fields: dict[str, Any]) -> None:
    talk = fresh()
    refused = {
        "type": "auth_result",
        "success": False,
        "error": "Invalid authentication data",
        "code": "invalid_auth",
    }
    assert wire(talk.receive({"type": "authenticate", **fields})) == [refused]
    assert talk.receive(LOGIN) == [Verify("me", CHALLENGE, "s")]


@pytest.mark.parametrize("fields", [{"clientId": {"a": 1}, "signature": "s"}, {"clientId": "me", "signature": 123}])
def test_login_data_of_odd_types_is_judged_like_any_other(fields: dict[str, Any]) -> None:
    (step,) = fresh().receive({"type": "authenticate", **fields})
    assert isinstance(step, Verify)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "models", "id": "m"},
        {"type": "generate", "id": "m", "prompt": "x"},
        {"type": "batch", "id": "m", "messages": [LOGIN]},
        {"type": "nonsense", "id": "m"},
    ],
)
def test_anything_else_before_the_login_is_refused_and_the_connection_stays(value: Any) -> None:
    talk = fresh()
    refused = {"type": "error", "id": "m", "error": "Not authenticated", "code": "invalid_auth"}
    assert wire(talk.receive(value)) == [refused]
    assert talk.phase is Phase.LOGIN


@pytest.mark.parametrize("value", [[], 42, "text", True, {"id": {"a": 1}}])
def test_what_is_no_message_before_the_login_is_refused_too(value: Any) -> None:
    (answer,) = wire(fresh().receive(value))
    assert (answer["error"], answer["code"]) == ("Not authenticated", "invalid_auth")


def test_a_stranger_may_send_four_messages() -> None:
    talk = fresh()
    for _ in range(4):
        assert isinstance(talk.receive({"type": "ping"})[0], Send)
    assert talk.receive(LOGIN) == [Close(1008, "too many messages before the login")]
    assert talk.receive(LOGIN) == []


def test_what_comes_while_the_signature_is_verified_is_answered_afterwards_in_order() -> None:
    talk = fresh()
    talk.receive(LOGIN)
    assert talk.receive({"type": "ping", "id": 1}) == []
    assert talk.receive(LOGIN) == []
    answers = wire(talk.accept("me"))
    assert [answer["type"] for answer in answers] == ["auth_result", "pong", "auth_result"]
    assert answers[1]["id"] == 1
    assert answers[2]["error"] == "Challenge expired or invalid"


def test_what_came_before_a_refusal_is_never_answered() -> None:
    talk = fresh()
    talk.receive(LOGIN)
    talk.receive({"type": "ping", "id": 1})
    assert len(talk.refuse(Refusal(4))) == 2
    assert talk.receive({"type": "ping", "id": 2}) == []


def test_a_login_that_takes_too_long_is_told_so_and_closed_with_4001() -> None:
    timed_out = {"type": "error", "error": "Authentication timeout", "code": "auth_timeout"}
    assert wire(fresh().time_out_login()) == [timed_out, Close(4001, "login took too long")]


def test_a_verdict_that_comes_after_the_time_changes_nothing() -> None:
    talk = fresh()
    talk.receive(LOGIN)
    talk.time_out_login()
    assert talk.accept("me") == []
    assert talk.refuse(Refusal(4)) == []
    assert talk.client_id is None


def test_who_has_logged_in_has_no_time_limit(talk: Conversation) -> None:
    assert talk.time_out_login() == []
    assert talk.phase is Phase.LOGGED_IN


def test_a_second_login_is_refused_and_the_first_one_stays(talk: Conversation) -> None:
    refused = {
        "type": "auth_result",
        "success": False,
        "error": "Challenge expired or invalid",
        "code": "auth_timeout",
    }
    assert wire(talk.receive(LOGIN)) == [refused]
    assert wire(talk.receive({"type": "ping", "id": 1})) == [{"type": "pong", "id": 1}]


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["p1", "", 7, 0, 1.5, None, True, {"a": [1]}, ["x"]])
def test_an_id_of_any_kind_comes_back_as_it_was(talk: Conversation, id: Any) -> None:
    assert wire(talk.receive({"type": "ping", "id": id, "timestamp": 123})) == [{"type": "pong", "id": id}]
    assert talk.receive({"type": "models", "id": id}) == [ListModels(id)]


def test_a_request_without_an_id_is_answered_without_one(talk: Conversation) -> None:
    assert wire(talk.receive({"type": "ping"})) == [{"type": "pong"}]


def test_a_generation_starts_with_the_model_that_was_asked_for(talk: Conversation) -> None:
    started, step = generate(talk, model="tiny:1b", options={"max_tokens": 5, "system": "Be brief"})
    assert wire([started]) == [{"type": "stream_start", "id": "g", "model": "tiny:1b"}]
    assert isinstance(step, Generate)
    assert (step.request.model, step.request.prompt) == ("tiny:1b", "p")
    assert (step.request.options, step.request.fields) == ({"num_predict": 5}, {"system": "Be brief"})


@pytest.mark.parametrize("model", [{}, {"model": ""}, {"model": None}])
def test_a_generation_without_a_model_gets_the_default_one(model: dict[str, Any]) -> None:
    started, _ = generate(logged_in(default_model="mine"), **model)
    assert wire([started])[0]["model"] == "mine"


@pytest.mark.parametrize("id", [5, {"a": 1}, True, [], {}])
def test_what_javascript_takes_for_true_is_an_id(talk: Conversation, id: Any) -> None:
    assert wire(generate(talk, id))[0] == {"type": "stream_start", "id": id, "model": "llama2"}


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "e"},
        {"id": "e", "prompt": ""},
        {"id": "e", "prompt": None},
        {"id": "e", "prompt": 0},
        {"id": "", "prompt": "x"},
        {"id": 0, "prompt": "x"},
        {"id": None, "prompt": "x"},
        {"id": False, "prompt": "x"},
    ],
)
def test_a_generation_needs_an_id_and_a_prompt(talk: Conversation, fields: dict[str, Any]) -> None:
    expected = {"type": "error", "id": fields["id"], "error": "Missing required fields", "code": "invalid_request"}
    assert wire(talk.receive({"type": "generate", **fields})) == [expected]


def test_a_generation_without_any_id_is_refused_without_one(talk: Conversation) -> None:
    assert "id" not in wire(talk.receive({"type": "generate", "prompt": "x"}))[0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": 42}, "prompt must be a text"),
        ({"prompt": ["a"]}, "prompt must be a text"),
        ({"model": 5}, "model must be a text"),
        ({"options": {"temperature": "hot"}}, 'temperature must be a number >= 0 (got "hot")'),
    ],
)
def test_a_generation_with_fields_of_the_wrong_type_is_refused(
    talk: Conversation, fields: dict[str, Any], text: str
) -> None:
    expected = {"type": "error", "id": "g", "error": text, "code": "invalid_request"}
    assert wire(generate(talk, **fields)) == [expected]


def test_a_huge_id_is_not_repeated_with_every_token(talk: Conversation) -> None:
    expected = {"type": "error", "error": "id must be at most 1024 characters long", "code": "invalid_request"}
    assert wire(generate(talk, "x" * 1025)) == [expected]
    assert len(generate(talk, "x" * 1000)) == 2


def test_a_draining_gateway_begins_no_generation_but_answers_the_rest(talk: Conversation) -> None:
    talk.is_draining = True
    expected = {"type": "error", "id": "g", "error": "The gateway is shutting down", "code": "server_busy"}
    assert wire(generate(talk)) == [expected]
    assert wire(talk.receive({"type": "ping", "id": 1})) == [{"type": "pong", "id": 1}]


@pytest.mark.parametrize("kind", [{"type": "models"}, {"type": "generate", "prompt": "x"}, {"type": "batch"}])
def test_a_crowded_connection_gets_no_further_request(kind: dict[str, Any]) -> None:
    talk = logged_in(max_open_requests=7)
    text = "More than 7 requests are open on this connection"
    expected = {"type": "error", "id": "r", "error": text, "code": "server_busy"}
    assert wire(talk.receive({"id": "r", **kind}, is_crowded=True)) == [expected]


def test_a_crowded_connection_can_still_ping_and_stop(talk: Conversation) -> None:
    generate(talk, "g")
    assert wire(talk.receive({"type": "ping"}, is_crowded=True)) == [{"type": "pong"}]
    assert StopGeneration('"g"') in talk.receive({"type": "stop", "requestId": "g"}, is_crowded=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"type": "frobnicate"}, "frobnicate"),
        ({"type": "GENERATE"}, "GENERATE"),
        ({"type": "challenge"}, "challenge"),
        ({"type": 5}, "5"),
        ({"type": None}, "null"),
        ({"type": True}, "true"),
        ({"type": {}}, "[object Object]"),
        ({}, "undefined"),
        ([], "undefined"),
        ([{"type": "ping"}], "undefined"),
        (42, "undefined"),
        ("ping", "undefined"),
    ],
)
def test_an_unknown_type_is_named_as_the_original_names_it(talk: Conversation, value: Any, shown: str) -> None:
    expected = {"type": "error", "error": f"Unsupported message type: {shown}", "code": "invalid_request"}
    assert wire(talk.receive(value)) == [expected]


def test_an_unknown_type_is_shortened_and_harmless_to_a_terminal(talk: Conversation) -> None:
    (answer,) = wire(talk.receive({"type": "\x1b[2J" + "x" * 5000, "id": "u"}))
    assert answer["id"] == "u"
    assert len(answer["error"]) < 200
    assert "\x1b" not in answer["error"]


@pytest.mark.parametrize("text", [b"hello", b'{"type":"ping"', b"", b"\xef\xbb\xbf{}", b"NaN", b"[" * 100_000])
def test_what_is_not_json_is_a_server_error_without_its_text(talk: Conversation, text: bytes) -> None:
    (answer,) = wire(talk.receive(decode_values([text])[0]))
    assert (answer["type"], answer["code"]) == ("error", "server_error")
    assert answer["error"].startswith("Server error: ")
    assert "hello" not in answer["error"]


def test_null_is_a_server_error_before_and_after_the_login(talk: Conversation) -> None:
    for conversation in (talk, fresh()):
        (answer,) = wire(conversation.receive(None))
        assert answer["error"].startswith("Server error: ")
        assert answer["code"] == "server_error"


def test_a_batch_is_taken_whole(talk: Conversation) -> None:
    messages = [{"type": "ping"}, None, 5]
    assert talk.receive({"type": "batch", "id": "b", "messages": messages}) == [RunBatch(messages)]


@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"messages": {"a": 1}}, {"messages": "abc"}])
def test_a_batch_of_nothing_is_met_with_silence(talk: Conversation, fields: dict[str, Any]) -> None:
    assert talk.receive({"type": "batch", "id": "b", **fields}) == []


# --- stop -------------------------------------------------------------------------------------------------------------


def stop(talk: Conversation, request_id: Any, id: Any = "s") -> list[Any]:
    return wire(talk.receive({"type": "stop", "id": id, "requestId": request_id}))


NO_SUCH = {"type": "error", "id": "s", "error": "No active generation with that ID", "code": "invalid_request"}


def test_a_stop_is_acknowledged_before_it_is_carried_out(talk: Conversation) -> None:
    generate(talk, "g")
    acknowledged = {"type": "ack", "id": "s", "requestId": "g", "action": "stop"}
    assert stop(talk, "g") == [acknowledged, StopGeneration('"g"')]


def test_a_stop_of_an_unknown_generation_is_an_error(talk: Conversation) -> None:
    assert stop(talk, "nope") == [NO_SUCH]


def test_a_generation_that_has_ended_cannot_be_stopped(talk: Conversation) -> None:
    generate(talk, "g")
    talk.end_generation('"g"')
    assert stop(talk, "g") == [NO_SUCH]


def test_a_stop_without_a_request_id_is_an_error_even_when_its_own_id_is_a_generations(talk: Conversation) -> None:
    generate(talk, "g")
    expected = {"type": "error", "id": "g", "error": "Missing requestId", "code": "invalid_request"}
    assert wire(talk.receive({"type": "stop", "id": "g"})) == [expected]
    assert stop(talk, "", "g") == [expected]


def test_a_generation_belongs_to_its_connection() -> None:
    everywhere: Counter[str] = Counter()
    mine, other = logged_in(everywhere), logged_in(everywhere)
    generate(other, "g")
    expected = {**NO_SUCH, "error": "Not authorized to stop this generation"}
    assert stop(mine, "g") == [expected]
    other.end_generation('"g"')
    assert stop(mine, "g") == [NO_SUCH]
    assert not everywhere


def test_two_connections_may_use_the_same_id() -> None:
    everywhere: Counter[str] = Counter()
    mine, other = logged_in(everywhere), logged_in(everywhere)
    generate(other, "g")
    generate(mine, "g")
    assert StopGeneration('"g"') in stop(mine, "g")
    mine.end_generation('"g"')
    assert StopGeneration('"g"') in stop(other, "g")


def test_an_id_used_twice_stays_open_until_both_generations_have_ended(talk: Conversation) -> None:
    generate(talk, "g")
    generate(talk, "g")
    talk.end_generation('"g"')
    assert StopGeneration('"g"') in stop(talk, "g")
    talk.end_generation('"g"')
    assert stop(talk, "g") == [NO_SUCH]


def test_a_number_and_its_digits_are_different_ids(talk: Conversation) -> None:
    generate(talk, 5)
    assert stop(talk, "5") == [NO_SUCH]
    assert StopGeneration("5") in stop(talk, 5)


def test_steps_show_neither_prompts_nor_signatures(talk: Conversation) -> None:
    shown = repr(generate(talk, prompt="secret")) + repr(fresh().receive({**LOGIN, "signature": "secret"}))
    assert "secret" not in shown
