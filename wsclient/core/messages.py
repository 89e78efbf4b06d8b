"""The messages of WebSocket System, one class each, both directions, and how they are encoded.

`decoding.py` reads them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar

import attrs

from ..errors import WSClientError
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
    "Message",
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
    "encode_tokens",
    "wire_name",
]

AbsentType = type(attrs.NOTHING)
"""The type of `attrs.NOTHING`, which stands for a field that is not in the message at all (unlike JSON's null)."""


# attrs itself reads `= attrs.NOTHING` as "no default", and would demand every field.
_ABSENT: Any = attrs.Factory(lambda: attrs.NOTHING)

_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@functools.cache
def wire_name(attribute: str) -> str:
    """Return the JSON name of an attribute: `request_id` is `requestId`."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


@functools.cache
def _wire_fields(cls: type[Any]) -> list[tuple[str, str]]:
    """Return the attributes of a message's class, each with the text that begins it in JSON."""
    return [(field.name, f'"{wire_name(field.name)}":') for field in attrs.fields(cls)]


def _or_none(value: Any) -> Any:
    # Zero is an answer: "try again at once".
    return None if value is attrs.NOTHING else value


@attrs.frozen(kw_only=True, repr=False)
class Message:
    """What every message has in common.

    Attributes:
        type: its name on the wire.
    """

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
                message[wire_name(field.name)] = value
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
        # original server's whole process down (protocol.md section 2). Text goes past the encoder, which is made anew
        # at every call: that takes as long as sending a short message.
        parts = [f'{{"type":"{self.type}"']
        cls: Any = type(self)
        for attribute, key in _wire_fields(cls):
            value = getattr(self, attribute)
            if value is not attrs.NOTHING:
                parts.append(key + (encode_basestring_ascii(value) if type(value) is str else _encoder.encode(value)))
        if timestamp is not None:
            parts.append(f'"timestamp":{timestamp}')
        return ",".join(parts) + "}"

    def __repr__(self) -> str:
        # One for all: each that attrs makes takes 0.1 ms of the import.
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in attrs.fields(self.__class__) if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


# --- login ------------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, repr=False)
class ChallengeMessage(Message):
    """The server's first word."""

    type = "challenge"
    challenge: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True, repr=False)
class AuthenticateMessage(Message):
    """The client's answer to the challenge; `signature` is base64."""

    type = "authenticate"
    client_id: Any = _ABSENT
    signature: Any = attrs.field(default=_ABSENT, repr=False)


@attrs.frozen(kw_only=True, repr=False)
class AuthResultMessage(Message):
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


@attrs.frozen(kw_only=True, repr=False)
class ModelsMessage(Message):
    """Asks for the list of models."""

    type = "models"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class GenerateMessage(Message):
    """Asks for a generation."""

    type = "generate"
    id: Any = _ABSENT
    prompt: Any = attrs.field(default=_ABSENT, repr=False)
    model: Any = _ABSENT
    options: Any = attrs.field(default=_ABSENT, repr=False)


@attrs.frozen(kw_only=True, repr=False)
class StopMessage(Message):
    """Asks to stop the generation `request_id`."""

    type = "stop"
    id: Any = _ABSENT
    request_id: Any = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class PingMessage(Message):
    """Asks for a sign of life (the protocol's own, not RFC 6455's)."""

    type = "ping"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class BatchMessage(Message):
    """Several requests in one frame; `messages` are their JSON objects."""

    type = "batch"
    id: Any = _ABSENT
    messages: Any = attrs.field(default=_ABSENT, repr=False)


# --- answers ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, repr=False)
class ModelsResultMessage(Message):
    """The list of models: Ollama's own objects, from an older server plain strings."""

    type = "models_result"
    id: Any = _ABSENT
    models: list[Any] = attrs.field(factory=list)


@attrs.frozen(kw_only=True, repr=False)
class StreamStartMessage(Message):
    """A generation was accepted; the model may not even have been asked yet."""

    type = "stream_start"
    id: Any = _ABSENT
    model: str = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class StreamTokenMessage(Message):
    """A token; `kind` is `"thinking"` for thinking text and absent for the answer."""

    type = "stream_token"
    id: Any = _ABSENT
    token: str = attrs.field(repr=False)
    kind: str = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class StreamEndMessage(Message):
    """The end of a generation; `elapsed_time` in milliseconds, and so are the times in `usage`."""

    type = "stream_end"
    id: Any = _ABSENT
    total_tokens: int | None = _ABSENT
    elapsed_time: float | None = _ABSENT
    is_cancelled: bool = _ABSENT
    usage: dict[str, Any] = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class AckMessage(Message):
    """A stop was carried out."""

    type = "ack"
    id: Any = _ABSENT
    request_id: Any = _ABSENT
    action: str = "stop"


@attrs.frozen(kw_only=True, repr=False)
class PongMessage(Message):
    """The answer to a ping."""

    type = "pong"
    id: Any = _ABSENT


@attrs.frozen(kw_only=True, repr=False)
class ErrorMessage(Message):
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


@attrs.frozen(kw_only=True, repr=False)
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
