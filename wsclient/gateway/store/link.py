"""The gateway's own line to the store: short questions from the event loop; imports `redis`.

A store that does not answer must cost nobody more than a moment: an answer has two seconds, and after a failure
everybody is told at once, without asking, until the next try a second later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any

from redis.exceptions import RedisError

from ..guard import CannotCountError
from .address import StoreAddress
from .connecting import TIMEOUT, describe, make_async_client

__all__ = ["StoreLink"]

_log = logging.getLogger(__name__)

# Questions at the same time, each on a connection of its own: a storm of logins must not become one of connections.
_AT_ONCE = 16
_TRY_AGAIN = 1.0
# What clients are told to wait: not all the same time, so that they do not come back together.
_CLIENTS_WAIT = (2, 5)


class StoreLink:
    """Asks the store; belongs to the event loop.

    Args:
        address: which store.
        prefix: what names of keys begin with.

    Attributes:
        client: the package's, for who does more than ask.
    """

    def __init__(self, address: StoreAddress, prefix: str) -> None:
        self.prefix = prefix
        self.client = make_async_client(address)
        self._address = address
        self._scripts: dict[str, Any] = {}
        self._questions: set[asyncio.Task[Any]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._down_until = 0.0
        self._is_down = False

    async def call(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Run a script in the store.

        Args:
            script: one of `scripts.py`.
            keys: without the prefix.
            args: the script's.

        Raises:
            CannotCountError: the store does not answer, or takes no changes.
        """
        async with self._room:
            # Here: while this one waited for its turn, another may have found out.
            if asyncio.get_running_loop().time() < self._down_until:
                raise CannotCountError(random.randint(*_CLIENTS_WAIT))
            try:
                answer = await self._ask(self._script(script)(keys=[self.prefix + key for key in keys], args=args))
            except (RedisError, OSError, TimeoutError) as error:
                raise self._failed(error) from error
        if self._is_down:
            self._is_down = False
            _log.info("the store at %s answers again", self._address.shown)
        return answer

    async def _ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        # In a task of its own: up to Python 3.11 `asyncio.wait_for`, which the package sends with, loses a cancellation
        # that comes as it is done, and a generation that was stopped meanwhile would stream on.
        task = asyncio.get_running_loop().create_task(question)
        self._questions.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait([task], timeout=TIMEOUT)
            if not task.done():
                raise TimeoutError
            return task.result()
        finally:
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._questions.discard(task)
        if not task.cancelled():
            # Looked at, because asyncio complains of errors that nobody has seen.
            task.exception()

    async def close(self) -> None:
        """Let go of the connections."""
        if self._questions:
            await asyncio.wait(self._questions, timeout=TIMEOUT)
        await self.client.aclose()

    def _script(self, text: str) -> Any:
        if text not in self._scripts:
            self._scripts[text] = self.client.register_script(text)
        return self._scripts[text]

    def _failed(self, error: Exception) -> CannotCountError:
        self._down_until = asyncio.get_running_loop().time() + _TRY_AGAIN
        if not self._is_down:
            self._is_down = True
            _log.warning("%s; nobody can log in until it does its work", describe(error, self._address))
        return CannotCountError(random.randint(*_CLIENTS_WAIT))
