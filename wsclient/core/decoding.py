"""Parsed frames -> messages, with checks that say which message and which field is wrong.

`decode_server_message` is the client's side: it is strict about the fields it uses and ignores all others.
`decode_client_message` is the gateway's side: it keeps whatever JSON stands in a field, because the original server
echoes ids of any type and answers each wrong field with a message of its own (protocol.md sections 1 and 2).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from ..errors import ProtocolError
from .messages import (
    AckMessage,
    AuthenticateMessage,
    AuthResultMessage,
    BatchMessage,
    ChallengeMessage,
    ClientMessage,
    ErrorMessage,
    GenerateMessage,
    Message,
    ModelsMessage,
    ModelsResultMessage,
    PingMessage,
    PongMessage,
    ServerMessage,
    StopMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
    UnknownMessage,
    wire_name,
)

__all__ = ["decode_client_message", "decode_server_message"]

_T = TypeVar("_T")


class _Fields:
    """The fields of a JSON object, read with checks that name the message and the field."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.type = value.get("type")
        self.id: Any = value["id"] if isinstance(value.get("id"), str) else attrs.NOTHING

    def fail(self, field: str, what: str) -> ProtocolError:
        # The kind of the value, never the value: it may be a token.
        got = type(self.value.get(field)).__name__
        return ProtocolError(f"{self.type} message: {field} must be {what} (got {got})", id=self.id or None)

    def need(self, field: str, kind: type[_T], what: str) -> _T:
        value = self.value.get(field)
        if not isinstance(value, kind):
            raise self.fail(field, what)
        return value

    def want(self, field: str, kinds: tuple[type, ...], what: str) -> Any:
        """Return an optional field; null means absent, as `elapsedTime` shows."""
        value = self.value.get(field)
        if value is None:
            return attrs.NOTHING
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.fail(field, what)
        return value

    def want_number(self, field: str, what: str) -> Any:
        value = self.want(field, (int, float), what)
        # JSON's integers have no end, and arithmetic with floats raises OverflowError beyond this.
        if value is not attrs.NOTHING and not -sys.float_info.max <= value <= sys.float_info.max:
            raise self.fail(field, what)
        return value


def _challenge(fields: _Fields) -> ServerMessage:
    return ChallengeMessage(challenge=fields.need("challenge", str, "text"))


def _auth_result(fields: _Fields) -> ServerMessage:
    return AuthResultMessage(
        success=fields.need("success", bool, "true or false"),
        error=fields.want("error", (str,), "text"),
        code=fields.want("code", (str,), "text"),
        remaining_attempts=fields.want("remainingAttempts", (int,), "a whole number"),
        retry_after=fields.want_number("retryAfter", "seconds"),
        server=fields.want("server", (dict,), "an object"),
        max_message_bytes=fields.want("maxMessageBytes", (int,), "a whole number"),
    )


def _models_result(fields: _Fields) -> ServerMessage:
    models = fields.want("models", (list,), "a list")
    return ModelsResultMessage(id=fields.id, models=models or [])


def _stream_start(fields: _Fields) -> ServerMessage:
    return StreamStartMessage(id=fields.id, model=fields.want("model", (str,), "text"))


def _stream_token(fields: _Fields) -> ServerMessage:
    return StreamTokenMessage(
        id=fields.id, token=fields.need("token", str, "text"), kind=fields.want("kind", (str,), "text")
    )


def _stream_end(fields: _Fields) -> ServerMessage:
    return StreamEndMessage(
        id=fields.id,
        total_tokens=fields.want("totalTokens", (int,), "a whole number"),
        elapsed_time=fields.want_number("elapsedTime", "milliseconds"),
        is_cancelled=fields.want("isCancelled", (bool,), "true or false"),
        usage=fields.want("usage", (dict,), "an object"),
    )


def _ack(fields: _Fields) -> ServerMessage:
    return AckMessage(
        id=fields.id,
        request_id=fields.want("requestId", (str,), "text"),
        action=fields.want("action", (str,), "text") or "stop",
    )


def _pong(fields: _Fields) -> ServerMessage:
    return PongMessage(id=fields.id)


def _error(fields: _Fields) -> ServerMessage:
    error = fields.want("error", (str,), "text")
    return ErrorMessage(
        id=fields.id,
        error=error or "",
        code=fields.want("code", (str,), "text"),
        retry_after=fields.want_number("retryAfter", "seconds"),
    )


_SERVER_DECODERS: dict[str, Callable[[_Fields], ServerMessage]] = {
    "challenge": _challenge,
    "auth_result": _auth_result,
    "models_result": _models_result,
    "stream_start": _stream_start,
    "stream_token": _stream_token,
    "stream_end": _stream_end,
    "ack": _ack,
    "pong": _pong,
    "error": _error,
}


def decode_server_message(value: Any) -> ServerMessage:
    """Read a server's message.

    Args:
        value: a parsed frame, any JSON value, or the error that `decode_values` put in its place.

    Returns:
        The message; `UnknownMessage` for an object of a type that the protocol does not have.

    Raises:
        ProtocolError: it is not an object with a `type`, or a field that matters has the wrong type; `id` is set when
            the message had one.
    """
    fields = _fields_of(value)
    decoder = _SERVER_DECODERS.get(fields.type) if isinstance(fields.type, str) else None
    if decoder is None:
        return UnknownMessage(type=fields.type, id=fields.id)
    return decoder(fields)


_CLIENT_MESSAGES: dict[str, type[Message]] = {
    cls.type: cls
    for cls in (AuthenticateMessage, ModelsMessage, GenerateMessage, StopMessage, PingMessage, BatchMessage)
}


def decode_client_message(value: Any) -> ClientMessage:
    """Read a client's message; fields are kept as they are, an absent one is `attrs.NOTHING`.

    Args:
        value: a parsed frame (or the error that `decode_values` put in its place), or an item of a batch: any JSON
            value.

    Returns:
        The message; `UnknownMessage` for an object without a type that the protocol has.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    value = _object_of(value)
    kind = value.get("type")
    cls = _CLIENT_MESSAGES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        return UnknownMessage(type=value.get("type", attrs.NOTHING), id=value.get("id", attrs.NOTHING))
    names = ((field.name, wire_name(field.name)) for field in attrs.fields(cls))
    return cls(**{name: value[wire] for name, wire in names if wire in value})  # type: ignore[return-value]


def _object_of(value: Any) -> dict[str, Any]:
    if isinstance(value, ProtocolError):
        raise value
    if not isinstance(value, dict):
        raise ProtocolError(f"a message must be a JSON object (got {type(value).__name__})")
    return value


def _fields_of(value: Any) -> _Fields:
    value = _object_of(value)
    if "type" not in value:
        raise ProtocolError("a message has no type")
    return _Fields(value)
