"""A model server over HTTP: one request a generation, its deadlines, and letting go of it.

Closing a generation's connection is how it is stopped: neither Ollama nor OpenAI's API knows another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import aiohttp

from ...errors import ErrorCode
from ..ollama_host import is_loopback
from . import BackendError, Final, Piece, SilentError, UnreachableError
from .reading import StreamReader

__all__ = ["HttpAnswer", "ModelServer"]

logger = logging.getLogger(__name__)

_MAX_ERROR_BYTES = 4096
_MAX_LIST_BYTES = 16 * 1024 * 1024
_MAX_RETRY_AFTER = 3600

# Twice this is read ahead before TCP makes the server wait, some 600 of Ollama's tokens: large enough to work in bulk
# (128 KiB is no faster), small enough that a list of pieces never keeps the event loop from the other clients for long.
_READ_BUFFER = 32 * 1024

# aiohttp raises a plain RuntimeError for a connection or session that was closed on this side meanwhile.
_BROKEN = (aiohttp.ClientError, RuntimeError)


class HttpAnswer:
    """An answer other than 200.

    Attributes:
        status: of HTTP.
        body: its first 4 KiB.
        retry_after: seconds, `None` when the server did not say.
    """

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.body = body
        text = response.headers.get("Retry-After", "")
        is_number = text.isdecimal() and len(text) < 10
        self.retry_after = float(min(int(text), _MAX_RETRY_AFTER)) if is_number else None


class ModelServer:
    """The HTTP side of a backend.

    Args:
        name: what errors call the server in mid-sentence, such as `Ollama` or `the model server`.
        url: its base URL, without a slash at the end.
        refusal: makes the error that an answer other than 200 stands for.
        first_token_timeout: seconds until a generation says something; a cold model loads in this time.
        token_timeout: seconds of silence allowed after that.
        request_timeout: seconds for everything else: connecting, a list, the text of an error.
        api_key: sent as a bearer token.
    """

    def __init__(
        self,
        name: str,
        url: str,
        refusal: Callable[[HttpAnswer], BackendError],
        *,
        first_token_timeout: float,
        token_timeout: float,
        request_timeout: float,
        api_key: str | None = None,
    ) -> None:
        self.url = url
        self._name = name
        # At the beginning of a sentence.
        self._subject = name[:1].upper() + name[1:]
        self._refusal = refusal
        self._first_token_timeout = first_token_timeout
        self._token_timeout = token_timeout
        self._request_timeout = request_timeout
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[aiohttp.ClientResponse] = set()

    async def start(self) -> None:
        """Make the HTTP session. That the server does not answer yet is no error: it may start later."""
        if self._session is None or self._session.closed:
            self._session = self._make_session()

    async def close(self) -> None:
        """End the HTTP session and with it every generation; safe to call twice."""
        # One by one first: older versions of aiohttp let a reader wait on when its session is closed.
        for response in self._streams:
            response.close()
        if self._session is not None:
            await self._session.close()

    async def fetch(self, path: str, what: str) -> bytes:
        """Return the body at a path, 16 MiB at most.

        Args:
            path: below the base URL.
            what: the body's name in errors, such as `list of models`.

        Raises:
            BackendError: the server cannot be reached, refuses, or does not answer in time.
        """
        deadline = _deadline(self._request_timeout)
        response = await self._request("GET", path, None, deadline)
        try:
            return await _read_body(response, _MAX_LIST_BYTES, deadline)
        except (*_BROKEN, TimeoutError) as error:
            raise BackendError(f"{self._subject} broke off its {what}") from error
        finally:
            response.close()

    async def stream(
        self, path: str, body: Mapping[str, Any], reader: StreamReader
    ) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation, one list of pieces a read; closing the generator closes the HTTP connection.

        Raises:
            BackendError: the body cannot be JSON; or the server refuses, reports an error, breaks off or falls silent.
                What it said before that has been delivered.
        """
        deadline = _deadline(self._first_token_timeout)
        response = await self._request("POST", path, _encode(body), deadline)
        self._streams.add(response)
        try:
            while True:
                data, failure = await self._read_some(response, deadline, reader.is_begun)
                readings = [reader.feed(data)]
                if not data or failure is not None:
                    readings.append(reader.finish(is_broken=failure is not None))
                for reading in readings:
                    if reading.pieces:
                        yield reading.pieces
                    if reading.is_final:
                        return
                    if reading.error is not None:
                        raise reading.error
                if failure is not None:
                    raise failure
                if not data:
                    text = f"{self._subject} ended the stream without its final message"
                    raise BackendError(text, ErrorCode.GENERATION_INCOMPLETE)
                if reading.is_life and reader.is_begun:
                    deadline = _deadline(self._token_timeout)
        finally:
            self._streams.discard(response)
            response.close()
            if reader.unreadable:
                # Skipped as by the original; what they said may be a prompt and is not for a log.
                logger.warning("%s sent lines that are not JSON objects: %d; skipped", self._subject, reader.unreadable)

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
            raise self._failure(error) from error
        if response.status == 200:
            return response
        try:
            text = await _read_body(response, _MAX_ERROR_BYTES, _deadline(self._request_timeout))
        except (*_BROKEN, TimeoutError):
            text = b""
        finally:
            response.close()
        raise self._refusal(HttpAnswer(response, text))

    async def _read_some(
        self, response: aiohttp.ClientResponse, deadline: float, is_begun: bool
    ) -> tuple[bytes, BackendError | None]:
        """Return what has arrived, `b""` at the end, and what went wrong after it."""
        try:
            async with asyncio.timeout_at(deadline):
                return await response.content.readany(), None
        except TimeoutError:
            if is_begun:
                return b"", BackendError(f"{self._subject} fell silent", ErrorCode.GENERATION_INCOMPLETE)
            return b"", SilentError(f"{self._subject} did not answer in time")
        except _BROKEN:
            # The original's words (protocol.md section 2).
            return _salvage(response), BackendError("Premature close", ErrorCode.GENERATION_INCOMPLETE)

    def _make_session(self) -> aiohttp.ClientSession:
        headers = {"Accept-Encoding": "identity"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        return aiohttp.ClientSession(
            # A generation has its connection to itself: closing that one is how it is stopped; a kept one that the
            # server has just closed would fail the next POST; and aiohttp's own limit of 100 would make the 101st
            # client wait.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._request_timeout),
            headers=headers,
            read_bufsize=_READ_BUFFER,
            # A proxy never leads to this machine's own model server, whatever HTTP_PROXY says.
            trust_env=not is_loopback(self.url),
        )

    def _failure(self, error: Exception) -> BackendError:
        """Say why there is no answer, without the address: that is the owner's business, and in `__cause__`."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return UnreachableError(f"Cannot connect to {self._name}: no answer in time")
        if isinstance(error, TimeoutError):
            return SilentError(f"{self._subject} did not answer in time")
        if isinstance(error, aiohttp.ClientSSLError):
            return UnreachableError(f"Cannot connect to {self._name}: TLS failed")
        if isinstance(error, aiohttp.ClientConnectorError):
            if isinstance(error.os_error, socket.gaierror):
                return UnreachableError(f"Cannot connect to {self._name}: unknown host")
            why = os.strerror(error.errno) if error.errno else "not reachable"
            return UnreachableError(f"Cannot connect to {self._name}: {why}")
        if isinstance(error, aiohttp.ClientConnectionError):
            return BackendError(f"{self._subject} closed the connection without an answer")
        return BackendError(f"{self._subject} gave no valid HTTP answer")


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        # Escaped, so that half a surrogate pair in a prompt cannot fail here.
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BackendError("the request cannot be written as JSON", ErrorCode.INVALID_REQUEST) from error


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
