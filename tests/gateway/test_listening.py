"""Sockets to listen on, and the sentences for why there is none."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from wsclient.gateway.errors import GatewayError
from wsclient.gateway.listening import open_sockets, port_of, url_for


def close(sockets: list[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def test_port_0_is_a_free_one_the_same_on_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: object) -> list[Any]:
        addresses = ("192.0.2.1", "127.0.0.1", "127.0.0.2", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    sockets = open_sockets("several.example", 0)
    try:
        # The first is not this machine's and left out; the last is the second once more.
        assert [opened.getsockname()[0] for opened in sockets] == ["127.0.0.1", "127.0.0.2"]
        assert {opened.getsockname()[1] for opened in sockets} == {port_of(sockets)}
        assert port_of(sockets) > 0
    finally:
        close(sockets)


def test_all_addresses_are_reached_through_loopback() -> None:
    sockets = open_sockets("0.0.0.0", 0)
    try:
        assert url_for(sockets) == f"ws://127.0.0.1:{port_of(sockets)}"
        socket.create_connection(("127.0.0.1", port_of(sockets)), timeout=5).close()
    finally:
        close(sockets)


def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    try:
        sockets = open_sockets("::1", 0)
    except GatewayError:
        pytest.skip("this machine has no IPv6")
    try:
        assert url_for(sockets) == f"ws://[::1]:{port_of(sockets)}"
    finally:
        close(sockets)


def test_a_port_in_use_is_named() -> None:
    first = open_sockets("127.0.0.1", 0)
    try:
        port = port_of(first)
        with pytest.raises(GatewayError) as caught:
            open_sockets("127.0.0.1", port)
        said = f"port {port} on 127.0.0.1 is in use by another program; choose another one, or 0 for any that is free"
        assert str(caught.value) == said
    finally:
        close(first)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "bad host", "x..y"])
def test_a_host_that_cannot_be_resolved_is_named(host: str) -> None:
    with pytest.raises(GatewayError, match="cannot be resolved"):
        open_sockets(host, 0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(GatewayError, match=r"192\.0\.2\.1 is not an address of this machine; use 127\.0\.0\.1"):
        open_sockets("192.0.2.1", 0)
