"""The source without a C compiler: the same answers as `source.c`, prepared as far as Python can.

    python -m tests.bench.python_source [CERTIFICATE.pem]

Its blocks of tokens come as fast, but what is answered one by one (round trips, single tokens, messages of 16 MiB)
waits two or three times as long for it: the table says which source was read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import sys
import time
from typing import Any

from wsclient.core.frames import CLOSE, TEXT, encode_frame, encode_texts
from wsclient.core.frames import FrameParser as Parser

_BLOCK = 600
_MODELS = [
    {"name": "llama2:latest", "size": 3826793677, "digest": "78e26419b446", "modified_at": "2026-11-22T18:33:42Z"}
]
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Line:
    """One connection; `running` are the generations that take turns, and how many tokens each still owes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._running: dict[str, int] = {}
        self._has_work = asyncio.Event()

    async def serve(self) -> None:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(
                line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in head.split("\r\n")[1:-2]
            )
            if "sec-websocket-key" not in headers:
                await self._ollama(await self._reader.readexactly(int(headers["content-length"])))
                return
            nonce = f"{headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(nonce.encode()).digest())
            self._writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._say(type="challenge", challenge="0123456789abcdef" * 4)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump())
                await self._read()
                raise EOFError
        except* (OSError, EOFError):
            pass
        finally:
            self._writer.transport.abort()

    async def _read(self) -> None:
        parser = Parser(masked=True, max_message_size=1 << 26)
        while (data := await self._reader.read(1 << 20)) and parser.close is None:
            for text in parser.feed(data):
                await self._take(json.loads(text), len(text))
        self._writer.write(encode_frame(CLOSE, b""))

    def _say(self, **message: Any) -> None:
        self._writer.write(encode_frame(TEXT, json.dumps(message).encode()))

    async def _take(self, message: dict[str, Any], size: int) -> None:
        id = message.get("id")
        if message["type"] == "authenticate":
            self._say(type="auth_result", success=True)
        elif message["type"] == "ping":
            self._say(type="pong", id=id)
        elif message["type"] == "models":
            self._say(type="models_result", id=id, models=_MODELS)
        elif message["type"] == "generate":
            self._say(type="stream_start", id=id)
            kind, _, number = message["model"].partition(":")
            if kind == "tokens":
                self._running[str(id)] = int(number)
                self._has_work.set()
                return
            for _ in range(int(number) if kind == "idle" else 0):
                await asyncio.sleep(0.002)
                self._say(type="stream_token", id=id, token=str(time.monotonic_ns()))
            if kind == "big":
                self._say(type="stream_token", id=id, token="x" * int(number))
            self._say(type="stream_end", id=id, totalTokens=size)

    async def _pump(self) -> None:
        while await self._has_work.wait():
            running = list(self._running)
            rows = min(_BLOCK // len(running) + 1, *self._running.values())
            texts = [
                f'{{"id":"{id}","type":"stream_token","token":" {row:05}","timestamp":1790000000000}}'
                for row in range(rows)
                for id in running
            ]
            block = encode_texts(texts)
            while list(self._running) == running and min(self._running.values()) >= rows:
                self._writer.write(block)
                await self._writer.drain()
                # A drain that finds room does not let the reading have its turn.
                await asyncio.sleep(0)
                for id in running:
                    self._running[id] -= rows
            for id in [id for id, left in self._running.items() if not left]:
                del self._running[id]
                self._say(type="stream_end", id=id, totalTokens=0)
            if not self._running:
                self._has_work.clear()

    async def _ollama(self, body: bytes) -> None:
        left = int(json.loads(body)["model"].partition(":")[2])
        start = '{"model":"llama2","created_at":"2026-11-22T18:33:42.377127Z",'
        lines = [f'{start}"response":" {n:05}","done":false}}\n'.encode() for n in range(_BLOCK)]
        chunks = [b"%x\r\n%b\r\n" % (len(line), line) for line in lines]
        block, last = b"".join(chunks), f'{start}"response":"","done":true}}\n'.encode()
        self._writer.write(_OK)
        while left > 0:
            self._writer.write(block if left >= _BLOCK else b"".join(chunks[:left]))
            await self._writer.drain()
            left -= _BLOCK
        self._writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        await self._writer.drain()
        self._writer.close()
        await self._writer.wait_closed()


async def _main(certificate: str | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Line(reader, writer).serve()

    plain = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    ports = [plain.sockets[0].getsockname()[1], 0]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        secure = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
        ports[1] = secure.sockets[0].getsockname()[1]
    print(*ports, flush=True)
    # Whoever started it closes its standard input to end it.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:] or [None]))
