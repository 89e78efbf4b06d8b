"""Ollama over HTTP: the models it has, and streamed generations (ollama_api.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from ...core.wire_errors import bounded
from ...errors import ErrorCode
from ..ollama_host import DEFAULT_OLLAMA_URL, parse_ollama_host
from . import BackendError, Final, GenerateRequest, Piece
from .http import HttpAnswer, ModelServer
from .ollama_stream import OllamaStream

__all__ = ["OllamaBackend", "is_ollama_answering", "parse_ollama_host"]

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
        self._server = ModelServer(
            "Ollama",
            self.url,
            _refusal,
            first_token_timeout=first_token_timeout,
            token_timeout=token_timeout,
            request_timeout=request_timeout,
            api_key=api_key,
        )

    async def start(self) -> None:
        """Make the HTTP session. That Ollama does not answer yet is no error: it may start later."""
        await self._server.start()

    async def close(self) -> None:
        """End the HTTP session and with it every generation; safe to call twice."""
        await self._server.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the installed models as Ollama describes them.

        Raises:
            BackendError: Ollama cannot be reached, refuses, or does not answer in time.
        """
        body = await self._server.fetch("/api/tags", "list of models")
        try:
            models = json.loads(body)["models"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackendError("Ollama's list of models cannot be read") from error
        return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation, one list of pieces a read; closing the generator closes the HTTP connection.

        Raises:
            BackendError: see `ModelServer.stream`.
        """
        body = {**request.fields, "model": request.model, "prompt": request.prompt, "stream": True}
        if request.options:
            body["options"] = request.options
        return self._server.stream("/api/generate", body, OllamaStream())


async def is_ollama_answering(url: str, timeout: float = 1.0) -> bool:
    """Return whether an Ollama server answers at a URL; never raises.

    Args:
        url: as `parse_ollama_host` returns it.
        timeout: seconds in all.
    """
    server = ModelServer(
        "Ollama",
        url.rstrip("/"),
        _refusal,
        first_token_timeout=timeout,
        token_timeout=timeout,
        request_timeout=timeout,
    )
    try:
        async with asyncio.timeout(timeout):
            answer = json.loads(await server.fetch("/api/version", "version"))
    except (BackendError, TimeoutError, ValueError, RecursionError):
        return False
    finally:
        await server.close()
    return isinstance(answer, dict) and isinstance(answer.get("version"), str)


def _refusal(answer: HttpAnswer) -> BackendError:
    """Return the error that an HTTP answer other than 200 stands for (ollama_api.md section 6)."""
    text = answer.body.decode("utf-8", "replace").strip()
    code = _CODES.get(answer.status, ErrorCode.SERVER_ERROR)
    try:
        error = json.loads(text)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        # Not Ollama's shape: another server, or a path that Ollama does not have. No model is missing.
        code = ErrorCode.SERVER_ERROR if answer.status == 404 else code
    else:
        # Only this field: others, such as the cloud's sign-in address, are for the owner of the server.
        text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
    retry_after = answer.retry_after if code in (ErrorCode.RATE_LIMITED, ErrorCode.SERVER_BUSY) else None
    return BackendError(f"Ollama API error: {answer.status} {bounded(text)}".rstrip(), code, retry_after)
