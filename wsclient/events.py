"""What callers receive: frozen attrs classes, safe to keep, compare, pickle and hand to other threads.

They have no validators on purpose: one event object is built for each token when somebody subscribed, and a
validator would cost more than parsing the frame did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from .errors import ErrorCode, WSClientError

__all__ = [
    "ClientStats",
    "ConnectionStatus",
    "ErrorEvent",
    "GenerationEndEvent",
    "GenerationResult",
    "GenerationStartEvent",
    "ModelInfo",
    "TokenEvent",
    "Usage",
]


class ConnectionStatus(StrEnum):
    """The seven statuses of the seed ("getStatus()")."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    AUTHENTICATED = "authenticated"
    AUTH_FAILED = "auth_failed"
    RECONNECTING = "reconnecting"
    RECONNECT_FAILED = "reconnect_failed"


@attrs.frozen(slots=True)
class TokenEvent:
    """A token of a generation.

    Attributes:
        id: the generation's id.
        token: the text.
        kind: `"answer"`, or `"thinking"` for a thinking model's reasoning.
    """

    id: str
    token: str
    kind: str = "answer"


@attrs.frozen(slots=True)
class GenerationStartEvent:
    """A generation began; the model itself may still be loading.

    Attributes:
        id: the generation's id.
        model: the model the server uses, the server's default when none was asked for.
    """

    id: str
    model: str | None


@attrs.frozen(slots=True)
class Usage:
    """What a generation cost, as far as the server said; `None` for what it did not say.

    Attributes:
        prompt_tokens: how many tokens the prompt had.
        completion_tokens: how many the answer has.
        total_duration: seconds in all, loading included.
        load_duration: seconds for loading the model.
        eval_duration: seconds for writing the answer.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_duration: float | None = None
    load_duration: float | None = None
    eval_duration: float | None = None


@attrs.frozen(slots=True)
class GenerationEndEvent:
    """A generation ended, complete or cancelled; a failed one is an `ErrorEvent` instead.

    Attributes:
        id: the generation's id.
        total_tokens: how many tokens the server counted; how many arrived when it did not say.
        elapsed_time: seconds on the server, `None` when it did not say.
        is_cancelled: whether it was stopped, by whomever.
        done_reason: `"stop"`, `"length"` or what else the model server gave as the reason.
        usage: token counts and times, when the server gave any.
    """

    id: str
    total_tokens: int
    elapsed_time: float | None = None
    is_cancelled: bool = False
    done_reason: str | None = None
    usage: Usage | None = None


@attrs.frozen(slots=True)
class ErrorEvent:
    """The facts of a `WSClientError`, for `on_error` (seed section "Error Handling").

    Attributes:
        message: what happened.
        code: which kind of error it is.
        description: what it means and what to do next.
        id: the id of the request or generation that it belongs to, if any.
        retryable: whether the same call can succeed later.
        retry_after: seconds to wait before that, when the server said so.
        text: the text of a generation received before it failed.
    """

    message: str
    code: ErrorCode
    description: str
    id: str | None = None
    retryable: bool = False
    retry_after: float | None = None
    text: str = attrs.field(default="", repr=False)

    @classmethod
    def of(cls, error: WSClientError) -> ErrorEvent:
        """Return the event with the facts of an error."""
        return cls(message=error.message, code=error.code, **error.facts())


@attrs.frozen(slots=True)
class GenerationResult:
    """A finished generation.

    Attributes:
        id: the generation's id.
        model: the model that answered, `None` when the server did not say.
        text: the whole answer (what arrived of it, when cancelled).
        thinking: the thinking text, apart from the answer.
        total_tokens: how many tokens the server counted; how many arrived when it did not say.
        elapsed_time: seconds on the server, `None` when it did not say.
        is_cancelled: whether it was stopped before its end.
        done_reason: `"stop"`, `"length"` or what else the model server gave as the reason.
        usage: token counts and times, when the server gave any.
    """

    id: str
    model: str | None
    text: str
    thinking: str = ""
    total_tokens: int = 0
    elapsed_time: float | None = None
    is_cancelled: bool = False
    done_reason: str | None = None
    usage: Usage | None = None

    def __str__(self) -> str:
        return self.text


@attrs.frozen(slots=True)
class ModelInfo:
    """A model that the server offers. Only `name` is always there.

    Attributes:
        name: what to pass as `model`.
        size: bytes on the server's disk.
        digest: the model's hash.
        modified_at: RFC 3339 time, as the server wrote it.
        family, parameter_size, quantization_level, format: from the server's `details`.
        raw: the server's own object, whole.
    """

    name: str
    size: int | None = None
    digest: str | None = None
    modified_at: str | None = None
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    format: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    def __str__(self) -> str:
        return self.name


@attrs.frozen(slots=True)
class ClientStats:
    """A snapshot of a client's counters since it was made.

    Attributes:
        status: the connection's status at that moment.
        tokens: tokens received.
        messages_received, messages_sent: protocol messages.
        bytes_received, bytes_sent: WebSocket bytes, frame headers included.
        connects: logins that succeeded.
        reconnects: logins that succeeded after a loss.
        ignored_messages: messages of unknown type, or for ids nobody waits for.
        open_requests, open_generations: what waits for the server now.
        latency: the last ping's round trip in seconds, `None` before the first.
    """

    status: ConnectionStatus
    tokens: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connects: int = 0
    reconnects: int = 0
    ignored_messages: int = 0
    open_requests: int = 0
    open_generations: int = 0
    latency: float | None = None
