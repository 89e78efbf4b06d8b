"""What a server's error means: its text and code -> one of our exceptions (protocol.md section 3)."""

from __future__ import annotations

import re

from ..errors import ErrorCode, WSClientError, error_for_code

__all__ = ["bounded", "login_error", "reason_of", "request_error"]

_WIRE_CODES: dict[str, ErrorCode] = {
    "invalid_authentication": ErrorCode.INVALID_AUTH,
    "unauthorized": ErrorCode.INVALID_AUTH,
    "auth_failed": ErrorCode.INVALID_AUTH,
    "authentication_timeout": ErrorCode.AUTH_TIMEOUT,
    "invalid_model": ErrorCode.MODEL_NOT_FOUND,
    "missing_parameters": ErrorCode.INVALID_REQUEST,
    # Codes that a server may use as they are; the rest of ours describe the client's side of a connection.
    "auth_timeout": ErrorCode.AUTH_TIMEOUT,
    "generation_incomplete": ErrorCode.GENERATION_INCOMPLETE,
    "invalid_auth": ErrorCode.INVALID_AUTH,
    "invalid_request": ErrorCode.INVALID_REQUEST,
    "message_too_big": ErrorCode.MESSAGE_TOO_BIG,
    "model_not_found": ErrorCode.MODEL_NOT_FOUND,
    "rate_limited": ErrorCode.RATE_LIMITED,
    "server_busy": ErrorCode.SERVER_BUSY,
}

# The original names a cause only in the text, which for a generation is Ollama's own, quoted.
_MODEL_NOT_FOUND = re.compile(r"ollama api error: 404|model ['\"].*['\"] not found", re.IGNORECASE)
# Any other code says what it means, and a list of models that fails with 404 lacks no model.
_GENERATION_CODES = frozenset({"", "generation_error", "generation_failed"})
_NOT_A_GENERATION = "failed to list models"
_TEXTS: tuple[tuple[re.Pattern[str], ErrorCode], ...] = (
    (
        re.compile(r"^(missing required fields|missing requestid|unsupported message type)", re.IGNORECASE),
        ErrorCode.INVALID_REQUEST,
    ),
    (re.compile(r"ollama api error: 503|server busy", re.IGNORECASE), ErrorCode.SERVER_BUSY),
)


# Characters of a text that are searched for its cause, and seconds that a server may make anybody wait: a timer
# overflows at less than JSON can say.
_SEARCHED = 1000
_MAX_RETRY_AFTER = 86_400.0


def login_error(text: str, code: str, retry_after: float | None) -> WSClientError:
    """Return the exception for a refused login.

    Args:
        text: the server's `error`.
        code: the server's `code`, `""` when it sent none.
        retry_after: seconds, `None` when the server did not say.
    """
    if retry_after is not None or code == ErrorCode.RATE_LIMITED:
        ours = ErrorCode.RATE_LIMITED
    elif text.lower().startswith("challenge expired"):
        ours = ErrorCode.AUTH_TIMEOUT
    else:
        ours = _WIRE_CODES.get(code, ErrorCode.INVALID_AUTH)
    return error_for_code(ours)(bounded(text), retry_after=_bounded_wait(retry_after))


def request_error(
    text: str, code: str, retry_after: float | None, *, id: str | None, text_so_far: str
) -> WSClientError:
    """Return the exception for an error that a server sent after the login.

    Args:
        text: the server's `error`.
        code: the server's `code`, `""` when it sent none; one that is not ours is kept in `description`.
        retry_after: seconds, `None` when the server did not say.
        id: the request's id, if any.
        text_so_far: what a generation had received.
    """
    ours = _code_of(text, code, retry_after)
    cls = error_for_code(ours)
    error = cls(
        bounded(text or "the server reports an error without a text"),
        id=id,
        retry_after=_bounded_wait(retry_after),
        text=text_so_far,
    )
    if code and code != ours:
        error.description = f"{error.description} (the server's code: {bounded(code, 64)})"
    return error


def _code_of(text: str, code: str, retry_after: float | None) -> ErrorCode:
    if retry_after is not None and code != ErrorCode.SERVER_BUSY:
        return ErrorCode.RATE_LIMITED
    if code in _WIRE_CODES:
        return _WIRE_CODES[code]
    # The search backtracks: over a text of 1 MiB it would hold the interpreter for minutes.
    text = text[:_SEARCHED]
    is_generation = code in _GENERATION_CODES and not text.lower().startswith(_NOT_A_GENERATION)
    if is_generation and _MODEL_NOT_FOUND.search(text):
        return ErrorCode.MODEL_NOT_FOUND
    for pattern, ours in _TEXTS:
        if pattern.search(text):
            return ours
    return ErrorCode.SERVER_ERROR


def _bounded_wait(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0), _MAX_RETRY_AFTER)


def bounded(text: str, limit: int = 500) -> str:
    """Return text from the other side fit for a message: no control characters that a terminal obeys, no novels."""
    clean = "".join(c if c.isprintable() else " " for c in text[:limit])
    return clean + ("..." if len(text) > limit else "")


def reason_of(error: BaseException) -> str:
    """Return what an error of the system or of a library says, fit for a message of ours."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return bounded(str(text), 200)
