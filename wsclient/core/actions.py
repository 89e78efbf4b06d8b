"""What the session asks its shell to do, in order, once the lock is released.

A `sink` is where the outcome of a request goes; it is opaque to the session.
"""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import WSClientError
from ..events import ConnectionStatus
from .messages import StreamEndMessage

__all__ = [
    "Action",
    "Answered",
    "Dial",
    "EndLine",
    "Ended",
    "Failed",
    "Probe",
    "Ready",
    "Sign",
    "Started",
    "StatusChanged",
    "StopOnServer",
    "StrayError",
    "Tokens",
]


@attrs.frozen(repr=False)
class Tokens:
    """Hand one batch of tokens to a generation; `text` is the same joined."""

    sink: Any
    tokens: list[str]
    text: str
    is_thinking: bool = False


@attrs.frozen(repr=False)
class Started:
    """Tell a generation that the server accepted it."""

    sink: Any
    model: str | None


@attrs.frozen(repr=False)
class Ended:
    """Tell a generation its end; `message` is the server's, or made up for one that was cancelled."""

    sink: Any
    message: StreamEndMessage


@attrs.frozen(repr=False)
class Answered:
    """Give a request its answer."""

    sink: Any
    value: Any


@attrs.frozen(repr=False)
class Failed:
    """Give a request or generation its error."""

    sink: Any
    error: WSClientError


@attrs.frozen(repr=False)
class StrayError:
    """Report an error that belongs to no request."""

    error: WSClientError


@attrs.frozen(repr=False)
class StatusChanged:
    """Report the new status."""

    status: ConnectionStatus


@attrs.frozen(repr=False)
class Ready:
    """The login succeeded: requests can go out; `is_recovery` says whether an outage ended with it."""

    is_recovery: bool


@attrs.frozen(repr=False)
class Sign:
    """Sign the challenge and send the answer."""

    challenge: str = attrs.field(repr=False)


@attrs.frozen(repr=False)
class Probe:
    """Send an application ping: the line has been silent for too long."""


@attrs.frozen(repr=False)
class StopOnServer:
    """Send a stop for a generation that nobody waits for any more."""

    id: str


@attrs.frozen(repr=False)
class EndLine:
    """End the connection without ceremony; `error` says why."""

    error: WSClientError


@attrs.frozen(repr=False)
class Dial:
    """Start the next connection attempt now."""


Action = (
    Tokens
    | Started
    | Ended
    | Answered
    | Failed
    | StrayError
    | StatusChanged
    | Ready
    | Sign
    | Probe
    | StopOnServer
    | EndLine
    | Dial
)
