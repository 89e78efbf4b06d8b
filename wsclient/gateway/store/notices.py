"""Notices that clients have changed: heard as soon as another gateway or a command makes a change; imports `redis`.

A notice can be lost, with the connection that it was to come on; so the gateway looks by itself as well, as often as
at a file. What both bring is the same look, and the second finds nothing new.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

__all__ = ["listen"]

_log = logging.getLogger(__name__)

_WAIT = 5.0
_TRY_AGAIN = 1.0


async def listen(client: Redis, channel: str, on_notice: Callable[[], Awaitable[None]]) -> None:
    """Listen for notices until cancelled.

    Args:
        client: of the store.
        channel: where the notices come.
        on_notice: called for each, and once when it begins to listen: before that, one may have been missed.
    """
    while True:
        try:
            async with client.pubsub() as subscription:
                await subscription.subscribe(channel)
                while True:
                    # The first one says that it listens, and so does one after each loss of the connection.
                    if await subscription.get_message(timeout=_WAIT) is not None:
                        await on_notice()
        except (RedisError, OSError, TimeoutError) as error:
            # Who cannot log in meanwhile is told elsewhere, and why.
            _log.debug("no notices from the store for now: %s", type(error).__name__)
        await asyncio.sleep(_TRY_AGAIN * random.uniform(0.5, 1.5))
