"""What an administrator asks a gateway elsewhere, over HTTP (protocol.md section 6)."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..gateway.admin_token import (
    ADMIN_TOKEN_VARIABLE,
    KEY_PENDING,
    REGISTRATION_PATH,
    ROTATION_PATH,
    STATUS_PATH,
    check_admin_token,
    read_admin_token,
)
from ..gateway.ollama_host import is_loopback
from . import terminal
from .failures import Failure, refusing_wrong_values

__all__ = [
    "Conflict",
    "find_admin_token",
    "has_admin_token",
    "http_url",
    "opener",
    "read_readiness",
    "read_status",
    "register_online",
    "rotate_online",
]

_TIMEOUT = 20.0
# A status with some ten thousand clients.
_MAX_ANSWER = 4 * 1024 * 1024
_START = "start it with an admin token (wsclient serve --admin-token-file)"


def has_admin_token(file: Path | None) -> bool:
    """Return whether somebody has given an admin token, good or bad: the file, or else the environment's."""
    return file is not None or bool(os.environ.get(ADMIN_TOKEN_VARIABLE, "").strip())


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


class Conflict(Failure):
    """The gateway has something already that stands in the way; it can be told to replace that.

    Args:
        message: what.
        code: the gateway's word for it.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def register_online(
    server_url: str, name: str, public_key: str, algorithm: str, token: str, *, replaces: bool = False
) -> tuple[str, list[str]]:
    """Register a client; waits 20 seconds at most for each step of the answer.

    Args:
        server_url: the gateway's, checked; `ws(s)://` or `http(s)://`.
        name, public_key, algorithm: as the gateway's clients file has them.
        token: the administrator's.
        replaces: whether clients that have this name or key are revoked.

    Returns:
        The client's id, and those that were revoked for it.

    Raises:
        Conflict: the name or the key is taken.
        Failure: the gateway cannot be reached, or refuses; the text says what to do.
    """
    fields: dict[str, Any] = {"name": name, "publicKey": public_key, "signatureAlgorithm": algorithm, "unique": True}
    url = http_url(server_url, REGISTRATION_PATH)
    missing = f"does not register clients online; {_START}, or register where it runs"
    answer = _ask(url, missing, token, fields | ({"replace": True} if replaces else {}))
    revoked = answer.get("revoked")
    return _expect(answer, "clientId", url), [str(id) for id in revoked] if isinstance(revoked, list) else []


def rotate_online(server_url: str, client_id: str, public_key: str, token: str, *, replaces: bool = False) -> str:
    """Give a client a new key; waits 20 seconds at most for each step of the answer.

    Args:
        server_url, token: as for `register_online`.
        client_id: or its name.
        public_key: the new one.
        replaces: whether it takes the place of a new key that has not logged in yet.

    Returns:
        The client's id.

    Raises:
        Conflict: the client has a new key already.
        Failure: the gateway cannot be reached, or refuses; the text says what to do.
    """
    url = http_url(server_url, ROTATION_PATH)
    missing = f"takes no new keys online; {_START}, or rotate where it runs"
    fields: dict[str, Any] = {"clientId": client_id, "publicKey": public_key}
    try:
        answer = _ask(url, missing, token, fields | ({"replace": True} if replaces else {}))
    except Conflict as conflict:
        if conflict.code != KEY_PENDING:
            # Another client's key, which no replacement would set free.
            raise Failure(conflict.message) from conflict
        raise
    return _expect(answer, "clientId", url)


def read_status(server_url: str, token: str | None) -> dict[str, Any]:
    """Return what a gateway says of itself: everything with the token, else whether it is ready.

    Waits 20 seconds at most for each step of the answer.

    Args:
        server_url: the gateway's, or its metrics port's, which asks for no token.
        token: the administrator's.

    Raises:
        Failure: the gateway cannot be reached, or refuses; the text says what to do.
    """
    return _ask(http_url(server_url, STATUS_PATH), f"does not tell its status; {_START}", token)


def read_readiness(server_url: str) -> dict[str, Any]:
    """Return what a gateway tells everybody: `ready`, and `reasons` when it is not.

    Raises:
        Failure: as for `read_status`.
    """
    return _ask(http_url(server_url, "/readyz"), "is no gateway of wsclient", None, accepted=(503,))


def _ask(
    url: str, missing: str, token: str | None, fields: dict[str, Any] | None = None, accepted: Sequence[int] = ()
) -> dict[str, Any]:
    """Return a gateway's answer.

    Args:
        url: of what is asked.
        missing: what it means when there is nothing under that URL.
        token: the administrator's, `None` for none.
        fields: the body of a POST; a GET without.
        accepted: HTTP errors that are answers as well.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = None
    if fields is not None:
        body, headers["Content-Type"] = json.dumps(fields).encode(), "application/json"
    try:
        request = urllib.request.Request(url, body, headers)
        with opener(url).open(request, timeout=_TIMEOUT) as response:
            status, answer = response.status, response.read(_MAX_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            status, answer = error.code, error.read(_MAX_ANSWER)
        if status not in accepted:
            raise _refusal(url, status, answer, missing) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        text = terminal.one_line(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
        advice = "check --server-url, and that a gateway runs there"
        raise Failure(f"cannot reach {url}: {text}; {advice}") from error
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _not_a_gateway(url, status)
    return value


def _expect(answer: dict[str, Any], name: str, url: str) -> str:
    if not isinstance(answer.get(name), str) or not answer[name]:
        raise _not_a_gateway(url, 200)
    return terminal.one_line(answer[name])[:500]


def _not_a_gateway(url: str, status: int) -> Failure:
    return Failure(f"{url} answered something else than a gateway would (HTTP {status}); check --server-url")


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


def _refusal(url: str, status: int, answer: bytes, missing: str) -> Failure:
    said = _field(answer, "error")
    if status == 401:
        return Failure(f"{url} does not accept this admin token; give the one that the gateway was started with")
    if status == 404 and not said:
        return Failure(f"{url} {missing}")
    if 300 <= status < 400:
        return Failure(f"{url} leads somewhere else (HTTP {status}); give its own URL as --server-url")
    if not said:
        return Failure(f"{url} answers with HTTP {status}")
    text = f"{url} refuses: {said} (HTTP {status})"
    return Conflict(text, _field(answer, "code")) if status == 409 else Failure(text)


def _field(answer: bytes, name: str) -> str:
    """Return a text of a JSON answer, `""` when there is none."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    text = value.get(name) if isinstance(value, dict) else None
    return terminal.one_line(text)[:500] if isinstance(text, str) else ""
