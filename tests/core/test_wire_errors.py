"""Each row of the protocol's error table, and what an unfriendly text from a server can do: nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.core.wire_errors import bounded, login_error, reason_of, request_error
from wsclient.errors import (
    AuthTimeoutError,
    GenerationIncompleteError,
    InvalidAuthError,
    InvalidRequestError,
    MessageTooBigError,
    ModelNotFoundError,
    RateLimitedError,
    ServerBusyError,
    ServerError,
    WSClientError,
    may_reconnect,
)

fast = settings(deadline=None, database=None, max_examples=150)


def of_request(text: str, code: str = "", retry_after: float | None = None) -> WSClientError:
    return request_error(text, code, retry_after, id="g", text_so_far="")


# --- refused logins ---------------------------------------------------------------------------------------------------

TOO_MANY = "Too many authentication attempts. Please try again in 16 seconds."


@pytest.mark.parametrize(
    ("text", "code", "retry_after", "expected"),
    [
        ("Invalid signature", "", None, InvalidAuthError),
        ("Invalid authentication data", "", None, InvalidAuthError),
        ("Client not found or revoked", "", None, InvalidAuthError),
        ("whatever", "invalid_authentication", None, InvalidAuthError),
        ("whatever", "unauthorized", None, InvalidAuthError),
        ("whatever", "auth_failed", None, InvalidAuthError),
        ("whatever", "invalid_auth", None, InvalidAuthError),
        ("something new", "", None, InvalidAuthError),
        ("something new", "something_new", None, InvalidAuthError),
        ("Challenge expired or invalid", "", None, AuthTimeoutError),
        ("Challenge expired or invalid", "auth_timeout", None, AuthTimeoutError),
        ("too slow", "auth_timeout", None, AuthTimeoutError),
        ("too slow", "authentication_timeout", None, AuthTimeoutError),
        (TOO_MANY, "", 16, RateLimitedError),
        (TOO_MANY, "", 0, RateLimitedError),
        (TOO_MANY, "rate_limited", None, RateLimitedError),
        (TOO_MANY, "invalid_auth", 16, RateLimitedError),
        ("Your registration has expired", "unauthorized", None, InvalidAuthError),
    ],
)
def test_a_refused_login_maps_as_the_table_says(
    text: str, code: str, retry_after: float | None, expected: type[WSClientError]
) -> None:
    error = login_error(text, code, retry_after)
    assert type(error) is expected
    assert error.message == text
    assert error.retry_after == retry_after


def test_only_a_refused_identity_is_final() -> None:
    assert not may_reconnect(login_error("Invalid signature", "", None))
    assert may_reconnect(login_error("Challenge expired or invalid", "", None))
    assert may_reconnect(login_error(TOO_MANY, "", 16))


# --- errors of requests -----------------------------------------------------------------------------------------------

NOT_FOUND = 'Generation failed: Ollama API error: 404 {"error":"model \'nope\' not found"}'


@pytest.mark.parametrize(
    ("text", "code", "retry_after", "expected"),
    [
        ("Not authenticated", "unauthorized", None, InvalidAuthError),
        ("x", "invalid_authentication", None, InvalidAuthError),
        ("x", "auth_failed", None, InvalidAuthError),
        ("x", "invalid_auth", None, InvalidAuthError),
        ("Too many requests", "", 3, RateLimitedError),
        ("Too many requests", "rate_limited", None, RateLimitedError),
        ("Authentication timeout", "auth_timeout", None, AuthTimeoutError),
        ("Authentication timeout", "authentication_timeout", None, AuthTimeoutError),
        (NOT_FOUND, "generation_error", None, ModelNotFoundError),
        (NOT_FOUND, "generation_failed", None, ModelNotFoundError),
        (NOT_FOUND, "", None, ModelNotFoundError),
        ("Generation failed: Ollama API error: 404", "generation_error", None, ModelNotFoundError),
        ("model 'nope' not found", "", None, ModelNotFoundError),
        ('model "nope:7b" not found, try pulling it first', "generation_error", None, ModelNotFoundError),
        ("MODEL 'NOPE' NOT FOUND", "", None, ModelNotFoundError),
        ("x", "invalid_model", None, ModelNotFoundError),
        ("x", "model_not_found", None, ModelNotFoundError),
        ("x", "missing_parameters", None, InvalidRequestError),
        ("Missing required fields", "", None, InvalidRequestError),
        ("Missing requestId", "", None, InvalidRequestError),
        ("Unsupported message type: chat", "", None, InvalidRequestError),
        ("x", "invalid_request", None, InvalidRequestError),
        ("Generation failed: Ollama API error: 503 {}", "generation_error", None, ServerBusyError),
        ("server busy, please try again", "", None, ServerBusyError),
        ("x", "server_busy", None, ServerBusyError),
        ("x", "server_busy", 5, ServerBusyError),
        ("x", "generation_incomplete", None, GenerationIncompleteError),
        ("x", "message_too_big", None, MessageTooBigError),
        ("Generation failed: Premature close", "generation_error", None, ServerError),
        ("Generation failed: Ollama API error: 500 {}", "generation_error", None, ServerError),
        ("Failed to list models: Ollama API error: 500 {}", "", None, ServerError),
        ("Failed to list models: Ollama API error: 404 page not found", "", None, ServerError),
        ("No active generation with that ID", "", None, ServerError),
        ("Not authorized to stop this generation", "", None, ServerError),
        ("Server error: Unexpected token", "server_error", None, ServerError),
        (NOT_FOUND, "some_other_code", None, ServerError),
        ("a text that only mentions missing required fields", "", None, ServerError),
        ("x", "connection_lost", None, ServerError),
        ("x", "client_closed", None, ServerError),
        ("", "", None, ServerError),
    ],
)
def test_an_error_maps_as_the_table_says(
    text: str, code: str, retry_after: float | None, expected: type[WSClientError]
) -> None:
    assert type(of_request(text, code, retry_after)) is expected


def test_a_code_that_is_not_ours_is_kept_in_the_description() -> None:
    error = of_request("Premature close", "generation_error")
    assert error.description == "See the gateway's log for the cause (the server's code: generation_error)"
    assert of_request("x", "server_error").description == "See the gateway's log for the cause"
    assert of_request("x").description == "See the gateway's log for the cause"


def test_an_error_without_a_text_says_so() -> None:
    assert of_request("", "").message == "the server reports an error without a text"


def test_the_request_and_its_text_so_far_are_kept() -> None:
    error = request_error("x", "", 7, id="g7", text_so_far="Once upon")
    assert (error.id, error.text, error.retry_after) == ("g7", "Once upon", 7)


# --- unfriendly servers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "waited"), [(-5, 0), (0, 0), (1.5, 1.5), (1800, 1800), (86_401, 86_400), (1e300, 86_400)]
)
def test_seconds_to_wait_are_what_a_timer_takes(said: float, waited: float) -> None:
    assert login_error("x", "", said).retry_after == waited
    assert of_request("x", "", said).retry_after == waited


@pytest.mark.parametrize("text", ["model '" * 150_000, "model '" + "'" * 1_000_000, "server bus" * 100_000])
def test_a_long_text_is_judged_in_no_time(text: str) -> None:
    # Searched whole, the first took 13 minutes with the interpreter held.
    began = time.process_time()
    assert type(of_request(text, "generation_error")) is ServerError
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "error", [login_error("x" * 100_000, "", None), of_request("x" * 100_000, "y" * 100_000)], ids=["login", "request"]
)
def test_a_long_text_is_cut(error: WSClientError) -> None:
    assert error.message == "x" * 500 + "..."
    assert len(str(error)) < 1000


HOSTILE = "a\x00b\x1b[31mc\rd\ne\x7ff\x9bg\u202eh\u2028i\ud800j\u200bk"


@pytest.mark.parametrize("make", [lambda: login_error(HOSTILE, "", None), lambda: of_request(HOSTILE, HOSTILE)])
def test_characters_that_a_terminal_obeys_are_taken_out(make: Any) -> None:
    error = make()
    assert error.message == "a b [31mc d e f g h i j k"
    assert str(error).isprintable()
    assert error.description.isprintable()


@given(text=st.text(), limit=st.integers(0, 20))
@fast
def test_bounded_text_is_printable_and_short_and_otherwise_as_it_was(text: str, limit: int) -> None:
    result = bounded(text, limit)
    assert result.isprintable()
    assert len(result) <= limit + 3
    if text.isprintable() and len(text) <= limit:
        assert result == text


def test_bounded_text_keeps_letters_of_all_scripts() -> None:
    assert bounded("naïve 模型 модель 😀") == "naïve 模型 модель 😀"


@given(text=st.text(), code=st.text(), retry_after=st.none() | st.floats(allow_nan=False) | st.integers())
@fast
def test_any_error_of_a_server_becomes_an_exception(text: str, code: str, retry_after: float | None) -> None:
    for error in (login_error(text, code, retry_after), of_request(text, code, retry_after)):
        assert isinstance(error, WSClientError)
        assert str(error).isprintable()
        assert error.retry_after is None or 0 <= error.retry_after <= 86_400


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(111, "Connection refused", "/tmp/x"), "Connection refused"),
        (ValueError("odd value"), "odd value"),
        (ValueError(), "ValueError"),
        (ValueError(HOSTILE), "a b [31mc d e f g h i j k"),
        (ValueError("x" * 1000), "x" * 200 + "..."),
    ],
)
def test_the_reason_of_a_foreign_error_is_its_own_words_made_fit(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
