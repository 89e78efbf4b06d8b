"""From an exception to one line with the next step, and an exit code."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import ErrorCode, WSClientError

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "WRONG_USAGE",
    "Failure",
    "Interrupted",
    "describe",
    "exit_code",
    "next_step",
    "refusing_wrong_values",
    "system_step",
]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130

_EXTRAS = {"aiohttp": "cli", "filelock": "cli", "prometheus_client": "cli", "redis": "cli,redis"}

# What helps at a command line, where the library's own advice speaks of options and methods of Python.
_NEXT_STEPS = {
    ErrorCode.CONNECTION_FAILED: "Check the server's URL, and that a gateway runs there (wsclient serve)",
    ErrorCode.CONNECTION_TIMEOUT: "Check the server's URL and the network between",
    ErrorCode.AUTH_CHALLENGE_TIMEOUT: "Check that the URL leads to a WebSocket System gateway",
    ErrorCode.INVALID_AUTH: "Check the client's id and key on the server: wsclient list-clients --detailed",
    ErrorCode.MODEL_NOT_FOUND: "See which models there are: wsclient models",
    ErrorCode.INVALID_REQUEST: "Check the command's options",
    ErrorCode.GENERATION_INCOMPLETE: "Generate again for the whole text",
    ErrorCode.CONNECTION_LOST: "Run the command again",
}

# The library's words for what has another name at a command line.
_OTHER_WORDS = {
    "or pass an ssl_context that trusts its issuer": "or name its issuer's PEM file in SSL_CERT_FILE",
    "(or set allow_readable_key=True)": "(or set WSCLIENT_ALLOW_READABLE_KEY=1)",
    "Give its passphrase": "Give its passphrase in WSCLIENT_PASSPHRASE",
    "Check the passphrase;": "Check the passphrase in WSCLIENT_PASSPHRASE;",
    "server_url": "the server's URL",
}

_SYSTEM_STEPS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EFBIG: "see: ulimit -f",
    errno.EACCES: "check what this user may do there",
    errno.EPERM: "check what this user may do there",
    errno.EROFS: "choose a place that can be written to",
}

# What the original's gateway and ours pass on of the model server's answer, which is JSON.
_MODEL_ANSWER = re.compile(r"(?:Generation failed|Failed to list models): \w+ API error: (\d{3}) (\{.*\})", re.DOTALL)


class Failure(click.ClickException):
    """A command cannot do what it should; the text says why and what to do next."""


class Interrupted(Exception):
    """Ctrl-C ended the command."""


def describe(error: Exception) -> str:
    """Return the line that an exception is shown as."""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx is not None else "wsclient"
        return f"{error.format_message().rstrip('.')} (see: {where} --help)"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, WSClientError):
        return _describe_client_error(error)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in _EXTRAS:
        install = f"pip install '.[{_EXTRAS[package]}]'"
        return f"this command needs {package}; in a checkout of ws-system-client run: {install}"
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}{system_step(error)}"
    return f"unexpected {type(error).__name__}: {error}; to see where, run: wsclient --debug ..."


def next_step(error: WSClientError) -> str:
    """Return what somebody at a command line can do about an error of the library."""
    if error.retry_after is not None:
        return f"Try again in {error.retry_after:g} s"
    if error.description == type(error)("").description and error.code in _NEXT_STEPS:
        return _NEXT_STEPS[error.code]
    step = error.description
    for words, others in _OTHER_WORDS.items():
        step = step.replace(words, others)
    return step


def system_step(error: BaseException | None) -> str:
    """Return what can be done about an error of the system, to append to a line; `""` when that is plain."""
    step = _SYSTEM_STEPS.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"; {step}" if step else ""


def _describe_client_error(error: WSClientError) -> str:
    message = _plain_message(error.message).rstrip(".")
    step = next_step(error)
    # Gateways say it themselves.
    step = "" if error.retry_after is not None and "try again in" in message else f". {step}"
    text = f"{message} [{error.code}]{step}"
    return text if text.endswith("...") else text.rstrip(". ") + "."


def _plain_message(message: str) -> str:
    found = _MODEL_ANSWER.fullmatch(message)
    if found is None:
        return message
    try:
        said = json.loads(found[2])["error"]
    except (ValueError, KeyError, TypeError):
        return message
    return f"the model server answers: {said} (HTTP {found[1]})"


def exit_code(error: Exception) -> int:
    """Return the exit code that an exception ends the command with."""
    return WRONG_USAGE if isinstance(error, click.UsageError) else FAILED


@contextmanager
def refusing_wrong_values() -> Iterator[None]:
    """Turn the library's `ValueError` and `TypeError`, which name the option and what is allowed, into wrong usage."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error), click.get_current_context(silent=True)) from error
