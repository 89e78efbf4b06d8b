"""Ollama over HTTP: the models it has, and streamed generations.

A generation is one HTTP request, and letting go of that request is how it is stopped: Ollama knows no other way
(ollama_api.md section 0).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from ...core.wire_errors import bounded
from ...errors import ErrorCode
from ..ollama_host import DEFAULT_OLLAMA_URL, is_loopback, parse_ollama_host
from . import BackendError, Final, GenerateRequest, Piece
from .ollama_stream import LineTooLongError, OllamaStream

__all__ = ["OllamaBackend", "is_ollama_answering", "parse_ollama_host"]

logger = logging.getLogger(__name__)

_MAX_ERROR_BYTES = 4096
_MAX_LIST_BYTES = 16 * 1024 * 1024
_MAX_RETRY_AFTER = 3600

# Twice this is read ahead before TCP makes Ollama wait, some 600 tokens: large enough to work in bulk (128 KiB is no
# faster), small enough that a list of pieces never keeps the event loop from the other clients for long.
_READ_BUFFER = 32 * 1024

# aiohttp raises a plain RuntimeError for a connection or session that was closed on this side meanwhile.
_BROKEN = (aiohttp.ClientError, RuntimeError)

_CODES = {
    400: ErrorCode.INVALID_REQUEST,
    404: ErrorCode.MODEL_NOT_FOUND,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.SERVER_BUSY,
}


class OllamaBackend:
    """An Ollama server.

    Args:
        url: where it is, as `parse_ollama_host` returns it.
        first_token_timeout: seconds until a generation says something; a cold model loads in this time.
        token_timeout: seconds of silence allowed after that.
        request_timeout: seconds for everything else: connecting, the list of models, the text of an error.
        api_key: for Ollama's cloud.
    """

    name = "ollama"

    def __init__(
        self,
        url: str = DEFAULT_OLLAMA_URL,
        *,
        first_token_timeout: float = 300.0,
        token_timeout: float = 60.0,
        request_timeout: float = 10.0,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._first_token_timeout = first_token_timeout
        self._token_timeout = token_timeout
        self._request_timeout = request_timeout
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[aiohttp.ClientResponse] = set()

    async def start(self) -> None:
        """Make the HTTP session. That Ollama does not answer yet is no error: it may start later."""
        if self._session is None or self._session.closed:
            self._session = _make_session(self.url, self._request_timeout, self._authorization)

    async def close(self) -> None:
        """End the HTTP session and with it every generation; safe to call twice."""
        # One by one first: older versions of aiohttp let a reader wait on when its session is closed.
        for response in self._streams:
            response.close()
        if self._session is not None:
            await self._session.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the installed models as Ollama describes them.

        Raises:
            BackendError: Ollama cannot be reached, refuses, or does not answer in time.
        """
        deadline = _deadline(self._request_timeout)
        response = await self._request("GET", "/api/tags", None, deadline)
        try:
            body = await _read_body(response, _MAX_LIST_BYTES, deadline)
        except (*_BROKEN, TimeoutError) as error:
            raise BackendError("Ollama broke off its list of models") from error
        finally:
            response.close()
        try:
            models = json.loads(body)["models"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackendError("Ollama's list of models cannot be read") from error
        return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation, one list of pieces a read; closing the generator closes the HTTP connection.

        Raises:
            BackendError: Ollama refuses, reports an error, breaks off or falls silent. What it said before that has
                been delivered.
        """
        deadline = _deadline(self._first_token_timeout)
        response = await self._request("POST", "/api/generate", _encode(request), deadline)
        stream = OllamaStream()
        is_begun = False
        self._streams.add(response)
        try:
            while True:
                data, failure = await _read_some(response, deadline, is_begun)
                try:
                    reading = stream.feed(data) if data or failure else stream.finish()
                except LineTooLongError as error:
                    raise BackendError("Ollama sent a line without an end") from error
                if reading.pieces:
                    yield reading.pieces
                if reading.is_final:
                    return
                if reading.error:
                    raise BackendError(f"Ollama error: {_text_of(reading.error)}")
                if failure:
                    raise failure
                if not data:
                    text = "Ollama ended the stream without its final message"
                    raise BackendError(text, ErrorCode.GENERATION_INCOMPLETE)
                # Any byte is a sign of life: a line with nothing to show, a long line that trickles in.
                is_begun = True
                deadline = _deadline(self._token_timeout)
        finally:
            self._streams.discard(response)
            response.close()
            if stream.unreadable:
                # Skipped as by the original; what they said may be a prompt and is not for a log.
                logger.warning("Ollama sent lines that are not JSON objects: %d; skipped", stream.unreadable)

    async def _request(self, method: str, path: str, body: bytes | None, deadline: float) -> aiohttp.ClientResponse:
        """Send a request and return the response, whose status is 200; the caller closes it."""
        if self._session is None:
            await self.start()
        if self._session is None or self._session.closed:
            raise BackendError("the gateway is shutting down")
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.request(method, self.url + path, data=body, headers=headers)
        except (*_BROKEN, TimeoutError, ValueError) as error:
            raise BackendError(_reason(error)) from error
        if response.status == 200:
            return response
        try:
            body = await _read_body(response, _MAX_ERROR_BYTES, _deadline(self._request_timeout))
        except (*_BROKEN, TimeoutError):
            body = b""
        finally:
            response.close()
        raise _refusal(response, body)


async def is_ollama_answering(url: str, timeout: float = 1.0) -> bool:
    """Return whether an Ollama server answers at a URL; never raises.

    Args:
        url: as `parse_ollama_host` returns it.
        timeout: seconds in all.
    """
    async with _make_session(url, timeout, None) as session:
        try:
            async with asyncio.timeout(timeout), session.get(url.rstrip("/") + "/api/version") as response:
                answer = json.loads(await _read_body(response, _MAX_ERROR_BYTES, _deadline(timeout)))
        except (*_BROKEN, TimeoutError, ValueError):
            return False
        return response.status == 200 and isinstance(answer, dict) and isinstance(answer.get("version"), str)


def _make_session(url: str, connect_timeout: float, authorization: str | None) -> aiohttp.ClientSession:
    headers = {"Accept-Encoding": "identity"}
    if authorization:
        headers["Authorization"] = authorization
    return aiohttp.ClientSession(
        # A generation has its connection to itself: closing that one is how it is stopped; a kept one that the server
        # has just closed would fail the next POST; and aiohttp's own limit of 100 would make the 101st client wait.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        headers=headers,
        read_bufsize=_READ_BUFFER,
        # A proxy never leads to this machine's own Ollama, whatever HTTP_PROXY says.
        trust_env=not is_loopback(url),
    )


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _encode(request: GenerateRequest) -> bytes:
    body = {**request.fields, "model": request.model, "prompt": request.prompt, "stream": True}
    if request.options:
        body["options"] = request.options
    try:
        # Escaped, so that half a surrogate pair in a prompt cannot fail here.
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BackendError("the request cannot be written as JSON", ErrorCode.INVALID_REQUEST) from error


async def _read_some(
    response: aiohttp.ClientResponse, deadline: float, is_begun: bool
) -> tuple[bytes, BackendError | None]:
    """Return what has arrived, `b""` at the end, and what went wrong after it."""
    try:
        async with asyncio.timeout_at(deadline):
            return await response.content.readany(), None
    except TimeoutError:
        code = ErrorCode.GENERATION_INCOMPLETE if is_begun else ErrorCode.SERVER_ERROR
        return b"", BackendError("Ollama fell silent" if is_begun else "Ollama did not answer in time", code)
    except _BROKEN:
        # The original's words (protocol.md section 2).
        return _salvage(response), BackendError("Premature close", ErrorCode.GENERATION_INCOMPLETE)


def _salvage(response: aiohttp.ClientResponse) -> bytes:
    """Return what arrived before the connection broke and was not read yet: aiohttp raises first and keeps it."""
    with contextlib.suppress(Exception):
        response.content.set_exception(None)  # type: ignore[arg-type]
        return response.content.read_nowait()
    return b""


async def _read_body(response: aiohttp.ClientResponse, limit: int, deadline: float) -> bytes:
    """Read a body up to a limit; the rest is left behind."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout_at(deadline):
        while size < limit and (part := await response.content.readany()):
            parts.append(part)
            size += len(part)
    return b"".join(parts)[:limit]


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> BackendError:
    """Return the error that an HTTP answer other than 200 stands for (ollama_api.md section 6)."""
    text = body.decode("utf-8", "replace").strip()
    code = _CODES.get(response.status, ErrorCode.SERVER_ERROR)
    try:
        error = json.loads(text)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        # Not Ollama's shape: another server, or a path that Ollama does not have. No model is missing.
        code = ErrorCode.SERVER_ERROR if response.status == 404 else code
    else:
        # Only this field: others, such as the cloud's sign-in address, are for the owner of the server.
        text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
    retry_after = _retry_after(response) if code in (ErrorCode.RATE_LIMITED, ErrorCode.SERVER_BUSY) else None
    return BackendError(f"Ollama API error: {response.status} {bounded(text)}".rstrip(), code, retry_after)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(min(int(text), _MAX_RETRY_AFTER)) if text.isdecimal() and len(text) < 10 else None


def _text_of(error: object) -> str:
    return bounded(error if isinstance(error, str) else json.dumps(error))


def _reason(error: Exception) -> str:
    """Say why there is no answer, without the address: that is the owner's business, and in `__cause__`."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "Cannot connect to Ollama: no answer in time"
    if isinstance(error, TimeoutError):
        return "Ollama did not answer in time"
    if isinstance(error, aiohttp.ClientSSLError):
        return "Cannot connect to Ollama: TLS failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, socket.gaierror):
            return "Cannot connect to Ollama: unknown host"
        return f"Cannot connect to Ollama: {os.strerror(error.errno) if error.errno else 'not reachable'}"
    if isinstance(error, aiohttp.ClientConnectionError):
        return "Ollama closed the connection without an answer"
    return "Ollama gave no valid HTTP answer"
