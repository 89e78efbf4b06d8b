"""Whose connection it is: behind a trusted proxy, behind anybody else, and with what a client made up."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.addresses import TrustedProxies, normal_origin
from wsclient.gateway.clients_file import exclusive, write
from wsclient.gateway.registry import ClientRegistry

from ..support.gateway_peers import RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway

NEAR = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        # Nobody else is believed.
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        # The rightmost that is no proxy of ours: what stands left of it is a client's word.
        ("10.1.2.3", ["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.2.3.4, 198.51.100.1, 192.0.2.7 ,10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["1.2.3.4", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["10.4.4.4, 10.5.5.5"], "10.4.4.4"),
        # What is no address ends the search where it can still be trusted.
        ("10.1.2.3", ["198.51.100.1, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1, unknown, 192.0.2.7"], "192.0.2.7"),
        ("10.1.2.3", ["", ","], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.2.3", ["[2001:dead::1]:4711"], "2001:dead::1"),
        ("10.1.2.3", ["2001:DEAD:0::1"], "2001:dead::1"),
        ("2001:db8::5", ["198.51.100.1"], "198.51.100.1"),
        # IPv4 on a socket for both families.
        ("::ffff:10.1.2.3", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_rightmost_address_that_is_no_trusted_proxy_counts(peer: str, forwarded: list[str], address: str) -> None:
    assert NEAR.client_address(peer, forwarded) == address


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert TrustedProxies([]).client_address("127.0.0.1", ["198.51.100.1"]) == "127.0.0.1"


@pytest.mark.parametrize(
    "text", ["", "example.org", "https://", "https://u@h", "https://h/path", "https://h?q", "https://h:x", "//h"]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normal_origin(text)


# --- at the gateway ---------------------------------------------------------------------------------------------------

FORWARDED = ("X-Forwarded-For: 1.2.3.4, 198.51.100.1",)


def fail_login(url: str, client_id: str, headers: tuple[str, ...] = FORWARDED) -> str:
    with RawPeer(url, headers) as peer:
        peer.receive()
        peer.send(type="authenticate", clientId=client_id, signature="A" * 88)
        error: str = peer.receive()["error"]
        return error


def test_blocking_is_by_the_forwarded_address(start_gateway: StartGateway, client_id: str, ec_key: Key) -> None:
    url = start_gateway(max_auth_attempts=2, trusted_proxy=("127.0.0.1",)).url
    assert fail_login(url, client_id) == "Invalid signature"
    assert fail_login(url, client_id).startswith("Too many")
    for headers in ((), ("X-Forwarded-For: 198.51.100.2",)):
        with RawPeer(url, headers) as peer:
            peer.log_in(client_id, ec_key)


def test_a_client_cannot_choose_its_address_by_itself(start_gateway: StartGateway, client_id: str) -> None:
    url = start_gateway(max_auth_attempts=2).url
    assert fail_login(url, client_id) == "Invalid signature"
    assert fail_login(url, client_id, ("X-Forwarded-For: 198.51.100.9",)).startswith("Too many")


def test_allowed_addresses_and_the_last_one_are_forwarded_ones(
    start_gateway: StartGateway, tmp_path: Path, registry: ClientRegistry, client_id: str, ec_key: Key
) -> None:
    path = tmp_path / "authorized_clients.json"
    with exclusive(path):
        write(path, [json.loads(path.read_text())[0] | {"allowedIPs": ["198.51.100.0/24"]}])
    url = start_gateway(trusted_proxy=("127.0.0.0/8",)).url
    with RawPeer(url, FORWARDED) as peer:
        peer.log_in(client_id, ec_key)
    assert fail_login(url, client_id, ()) == "Invalid signature"

    def last_address() -> str | None:
        registry.reload_if_changed()
        client = registry.get(client_id)
        return None if client is None else client.last_ip

    wait_until(lambda: last_address() == "198.51.100.1")


def test_sockets_of_a_proxy_count_for_those_whom_it_speaks_for(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_sockets_before_login_per_address=2, trusted_proxy=("127.0.0.1",))
    with ExitStack() as stack:
        for host in (1, 1, 2, 2, 3):
            stack.enter_context(RawPeer(gateway.url, (f"X-Forwarded-For: 198.51.100.{host}",)))
        with pytest.raises(AssertionError, match="429 Too Many Requests"):
            RawPeer(gateway.url, ("X-Forwarded-For: 198.51.100.1",))
        # The proxy may also come for itself, and there is a place for another one of the third.
        stack.enter_context(RawPeer(gateway.url))
        stack.enter_context(RawPeer(gateway.url, ("X-Forwarded-For: 198.51.100.3",)))
    wait_until(lambda: gateway.gateway.stats().connections == 0)
    with RawPeer(gateway.url, ("X-Forwarded-For: 198.51.100.1",)):
        pass
