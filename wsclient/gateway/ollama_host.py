"""Where Ollama is: the value of `OLLAMA_HOST` or `OLLAMA_API_URL` -> a URL. Pure, and importable without aiohttp."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["DEFAULT_OLLAMA_URL", "is_loopback", "parse_ollama_host"]

_DEFAULT_PORT = 11434
_SCHEME_PORTS = {"http": 80, "https": 443}

DEFAULT_OLLAMA_URL = f"http://127.0.0.1:{_DEFAULT_PORT}"


def parse_ollama_host(text: str | None) -> str:
    """Return the URL that a value of `OLLAMA_HOST` stands for (ollama_api.md section 0).

    Without a scheme it is http and port 11434, with one the scheme's own port; a path is kept. The variable is the
    *server's* address to listen on, too, so an "any" address (0.0.0.0, ::) becomes loopback: one cannot connect to it.

    Args:
        text: the value; `None` or empty is the default.

    Returns:
        A URL with its port and without a slash at the end.

    Raises:
        ValueError: a scheme other than http and https, a port that is none, or a user name and password.
    """
    # Ollama itself forgives the quotes that end up in a variable when a service file is written by hand.
    text = (text or "").strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    scheme = scheme.lower()
    if scheme not in ("", *_SCHEME_PORTS):
        raise ValueError(f"OLLAMA_HOST must begin with http:// or https:// (got {scheme + '://'!r})")
    if "@" in rest.partition("/")[0]:
        raise ValueError("OLLAMA_HOST must not have a user name or password in it")
    if _is_ipv6(rest):
        rest = f"[{rest}]"
    try:
        parts = urlsplit(f"//{rest}")
        port = _SCHEME_PORTS.get(scheme, _DEFAULT_PORT) if parts.port is None else parts.port
    except ValueError as error:
        raise ValueError(f"OLLAMA_HOST must be a host and a port from 1 to 65535 (got {rest[:100]!r})") from error
    host = _reachable(parts.hostname or "")
    path = parts.path.rstrip("/")
    return f"{scheme or 'http'}://{host}:{port}{path}"


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine, going by its name."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host or "127.0.0.1"
    if address.version == 6:
        return "[::1]" if address.is_unspecified else f"[{host}]"
    return "127.0.0.1" if address.is_unspecified else host
