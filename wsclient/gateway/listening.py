"""Sockets to listen on, and what keeps a gateway from getting them, in words."""

from __future__ import annotations

import errno
import socket

from .errors import GatewayError

__all__ = ["ACCEPTED_AT_ONCE", "BACKLOG", "open_sockets", "port_of", "url_for"]

BACKLOG = 1024
ACCEPTED_AT_ONCE = 16


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host.

    Args:
        host: a name or an address; `0.0.0.0` and `::` are all addresses of that family.
        port: 0 for a free one, the same on every address.

    Returns:
        At least one socket; the caller closes them.

    Raises:
        GatewayError: none of the addresses can be listened on.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise GatewayError(
            f"the host {host!r} cannot be resolved ({reason}); use an address such as 127.0.0.1"
        ) from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            chosen = port_of(sockets) if sockets else port
            sockets.append(_listen(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            # Such as ::1 for localhost in a container without IPv6.
            failure = failure or error
    if not sockets:
        assert failure is not None
        raise GatewayError(_explain(host, port, failure)) from failure
    return sockets


def port_of(sockets: list[socket.socket]) -> int:
    """Return the port that sockets of `open_sockets` listen on."""
    port: int = sockets[0].getsockname()[1]
    return port


def url_for(sockets: list[socket.socket], scheme: str = "ws") -> str:
    """Return the URL under which a client on this machine reaches sockets of `open_sockets`."""
    host, port = sockets[0].getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A gateway that was just stopped must not keep the next one from its port (TIME_WAIT).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; choose another one, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all of its addresses"
    return f"cannot listen on port {port} of {host}: {error.strerror}"
