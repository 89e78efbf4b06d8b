"""The legal moves between the seven statuses (seed section "getStatus()"), in one table."""

from __future__ import annotations

from ..events import ConnectionStatus as Status

__all__ = ["MOVES", "check_move"]

MOVES: dict[Status, frozenset[Status]] = {
    # A gateway that logs in and drops at once uses the attempts up while every loss passes through here.
    Status.DISCONNECTED: frozenset({Status.CONNECTING, Status.RECONNECTING, Status.RECONNECT_FAILED}),
    Status.CONNECTING: frozenset(
        {
            Status.CONNECTED,
            Status.DISCONNECTED,
            Status.RECONNECTING,
            Status.RECONNECT_FAILED,
            Status.AUTH_FAILED,
        }
    ),
    Status.CONNECTED: frozenset(
        {
            # The gateway at this address is busy: the next one is dialled.
            Status.CONNECTING,
            Status.AUTHENTICATED,
            Status.AUTH_FAILED,
            Status.DISCONNECTED,
            Status.RECONNECTING,
            Status.RECONNECT_FAILED,
        }
    ),
    # A live connection can end in auth_failed too: the client was revoked (close code 4003).
    Status.AUTHENTICATED: frozenset({Status.DISCONNECTED, Status.AUTH_FAILED}),
    Status.RECONNECTING: frozenset({Status.CONNECTING, Status.DISCONNECTED}),
    Status.AUTH_FAILED: frozenset({Status.CONNECTING, Status.DISCONNECTED}),
    Status.RECONNECT_FAILED: frozenset({Status.CONNECTING, Status.DISCONNECTED}),
}


def check_move(old: Status, new: Status) -> None:
    """Raise `AssertionError` unless a client may go from one status to the other."""
    if new not in MOVES[old]:
        raise AssertionError(f"status {old} cannot become {new}")
