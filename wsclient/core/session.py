"""The session: the status, the open requests and the line's liveness, decided without threads, sockets or a clock.

The shell (`connection.py`) calls one method at a time under its lock, with the time, and carries out the actions that
come back after it has released the lock. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
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
    Dial,
    EndLine,
    Failed,
    Probe,
    Ready,
    Sign,
    StatusChanged,
    StopOnServer,
)
from .addresses import Addresses
from .answers import Answers
from .backoff import Backoff
from .decoding import decode_server_message
from .messages import (
    AuthResultMessage,
    ChallengeMessage,
    ErrorMessage,
)
from .requests import OpenRequest
from .states import check_move

__all__ = ["Session", "SessionTimes"]

# A connection that held for less than this, and for less than the last pause, does not reset the backoff.
_MIN_STABLE = 1.0


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
        addresses: where to dial.
        auto_reconnect: whether a lost connection is dialled again.

    Attributes:
        status: where the connection stands.
        addresses: where to dial, and what is in use.
        requests: what the server still owes an answer; `open` it before sending, an answer can be faster.
        last_error: why it is not authenticated, when a fault was the reason.
        keeps_trying: whether a failed attempt is followed by another.
        max_message_bytes: what the server takes in one message, when it said so.
    """

    def __init__(self, times: SessionTimes, backoff: Backoff, addresses: Addresses, *, auto_reconnect: bool) -> None:
        self._times = times
        self._backoff = backoff
        self.addresses = addresses
        self._auto_reconnect = auto_reconnect
        self._answers = Answers()
        self.requests = self._answers.requests
        self.status = Status.DISCONNECTED
        self.last_error: WSClientError | None = None
        self.keeps_trying = False
        self.max_message_bytes: int | None = None
        self.messages_received = self.connects = self.reconnects = 0
        # Until when the present step (dial, challenge, verdict) may take, and the next dial while reconnecting.
        self._step_deadline = math.inf
        # The earliest time that came up since `take_new_due` was asked last.
        self._new_due = math.inf
        self._is_challenged = self._is_signed = False
        self._authenticated_at = 0.0
        self._heard_at = 0.0
        self._probe_sent_at: float | None = None
        self._is_mid_frame = False
        # The last loss's recovery counts as a reconnect; a first login does not.
        self._was_lost = False

    # --- the line's life ----------------------------------------------------------------------------------------------

    def dial(self, now: float) -> list[Action]:
        """Begin a connection attempt, at `addresses.current`; legal whenever none is under way."""
        self.addresses.next()
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

    def heard(self, now: float, *, is_whole: bool = True) -> None:
        """Note a sign of life: bytes came in.

        Args:
            now: the time.
            is_whole: whether they completed a message or a control frame.
        """
        self._heard_at = now
        self._is_mid_frame = not is_whole
        if self._probe_sent_at is not None:
            self._probe_sent_at = None
            # With a pong_timeout above the ping_interval the next probe is due before the time planned for this one's.
            self._new_due = min(self._new_due, now + self._times.ping_interval)

    def probed(self, now: float) -> None:
        """Note that a probe is on its way."""
        self._probe_sent_at = now

    def mistrust(self, now: float) -> None:
        """Have the line probed at once: the machine slept, and the server may be long gone."""
        if self._probe_sent_at is None:
            self._heard_at = min(self._heard_at, now - self._times.ping_interval)
            self._new_due = min(self._new_due, now)

    def sent(self, now: float) -> None:
        """Note that a long send moved on: a probe waits behind it, and its answer cannot be late yet."""
        if self._probe_sent_at is not None:
            self._probe_sent_at = now

    def lost(self, error: WSClientError, now: float, *, ends_round: bool = False) -> list[Action]:
        """End the connection or the attempt: fail everything open, and decide how it goes on.

        Args:
            error: why; `ClientClosedError` when the user closed the client.
            now: the time.
            ends_round: whether a failed attempt is not followed by one at the next address.
        """
        actions = self._fail_all(error)
        held = now - self._authenticated_at if self.status is Status.AUTHENTICATED else None
        self._step_deadline = math.inf
        self._probe_sent_at = None
        self._is_mid_frame = False
        if held is None and not ends_round:
            outcome = self.addresses.failed(error)
            if outcome is None:
                # The same attempt, as far as anybody can see.
                return [*actions, Dial()]
            error = outcome
        self.addresses.end_round()
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
        is_idle = self.status is Status.DISCONNECTED
        actions = self._fail_all(error) if is_idle else self.lost(error, now, ends_round=True)
        self.addresses.start_over()
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

    @property
    def has_given_up(self) -> bool:
        """Whether it stays unconnected until somebody asks for a connection, because no attempt could succeed."""
        if self.status in (Status.AUTH_FAILED, Status.RECONNECT_FAILED):
            return True
        is_final = self.last_error is not None and not may_reconnect(self.last_error)
        return self.status is Status.DISCONNECTED and is_final

    @property
    def latency(self) -> float | None:
        """The last ping's round trip in seconds."""
        return self._answers.latency

    @property
    def tokens(self) -> int:
        """How many tokens came in."""
        return self._answers.tokens

    @property
    def ignored_messages(self) -> int:
        """How many messages were of unknown type, or for ids nobody waits for."""
        return self._answers.ignored

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
        due = self._heard_at + self._times.ping_interval
        # In the middle of a frame a server cannot answer, and if the frame's length is wrong, answers vanish in it and
        # look like life for ever: so nothing is asked, and what it says by itself has as long as an answer would.
        return due + self._times.pong_timeout if self._is_mid_frame else due

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
        if self._probe_sent_at is None and not self._is_mid_frame:
            return Probe()
        silence = self._times.ping_interval + self._times.pong_timeout
        fault = "left a frame unfinished" if self._is_mid_frame else "did not answer a ping"
        return EndLine(ConnectionLostError(f"the server was silent for {silence:g} s and {fault}"))

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
        for index, value in enumerate(values):
            if self.status is Status.AUTHENTICATED:
                return actions + self._answers.receive(values[index:], now)
            self._receive_login(value, now, actions)
            if actions and isinstance(actions[-1], EndLine):
                break
        return actions

    def _receive_login(self, value: Any, now: float, actions: list[Action]) -> None:
        try:
            message = decode_server_message(value)
        except ProtocolError as error:
            actions.append(EndLine(error))
            return
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
            self.addresses.reached_current()
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
            self._answers.ignored += 1

    def _move(self, status: Status) -> list[Action]:
        if status is self.status:
            return []
        check_move(self.status, status)
        self.status = status
        return [StatusChanged(status)]
