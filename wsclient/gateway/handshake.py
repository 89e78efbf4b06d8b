"""The HTTP side of a connection: the WebSocket upgrade (RFC 6455 section 4.2), and what anybody else is told.

aiohttp parses the request and writes the answer. Its own `WebSocketResponse` is not used: it takes unmasked frames and
fixes one size limit for good, so only the 101 is sent here and `websocket.py` reads what comes after it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from contextlib import suppress

from aiohttp import web

from ..version import __version__
from .addresses import normal_origin

__all__ = ["UpgradeResponse", "answer_plain", "answer_stopping", "is_upgrade", "refuse_crowd", "refuse_upgrade"]

# RFC 6455 section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SERVER = {"Server": f"wsclient-gateway/{__version__}"}
_WHAT_THIS_IS = (
    "This is a gateway of WebSocket System: it speaks WebSocket, not HTTP.\n"
    "Connect with a WebSocket client, for example the command wsclient.\n"
)


def is_upgrade(request: web.BaseRequest) -> bool:
    """Return whether the request asks for a WebSocket."""
    return "websocket" in _tokens(request, "Upgrade")


def refuse_upgrade(request: web.BaseRequest, allowed_origins: Collection[str] = ()) -> web.Response | None:
    """Check a WebSocket request (RFC 6455 section 4.2.1).

    Args:
        request: one for which `is_upgrade` is true; its path does not matter, nor do sub-protocols and extensions,
            none of which is ever accepted.
        allowed_origins: web pages that may connect, as `normal_origin` writes them, or `*`. Browsers send an Origin and
            let no page change it (RFC 6455 section 10.2); who sends none is no browser.

    Returns:
        The refusal, or `None` when nothing is wrong.
    """
    if request.method != "GET" or request.version < (1, 1) or "upgrade" not in _tokens(request, "Connection"):
        return _text(400, "A WebSocket request is a GET of HTTP/1.1 with 'Connection: Upgrade'.\n")
    if request.headers.get("Sec-WebSocket-Version", "").strip() != "13":
        # Section 4.4: the answer names the versions that would do.
        return _text(426, "Only WebSocket version 13 is supported.\n", {"Sec-WebSocket-Version": "13"})
    try:
        nonce = base64.b64decode(request.headers.get("Sec-WebSocket-Key", ""), validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        return _text(400, "Sec-WebSocket-Key must be 16 bytes in base64.\n")
    if "*" not in allowed_origins and not all(
        _is_allowed(origin, allowed_origins) for origin in request.headers.getall("Origin", ())
    ):
        return _text(403, "Web pages of this Origin may not connect; the gateway's --allow-origin says which may.\n")
    return None


def refuse_crowd() -> web.Response:
    """Return what an upgrade gets whose address has too many sockets that have not logged in."""
    return _text(429, "Too many connections of this address have not logged in.\n", {"Retry-After": "10"})


def answer_plain(request: web.BaseRequest) -> web.Response:
    """Return what a request without an upgrade gets that no endpoint answers: 404, as from the original."""
    return _text(404, _WHAT_THIS_IS if request.method in ("GET", "HEAD") else "There is nothing at this path.\n")


def answer_stopping() -> web.Response:
    """Return what a request gets that comes while the gateway stops."""
    return _text(503, "The gateway is shutting down.\n", {"Retry-After": "1"})


class UpgradeResponse(web.StreamResponse):
    """The 101 that turns a checked request into a WebSocket, without extensions and without a sub-protocol."""

    # The name is aiohttp's: without it a response of unknown length is chunked.
    _length_check = False

    def __init__(self, request: web.BaseRequest) -> None:
        key = request.headers["Sec-WebSocket-Key"].strip().encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        super().__init__(status=101, headers=headers | _SERVER)
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing: the WebSocket has had the last word on this connection."""


def _is_allowed(origin: str, allowed_origins: Collection[str]) -> bool:
    with suppress(ValueError):
        return normal_origin(origin) in allowed_origins
    return False


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    response = web.Response(status=status, text=text, headers=(headers or {}) | _SERVER)
    response.force_close()
    return response


def _tokens(request: web.BaseRequest, header: str) -> set[str]:
    return {token.strip().lower() for value in request.headers.getall(header, ()) for token in value.split(",")}
