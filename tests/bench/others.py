"""Other clients, and no client at all, reading the same source."""

from __future__ import annotations

import itertools
import json
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from .timing import BIG, MIB, Figures, Job, busy_thread, delays, fastest, round_trips, timed

__all__ = [
    "bare_models",
    "drain",
    "drain_tls",
    "naive",
    "naive_big",
    "naive_busy",
    "naive_latency",
    "naive_prompt",
    "naive_tls",
    "ollama",
    "socket_latency",
    "websockets",
    "websockets_models",
]


def _new_id() -> str:
    # As long as ours, so that all read the same bytes.
    return f"gen_{secrets.token_hex(16)}"


def _naive_socket(job: Job, *, secure: bool = False) -> Any:
    import websocket

    options = {"sslopt": {"context": job.tls}} if secure else {}
    ws = websocket.create_connection(job.tls_url if secure else job.url, **options)
    _log_in(ws)
    return ws


def _log_in(ws: Any) -> None:
    assert json.loads(ws.recv())["type"] == "challenge"
    ws.send(json.dumps({"type": "authenticate", "clientId": "0" * 32, "signature": "none"}))
    assert json.loads(ws.recv())["success"]


def _request(model: str, prompt: str = "x") -> str:
    return json.dumps({"type": "generate", "id": _new_id(), "prompt": prompt, "model": model})


def naive(job: Job, *, secure: bool = False) -> Figures:
    """websocket-client as most people use it: `recv()`, `json.loads`, an event object, and a queue to the consumer."""

    @attrs.frozen
    class Token:
        id: str
        token: str

    def receive() -> None:
        while True:
            message = json.loads(ws.recv())
            if message["type"] == "stream_token":
                events.put(Token(message["id"], message["token"]))
            elif message["type"] == "stream_end":
                events.put(None)

    def read(tokens: int) -> int:
        ws.send(_request(f"tokens:{tokens}"))
        seen = 0
        while events.get() is not None:
            seen += 1
        return seen

    events: queue.Queue[Token | None] = queue.Queue()
    ws = _naive_socket(job, secure=secure)
    threading.Thread(target=receive, daemon=True).start()
    return timed(read, job.amount)


def naive_busy(job: Job) -> Figures:
    with busy_thread():
        return naive(job)


def naive_tls(job: Job) -> Figures:
    return naive(job, secure=True)


def _naive_ask(ws: Any, request: str) -> dict[str, Any]:
    """Send a request; return the last message of the answer, and the length of the longest token."""
    ws.send(request)
    longest = 0
    while (message := json.loads(ws.recv()))["type"] != "stream_end":
        longest = max(longest, len(message.get("token", "")))
    return message | {"longest": longest}


def naive_prompt(size: int) -> Callable[[Job], Figures]:
    def run(job: Job) -> Figures:
        ws = _naive_socket(job)
        return fastest(lambda: _naive_ask(ws, _request("size", "x" * size))["totalTokens"], size, job.amount)

    return run


def naive_big(job: Job) -> Figures:
    ws = _naive_socket(job)
    return fastest(lambda: _naive_ask(ws, _request(f"big:{BIG}"))["longest"], BIG, job.amount)


def naive_latency(job: Job) -> Figures:
    ws = _naive_socket(job)
    ws.send(_request(f"idle:{job.amount}"))
    messages = (json.loads(ws.recv()) for _ in itertools.count())
    return delays((message["token"] for message in messages if "token" in message), job.amount)


def socket_latency(job: Job) -> Figures:
    """The plain socket: one `recv()` a token, its frame's header cut off, `json.loads`."""

    def tokens() -> Iterator[str]:
        while data := sock.recv(65536):
            # Two frames come in one read when this process was kept waiting.
            for rest in data.split(b"{")[1:]:
                yield json.loads(b"{" + rest[: rest.index(b"}") + 1]).get("token", "")

    ws = _naive_socket(job)
    ws.send(_request(f"idle:{job.amount}"))
    assert json.loads(ws.recv())["type"] == "stream_start"
    sock = ws.sock
    return delays(tokens(), job.amount)


def drain(job: Job, *, secure: bool = False) -> Figures:
    """Read the bytes and do nothing with them: what the source can give."""
    ws = _naive_socket(job, secure=secure)
    sock = ws.sock
    # The first frame tells how long all are; stream_start and stream_end are shorter or longer and do not matter.
    frame = (
        len(json.dumps({"id": _new_id(), "type": "stream_token", "token": " 00000", "timestamp": 1790000000000})) - 5
    )

    def read(tokens: int) -> int:
        ws.send(_request(f"tokens:{tokens}"))
        left = tokens * frame
        while left > 0:
            left -= len(sock.recv(MIB))
        return tokens

    return timed(read, job.amount)


def drain_tls(job: Job) -> Figures:
    return drain(job, secure=True)


def _websockets_connection(job: Job) -> Any:
    from websockets.sync.client import connect

    ws = connect(job.url, compression=None, max_size=None, proxy=None)
    _log_in(ws)
    return ws


def websockets(job: Job) -> Figures:
    def read(tokens: int) -> int:
        ws.send(_request(f"tokens:{tokens}"))
        seen = 0
        while (message := json.loads(ws.recv()))["type"] != "stream_end":
            seen += message["type"] == "stream_token"
        return seen

    with _websockets_connection(job) as ws:
        return timed(read, job.amount)


def websockets_models(job: Job) -> Figures:
    def ask() -> object:
        ws.send(json.dumps({"type": "models", "id": _new_id()}))
        return json.loads(ws.recv())["models"]

    with _websockets_connection(job) as ws:
        return round_trips(ask, job.amount)


def bare_models(job: Job) -> Figures:
    """What a reader thread costs at the least: it hands each parsed message to the caller by a lock, and no more."""
    # Here: what imports wsclient before the variants block orjson would have all of them decode with it.
    from wsclient.core.frames import TEXT, FrameParser, encode_frame

    ws = _naive_socket(job)
    sock, parser = ws.sock, FrameParser(masked=False, max_message_size=MIB)
    answers: list[Any] = []
    is_there = threading.Lock()
    is_there.acquire()

    def read() -> None:
        while data := sock.recv(64 * 1024):
            for text in parser.feed(data):
                answers.append(json.loads(text))
                is_there.release()

    def ask() -> object:
        text = json.dumps({"type": "models", "id": _new_id()})
        sock.sendall(encode_frame(TEXT, text.encode(), os.urandom(4)))
        is_there.acquire()
        return answers.pop()["models"]

    sock.settimeout(None)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    figures = round_trips(ask, job.amount)
    sock.shutdown(socket.SHUT_RDWR)
    reader.join()
    ws.shutdown()
    return figures


def ollama(job: Job) -> Figures:
    import ollama

    client = ollama.Client(job.http_url, trust_env=False)

    def read(tokens: int) -> int:
        parts = client.generate(f"tokens:{tokens}", "x", stream=True)
        return sum(part.response != "" for part in parts)

    return timed(read, job.amount)
