"""The messages of WebSocket System, one class each, both directions: encode, decode, validate.

`decode_server_message` is the client's side: it is strict about the fields it uses and ignores all others.
`decode_client_message` is the gateway's side: it keeps whatever JSON stands in a field, because the original server
echoes ids of any type and answers each wrong field with a message of its own (protocol.md sections 1 and 2).
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar, TypeVar

import attrs

from ..errors import ProtocolError, WSClientError
from .wire_errors import login_error, request_error

__all__ = [
    "AbsentType",
    "AckMessage",
    "AuthResultMessage",
    "AuthenticateMessage",
    "BatchMessage",
    "ChallengeMessage",
    "ClientMessage",
    "ErrorMessage",
    "GenerateMessage",
    "ModelsMessage",
    "ModelsResultMessage",
    "PingMessage",
    "PongMessage",
    "ServerMessage",
    "StopMessage",
    "StreamEndMessage",
    "StreamStartMessage",
    "StreamTokenMessage",
    "UnknownMessage",
    "decode_client_message",
    "decode_server_message",
    "encode_tokens",
]

AbsentType = type(attrs.NOTHING)
"""The type of `attrs.NOTHING`, which stands for a field that is not in the message at all (unlike JSON's null)."""


# attrs itself reads `= attrs.NOTHING` as "no default", and would demand every field.
_ABSENT: Any = attrs.Factory(lambda: attrs.NOTHING)

_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@functools.cache
def _wire_name(attribute: str) -> str:
    """Return the JSON name of an attribute: `request_id` is `requestId`."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _or_none(value: Any) -> Any:
    # Zero is an answer: "try again at once".
    return None if value is attrs.NOTHING else value


@attrs.frozen(kw_only=True)
class _Message:
    type: ClassVar[str]

    def to_wire(self, timestamp: int | None = None) -> dict[str, Any]:
        """Return the message as a JSON object, absent fields left out.

        Args:
            timestamp: epoch milliseconds; left out when `None` (items of a batch have none).
        """
        message: dict[str, Any] = {"type": self.type}
        for field in attrs.fields(self.__class__):
            value = getattr(self, field.name)
            if value is not attrs.NOTHING:
                message[_wire_name(field.name)] = value
        if timestamp is not None:
            message["timestamp"] = timestamp
        return message

    def encode(self, timestamp: int | None = None) -> str:
        """Return the message as a frame's text. Arguments as `to_wire`.

        Raises:
            ValueError: a number is infinite or not a number: the other side would get something that is not JSON, and
                the original server answers that without an id.
        """
        # Non-ASCII is escaped: a lone surrogate in a prompt would otherwise become invalid UTF-8, and that takes the
        # original server's whole process down (protocol.md section 2).
        return _encoder.encode(self.to_wire(timestamp))


# --- login ------------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ChallengeMessage(_Message):
    """The server's first word."""

    type = "challenge"
    challenge: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class AuthenticateMessage(_Message):
    """The client's answer to the challenge; `signature` is base64."""

    type = "authenticate"
    client_id: Any = _ABSENT
    signature: Any = attrs.field(default=_ABSENT, repr=False)


@attrs.frozen(kw_only=True)
class AuthResultMessage(_Message):
    """The verdict. `server` and `max_message_bytes` are additions of our gateway (protocol.md section 5)."""

    type = "auth_result"
    success: bool
    error: str = _ABSENT
    code: str = _ABSENT
    remaining_attempts: int = _ABSENT
    retry_after: float = _ABSENT
    server: dict[str, Any] = _ABSENT
    max_message_bytes: int = _ABSENT

    def to_error(self) -> WSClientError:
        """Return the exception that a refusal stands for (protocol.md section 3)."""
        return login_error(self.error or "login refused", self.code or "", _or_none(self.retry_after))


# --- requests ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ModelsMessage(_Message):
    """Asks for the list of models."""

    type = "models"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True)
class GenerateMessage(_Message):
    """Asks for a generation."""

    type = "generate"
    id: Any = _ABSENT
    prompt: Any = attrs.field(default=_ABSENT, repr=False)
    model: Any = _ABSENT
    options: Any = attrs.field(default=_ABSENT, repr=False)


@attrs.frozen(kw_only=True)
class StopMessage(_Message):
    """Asks to stop the generation `request_id`."""

    type = "stop"
    id: Any = _ABSENT
    request_id: Any = _ABSENT


@attrs.frozen(kw_only=True)
class PingMessage(_Message):
    """Asks for a sign of life (the protocol's own, not RFC 6455's)."""

    type = "ping"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True)
class BatchMessage(_Message):
    """Several requests in one frame; `messages` are their JSON objects."""

    type = "batch"
    id: Any = _ABSENT
    messages: Any = attrs.field(default=_ABSENT, repr=False)


# --- answers ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ModelsResultMessage(_Message):
    """The list of models: Ollama's own objects, from an older server plain strings."""

    type = "models_result"
    id: Any = _ABSENT
    models: list[Any] = attrs.field(factory=list)


@attrs.frozen(kw_only=True)
class StreamStartMessage(_Message):
    """A generation was accepted; the model may not even have been asked yet."""

    type = "stream_start"
    id: Any = _ABSENT
    model: str = _ABSENT


@attrs.frozen(kw_only=True)
class StreamTokenMessage(_Message):
    """A token; `kind` is `"thinking"` for thinking text and absent for the answer."""

    type = "stream_token"
    id: Any = _ABSENT
    token: str = attrs.field(repr=False)
    kind: str = _ABSENT


@attrs.frozen(kw_only=True)
class StreamEndMessage(_Message):
    """The end of a generation; `elapsed_time` in milliseconds, and so are the times in `usage`."""

    type = "stream_end"
    id: Any = _ABSENT
    total_tokens: int | None = _ABSENT
    elapsed_time: float | None = _ABSENT
    is_cancelled: bool = _ABSENT
    usage: dict[str, Any] = _ABSENT


@attrs.frozen(kw_only=True)
class AckMessage(_Message):
    """A stop was carried out."""

    type = "ack"
    id: Any = _ABSENT
    request_id: Any = _ABSENT
    action: str = "stop"


@attrs.frozen(kw_only=True)
class PongMessage(_Message):
    """The answer to a ping."""

    type = "pong"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True)
class ErrorMessage(_Message):
    """An error; without an id it belongs to no request."""

    type = "error"
    id: Any = _ABSENT
    error: str
    code: str = _ABSENT
    retry_after: float = _ABSENT

    def to_error(self, text: str = "") -> WSClientError:
        """Return the exception that this message stands for (protocol.md section 3).

        Args:
            text: what a generation had received before it.
        """
        return request_error(
            self.error, self.code or "", _or_none(self.retry_after), id=self.id or None, text_so_far=text
        )

    def is_abort(self) -> bool:
        """Return whether this is how the original server ends a stopped generation (protocol.md section 2)."""
        return self.code == "generation_error" and "aborted" in self.error


@attrs.frozen(kw_only=True)
class UnknownMessage:
    """A message of a type that is not part of the protocol: ignored and counted by the client."""

    type: Any = _ABSENT
    id: Any = _ABSENT


ServerMessage = (
    ChallengeMessage
    | AuthResultMessage
    | ModelsResultMessage
    | StreamStartMessage
    | StreamTokenMessage
    | StreamEndMessage
    | AckMessage
    | PongMessage
    | ErrorMessage
    | UnknownMessage
)
ClientMessage = (
    AuthenticateMessage | ModelsMessage | GenerateMessage | StopMessage | PingMessage | BatchMessage | UnknownMessage
)


# --- decoding ---------------------------------------------------------------------------------------------------------

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


_CLIENT_MESSAGES: dict[str, type[_Message]] = {
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
    names = ((field.name, _wire_name(field.name)) for field in attrs.fields(cls))
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


def encode_tokens(id: Any, tokens: Iterable[str], timestamp: int, *, is_thinking: bool = False) -> list[str]:
    """Encode tokens of one generation as the texts of `stream_token` frames.

    The frame around the token is built once: `json.dumps` of a whole message each costs ten times as much.

    Args:
        id: the generation's id, any JSON value.
        tokens: the pieces of text.
        timestamp: epoch milliseconds.
        is_thinking: whether they are thinking text (protocol.md section 5).
    """
    before = f'{{"id":{_encoder.encode(id)},"type":"stream_token","token":'
    kind = ',"kind":"thinking"' if is_thinking else ""
    after = f'{kind},"timestamp":{timestamp}}}'
    return [before + encode_basestring_ascii(token) + after for token in tokens]
