"""A server in a process of its own that takes and gives as much as one TLS connection can carry.

    python -m tests.support.tls_flood CERTIFICATE.pem

It prints its port, lets anybody in, answers the prompt "count" with the numbers below `NUMBERS` over and over, as fast
as the socket takes them, and every other prompt with its SHA-256. It is no gateway: what it says is prepared, because
it is the client that is to be the busier end.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import sys
from typing import Any

from wsclient.core.frames import TEXT, FrameParser, encode_frame, encode_texts

__all__ = ["NUMBERS"]

NUMBERS = 20_000


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    tasks = set()
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        nonce = next(line for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key: "))[19:]
        accept = base64.b64encode(hashlib.sha1(f"{nonce}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        _send(writer, type="challenge", challenge="0123456789abcdef" * 4)
        parser = FrameParser(masked=True, max_message_size=1 << 24)
        while data := await reader.read(1 << 20):
            for message in map(json.loads, parser.feed(data)):
                if message["type"] == "authenticate":
                    _send(writer, type="auth_result", success=True)
                elif message.get("prompt") == "count":
                    tasks.add(asyncio.create_task(_count(writer, message["id"])))
                elif message["type"] == "generate":
                    digest = hashlib.sha256(message["prompt"].encode()).hexdigest()
                    _send(writer, type="stream_token", id=message["id"], token=digest)
                    _send(writer, type="stream_end", id=message["id"])
    except (OSError, EOFError, asyncio.CancelledError):
        # The client went, or the server is to end.
        pass
    finally:
        for task in tasks:
            task.cancel()
        writer.transport.abort()


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    writer.write(encode_frame(TEXT, json.dumps(message).encode()))


async def _count(writer: asyncio.StreamWriter, id: str) -> None:
    frames = [json.dumps({"id": id, "type": "stream_token", "token": f" {n}"}) for n in range(NUMBERS)]
    blocks = [encode_texts(frames[start : start + 1000]) for start in range(0, NUMBERS, 1000)]
    while True:
        for block in blocks:
            writer.write(block)
            await writer.drain()


async def _main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Whoever started it closes its standard input to end it.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
