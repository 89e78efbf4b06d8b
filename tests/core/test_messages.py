"""Each message of the protocol, to and from exactly the JSON that protocol documents show, and nothing else gets in."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.core.decoding import decode_client_message, decode_server_message
from wsclient.core.messages import (
    AckMessage,
    AuthenticateMessage,
    AuthResultMessage,
    BatchMessage,
    ChallengeMessage,
    ErrorMessage,
    GenerateMessage,
    ModelsMessage,
    ModelsResultMessage,
    PingMessage,
    PongMessage,
    StopMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
    UnknownMessage,
    encode_tokens,
)
from wsclient.errors import (
    AuthTimeoutError,
    InvalidAuthError,
    ProtocolError,
    RateLimitedError,
    ServerBusyError,
    WSClientError,
)

TS = 1795372525641
CHALLENGE = "326443b50f43f1d449abcf167fb40ea2d8140884d99d023db639c787d86f9285"
fast = settings(deadline=None, database=None, max_examples=100)

CLIENT = [
    (
        AuthenticateMessage(client_id="a242404e", signature="rLyoafV+/Q=="),
        {"type": "authenticate", "clientId": "a242404e", "signature": "rLyoafV+/Q=="},
    ),
    (ModelsMessage(id="models_1"), {"type": "models", "id": "models_1"}),
    (GenerateMessage(id="g", prompt="Hi"), {"type": "generate", "id": "g", "prompt": "Hi"}),
    (
        GenerateMessage(id="g", prompt="Hi", model="llama2", options={"temperature": 0.7, "options": {"top_k": 3}}),
        {
            "type": "generate",
            "id": "g",
            "prompt": "Hi",
            "model": "llama2",
            "options": {"temperature": 0.7, "options": {"top_k": 3}},
        },
    ),
    (StopMessage(id="stop_1", request_id="g"), {"type": "stop", "id": "stop_1", "requestId": "g"}),
    (PingMessage(id="ping_1"), {"type": "ping", "id": "ping_1"}),
    (
        BatchMessage(id="batch_1", messages=[{"type": "ping", "id": "p"}]),
        {"type": "batch", "id": "batch_1", "messages": [{"type": "ping", "id": "p"}]},
    ),
]

SERVER = [
    (ChallengeMessage(challenge=CHALLENGE), {"type": "challenge", "challenge": CHALLENGE}),
    (AuthResultMessage(success=True), {"type": "auth_result", "success": True}),
    (
        AuthResultMessage(success=True, server={"name": "wsclient-gateway", "version": "1"}, max_message_bytes=1 << 20),
        {
            "type": "auth_result",
            "success": True,
            "server": {"name": "wsclient-gateway", "version": "1"},
            "maxMessageBytes": 1 << 20,
        },
    ),
    (
        AuthResultMessage(success=False, error="Invalid signature", remaining_attempts=4),
        {"type": "auth_result", "success": False, "error": "Invalid signature", "remainingAttempts": 4},
    ),
    (
        AuthResultMessage(success=False, error="Too many authentication attempts.", retry_after=16),
        {"type": "auth_result", "success": False, "error": "Too many authentication attempts.", "retryAfter": 16},
    ),
    (
        ModelsResultMessage(
            id="m", models=[{"name": "llama2:latest", "size": 3826793677, "details": {"families": None}}]
        ),
        {
            "id": "m",
            "type": "models_result",
            "models": [{"name": "llama2:latest", "size": 3826793677, "details": {"families": None}}],
        },
    ),
    (
        ModelsResultMessage(id="m", models=["llama2", "mistral"]),
        {"id": "m", "type": "models_result", "models": ["llama2", "mistral"]},
    ),
    (StreamStartMessage(id="g", model="llama2"), {"id": "g", "type": "stream_start", "model": "llama2"}),
    (StreamTokenMessage(id="g", token=" t000"), {"id": "g", "type": "stream_token", "token": " t000"}),
    (
        StreamTokenMessage(id="g", token="Hm", kind="thinking"),
        {"id": "g", "type": "stream_token", "token": "Hm", "kind": "thinking"},
    ),
    (
        StreamEndMessage(id="g", total_tokens=5, elapsed_time=18),
        {"id": "g", "type": "stream_end", "totalTokens": 5, "elapsedTime": 18},
    ),
    (StreamEndMessage(id="g", is_cancelled=True), {"id": "g", "type": "stream_end", "isCancelled": True}),
    (
        StreamEndMessage(
            id="g",
            total_tokens=5,
            elapsed_time=18.5,
            is_cancelled=False,
            usage={
                "promptTokens": 3,
                "completionTokens": 5,
                "doneReason": "stop",
                "totalDuration": 18.5,
                "loadDuration": 1,
                "evalDuration": 9,
            },
        ),
        {
            "id": "g",
            "type": "stream_end",
            "totalTokens": 5,
            "elapsedTime": 18.5,
            "isCancelled": False,
            "usage": {
                "promptTokens": 3,
                "completionTokens": 5,
                "doneReason": "stop",
                "totalDuration": 18.5,
                "loadDuration": 1,
                "evalDuration": 9,
            },
        },
    ),
    (AckMessage(id="s", request_id="g"), {"id": "s", "type": "ack", "requestId": "g", "action": "stop"}),
    (PongMessage(id="p"), {"id": "p", "type": "pong"}),
    (
        ErrorMessage(id="g", error="Generation failed: Premature close", code="generation_error"),
        {"id": "g", "type": "error", "error": "Generation failed: Premature close", "code": "generation_error"},
    ),
    (
        ErrorMessage(id="g", error="Missing required fields"),
        {"type": "error", "id": "g", "error": "Missing required fields"},
    ),
    (
        ErrorMessage(error="Not authenticated", code="unauthorized"),
        {"type": "error", "error": "Not authenticated", "code": "unauthorized"},
    ),
    (
        ErrorMessage(id="g", error="slow down", code="rate_limited", retry_after=2.5),
        {"type": "error", "id": "g", "error": "slow down", "code": "rate_limited", "retryAfter": 2.5},
    ),
]


def named(pairs: list[tuple[Any, dict[str, Any]]]) -> list[Any]:
    return [pytest.param(message, wire, id=f"{i}-{wire['type']}") for i, (message, wire) in enumerate(pairs)]


# --- the JSON of each message -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "wire"), named(CLIENT + SERVER))
def test_a_message_encodes_to_exactly_the_json_of_the_protocol(message: Any, wire: dict[str, Any]) -> None:
    assert message.to_wire() == wire
    assert json.loads(message.encode()) == wire
    assert json.loads(message.encode(TS)) == {**wire, "timestamp": TS}


@pytest.mark.parametrize(("message", "wire"), named(CLIENT))
def test_the_gateway_reads_a_clients_message_from_that_json(message: Any, wire: dict[str, Any]) -> None:
    assert decode_client_message({**wire, "timestamp": TS}) == message
    assert decode_client_message(wire) == message


@pytest.mark.parametrize(("message", "wire"), named(SERVER))
def test_the_client_reads_a_servers_message_from_that_json(message: Any, wire: dict[str, Any]) -> None:
    assert decode_server_message({**wire, "timestamp": TS}) == message
    assert decode_server_message(wire) == message


def test_these_are_all_messages_of_the_protocol() -> None:
    assert {wire["type"] for _, wire in CLIENT} == {"authenticate", "models", "generate", "stop", "ping", "batch"}
    assert {wire["type"] for _, wire in SERVER} == {
        *("challenge", "auth_result", "models_result", "stream_start", "stream_token", "stream_end"),
        *("ack", "pong", "error"),
    }


@pytest.mark.parametrize(("message", "wire"), named(CLIENT + SERVER))
def test_fields_that_we_do_not_know_are_ignored(message: Any, wire: dict[str, Any]) -> None:
    decode = decode_client_message if (message, wire) in CLIENT else decode_server_message
    more = {**wire, "timestamp": "never relied on", "future": [1, {"x": None}], "to_wire": 1, "": 0}
    assert decode(more) == message


@pytest.mark.parametrize(("message", "wire"), named(CLIENT + SERVER))
def test_messages_pickle_and_copy_and_keep_what_is_absent_absent(message: Any, wire: dict[str, Any]) -> None:
    for twin in (pickle.loads(pickle.dumps(message)), copy.copy(message), copy.deepcopy(message)):
        assert twin == message
        assert twin.to_wire() == wire


@pytest.mark.parametrize(("message", "wire"), named(CLIENT + SERVER))
def test_fields_are_given_by_name_and_never_change(message: Any, wire: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="positional"):
        type(message)("g")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.id = "other"


def test_encoded_text_is_ascii_on_one_line_without_spaces() -> None:
    text = GenerateMessage(id="g", prompt="naïve\n😀 \u2028\x00").encode(1)
    assert text == ('{"type":"generate","id":"g","prompt":"na\\u00efve\\n\\ud83d\\ude00 \\u2028\\u0000","timestamp":1}')


def test_a_lone_surrogate_in_a_prompt_never_becomes_invalid_utf8() -> None:
    text = GenerateMessage(id="g", prompt="half \ud83d").encode()
    assert json.loads(text.encode("utf-8"))["prompt"] == "half \ud83d"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_json_is_never_sent(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        GenerateMessage(id="g", prompt="p", options={"temperature": number}).encode()


# --- optional fields --------------------------------------------------------------------------------------------------

OPTIONAL = {
    "auth_result": (
        {"success": False},
        ["error", "code", "remainingAttempts", "retryAfter", "server", "maxMessageBytes"],
    ),
    "models_result": ({}, ["id", "models"]),
    "stream_start": ({}, ["id", "model"]),
    "stream_token": ({"token": ""}, ["id", "kind"]),
    "stream_end": ({}, ["id", "totalTokens", "elapsedTime", "isCancelled", "usage"]),
    "ack": ({}, ["id", "requestId", "action"]),
    "pong": ({}, ["id"]),
    "error": ({}, ["id", "error", "code", "retryAfter"]),
}


@pytest.mark.parametrize("kind", OPTIONAL)
def test_an_optional_field_may_be_absent_or_null_alike(kind: str) -> None:
    needed, optional = OPTIONAL[kind]
    bare = decode_server_message({"type": kind, **needed})
    for field in optional:
        assert decode_server_message({"type": kind, **needed, field: None}) == bare, field
    assert decode_server_message({"type": kind, **needed, **dict.fromkeys(optional)}) == bare


def test_absent_fields_that_have_a_default_get_it() -> None:
    assert decode_server_message({"type": "models_result"}).models == []  # type: ignore[union-attr]
    assert decode_server_message({"type": "ack"}).action == "stop"  # type: ignore[union-attr]
    assert decode_server_message({"type": "error"}).error == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [0, -1.5, sys.float_info.max, -sys.float_info.max, int(sys.float_info.max)])
def test_a_time_may_be_any_number_that_a_float_holds(number: float) -> None:
    assert decode_server_message({"type": "stream_end", "elapsedTime": number}) == StreamEndMessage(elapsed_time=number)


def test_a_stream_end_may_be_encoded_with_nulls() -> None:
    wire = StreamEndMessage(id="g", total_tokens=None, elapsed_time=None).to_wire()
    assert wire == {"type": "stream_end", "id": "g", "totalTokens": None, "elapsedTime": None}
    assert decode_server_message(wire) == StreamEndMessage(id="g")


@pytest.mark.parametrize("id", [None, 7, 1.5, True, [], {}])
def test_an_id_that_is_not_text_counts_as_absent_for_the_client(id: Any) -> None:
    # The client only makes ids that are text, so this one answers nothing of its own.
    assert decode_server_message({"type": "pong", "id": id}) == PongMessage()


@pytest.mark.parametrize("id", [None, 7, 1.5, True, [1], {"a": 1}, ""])
def test_the_gateway_keeps_an_id_of_any_type_to_echo_it(id: Any) -> None:
    message = decode_client_message({"type": "ping", "id": id})
    assert message == PingMessage(id=id)
    assert json.loads(PongMessage(id=message.id).encode()) == {"type": "pong", "id": id}


@pytest.mark.parametrize(("message", "wire"), named(CLIENT))
def test_the_gateway_tells_an_absent_field_from_a_null(message: Any, wire: dict[str, Any]) -> None:
    bare = decode_client_message({"type": wire["type"]})
    assert bare == type(message)()
    for field in attrs.fields(type(message)):
        assert getattr(bare, field.name) is attrs.NOTHING
    nulls = decode_client_message(dict.fromkeys(wire, None) | {"type": wire["type"]})
    assert nulls.to_wire() == dict.fromkeys(wire, None) | {"type": wire["type"]}  # type: ignore[union-attr]


@given(
    wire=st.dictionaries(st.sampled_from(["id", "prompt", "model", "options", "requestId", "messages"]), st.integers())
)
@fast
def test_the_gateway_takes_fields_of_any_type_as_they_are(wire: dict[str, Any]) -> None:
    for kind in ("authenticate", "models", "generate", "stop", "ping", "batch"):
        message = decode_client_message({"type": kind, **wire})
        sent = message.to_wire()  # type: ignore[union-attr]
        assert sent.pop("type") == kind
        assert sent.items() <= wire.items()


# --- wrong messages ---------------------------------------------------------------------------------------------------

WRONG = [
    ("challenge", "challenge", "text", [None, 1, True, [], {}]),
    ("auth_result", "success", "true or false", [None, 1, 0, "true", []]),
    ("auth_result", "error", "text", [1, True, [], {}]),
    ("auth_result", "code", "text", [1]),
    ("auth_result", "remainingAttempts", "a whole number", ["4", 4.0, True]),
    ("auth_result", "retryAfter", "seconds", ["16", True, [], 10**400, -(10**400), float("inf"), float("nan")]),
    ("auth_result", "server", "an object", ["x", []]),
    ("auth_result", "maxMessageBytes", "a whole number", ["1", 1.5, False]),
    ("models_result", "models", "a list", ["llama2", {}, 1]),
    ("stream_start", "model", "text", [1, {}]),
    ("stream_token", "token", "text", [None, 1, ["a"], {"text": "a"}]),
    ("stream_token", "kind", "text", [1]),
    ("stream_end", "totalTokens", "a whole number", ["5", 5.5, True]),
    ("stream_end", "elapsedTime", "milliseconds", ["18", False, 10**400, float("inf")]),
    ("stream_end", "isCancelled", "true or false", ["true", 1, 0]),
    ("stream_end", "usage", "an object", [[], "x", 1]),
    ("ack", "requestId", "text", [1, []]),
    ("ack", "action", "text", [1]),
    ("error", "error", "text", [1, {"message": "x"}]),
    ("error", "code", "text", [404]),
    ("error", "retryAfter", "seconds", ["1", True, 10**400]),
]
NEEDED = {"auth_result": {"success": True}, "stream_token": {"token": "a"}}


@pytest.mark.parametrize(
    ("kind", "field", "what", "value"),
    [(kind, field, what, value) for kind, field, what, values in WRONG for value in values],
    ids=lambda value: str(value)[:20],
)
def test_a_field_of_the_wrong_type_is_an_error_that_names_message_and_field(
    kind: str, field: str, what: str, value: Any
) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_server_message({"type": kind, "id": "g7", **NEEDED.get(kind, {}), field: value})
    assert caught.value.message == f"{kind} message: {field} must be {what} (got {type(value).__name__})"
    assert caught.value.id == "g7"


@pytest.mark.parametrize(
    ("kind", "field"), [("challenge", "challenge"), ("auth_result", "success"), ("stream_token", "token")]
)
def test_a_field_that_is_needed_may_not_be_absent(kind: str, field: str) -> None:
    with pytest.raises(ProtocolError, match=rf"^{kind} message: {field} must be "):
        decode_server_message({"type": kind})


@pytest.mark.parametrize("decode", [decode_server_message, decode_client_message])
@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [{"type": "pong"}]])
def test_a_message_must_be_an_object(decode: Any, value: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(value)
    assert caught.value.message == f"a message must be a JSON object (got {type(value).__name__})"


@pytest.mark.parametrize("decode", [decode_server_message, decode_client_message])
def test_what_was_not_json_is_raised_as_it_was_reported(decode: Any) -> None:
    error = ProtocolError("a message is not JSON: Expecting value at character 0")
    with pytest.raises(ProtocolError) as caught:
        decode(error)
    assert caught.value is error


def test_a_servers_message_must_have_a_type() -> None:
    with pytest.raises(ProtocolError, match="a message has no type"):
        decode_server_message({"id": "g"})


@pytest.mark.parametrize("kind", ["shutdown", "", "Pong", "pong ", "generate", None, 1, ["pong"], {"a": 1}, True])
def test_a_type_that_a_server_never_sends_is_unknown_to_the_client(kind: Any) -> None:
    assert decode_server_message({"type": kind, "id": "x"}) == UnknownMessage(type=kind, id="x")


@pytest.mark.parametrize("kind", ["chat", "", "Ping", "pong", "challenge", None, 1, ["ping"], {"a": 1}, True])
def test_a_type_that_a_client_never_sends_is_unknown_to_the_gateway(kind: Any) -> None:
    assert decode_client_message({"type": kind, "id": "x"}) == UnknownMessage(type=kind, id="x")
    assert decode_client_message({"type": kind}) == UnknownMessage(type=kind)


def test_a_message_without_a_type_is_unknown_to_the_gateway() -> None:
    assert decode_client_message({}) == UnknownMessage()
    assert decode_client_message({}).type is attrs.NOTHING  # type: ignore[union-attr]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["generation_error", "rate_limited", "model 'x' not found"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
fields = st.sampled_from(
    sorted({"id", "type"}.union(*(optional for _, optional in OPTIONAL.values()))) + ["challenge", "success", "token"]
)
kinds = st.sampled_from(["challenge", *OPTIONAL]) | json_values


@given(wire=st.dictionaries(fields, json_values), kind=kinds)
@settings(parent=fast, max_examples=300)
def test_any_object_from_a_server_is_a_message_or_a_protocol_error(wire: dict[str, Any], kind: Any) -> None:
    wire = {**wire, "type": kind}
    try:
        message = decode_server_message(wire)
    except ProtocolError as error:
        refused = error
    else:
        if isinstance(message, ErrorMessage | AuthResultMessage):
            assert isinstance(message.to_error(), WSClientError)
        if not isinstance(message, UnknownMessage):
            assert decode_server_message(message.to_wire()) == message
        return
    field = refused.message.removeprefix(f"{kind} message: ").split(" must be ")[0]
    assert field in wire or field in ("challenge", "success", "token")
    # An empty id is none: no request of ours has it.
    assert refused.id == (wire["id"] if isinstance(wire.get("id"), str) and wire["id"] else None)


@given(wire=st.dictionaries(fields, json_values), kind=kinds)
@fast
def test_any_object_from_a_client_is_a_message(wire: dict[str, Any], kind: Any) -> None:
    message = decode_client_message({**wire, "type": kind})
    assert message.type == kind or kind != kind


# --- tokens -----------------------------------------------------------------------------------------------------------

ids = st.one_of(
    st.text(max_size=9), st.none(), st.integers(), st.lists(st.integers()), st.dictionaries(st.text(), st.text())
)


@given(id=ids, tokens=st.lists(st.text(max_size=12), max_size=5), is_thinking=st.booleans())
@fast
def test_encoded_tokens_are_what_encoding_each_message_gives(id: Any, tokens: list[str], is_thinking: bool) -> None:
    kind = {"kind": "thinking"} if is_thinking else {}
    assert encode_tokens(id, iter(tokens), TS, is_thinking=is_thinking) == [
        json.dumps({"id": id, "type": "stream_token", "token": token, **kind, "timestamp": TS}, separators=(",", ":"))
        for token in tokens
    ]


def test_tokens_are_of_the_answer_unless_told_otherwise() -> None:
    assert encode_tokens("g", ["a"], TS) == encode_tokens("g", ["a"], TS, is_thinking=False)


def test_encoded_tokens_come_back_as_messages() -> None:
    tokens = ["", " a", '"\\', "\ud800", "😀", "\x00\x1b", '","kind":"thinking']
    for is_thinking, kind in ((False, attrs.NOTHING), (True, "thinking")):
        texts = encode_tokens("g", tokens, TS, is_thinking=is_thinking)
        assert [decode_server_message(json.loads(text)) for text in texts] == [
            StreamTokenMessage(id="g", token=token, kind=kind) for token in tokens
        ]


# --- what is never shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        ChallengeMessage(challenge="SECRET"),
        AuthenticateMessage(client_id="me", signature="SECRET"),
        GenerateMessage(id="g", prompt="SECRET", options={"system": "SECRET"}),
        StreamTokenMessage(id="g", token="SECRET"),
        BatchMessage(id="b", messages=[{"type": "generate", "prompt": "SECRET"}]),
    ],
    ids=lambda message: message.type,
)
def test_the_repr_shows_no_token_prompt_signature_or_challenge(message: Any) -> None:
    assert "SECRET" in message.encode()
    assert "SECRET" not in repr(message)
    assert "SECRET" not in str(message)
    assert repr(message).startswith(type(message).__name__ + "(")


@pytest.mark.parametrize(("kind", "field", "what", "values"), WRONG)
def test_an_error_about_a_field_never_shows_its_value(kind: str, field: str, what: str, values: list[Any]) -> None:
    secret: Any = ["SECRET"] if what != "a list" else "SECRET"
    with pytest.raises(ProtocolError) as caught:
        decode_server_message({"type": kind, **NEEDED.get(kind, {}), field: secret})
    assert "SECRET" not in f"{caught.value} {caught.value!r}"


# --- errors on the wire -----------------------------------------------------------------------------------------------


def test_an_abort_is_how_the_original_ends_a_stopped_generation() -> None:
    assert ErrorMessage(error="Generation failed: The user aborted a request.", code="generation_error").is_abort()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("Generation failed: Premature close", "generation_error"),
        ("The user aborted a request.", "server_error"),
        ("The user aborted a request.", attrs.NOTHING),
    ],
)
def test_other_errors_are_no_abort(error: str, code: Any) -> None:
    assert not ErrorMessage(error=error, code=code).is_abort()


def test_an_error_message_hands_its_facts_to_the_exception() -> None:
    error = ErrorMessage(id="g", error="slow down", retry_after=2.5).to_error(text="so far")
    assert isinstance(error, RateLimitedError)
    assert (error.message, error.id, error.retry_after, error.text) == ("slow down", "g", 2.5, "so far")


def test_the_code_on_the_wire_decides_the_class() -> None:
    assert isinstance(ErrorMessage(error="x", code="server_busy").to_error(), ServerBusyError)
    assert isinstance(AuthResultMessage(success=False, error="x", code="auth_timeout").to_error(), AuthTimeoutError)


def test_an_error_message_without_an_id_belongs_to_no_request() -> None:
    assert ErrorMessage(error="x").to_error().id is None
    assert ErrorMessage(id="", error="x").to_error().id is None


def test_zero_seconds_to_wait_are_a_rate_limit_too() -> None:
    refusal = AuthResultMessage(success=False, error="Too many authentication attempts.", retry_after=0).to_error()
    assert isinstance(refusal, RateLimitedError)
    assert refusal.retry_after == 0
    assert isinstance(ErrorMessage(error="Too many requests", retry_after=0).to_error(), RateLimitedError)


def test_a_refusal_without_a_word_is_a_refused_login() -> None:
    error = AuthResultMessage(success=False).to_error()
    assert isinstance(error, InvalidAuthError)
    assert error.message == "login refused"
