"""Hand what came in to those who wait for it: generations and futures. No lock is held meanwhile."""

from __future__ import annotations

import attrs

from .core.actions import Action, Answered, Ended, Failed, Started, Tokens
from .errors import WSClientError
from .feed import GenerationFeed
from .futures import Future

__all__ = ["LoginWaiter", "LoginWaiters", "Loss", "deliver", "tell"]


def deliver(action: Action) -> GenerationFeed | None:
    """Carry out an action whose object is a request.

    Returns:
        The generation that has no more room, if that is what came out.
    """
    if type(action) is Tokens:
        has_room: bool = action.sink.push(action.tokens, action.text, action.is_thinking)
        return None if has_room else action.sink
    if type(action) is Answered:
        action.sink.set_result(action.value)
    elif type(action) is Started:
        action.sink.start(action.model)
    elif type(action) is Ended:
        action.sink.finish(action.message)
    elif isinstance(action, Failed):
        if isinstance(action.sink, GenerationFeed):
            action.sink.fail(action.error)
        else:
            action.sink.set_exception(action.error)
    return None


@attrs.define(slots=True, eq=False)
class LoginWaiter:
    """Somebody who waits for the login; a patient one sits out failed attempts while more are to come."""

    is_patient: bool
    future: Future[None] = attrs.field(factory=Future)


class LoginWaiters:
    """Those who wait for the login. The connection's lock guards it; the futures are settled after its release."""

    def __init__(self) -> None:
        self._waiters: list[LoginWaiter] = []

    def add(self, *, is_patient: bool) -> LoginWaiter:
        """Add one."""
        waiter = LoginWaiter(is_patient)
        self._waiters.append(waiter)
        return waiter

    def remove(self, waiter: LoginWaiter) -> None:
        """Take one out, if it is still there."""
        self._waiters = [other for other in self._waiters if other is not waiter]

    def __len__(self) -> int:
        return len(self._waiters)

    def take(self, *, impatient_only: bool = False) -> list[LoginWaiter]:
        """Take out those to be told; the patient ones stay when only the others are."""
        told = [waiter for waiter in self._waiters if not (impatient_only and waiter.is_patient)]
        self._waiters = [waiter for waiter in self._waiters if impatient_only and waiter.is_patient]
        return told


@attrs.frozen(eq=False, repr=False)
class Loss:
    """What a connection's end means, to be carried out once the lock is released.

    Attributes:
        actions: the failed requests and the new statuses.
        told: who waits for a login, and is told `error`.
        error: see `told`.
        news: what belongs into the log and to `on_error`, if anything.
        is_over: whether it is not tried again.
    """

    actions: list[Action]
    told: list[LoginWaiter]
    error: WSClientError
    news: WSClientError | None
    is_over: bool


def tell(waiters: list[LoginWaiter], error: WSClientError | None) -> None:
    """Tell waiters the outcome, each an error of its own."""
    for waiter in waiters:
        if error is None:
            waiter.future.set_result(None)
        else:
            waiter.future.set_exception(error.again())
