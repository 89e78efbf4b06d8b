"""Connections with both ends in the test's hands: the client's transport, and a server's peer that does nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from wsclient.core.frames import FrameParser
from wsclient.testing.scripted_server import Peer, ScriptedServer
from wsclient.transport import Transport

from .certificates import shared_certificate
from .fast_clients import fast_options
from .waiting import wait_until

__all__ = ["MIB", "Lines", "in_thread", "read_texts"]

MIB = 1 << 20


class Lines:
    """Makes connections whose server neither reads nor writes by itself; a context manager.

    Args:
        is_tls: whether they speak TLS.
    """

    def __init__(self, *, is_tls: bool) -> None:
        self._is_over = threading.Event()
        self._transports: list[Transport] = []
        self._stack = ExitStack()
        certificate = shared_certificate()
        self._client_context = certificate.client_context
        self._server = ScriptedServer(
            lambda _: bool(self._is_over.wait(60)) and None, tls=certificate.server_context if is_tls else None
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(self._server)
        return self

    def __exit__(self, *exception: Any) -> None:
        for transport in self._transports:
            transport.abort()
            transport.close()
        self._is_over.set()
        self._stack.__exit__(*exception)

    def connect(self, **options: Any) -> tuple[Transport, Peer]:
        """Dial; return both ends."""
        transport = Transport(fast_options(self._server.url, ssl_context=self._client_context, **options))
        self._transports.append(transport)
        transport.dial()
        return transport, wait_until(lambda: self._server.peers[-1:])[0]


def read_texts(peer: Peer, count: int) -> list[bytes]:
    """Read messages on the server's side; a frame that breaks RFC 6455 fails the test."""
    parser = FrameParser(masked=True, max_message_size=256 * MIB)
    texts: list[bytes] = []
    while len(texts) < count:
        texts += parser.feed(peer.receive_bytes())
        assert parser.violation is None, parser.violation
    return texts


def in_thread(target: Callable[..., Any], *args: Any) -> threading.Thread:
    """Run a function in a thread, started already."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread
