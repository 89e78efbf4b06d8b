"""From an exception to one line and an exit code."""

from __future__ import annotations

import errno
import os

import click
import pytest

from wsclient.cli.failures import Failure, describe, exit_code, next_step, refusing_wrong_values
from wsclient.errors import ConnectionFailedError, InvalidKeyError, ModelNotFoundError, RateLimitedError, ServerError


def test_a_general_advice_is_replaced_by_what_helps_at_a_command_line() -> None:
    error = ConnectionFailedError("cannot reach ws://x: refused")
    assert describe(error) == (
        "cannot reach ws://x: refused [connection_failed]. "
        "Check the server's URL, and that a gateway runs there (wsclient serve)."
    )


def test_a_particular_advice_stays() -> None:
    error = ConnectionFailedError("the certificate has expired", description="Renew it")
    assert describe(error) == "the certificate has expired [connection_failed]. Renew it."


def test_an_advice_that_helps_everywhere_stays() -> None:
    assert describe(ServerError("boom")) == "boom [server_error]. See the gateway's log for the cause."


def test_how_long_to_wait_is_told() -> None:
    assert describe(RateLimitedError("too many", retry_after=16.0)) == "too many [rate_limited]. Try again in 16 s."


def test_a_server_that_says_how_long_to_wait_is_not_repeated() -> None:
    error = RateLimitedError("Too many. Please try again in 16 seconds.", retry_after=16.0)
    assert describe(error) == "Too many. Please try again in 16 seconds [rate_limited]."


def test_what_the_model_server_said_is_taken_out_of_its_json() -> None:
    error = ModelNotFoundError('Generation failed: Ollama API error: 404 {"error":"model \'x\' not found"}')
    assert describe(error).startswith("the model server answers: model 'x' not found (HTTP 404) [model_not_found]. ")


def test_what_the_model_server_said_about_a_list_is_taken_out_too() -> None:
    error = ServerError('Failed to list models: Ollama API error: 500 {"error":"out of order"}')
    assert describe(error).startswith("the model server answers: out of order (HTTP 500) [server_error]. ")


@pytest.mark.parametrize("said", ["{", '{"reason":"x"}', '{"error"'])
def test_what_the_model_server_said_stays_as_it_is_if_it_is_anything_else(said: str) -> None:
    message = f"Generation failed: Ollama API error: 500 {said}"
    assert describe(ServerError(message)).startswith(f"{message} [server_error]. ")


def test_an_advice_in_pythons_words_is_given_in_the_command_lines() -> None:
    error = InvalidKeyError("x", description="Run: chmod 600 k (or set allow_readable_key=True)")
    assert next_step(error) == "Run: chmod 600 k (or set WSCLIENT_ALLOW_READABLE_KEY=1)"


def test_an_advice_that_ends_in_dots_keeps_them() -> None:
    error = InvalidKeyError("x", description="It must begin with -----BEGIN ...")
    assert describe(error) == "x [invalid_key]. It must begin with -----BEGIN ..."


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.ENOSPC, "free some space there"), (errno.EROFS, "choose a place that can be written to")],
)
def test_an_error_of_the_system_says_what_can_be_done(number: int, step: str) -> None:
    assert describe(OSError(number, os.strerror(number), "x")) == f"x: {os.strerror(number)}; {step}"


def test_an_error_of_the_system_names_the_file() -> None:
    assert describe(FileNotFoundError(2, "No such file or directory", "x.pem")) == "x.pem: No such file or directory"


def test_wrong_usage_names_the_help() -> None:
    context = click.Context(click.Command("serve"), info_name="wsclient serve")
    assert describe(click.UsageError("no.", context)) == "no (see: wsclient serve --help)"


@pytest.mark.parametrize(
    ("error", "code"), [(click.UsageError("x"), 2), (Failure("x"), 1), (ServerError("x"), 1), (RuntimeError("x"), 1)]
)
def test_only_wrong_usage_is_exit_code_2(error: Exception, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_the_librarys_word_on_a_wrong_value_is_wrong_usage(kind: type[Exception]) -> None:
    with pytest.raises(click.UsageError, match="seed must be"), refusing_wrong_values():
        raise kind("seed must be a whole number")
