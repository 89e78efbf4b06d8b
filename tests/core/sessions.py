"""Sessions for tests: a fake clock is just the numbers that are passed in, and the dice always fall in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from wsclient.core.actions import Action, Failed, StatusChanged
from wsclient.core.addresses import Addresses
from wsclient.core.backoff import Backoff
from wsclient.core.requests import OpenRequest, RequestKind
from wsclient.core.session import Session, SessionTimes
from wsclient.errors import ConnectionLostError, WSClientError
from wsclient.events import ConnectionStatus as Status

CHALLENGE = {"type": "challenge", "challenge": "c" * 64}
ACCEPTED = {"type": "auth_result", "success": True}
CONNECT_TIMEOUT, AUTH_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT = 10.0, 5.0, 30.0, 8.0
LOST = ConnectionLostError("the connection broke off")

_A = TypeVar("_A")


def make_session(
    *,
    auto_reconnect: bool = True,
    attempts: int | None = 10,
    first_delay: float = 1.0,
    max_delay: float = 30.0,
    urls: Sequence[str] = ("ws://localhost/",),
) -> Session:
    times = SessionTimes(
        connect_timeout=CONNECT_TIMEOUT,
        auth_timeout=AUTH_TIMEOUT,
        ping_interval=PING_INTERVAL,
        pong_timeout=PONG_TIMEOUT,
    )
    backoff = Backoff(first_delay, max_delay, attempts, lambda: 0.5)
    return Session(times, backoff, Addresses(urls), auto_reconnect=auto_reconnect)


def log_in(session: Session, now: float = 0.0, **verdict: Any) -> Session:
    """Take a session through dial, challenge and verdict, all at one moment."""
    session.dial(now)
    session.opened(now)
    session.heard(now)
    session.receive([CHALLENGE], now)
    session.signed(now)
    session.receive([ACCEPTED | verdict], now)
    assert session.status is Status.AUTHENTICATED
    return session


def logged_in(now: float = 0.0, **options: Any) -> Session:
    return log_in(make_session(**options), now)


class Sink:
    """Where a request's outcome goes; its name is what a failing test shows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Sink({self.name})"


def request(id: str, kind: RequestKind = RequestKind.GENERATION, **options: Any) -> OpenRequest:
    return OpenRequest(id=id, kind=kind, sink=Sink(id), **{"answer_timeout": 60.0, "token_timeout": 20.0} | options)


def opened(session: Session, *requests: OpenRequest, now: float = 0.0) -> tuple[Sink, ...]:
    """File requests, several as the items of a batch; return their sinks."""
    session.requests.open(requests, now)
    return tuple(request.sink for request in requests)


def token(id: Any, text: Any, **more: Any) -> dict[str, Any]:
    return {"type": "stream_token", "id": id, "token": text, **more}


def statuses(actions: Sequence[Action]) -> list[Status]:
    return [action.status for action in actions if isinstance(action, StatusChanged)]


def of_kind(actions: Sequence[Action], kind: type[_A]) -> list[_A]:
    return [action for action in actions if isinstance(action, kind)]


def only(actions: Sequence[Action], kind: type[_A]) -> _A:
    """Return the one action of this kind, which must be the only action of any kind."""
    (action,) = actions
    assert isinstance(action, kind), actions
    return action


def failures(actions: Sequence[Action]) -> dict[str, WSClientError]:
    return {action.sink.name: action.error for action in of_kind(actions, Failed)}
