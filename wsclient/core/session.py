"""The session: the status, the open requests and the line's liveness, decided without threads, sockets or a clock.

The shell (`connection.py`) calls one method at a time under its lock, with the time, and carries out the actions that
come back after it has released the lock. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

from ..errors import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ClientClosedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    InvalidAuthError,
    InvalidKeyError,
    ProtocolError,
    ReconnectFailedError,
    RequestTimeoutError,
    WSClientError,
    may_reconnect,
)
from ..events import ConnectionStatus as Status
from .actions import (
    Action,
    Answered,
    Dial,
    Ended,
    EndLine,
    Failed,
    Probe,
    Ready,
    Sign,
    Started,
    StatusChanged,
    StopOnServer,
    StrayError,
    Tokens,
)
from .backoff import Backoff
from .messages import (
    AckMessage,
    AuthResultMessage,
    ChallengeMessage,
    ErrorMessage,
    ModelsResultMessage,
    PongMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
    decode_server_message,
)
from .requests import OpenRequest, RequestKind, RequestTable
from .states import check_move

__all__ = ["Session", "SessionTimes"]

# A connection that held for less than this, and for less than the last pause, does not reset the backoff.
_MIN_STABLE = 1.0

# Equal to no id that JSON can hold; null is one.
_NO_ID = object()


@attrs.frozen(kw_only=True)
class SessionTimes:
    """The time-outs of a client's options, in seconds."""

    connect_timeout: float
    auth_timeout: float
    ping_interval: float
    pong_timeout: float


class Session:
    """A client's side of the protocol, over as many connections as it takes.

    Args:
        times: the client's time-outs.
        backoff: the pauses between reconnect attempts.
        auto_reconnect: whether a lost connection is dialled again.

    Attributes:
        status: where the connection stands.
        requests: what the server still owes an answer; `open` it before sending, an answer can be faster.
        last_error: why it is not authenticated, when a fault was the reason.
        keeps_trying: whether a failed attempt is followed by another.
        latency: the last ping's round trip in seconds.
        max_message_bytes: what the server takes in one message, when it said so.
    """

    def __init__(self, times: SessionTimes, backoff: Backoff, *, auto_reconnect: bool) -> None:
        self._times = times
        self._backoff = backoff
        self._auto_reconnect = auto_reconnect
        self.requests = RequestTable()
        self.status = Status.DISCONNECTED
        self.last_error: WSClientError | None = None
        self.keeps_trying = False
        self.latency: float | None = None
        self.max_message_bytes: int | None = None
        self.tokens = self.messages_received = self.ignored_messages = self.connects = self.reconnects = 0
        # Until when the present step (dial, challenge, verdict) may take, and the next dial while reconnecting.
        self._step_deadline = math.inf
        # The earliest time that came up since `take_new_due` was asked last.
        self._new_due = math.inf
        self._is_challenged = self._is_signed = False
        self._authenticated_at = 0.0
        self._heard_at = 0.0
        self._probe_sent_at: float | None = None
        # The last loss's recovery counts as a reconnect; a first login does not.
        self._was_lost = False

    # --- the line's life ----------------------------------------------------------------------------------------------

    def dial(self, now: float) -> list[Action]:
        """Begin a connection attempt; legal whenever none is under way."""
        self._step_deadline = now + self._times.connect_timeout
        self._is_challenged = self._is_signed = False
        return self._move(Status.CONNECTING)

    def opened(self, now: float) -> list[Action]:
        """Note that the WebSocket stands; the server speaks first."""
        self._step_deadline = now + self._times.auth_timeout
        self._heard_at = now
        return self._move(Status.CONNECTED)

    def signed(self, now: float) -> None:
        """Note that the answer to the challenge is out."""
        self._is_signed = True
        self._step_deadline = now + self._times.auth_timeout

    def heard(self, now: float) -> None:
        """Note a sign of life: bytes came in, be they a whole message or not."""
        self._heard_at = now
        self._probe_sent_at = None

    def probed(self, now: float) -> None:
        """Note that a probe is on its way."""
        self._probe_sent_at = now

    def lost(self, error: WSClientError, now: float) -> list[Action]:
        """End the connection or the attempt: fail everything open, and decide how it goes on.

        Args:
            error: why; `ClientClosedError` when the user closed the client.
            now: the time.
        """
        actions = self._fail_all(error)
        held = now - self._authenticated_at if self.status is Status.AUTHENTICATED else None
        self._step_deadline = math.inf
        self._probe_sent_at = None
        self.last_error = error
        if held is not None:
            self._was_lost = True
            self.keeps_trying = self._auto_reconnect
            if held >= max(_MIN_STABLE, self._backoff.last_delay):
                self._backoff.reset()
        if isinstance(error, InvalidAuthError | InvalidKeyError):
            self.keeps_trying = False
            return actions + self._move(Status.AUTH_FAILED)
        if not self.keeps_trying or not may_reconnect(error):
            self.keeps_trying = False
            return actions + self._move(Status.DISCONNECTED)
        if held is not None:
            actions += self._move(Status.DISCONNECTED)
        return actions + self._schedule(error, now)

    def _schedule(self, error: WSClientError, now: float) -> list[Action]:
        if self._backoff.is_exhausted:
            self.keeps_trying = False
            attempts = self._backoff.attempts
            self._backoff.reset()
            if not attempts:
                # max_reconnect_attempts=0: nothing was tried, so nothing failed.
                return self._move(Status.DISCONNECTED)
            self.last_error = ReconnectFailedError(
                f"{attempts} reconnect attempts failed, the last with: {error.message}"
            )
            self.last_error.__cause__ = error
            return self._move(Status.RECONNECT_FAILED)
        self._step_deadline = now + self._backoff.next_delay(error.retry_after)
        return self._move(Status.RECONNECTING)

    def keep_trying(self) -> None:
        """Let the schedule go on after a failed first attempt too (`auto_connect`)."""
        self.keeps_trying = self._auto_reconnect

    def close(self, now: float) -> list[Action]:
        """Give up whatever is under way because the user closed the client."""
        error = ClientClosedError("the client was closed")
        actions = self._fail_all(error) if self.status is Status.DISCONNECTED else self.lost(error, now)
        self.keeps_trying = False
        self._backoff.reset()
        # What the user ended was not lost: the next login is no reconnect.
        self._was_lost = False
        return actions

    # --- requests -----------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether requests can go out."""
        return self.status is Status.AUTHENTICATED

    def give_up(self, id: str, now: float) -> OpenRequest | None:
        """Take a request out because its waiter went; return it, or `None` when it had ended already."""
        return self.requests.finish(id, now)

    def _fail_all(self, error: WSClientError) -> list[Action]:
        return [Failed(request.sink, error.again(id=request.id)) for request in self.requests.take_all()]

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return when `tick` has to be called at the latest; infinity when nothing is due."""
        due = self.requests.next_deadline()
        if self.status is Status.AUTHENTICATED:
            return min(due, self._liveness_due())
        return min(due, self._step_deadline)

    def _liveness_due(self) -> float:
        if self._probe_sent_at is not None:
            return self._probe_sent_at + self._times.pong_timeout
        return self._heard_at + self._times.ping_interval

    def take_new_due(self) -> float:
        """Return the earliest time that became due since the last call, infinity when none did.

        Cheap, unlike `next_due`: it is asked after every batch of messages, because a first token, a login or the end
        of a batch item can bring a deadline nearer than the one that was planned for.
        """
        due = min(self._new_due, self.requests.new_due)
        self._new_due = self.requests.new_due = math.inf
        return due

    def tick(self, now: float) -> list[Action]:
        """Do what is due: give up requests, probe the line, end a dead one, dial again."""
        actions: list[Action] = []
        for request in self.requests.overdue(now):
            actions.append(Failed(request.sink, RequestTimeoutError(request.describe_timeout(), id=request.id)))
            if request.is_generation:
                actions.append(StopOnServer(request.id))
            self.requests.finish(request.id, now)
        if self.status is Status.AUTHENTICATED:
            if now >= self._liveness_due():
                actions.append(self._probe_or_end())
        elif now >= self._step_deadline:
            # Once is enough: the shell answers with `lost` or `dial`, which set the next deadline.
            self._step_deadline = math.inf
            actions.append(self._step_overdue())
        return actions

    def _probe_or_end(self) -> Action:
        if self._probe_sent_at is None:
            return Probe()
        silence = self._times.ping_interval + self._times.pong_timeout
        return EndLine(ConnectionLostError(f"the server was silent for {silence:g} s and did not answer a ping"))

    def _step_overdue(self) -> Action:
        if self.status is Status.RECONNECTING:
            return Dial()
        if self.status is Status.CONNECTING:
            return EndLine(ConnectionTimeoutError(f"no connection within {self._times.connect_timeout:g} s"))
        if not self._is_challenged:
            return EndLine(ChallengeTimeoutError(f"no challenge within {self._times.auth_timeout:g} s"))
        if not self._is_signed:
            return EndLine(AuthTimeoutError(f"the challenge was not signed within {self._times.auth_timeout:g} s"))
        return EndLine(AuthTimeoutError(f"no verdict on the login within {self._times.auth_timeout:g} s"))

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, values: list[Any], now: float) -> list[Action]:
        """Take a batch of parsed messages and say what to deliver, each generation's tokens in one piece.

        Args:
            values: what `decode_values` returned.
            now: the time.
        """
        self.messages_received += len(values)
        actions: list[Action] = []
        batches: dict[str, list[str]] = {}
        current: Any = _NO_ID
        tokens: list[str] = []
        for value in values:
            # The hot path: every field it reads may be missing or of any type, and then the message takes the
            # careful path. A token that is not text is found when the batch is joined.
            try:
                if value["type"] == "stream_token" and "kind" not in value:
                    id = value["id"]
                    if id != current:
                        tokens = batches.setdefault(id, [])
                        current = id
                    tokens.append(value["token"])
                    continue
            except (KeyError, TypeError):
                pass
            current = _NO_ID
            self._receive_one(value, now, batches, actions)
            if actions and isinstance(actions[-1], EndLine):
                return actions
        for id in batches:
            self._flush(id, batches[id], now, actions)
        return actions

    def _flush(self, id: str, tokens: list[str], now: float, actions: list[Action], is_thinking: bool = False) -> None:
        request = self.requests.get(id)
        if request is None or not request.is_generation:
            self.ignored_messages += len(tokens)
            return
        try:
            text = "".join(tokens)
        except TypeError:
            good = next(index for index, token in enumerate(tokens) if not isinstance(token, str))
            self._flush(id, tokens[:good], now, actions)
            kind = type(tokens[good]).__name__
            self._fail_one(ProtocolError(f"stream_token message: token must be text (got {kind})", id=id), now, actions)
            return
        if tokens:
            is_first, request.last_token_at = request.last_token_at is None, now
            if is_first:
                # The silence allowed from now on may be shorter than the wait for a cold model was.
                self._new_due = min(self._new_due, request.deadline())
            self.tokens += len(tokens)
            actions.append(Tokens(request.sink, tokens, text, is_thinking))

    def _fail_one(self, error: WSClientError, now: float, actions: list[Action]) -> None:
        """Fail the request that an error names, or report it as belonging to none."""
        request = self.requests.finish(error.id, now) if error.id is not None else None
        if request is None:
            actions.append(StrayError(error))
            return
        actions.append(Failed(request.sink, error))
        if isinstance(error, ProtocolError) and request.is_generation:
            actions.append(StopOnServer(request.id))

    def _receive_one(self, value: Any, now: float, batches: dict[str, list[str]], actions: list[Action]) -> None:
        try:
            message = decode_server_message(value)
        except ProtocolError as error:
            if self.status is not Status.AUTHENTICATED:
                actions.append(EndLine(error))
                return
            self._flush_before(error.id, now, batches, actions)
            self._fail_one(error, now, actions)
            return
        if self.status is not Status.AUTHENTICATED:
            self._receive_login(message, now, actions)
            return
        self._flush_before(getattr(message, "id", None), now, batches, actions)
        handler = _HANDLERS.get(type(message))
        if handler is None:
            self.ignored_messages += 1
        else:
            handler(self, message, now, actions)

    def _flush_before(self, id: Any, now: float, batches: dict[str, list[str]], actions: list[Action]) -> None:
        # Tokens that came before this message are delivered before it.
        if isinstance(id, str) and id in batches:
            self._flush(id, batches.pop(id), now, actions)

    def _receive_login(self, message: Any, now: float, actions: list[Action]) -> None:
        if isinstance(message, ChallengeMessage) and not self._is_challenged:
            # One signature a connection: a second challenge is ignored.
            self._is_challenged = True
            self._step_deadline = now + self._times.auth_timeout
            actions.append(Sign(message.challenge))
        elif isinstance(message, ErrorMessage) or (isinstance(message, AuthResultMessage) and not message.success):
            actions.append(EndLine(message.to_error()))
        elif isinstance(message, AuthResultMessage) and not self._is_signed:
            actions.append(EndLine(ProtocolError("the server accepted a login that was not sent")))
        elif isinstance(message, AuthResultMessage):
            self.connects += 1
            is_recovery, self._was_lost = self._was_lost, False
            self.reconnects += is_recovery
            self._authenticated_at = self._heard_at = now
            self._step_deadline = math.inf
            self.last_error = None
            limit = message.max_message_bytes or 0
            self.max_message_bytes = limit if limit > 0 else None
            actions += self._move(Status.AUTHENTICATED)
            self._new_due = min(self._new_due, self._liveness_due())
            actions.append(Ready(is_recovery))
        else:
            self.ignored_messages += 1

    def _receive_models(self, message: ModelsResultMessage, now: float, actions: list[Action]) -> None:
        self._answer(message.id, RequestKind.MODELS, message.models, now, actions)

    def _receive_pong(self, message: PongMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is not None and request.kind is RequestKind.PING:
            self.latency = now - request.opened_at
        self._answer(message.id, RequestKind.PING, self.latency, now, actions)

    def _receive_ack(self, message: AckMessage, now: float, actions: list[Action]) -> None:
        self._answer(message.id, RequestKind.STOP, True, now, actions)

    def _answer(self, id: Any, kind: RequestKind, value: Any, now: float, actions: list[Action]) -> None:
        request = self.requests.get(id or "")
        if request is None:
            self.ignored_messages += 1
        elif request.kind is not kind:
            self._fail_one(ProtocolError(f"the server answered {request.kind} with {kind}", id=id), now, actions)
        else:
            self.requests.finish(request.id, now)
            actions.append(Answered(request.sink, value))

    def _receive_start(self, message: StreamStartMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None or not request.is_generation:
            self.ignored_messages += 1
        else:
            actions.append(Started(request.sink, message.model or None))

    def _receive_kind_of_token(self, message: StreamTokenMessage, now: float, actions: list[Action]) -> None:
        self._flush(message.id or "", [message.token], now, actions, is_thinking=message.kind == "thinking")

    def _receive_end(self, message: StreamEndMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None or not request.is_generation:
            self.ignored_messages += 1
        else:
            self.requests.finish(request.id, now)
            actions.append(Ended(request.sink, message))

    def _receive_error(self, message: ErrorMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None:
            if message.id:
                self.ignored_messages += 1
            else:
                actions.append(StrayError(message.to_error()))
        elif request.kind is RequestKind.STOP and message.error.startswith("No active generation"):
            self.requests.finish(request.id, now)
            actions.append(Answered(request.sink, False))
        elif request.is_generation and message.is_abort():
            # How the original ends a stopped generation; cancelled, by whomever, is a result.
            self.requests.finish(request.id, now)
            actions.append(Ended(request.sink, StreamEndMessage(id=request.id, is_cancelled=True)))
        else:
            self._fail_one(message.to_error(), now, actions)

    def _move(self, status: Status) -> list[Action]:
        if status is self.status:
            return []
        check_move(self.status, status)
        self.status = status
        return [StatusChanged(status)]


_Handler = Callable[[Session, Any, float, list[Action]], None]
_HANDLERS: dict[type, _Handler] = {
    ModelsResultMessage: Session._receive_models,
    PongMessage: Session._receive_pong,
    AckMessage: Session._receive_ack,
    StreamStartMessage: Session._receive_start,
    StreamTokenMessage: Session._receive_kind_of_token,
    StreamEndMessage: Session._receive_end,
    ErrorMessage: Session._receive_error,
}
