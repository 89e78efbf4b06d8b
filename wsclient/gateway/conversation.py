"""One client's conversation: a message comes in, the steps to take come out. Pure: no socket, clock, dice or task.

The answers are the original server's (protocol.md sections 1 and 2) with the additions of section 5: a code on every
error and, where the request had one, its id. Whoever carries the steps out reports back: `accept` or `refuse` after
`Verify`, `end_generation` when a generation has said its last word.
"""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from typing import Any, TypeAlias

import attrs

from ..core.decoding import decode_client_message
from ..core.messages import (
    AckMessage,
    AuthenticateMessage,
    AuthResultMessage,
    BatchMessage,
    ChallengeMessage,
    ErrorMessage,
    GenerateMessage,
    ModelsMessage,
    ModelsResultMessage,
    PingMessage,
    PongMessage,
    StopMessage,
    StreamStartMessage,
    UnknownMessage,
)
from ..core.wire_errors import bounded
from ..errors import ErrorCode, ProtocolError
from ..version import __version__
from .backends import GenerateRequest
from .guard import Refusal, blocked_message
from .model_options import InvalidOptionError, parse_model_options
from .quotas import Accounts, Limits, crowd_message, rate_message
from .settings import GatewaySettings

__all__ = [
    "Answer",
    "Close",
    "Conversation",
    "Generate",
    "ListModels",
    "Phase",
    "RunBatch",
    "Send",
    "Step",
    "StopGeneration",
    "Verify",
]

# An id comes back in the frame of every token: what a client sends once must not leave a hundred thousand times.
_MAX_ID_CHARS = 1024

# 4000 to 4002: the original's constants for a login that failed for good (protocol.md section 5).
_AUTH_FAILED, _AUTH_TIMEOUT, _RATE_LIMITED, _POLICY_VIOLATION = 4000, 4001, 4002, 1008
# RFC 6455's registry: the client may come back later.
_TRY_AGAIN_LATER = 1013


Answer: TypeAlias = (
    ChallengeMessage
    | AuthResultMessage
    | ModelsResultMessage
    | StreamStartMessage
    | AckMessage
    | PongMessage
    | ErrorMessage
)
"""What a gateway says outside of a running generation."""


class Phase(Enum):
    """Where a conversation is."""

    LOGIN = "login"
    VERIFYING = "verifying"
    LOGGED_IN = "logged in"
    OVER = "over"


_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.LOGIN: frozenset({Phase.VERIFYING, Phase.OVER}),
    Phase.VERIFYING: frozenset({Phase.LOGGED_IN, Phase.OVER}),
    Phase.LOGGED_IN: frozenset({Phase.OVER}),
    Phase.OVER: frozenset(),
}


@attrs.frozen(slots=True)
class Send:
    """Send this answer."""

    message: Answer


@attrs.frozen(slots=True)
class Verify:
    """Look at a signature over `challenge`; then call `accept` or `refuse`. The fields are whatever JSON came."""

    client_id: Any
    challenge: str = attrs.field(repr=False)
    signature: Any = attrs.field(repr=False)


@attrs.frozen(slots=True)
class ListModels:
    """Ask the model server for its models and answer under this id."""

    id: Any


@attrs.frozen(slots=True)
class Generate:
    """Run this generation; then call `end_generation` with its key."""

    id: Any
    key: str
    request: GenerateRequest = attrs.field(repr=False)


@attrs.frozen(slots=True)
class StopGeneration:
    """Stop the youngest open generation of this key."""

    key: str


@attrs.frozen(slots=True)
class RunBatch:
    """Take these messages one after the other, each when the one before it is done."""

    messages: list[Any] = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Close:
    """Close the connection."""

    code: int
    reason: str


Step: TypeAlias = Send | Verify | ListModels | Generate | StopGeneration | RunBatch | Close


class Conversation:
    """What was said with one client, and what to say next.

    Args:
        settings: the gateway's.
        challenge: fresh, random text for this connection alone.
        open_everywhere: how many generations are open under each key, in the whole gateway; kept up to date here.
        accounts: what clients may use and use, in the whole gateway; kept up to date here too.

    Attributes:
        phase: where the login is.
        client_id: who logged in, `None` before.
        is_draining: whether the gateway shuts down, so that no new generation begins.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        challenge: str,
        open_everywhere: Counter[str],
        accounts: Accounts | None = None,
    ) -> None:
        self._settings = settings
        self._accounts = accounts if accounts is not None else Accounts(settings)
        self._challenge = challenge
        self._open_everywhere = open_everywhere
        self._open: Counter[str] = Counter()
        self._messages_before_login = 0
        # What came in while the signature is being looked at; bounded by the number of messages before the login.
        self._held: list[Any] = []
        self.phase = Phase.LOGIN
        self.client_id: str | None = None
        self.is_draining = False

    @property
    def limits(self) -> Limits:
        """What holds now for the client that has logged in, the gateway's defaults before."""
        return self._accounts.limits_of(self.client_id or "")

    def open(self) -> list[Step]:
        """Return the first steps: the server speaks first."""
        return [Send(ChallengeMessage(challenge=self._challenge))]

    def receive(self, value: Any, now: float = 0.0, *, is_crowded: bool = False, size: int = 0) -> list[Step]:
        """Take a message in.

        Args:
            value: a parsed frame or an item of a batch: any JSON value, or the `ProtocolError` of one that is none.
            now: the time in seconds, by a clock that only goes forward.
            is_crowded: whether so many requests of this client are open that no other may begin.
            size: the frame's bytes; 0 for an item of a batch, which was counted with it.
        """
        if self.phase is Phase.LOGGED_IN:
            return self._receive_request(value, now, is_crowded, size)
        if self.phase is Phase.OVER:
            return []
        self._messages_before_login += 1
        if self._messages_before_login > self._settings.max_messages_before_login:
            return self._end(_POLICY_VIOLATION, "too many messages before the login")
        if self.phase is Phase.VERIFYING:
            self._held.append(value)
            return []
        return self._receive_login(value)

    def accept(self, client_id: str, now: float = 0.0) -> list[Step]:
        """Take note that the signature was right, and take in what came meanwhile (`receive`)."""
        if self.phase is Phase.OVER:
            return []
        self._move(Phase.LOGGED_IN)
        self.client_id = client_id
        result = AuthResultMessage(
            success=True,
            server={"name": "wsclient-gateway", "version": __version__},
            max_message_bytes=self.limits.max_message_size,
        )
        steps: list[Step] = [Send(result)]
        for value in self._held:
            steps += self.receive(value, now)
        self._held.clear()
        return steps

    def refuse(self, refusal: Refusal) -> list[Step]:
        """Take note that the login is refused; it says the same whether the client or the signature was wrong."""
        if self.phase is Phase.OVER:
            return []
        if refusal.retry_after is not None:
            result = AuthResultMessage(
                success=False,
                error=blocked_message(refusal.retry_after),
                code=ErrorCode.RATE_LIMITED,
                retry_after=refusal.retry_after,
            )
            return [Send(result), *self._end(_RATE_LIMITED, "rate limited")]
        result = AuthResultMessage(
            success=False,
            error="Invalid signature",
            code=ErrorCode.INVALID_AUTH,
            remaining_attempts=refusal.remaining_attempts,
        )
        return [Send(result), *self._end(_AUTH_FAILED, "auth failed")]

    def postpone(self, seconds: int) -> list[Step]:
        """Take note that nobody can log in now, whoever it is.

        Not an `auth_result`: originals take a false one for a wrong key, and never come back.

        Args:
            seconds: after which another try can make sense.
        """
        if self.phase is Phase.OVER:
            return []
        text = f"Logins cannot be checked now. Please try again in {seconds} seconds."
        return [
            _error(text, ErrorCode.SERVER_BUSY, retry_after=seconds),
            *self._end(_TRY_AGAIN_LATER, "try again later"),
        ]

    def time_out_login(self) -> list[Step]:
        """Take note that the time to log in is over; nothing happens to who has logged in."""
        if self.phase in (Phase.LOGGED_IN, Phase.OVER):
            return []
        error = ErrorMessage(error="Authentication timeout", code=ErrorCode.AUTH_TIMEOUT)
        return [Send(error), *self._end(_AUTH_TIMEOUT, "login took too long")]

    def end_generation(self, key: str) -> None:
        """Take note that a generation has said its last word."""
        for counter in (self._open, self._open_everywhere):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]
        assert self.client_id is not None
        self._accounts.end_generation(self.client_id)

    def _move(self, phase: Phase) -> None:
        if phase not in _MOVES[self.phase]:
            raise AssertionError(f"a conversation cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    def _end(self, code: int, reason: str) -> list[Step]:
        self._move(Phase.OVER)
        self._held.clear()
        return [Close(code, reason)]

    def _receive_login(self, value: Any) -> list[Step]:
        if isinstance(value, ProtocolError) or value is None:
            return [_unreadable(value)]
        message = decode_client_message(value) if isinstance(value, dict) else UnknownMessage()
        if not isinstance(message, AuthenticateMessage):
            return [_error("Not authenticated", ErrorCode.INVALID_AUTH, message.id)]
        if not _is_given(message.client_id) or not _is_given(message.signature):
            result = AuthResultMessage(success=False, error="Invalid authentication data", code=ErrorCode.INVALID_AUTH)
            return [Send(result)]
        self._move(Phase.VERIFYING)
        return [Verify(message.client_id, self._challenge, message.signature)]

    def _receive_request(self, value: Any, now: float, is_crowded: bool, size: int) -> list[Step]:
        if isinstance(value, ProtocolError) or value is None:
            return [_unreadable(value)]
        message = decode_client_message(value) if isinstance(value, dict) else UnknownMessage()
        if isinstance(message, PingMessage):
            return [Send(PongMessage(id=message.id))]
        if isinstance(message, StopMessage):
            return self._stop(message)
        if isinstance(message, AuthenticateMessage):
            # The challenge is used up; whoever logged in stays logged in.
            text = "Challenge expired or invalid"
            return [Send(AuthResultMessage(success=False, error=text, code=ErrorCode.AUTH_TIMEOUT))]
        if isinstance(message, UnknownMessage):
            text = f"Unsupported message type: {_as_javascript(message.type)}"
            return [_error(text, ErrorCode.INVALID_REQUEST, message.id)]
        assert self.client_id is not None
        if is_crowded:
            text = f"More than {self._settings.max_open_requests} requests are open on this connection"
            return [_error(text, ErrorCode.SERVER_BUSY, message.id)]
        if not self._accounts.has_room(self.client_id, size):
            self._accounts.refused["max_open_bytes"] += 1
            text = f"The open requests of this client have more than {self._settings.max_open_bytes} bytes"
            return [_error(text, ErrorCode.SERVER_BUSY, message.id)]
        if isinstance(message, BatchMessage):
            # An empty one, or something else than a list, is met with silence.
            return [RunBatch(message.messages)] if message.messages and isinstance(message.messages, list) else []
        limits = self.limits
        seconds = self._accounts.admit(self.client_id, limits, now)
        if seconds is not None:
            self._accounts.refused["requests_per_minute"] += 1
            return [_error(rate_message(limits, seconds), ErrorCode.RATE_LIMITED, message.id, seconds)]
        if isinstance(message, ModelsMessage):
            return [ListModels(message.id)]
        assert isinstance(message, GenerateMessage)
        return self._generate(message, limits)

    def _generate(self, message: GenerateMessage, limits: Limits) -> list[Step]:
        if not _is_given(message.id) or not _is_given(message.prompt):
            return [_error("Missing required fields", ErrorCode.INVALID_REQUEST, message.id)]
        key = json.dumps(message.id)
        if len(key) > _MAX_ID_CHARS:
            return [_error(f"id must be at most {_MAX_ID_CHARS} characters long", ErrorCode.INVALID_REQUEST)]
        model = message.model if _is_given(message.model) else self._settings.default_model
        for name, text in (("prompt", message.prompt), ("model", model)):
            if not isinstance(text, str):
                return [_error(f"{name} must be a text", ErrorCode.INVALID_REQUEST, message.id)]
        try:
            options, fields = parse_model_options(message.options)
        except InvalidOptionError as error:
            return [_error(str(error), ErrorCode.INVALID_REQUEST, message.id)]
        assert self.client_id is not None
        request = GenerateRequest(
            model=model,
            prompt=message.prompt,
            options=options,
            fields=fields,
            client_id=self.client_id,
            id=message.id,
            is_allowed=lambda: self.limits.allows_model(model),
        )
        refusal = self._refuse_generation(request, limits, message.id)
        if refusal is not None:
            return [refusal]
        self._open[key] += 1
        self._open_everywhere[key] += 1
        self._accounts.begin_generation(self.client_id)
        return [Send(StreamStartMessage(id=message.id, model=model)), Generate(message.id, key, request)]

    def _refuse_generation(self, request: GenerateRequest, limits: Limits, id: Any) -> Send | None:
        if self.is_draining:
            return _error("The gateway is shutting down", ErrorCode.SERVER_BUSY, id)
        most = limits.max_prompt_size
        if most is not None and _is_larger(most, request.prompt, request.fields.get("system") or ""):
            self._accounts.refused["max_prompt_size"] += 1
            return _error(f"The prompt has more than {most} bytes", ErrorCode.MESSAGE_TOO_BIG, id)
        most = limits.max_open_generations
        if most is not None and self._accounts.open_generations[self.client_id or ""] >= most:
            self._accounts.refused["max_open_generations"] += 1
            return _error(crowd_message(most), ErrorCode.SERVER_BUSY, id)
        return None

    def _stop(self, message: StopMessage) -> list[Step]:
        if not _is_given(message.request_id):
            return [_error("Missing requestId", ErrorCode.INVALID_REQUEST, message.id)]
        key = json.dumps(message.request_id)
        if key in self._open:
            return [Send(AckMessage(id=message.id, request_id=message.request_id)), StopGeneration(key)]
        text = "No active generation with that ID"
        if key in self._open_everywhere:
            text = "Not authorized to stop this generation"
        return [_error(text, ErrorCode.INVALID_REQUEST, message.id)]


def _is_given(value: Any) -> bool:
    """Return what JavaScript takes for true: an empty list or object is, `""`, 0 and false are not."""
    return isinstance(value, list | dict) or (value is not attrs.NOTHING and bool(value))


def _as_javascript(value: Any) -> str:
    """Return a value as a template string of the original shows it."""
    if value is attrs.NOTHING:
        return "undefined"
    if isinstance(value, dict):
        return "[object Object]"
    return bounded(value if isinstance(value, str) else json.dumps(value), 100)


def _is_larger(most: int, *texts: str) -> bool:
    """Return whether texts have more bytes than that; half a surrogate pair counts as JSON's writers count it."""
    # A text has as many bytes as characters at least.
    return sum(map(len, texts)) > most or sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) > most


def _error(text: str, code: ErrorCode, id: Any = attrs.NOTHING, retry_after: Any = attrs.NOTHING) -> Send:
    return Send(ErrorMessage(id=id, error=text, code=code, retry_after=retry_after))


def _unreadable(value: ProtocolError | None) -> Send:
    why = value.message if value is not None else "a message must be a JSON object (got null)"
    return _error(f"Server error: {why}", ErrorCode.SERVER_ERROR)
