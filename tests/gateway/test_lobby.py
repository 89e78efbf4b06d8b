"""Sockets that have not logged in: few per address, none for long."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.thread import GatewayThread

from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway


def dial(gateway: GatewayThread, source: str = "127.0.0.1") -> socket.socket:
    """Open a bare TCP connection from one of this machine's loopback addresses."""
    parts = urlsplit(gateway.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=5, source_address=(source, 0))


def is_dropped(connection: socket.socket) -> bool:
    """Return whether the other side ends the line, and wait for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_an_address_has_so_many_sockets_before_the_login_and_no_more(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_sockets_before_login_per_address=3)
    with ExitStack() as stack:
        silent = stack.enter_context(dial(gateway))
        for _ in range(2):
            stack.enter_context(Peer(gateway.url))
        assert is_dropped(stack.enter_context(dial(gateway)))
        # Another address is none of their business, and one that leaves makes room.
        elsewhere = stack.enter_context(dial(gateway, "127.0.0.2"))
        silent.close()
        # The gateway may be told of the next one before it is of the end of this one.
        wait_until(lambda: len(gateway.gateway._lobby) == 3)
        stack.enter_context(Peer(gateway.url))
        elsewhere.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert elsewhere.recv(100).startswith(b"HTTP/1.1 404")


def test_who_has_logged_in_does_not_count(start_gateway: StartGateway, client_id: str, ec_key: Key) -> None:
    gateway = start_gateway(max_sockets_before_login_per_address=1)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Peer(gateway.url)).log_in(client_id, ec_key)


def test_a_socket_that_says_nothing_or_not_enough_is_dropped_in_time(start_gateway: StartGateway) -> None:
    gateway = start_gateway(auth_timeout=0.2)
    with dial(gateway) as silent, dial(gateway) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert is_dropped(silent)
        assert is_dropped(slow)


def test_the_time_to_log_in_begins_with_the_upgrade(start_gateway: StartGateway) -> None:
    gateway = start_gateway(auth_timeout=0.2)
    with RawPeer(gateway.url) as peer:
        assert peer.read_to_end() == 4001


def test_the_lobby_has_room_for_so_many_in_all(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, client_id: str, ec_key: Key
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    gateway = start_gateway()
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(dial(gateway, f"127.0.0.{number + 2}"))
        wait_until(lambda: len(gateway.gateway._lobby) == 20)
        assert is_dropped(stack.enter_context(dial(gateway)))
    wait_until(lambda: len(gateway.gateway._lobby) == 0)
    with Peer(gateway.url) as peer:
        peer.log_in(client_id, ec_key)
