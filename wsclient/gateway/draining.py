"""An orderly end: clients are sent away one after the other, and running generations finish as far as time allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection

from .connection import Connection

__all__ = ["send_away"]

_RESTART = 1012
# Each of them comes back at once, to this gateway's successor, and costs it a login.
_FAREWELLS_PER_SECOND = 10
_LOOK_EVERY = 0.02


async def send_away(connections: Collection[Connection], deadline: Callable[[], float]) -> None:
    """Close connections with 1012, spread over the time there is, and wait until they are gone.

    A connection whose turn has come stays until it is idle, and none stays longer than the deadline.

    Args:
        connections: all that are open; none is added meanwhile.
        deadline: the event loop's time by which all are told; asked again and again, since it may come closer.
    """
    loop = asyncio.get_running_loop()
    staying = list(connections)
    everybody = [connection.socket.closed for connection in staying]
    # In no particular order, so that no client is always the first to be sent away.
    random.shuffle(staying)
    for connection in staying:
        connection.drain()
    begun = loop.time()
    spread = min(len(staying) / _FAREWELLS_PER_SECOND, max(0.0, deadline() - begun))
    due = {connection: begun + spread * number / len(staying) for number, connection in enumerate(staying)}
    while True:
        now = loop.time()
        for connection in staying:
            if now >= deadline() or (now >= due[connection] and not connection.is_busy):
                connection.socket.close(_RESTART, "the gateway restarts")
        staying = [connection for connection in staying if connection.socket.is_open]
        if not staying:
            break
        await asyncio.sleep(_LOOK_EVERY)
    if everybody:
        # Each socket has its own limit for the closing handshake.
        await asyncio.wait(everybody)
