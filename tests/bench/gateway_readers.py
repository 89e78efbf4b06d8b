"""Who reads, each in a process of its own: python -m tests.bench.gateway_readers NAME ARGUMENTS; prints JSON."""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["connect", "log_in", "main"]

_STAMP = re.compile(rb"@(\d{20})@")


def _rate(read: Callable[[int], int], amount: int) -> dict[str, float]:
    """Time the reading of so many tokens, after a few to warm up."""
    assert read(2000) == 2000
    start = time.perf_counter()
    seen = read(amount)
    seconds = time.perf_counter() - start
    assert seen == amount, f"{seen} tokens instead of {amount}"
    return {"rate": amount / seconds}


def ours(url: str, client_id: str, key: str, amount: str) -> dict[str, float]:
    """Read through the gateway with our client."""
    from wsclient import WSClient

    with WSClient(url, client_id=client_id, private_key_path=key) as client:
        return _rate(lambda count: sum(1 for _ in client.stream("x", f"tokens:{count}")), int(amount))


def official(url: str, amount: str) -> dict[str, float]:
    """Read the source directly with the official client."""
    import ollama

    client = ollama.Client(url)

    def read(count: int) -> int:
        # The last line is no token.
        return sum(1 for _ in client.generate(f"tokens:{count}", "x", stream=True)) - 1

    return _rate(read, int(amount))


# --- many streams at once ---------------------------------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    """Return a socket to the host of a URL."""
    host, port = url.split("://")[1].rstrip("/").rsplit(":", 1)
    peer = socket.create_connection((host, int(port)), timeout=30)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def log_in(url: str, client_id: str, key: Any) -> socket.socket:
    """Return a socket that is logged in at the gateway."""
    from tests.support.gateway_peers import RawPeer

    peer = RawPeer(url).log_in(client_id, key)
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer.socket


def delays_through(url: str, client_id: str, key: str, streams: str, model: str) -> dict[str, float]:
    """Read many streams through the gateway, each on a connection of its own."""
    from wsclient.core.frames import encode_frame
    from wsclient.keys import load_private_key

    loaded = load_private_key(key)
    peers = [log_in(url, client_id, loaded) for _ in range(int(streams))]
    request = json.dumps({"type": "generate", "id": "g", "prompt": "x", "model": model}).encode()
    return _delays(peers, encode_frame(0x1, request, b"mask"), int(model.split(":")[1]), float(model.split(":")[2]))


def delays_direct(url: str, streams: str, model: str) -> dict[str, float]:
    """Read the same from the source itself, with the same reader."""
    peers = [connect(url) for _ in range(int(streams))]
    body = json.dumps({"model": model, "prompt": "x"}).encode()
    request = b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    return _delays(peers, request, int(model.split(":")[1]), float(model.split(":")[2]))


def _delays(peers: list[socket.socket], request: bytes, count: int, rate: float) -> dict[str, float]:
    expected = len(peers) * count
    selector = selectors.DefaultSelector()
    tails = dict.fromkeys(peers, b"")
    delays: list[int] = []
    for number, peer in enumerate(peers):
        # Spread over one period: streams do not begin in step.
        time.sleep(1 / rate / len(peers) if number else 0)
        peer.sendall(request)
        peer.setblocking(False)
        selector.register(peer, selectors.EVENT_READ)
    deadline = time.monotonic() + 3 * count / rate + 10
    while len(delays) < expected and time.monotonic() < deadline:
        for ready, _ in selector.select(1):
            peer: Any = ready.fileobj
            data = tails[peer] + peer.recv(65536)
            now, end = time.monotonic_ns(), 0
            for found in _STAMP.finditer(data):
                delays.append(now - int(found[1]))
                end = found.end()
            tails[peer] = data[end:][-100:]
    assert len(delays) == expected, f"{len(delays)} of {expected} tokens"
    # The first second is for starting.
    warm = sorted(delays[int(len(peers) * rate) :])
    return {"p50": warm[len(warm) // 2] / 1e6, "p99": warm[len(warm) * 99 // 100] / 1e6}


_READERS = {
    "ours": ours,
    "official": official,
    "delays_through": delays_through,
    "delays_direct": delays_direct,
}


def main(arguments: list[str]) -> None:
    """Run a reader and print what it measured."""
    name, *rest = arguments
    print(json.dumps(_READERS[name](*rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
