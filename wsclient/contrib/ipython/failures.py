"""Errors of a magic as one clear line, as far as they are no bugs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from IPython.core.error import UsageError

from ...errors import ErrorCode, WSClientError
from .markdown import one_line

__all__ = ["in_one_line", "refusing_wrong_values"]

# What helps in a notebook, where the library's own advice speaks of methods.
_NEXT_STEPS = {
    ErrorCode.CLIENT_CLOSED: "Connect again with: %wsclient connect",
    ErrorCode.CONNECTION_LOST: "Run the cell again",
    ErrorCode.MODEL_NOT_FOUND: "See which models there are: %wsclient models",
    ErrorCode.RECONNECT_FAILED: "Try again with: %wsclient connect",
}


@contextmanager
def in_one_line() -> Iterator[None]:
    """Have IPython show errors of the library, and an interrupt, as one line; they are raised as they are.

    So the cell fails, `Run All` stops there, and `%tb` or `except` see the same error as in a program.
    """
    try:
        yield
    except WSClientError as error:
        _show_as(error, f"{type(error).__name__}: {_describe(error)}")
        raise
    except KeyboardInterrupt as interrupt:
        # IPython keeps the traceback, and its frames what they had begun: dropped, a generation is stopped.
        traceback.clear_frames(interrupt.__traceback__)
        _show_as(interrupt, "KeyboardInterrupt: interrupted; what was under way is stopped")
        raise


def _show_as(error: Any, line: str) -> None:
    # IPython asks an exception for it.
    error._render_traceback_ = lambda: [one_line(line)]


def _describe(error: WSClientError) -> str:
    is_general = error.description == type(error)("").description
    step = _NEXT_STEPS.get(error.code, error.description) if is_general else error.description
    if error.retry_after is not None:
        step = f"Try again in {error.retry_after:g} s"
    return f"{error.message} [{error.code}]. {step}".rstrip(". ") + "."


@contextmanager
def refusing_wrong_values() -> Iterator[None]:
    """Turn a `ValueError`, `TypeError` or `OSError`, which name what is wrong, into IPython's own one line."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from error
