"""From an exception to one line and an exit code."""

from __future__ import annotations

import click
import pytest

from wsclient.cli.failures import Failure, describe, exit_code, refusing_wrong_values
from wsclient.errors import ConnectionFailedError, RateLimitedError, ServerError


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
