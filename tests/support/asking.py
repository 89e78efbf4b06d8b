"""Plain HTTP requests to a gateway."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import attrs

__all__ = ["TOKEN", "Answer", "ask", "register"]

TOKEN = "an-admin-token-for-tests"


@attrs.frozen
class Answer:
    """An HTTP answer; the headers' names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    url: str,
    path: str,
    *,
    method: str = "GET",
    token: str | None = None,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send a request and return the answer.

    Args:
        url: the server's, `ws://` or `http://`.
        path: what stands after it.
        method: the request's.
        token: sent as a bearer's.
        body: sent as JSON, unless the headers say otherwise.
        headers: further ones.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    given = {"Authorization": f"Bearer {token}"} if token is not None else {}
    if body is not None:
        given["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body, given | (headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def register(url: str, name: Any, pem: Any, token: str | None = TOKEN, **fields: Any) -> Answer:
    """Ask a gateway to register a client."""
    body = json.dumps({"name": name, "publicKey": pem, **fields}).encode()
    return ask(url, "/api/auth/register", method="POST", token=token, body=body)
