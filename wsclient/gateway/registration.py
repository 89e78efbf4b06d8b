"""`POST /api/auth/register`: an administrator registers a client from afar (protocol.md section 6).

The answers are the original's, field by field; it lets anybody register, ours wants the admin token. It takes the same
name or key any number of times; who minds says `"unique": true`, and is told 409, or `"replace": true`, and those that
have it are revoked. `POST /api/auth/rotate`, which the original does not have, gives a client a new key.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from aiohttp import web

from ..core.auth import hash_for_algorithm
from ..core.json_values import decode_values
from ..core.wire_errors import bounded
from ..errors import ErrorCode, InvalidKeyError
from ..version import __version__
from .admin_token import KEY_PENDING, AdminToken
from .guard import LoginGuard, blocked_message
from .registry import (
    ClientRegistry,
    DuplicateClientError,
    PendingKeyError,
    RegistryError,
    Revocation,
    UnknownClientError,
)

__all__ = ["MAX_BODY", "AdminDesk", "answer_json"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_BODY = 16 * 1024
# The guard counts per address and client id; the administrator has no id.
_NOBODY = ""
_INVALID = ErrorCode.INVALID_REQUEST


class AdminDesk:
    """Does what an administrator asks for, whom it knows by the token.

    Args:
        registry: the registered clients.
        token: the administrator's.
        guard: counts wrong tokens as failed logins are counted; nobody else's.
        executor: where the clients file is changed. Not where it is looked at: another process that holds the file's
            lock must not keep a revocation waiting.
        default_algorithm: of clients that are registered without one.
    """

    def __init__(
        self, registry: ClientRegistry, token: AdminToken, guard: LoginGuard, executor: Executor, default_algorithm: str
    ) -> None:
        self._registry = registry
        self._token = token
        self._guard = guard
        self._executor = executor
        self._default_algorithm = hash_for_algorithm(default_algorithm)

    def refuse(self, request: web.BaseRequest, address: str) -> web.Response | None:
        """Return what a request without the token is told, `None` when it has it.

        Args:
            request: any.
            address: where it comes from; after five wrong tokens in a row it has to wait.
        """
        blocked_for = self._guard.blocked_for(address, _NOBODY, time.monotonic())
        authorization = request.headers.get("Authorization")
        if blocked_for is None and authorization is not None:
            if self._token.is_in(authorization):
                self._guard.success(address, _NOBODY)
                return None
            _log.warning("a wrong admin token came from %s", address)
            blocked_for = self._guard.failure(address, _NOBODY, time.monotonic()).retry_after
        if blocked_for is not None:
            body = {"error": blocked_message(blocked_for), "code": ErrorCode.RATE_LIMITED, "retryAfter": blocked_for}
            return answer_json(429, body, {"Retry-After": str(blocked_for)})
        text = "This needs the admin token: Authorization: Bearer <token>"
        return _error(401, text, ErrorCode.INVALID_AUTH, {"WWW-Authenticate": "Bearer"})

    async def register(self, request: web.BaseRequest, address: str) -> web.Response:
        """Register a client, and return when it is on the disk.

        Args:
            request: its body names the client.
            address: where it comes from.
        """
        fields = await self._read_fields(request, address)
        if isinstance(fields, web.Response):
            return fields
        name, pem, algorithm = (fields.get(key) for key in ("name", "publicKey", "signatureAlgorithm"))
        if not _is_given(name) or not _is_given(pem):
            return _error(400, "Missing required fields: name and publicKey", "missing_parameters")
        return await self._register(
            # The original takes any JSON value for a name.
            name if isinstance(name, str) else json.dumps(name),
            pem,
            algorithm if _is_given(algorithm) else self._default_algorithm,
            address,
            is_unique=fields.get("unique") is True,
            replaces=fields.get("replace") is True,
        )

    async def rotate(self, request: web.BaseRequest, address: str) -> web.Response:
        """Give a client a new key beside its old one, and return when it is on the disk.

        Args:
            request: its body names the client and has the key.
            address: where it comes from.
        """
        fields = await self._read_fields(request, address)
        if isinstance(fields, web.Response):
            return fields
        client_id, pem = fields.get("clientId"), fields.get("publicKey")
        if not _is_given(client_id) or not _is_given(pem):
            return _error(400, "Missing required fields: clientId and publicKey", "missing_parameters")
        if not isinstance(client_id, str):
            return _error(400, "Invalid client id", _INVALID)
        if not isinstance(pem, str) or "-----BEGIN" not in pem:
            return _error(400, "Invalid public key format", _INVALID)
        rotate = functools.partial(self._registry.rotate, replace_pending=fields.get("replace") is True)
        client = await self._change("no key was changed", rotate, client_id, pem)
        if isinstance(client, web.Response):
            return client
        _log.info("client %s was given a new key from %s", client.id, address)
        return answer_json(200, {"clientId": client.id, "name": client.name})

    async def _read_fields(self, request: web.BaseRequest, address: str) -> dict[str, Any] | web.Response:
        """Return the fields of a request with the token, or else what it is told."""
        refusal = self.refuse(request, address)
        if refusal is not None:
            return refusal
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return _error(415, "The body must not be compressed", _INVALID)
        body = await _read_body(request)
        if body is None:
            return _error(413, f"The body may have {MAX_BODY} bytes", _INVALID)
        # As the original: what does not say that it is JSON has no fields, nor has an empty body.
        value = _parse(body) if request.content_type == "application/json" and body.strip() else {}
        if not isinstance(value, dict | list):
            return _error(400, "The body is not a JSON object", _INVALID)
        return value if isinstance(value, dict) else {}

    async def _register(
        self, name: str, pem: Any, algorithm: Any, address: str, *, is_unique: bool, replaces: bool
    ) -> web.Response:
        if not isinstance(pem, str) or "-----BEGIN" not in pem:
            return _error(400, "Invalid public key format", _INVALID)
        if not _is_supported(algorithm):
            shown = algorithm if isinstance(algorithm, str) else json.dumps(algorithm)
            return _error(400, f"Unsupported signature algorithm: {bounded(shown, 100)}", _INVALID)
        revoked: tuple[Revocation, ...] = ()
        if replaces:
            replace = functools.partial(self._registry.replace, reason=f"Replaced by a new client {name!r}")
            done = await self._change("the client was not registered", replace, name, pem, algorithm)
            client, revoked = done if isinstance(done, tuple) else (done, ())
        else:
            register = functools.partial(self._registry.register, is_unique=is_unique)
            client = await self._change("the client was not registered", register, name, pem, algorithm)
        if isinstance(client, web.Response):
            return client
        _log.info("client %s was registered from %s", client.id, address)
        told = {"revoked": [revocation.client.id for revocation in revoked]} if revoked else {}
        return answer_json(201, {"clientId": client.id, **told})

    async def _change(self, failure: str, function: Callable[..., _T], *arguments: Any) -> _T | web.Response:
        """Change the clients file, and return what the function does, or else what the administrator is told."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        except PendingKeyError as error:
            return _error(409, error.message, KEY_PENDING)
        except DuplicateClientError as error:
            return _error(409, error.message, _INVALID)
        except UnknownClientError as error:
            return _error(404, error.message, _INVALID)
        except InvalidKeyError as error:
            return _error(400, f"Invalid public key format: {error.message}", _INVALID)
        except ValueError as error:
            return _error(400, str(error), _INVALID)
        except RegistryError as error:
            _log.warning("%s: %s", failure, error)
            return _error(500, f"{failure.capitalize()}: {error.message}", ErrorCode.SERVER_ERROR)


def answer_json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    """Return an answer in JSON; the connection ends with it, and nobody keeps a copy."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    ours = {"Server": f"wsclient-gateway/{__version__}", "Cache-Control": "no-store"}
    response = web.Response(status=status, text=text, content_type="application/json", headers=ours | (headers or {}))
    response.force_close()
    return response


def _error(status: int, text: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer_json(status, {"error": text, "code": code}, headers)


async def _read_body(request: web.BaseRequest) -> bytes | None:
    """Return the body, `None` when it is too long; how long it may take is the lobby's business."""
    if (request.content_length or 0) > MAX_BODY:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        # RFC 9110 section 10.1.1: who says so waits for this before it sends the body; curl does for a second.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    while part := await request.content.readany():
        body += part
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _is_supported(algorithm: Any) -> bool:
    try:
        hash_for_algorithm(algorithm)
    except ValueError:
        return False
    # Which the original does not know: EC keys go by the hash alone with it.
    return not algorithm.lower().startswith("ecdsa")


def _parse(body: bytes) -> Any:
    try:
        body.decode()
    except UnicodeDecodeError:
        return None
    return decode_values([body])[0]


def _is_given(value: Any) -> bool:
    """Return what JavaScript takes for true: an empty list or object is."""
    return isinstance(value, list | dict) or bool(value)
