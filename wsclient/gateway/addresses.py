"""Which address a connection comes from, and which web pages it may come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import urlsplit

__all__ = ["TrustedProxies", "normal_origin", "parse_network"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# More than any address with its port has; what is parsed is remembered.
_MAX_ADDRESS_CHARS = 64
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_network(text: str) -> _Network:
    """Return an address or a network such as `10.0.0.0/8`.

    Raises:
        ValueError: it is neither, or has bits set that its mask does not cover.
    """
    return ipaddress.ip_network(text.strip())


def normal_origin(text: str) -> str:
    """Return an `Origin` header as browsers write it (RFC 6454 section 6.2): lower case, no default port, no path.

    Args:
        text: `scheme://host[:port]`, or `null`.

    Raises:
        ValueError: it is not an origin.
    """
    text = text.strip().lower()
    if text == "null":
        return text
    parts = urlsplit(text)
    if not parts.scheme or not parts.hostname or parts.username is not None or parts.path not in ("", "/"):
        raise ValueError("an origin is scheme://host or scheme://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme) else f":{parts.port}"
    if parts.query or parts.fragment:
        raise ValueError("an origin has neither query nor fragment")
    return f"{parts.scheme}://{host}{port}"


class TrustedProxies:
    """The reverse proxies whose `X-Forwarded-For` is believed.

    Args:
        networks: addresses and networks that they are in.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(parse_network(network) for network in networks)

    def __contains__(self, address: str) -> bool:
        """Tell whether an address is that of a trusted proxy."""
        parsed = _parse_address(address) if self._networks else None
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return whose connection it is.

        Each proxy adds at the right the address that it was called from. So the rightmost one that is no trusted proxy
        is the client's; whatever is left of it the client can have made up.

        Args:
            peer: the other end of the socket.
            forwarded_for: the values of the headers `X-Forwarded-For`, in order.
        """
        address = peer
        for text in reversed(",".join(forwarded_for).split(",")):
            if address not in self:
                break
            hop = _parse_address(_without_port(text.strip()[:_MAX_ADDRESS_CHARS]))
            if hop is None:
                break
            address = str(hop)
        return address


def _without_port(text: str) -> str:
    # Some proxies write 192.0.2.1:4711 or [2001:db8::1]:4711.
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


@lru_cache(maxsize=1024)
def _parse_address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket that listens on both families shows IPv4 peers as ::ffff:1.2.3.4.
    return getattr(address, "ipv4_mapped", None) or address
