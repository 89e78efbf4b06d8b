"""Registering a client with a gateway elsewhere, over HTTP (protocol.md section 6)."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..gateway.admin_token import ADMIN_TOKEN_VARIABLE, REGISTRATION_PATH, check_admin_token, read_admin_token
from ..gateway.ollama_host import is_loopback
from . import terminal
from .failures import Failure, refusing_wrong_values

__all__ = ["find_admin_token", "http_url", "opener", "register_online"]

_TIMEOUT = 20.0
_MAX_ANSWER = 64 * 1024


def find_admin_token(file: Path | None) -> str:
    """Return the admin token: the file's, or else the environment's.

    Raises:
        Failure: there is none, or its file cannot be read.
        click.UsageError: it cannot be a token, or its file is open to others.
    """
    if file is not None:
        try:
            with refusing_wrong_values():
                return read_admin_token(file)
        except OSError as error:
            raise Failure(f"the admin token cannot be read: {file}: {error.strerror}") from error
    text = os.environ.get(ADMIN_TOKEN_VARIABLE, "").strip()
    if not text:
        raise Failure(f"--online needs the gateway's admin token: {ADMIN_TOKEN_VARIABLE}, or --admin-token-file=FILE")
    with refusing_wrong_values():
        return check_admin_token(text)


def register_online(server_url: str, name: str, public_key: str, algorithm: str, token: str) -> str:
    """Register a client and return its id; waits 20 seconds at most for each step of the answer.

    Args:
        server_url: the gateway's, checked; `ws(s)://` or `http(s)://`.
        name, public_key, algorithm: as the gateway's clients file has them.
        token: the administrator's.

    Raises:
        Failure: the gateway cannot be reached, or refuses; the text says what to do.
    """
    url = http_url(server_url, REGISTRATION_PATH)
    fields = {"name": name, "publicKey": public_key, "signatureAlgorithm": algorithm, "unique": True}
    body = json.dumps(fields).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        request = urllib.request.Request(url, body, headers, method="POST")
        with opener(url).open(request, timeout=_TIMEOUT) as response:
            status, answer = response.status, response.read(_MAX_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error.code, error.read(_MAX_ANSWER)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        text = terminal.one_line(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
        advice = "check --server-url, and that a gateway runs there"
        raise Failure(f"cannot reach {url}: {text}; {advice}") from error
    client_id = _field(answer, "clientId")
    if status != 201 or not client_id:
        raise Failure(f"{url} answered something else than a gateway would (HTTP {status}); check --server-url")
    return client_id


def http_url(server_url: str, path: str) -> str:
    """Return where a gateway answers HTTP.

    Args:
        server_url: the gateway's.
        path: one of the gateway's own, with a slash first.
    """
    parts = urlsplit(server_url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, "", ""))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token is for the gateway that was named, not for wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


def opener(url: str) -> urllib.request.OpenerDirector:
    """Return what opens this URL: without following it elsewhere, and without a proxy to this machine."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if is_loopback(url):
        # A proxy never leads to this machine, whatever http_proxy says.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _refusal(url: str, status: int, answer: bytes) -> Failure:
    said = _field(answer, "error")
    if status == 401:
        return Failure(f"{url} does not accept this admin token; give the one that the gateway was started with")
    if status == 404:
        hint = "start it with an admin token (wsclient serve --admin-token-file), or register where it runs"
        return Failure(f"{url} does not register clients online; {hint}")
    if 300 <= status < 400:
        return Failure(f"{url} leads somewhere else (HTTP {status}); give its own URL as --server-url")
    return Failure(f"{url} refuses: {said} (HTTP {status})" if said else f"{url} answers with HTTP {status}")


def _field(answer: bytes, name: str) -> str:
    """Return a text of a JSON answer, `""` when there is none."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    text = value.get(name) if isinstance(value, dict) else None
    return terminal.one_line(text)[:500] if isinstance(text, str) else ""
