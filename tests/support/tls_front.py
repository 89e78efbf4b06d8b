"""TLS in front of a server that speaks none, as a reverse proxy has it in production."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from typing import Self

__all__ = ["TlsFront"]

_CHUNK = 256 * 1024


class TlsFront:
    """Listens on loopback, ends TLS there and passes the bytes on; a context manager.

    One event loop does all of it, so that this end never has two threads on one TLS connection.

    Args:
        port: where to pass the bytes on to, on 127.0.0.1.
        context: what to serve TLS with.

    Attributes:
        port: where it listens.
        accepted: how many TCP connections came in, TLS or not.
        versions: the TLS version of each handshake that succeeded.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target = port
        self._context = context
        self.port = 0
        self.accepted = 0
        self.versions: list[str] = []
        self._is_started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tls-front", daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"wss://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._relays: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        self._is_started.set()
        await self._stop.wait()
        server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = self._loop.create_task(self._relay(reader, writer))
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner: asyncio.StreamWriter | None = None
        try:
            await writer.start_tls(self._context)
            self.versions.append(writer.get_extra_info("ssl_object").version())
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._target, limit=_CHUNK)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, inner))
                group.create_task(_pass_on(inner_reader, writer))
        except* (OSError, EOFError):
            # A client that does not trust the certificate, or one that just went.
            pass
        finally:
            for end in (writer, inner):
                if end is not None:
                    end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        await writer.drain()
    # Either end's end is both ends' end: the other direction is given up with it.
    raise EOFError
