"""Calls in threads of their own, for tests that look at who waits and what he is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsclient import WSClient

from .fake_transport import FakeNetwork, FakeTransport
from .lines import in_thread

__all__ = ["Call", "connected"]

# How long a call gets to end before it counts as waiting.
_MOMENT = 0.05


class Call:
    """A call in a thread of its own, begun at once."""

    def __init__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: Any = None
        self._call = lambda: target(*args, **kwargs)
        self._thread = in_thread(self._run)

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._outcome = error

    def is_waiting(self) -> bool:
        """Return whether it still waits, after a moment in which it could have ended."""
        self._thread.join(_MOMENT)
        return self._thread.is_alive()

    def end(self, timeout: float = 5.0) -> Any:
        """Wait for its end and return what it returned, or the error that it raised."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the call hangs"
        return self._outcome


def connected(client: WSClient, network: FakeNetwork, number: int = 0, **verdict: Any) -> FakeTransport:
    """Connect a client and return its line.

    Args:
        client: the client.
        network: what it dials.
        number: which line of the network it will be.
        **verdict: more fields of the `auth_result`.
    """
    call = Call(client.connect)
    line = network.line(number)
    line.log_in(**verdict)
    assert call.end() is None
    return line
