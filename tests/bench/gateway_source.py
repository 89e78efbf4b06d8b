"""An Ollama that is never the bottleneck, in a process of its own: python -m tests.bench.gateway_source

It prints its port and ends when its standard input does. A request's model says what to answer, as NDJSON whose lines
are chunks of their own:

    tokens:N      N lines as fast as they are taken, prepared, 600 in a write
    paced:N:RATE  N lines, RATE a second, each with the time of its sending in its text: @nanoseconds@ (CLOCK_MONOTONIC)
"""

from __future__ import annotations

import heapq
import json
import socket
import sys
import threading
import time

__all__ = ["main"]

_BLOCK = 600
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_LINE = '{"model":"m","created_at":"2026-01-01T00:00:00.000000000Z","response":"%s","done":%s}\n'
_STAMP_DIGITS = 20


def _chunk(text: str, done: str = "false") -> bytes:
    line = (_LINE % (text, done)).encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


_TOKEN = _chunk(" token")
_END = _chunk("", 'true,"done_reason":"stop","eval_count":1') + b"0\r\n\r\n"
_BEFORE, _AFTER = _chunk("@" + "0" * _STAMP_DIGITS + "@").split(b"0" * _STAMP_DIGITS)


class _Pacer:
    """Sends the lines of all paced generations, each at its time, on one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, socket.socket, int, float]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, peer: socket.socket, count: int, rate: float) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + 1 / rate, peer.fileno(), peer, count, 1 / rate))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                due, number, peer, left, pause = self._due[0]
                wait = due - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                heapq.heappop(self._due)
                if left:
                    heapq.heappush(self._due, (due + pause, number, peer, left - 1, pause))
            self._send(peer, left)

    def _send(self, peer: socket.socket, left: int) -> None:
        try:
            if left:
                stamp = str(time.monotonic_ns()).zfill(_STAMP_DIGITS).encode()
                peer.sendall(_BEFORE + stamp + _AFTER)
            else:
                peer.sendall(_END)
        except OSError:
            return


def _serve(peer: socket.socket, pacer: _Pacer) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    try:
        while True:
            while b"\r\n\r\n" not in data:
                part = peer.recv(65536)
                if not part:
                    return
                data += part
            head, _, data = data.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            size = int(fields.get(b"content-length", b"0"))
            while len(data) < size:
                data += peer.recv(65536)
            body, data = data[:size], data[size:]
            _answer(peer, pacer, body)
    except OSError:
        return


def _answer(peer: socket.socket, pacer: _Pacer, body: bytes) -> None:
    if not body:
        models = b'{"models":[]}'
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(models))
        peer.sendall(models)
        return
    kind, *numbers = json.loads(body)["model"].split(":")
    count = int(numbers[0])
    peer.sendall(_HEAD)
    if kind == "paced":
        pacer.add(peer, count, float(numbers[1]))
        return
    block = _TOKEN * _BLOCK
    for _ in range(count // _BLOCK):
        peer.sendall(block)
    peer.sendall(_TOKEN * (count % _BLOCK) + _END)


def main() -> None:
    """Serve until standard input ends."""
    pacer = _Pacer()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        print(server.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(server, pacer), daemon=True).start()
        sys.stdin.read()


def _accept(server: socket.socket, pacer: _Pacer) -> None:
    while True:
        peer, _ = server.accept()
        threading.Thread(target=_serve, args=(peer, pacer), daemon=True).start()


if __name__ == "__main__":
    main()
