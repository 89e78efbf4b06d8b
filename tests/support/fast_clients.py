"""Options and clients for servers that take any signature: no key is made, loaded or used."""

from __future__ import annotations

from typing import Any

from wsclient import ClientOptions, WSClient

__all__ = ["fast_client", "fast_options", "sign"]

CLIENT_ID = "0123456789abcdef0123456789abcdef"


def sign(challenge: bytes) -> bytes:
    """Stand in for a private key."""
    return b"signed:" + challenge


def fast_options(url: str, **options: Any) -> ClientOptions:
    """Return options for a server at a URL."""
    return ClientOptions(**{"server_url": url, "client_id": CLIENT_ID, "private_key": sign} | options)


def fast_client(url: str, **options: Any) -> WSClient:
    """Return a client for a server at a URL, not connected yet."""
    return WSClient.from_options(fast_options(url, **options))
