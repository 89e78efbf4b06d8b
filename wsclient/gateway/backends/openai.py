"""Any server that speaks OpenAI's API: llama.cpp's server, vLLM, Ray Serve, LiteLLM, and OpenAI."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import attrs

from ...core.wire_errors import bounded
from ...errors import ErrorCode
from ..openai_url import DEFAULT_OPENAI_URL
from . import BackendError, Final, GenerateRequest, Piece
from .http import HttpAnswer, ModelServer
from .openai_request import chat_body, completion_body, is_completion
from .openai_stream import OpenAIStream, message_of
from .reading import count_of

__all__ = ["DEFAULT_MODEL", "OpenAIBackend"]

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "default"

_CODES = {
    400: ErrorCode.INVALID_REQUEST,
    413: ErrorCode.INVALID_REQUEST,
    422: ErrorCode.INVALID_REQUEST,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.SERVER_BUSY,
}

_NO_MODEL = re.compile(
    r"\bmodel\b.{0,200}?(not found|not exist|invalid)|(not found|unknown|invalid) model", re.IGNORECASE | re.DOTALL
)


class OpenAIBackend:
    """A server of OpenAI's API.

    The model `default` is the first that the server lists, unless it has one of that name.

    Args:
        url: the base URL that `/chat/completions` is added to, most often ending with `/v1`.
        api: `chat` or `completions`: where prompts are sent to.
        options: `standard` sends only the options that OpenAI documents, `extended` also those that llama.cpp's server
            and vLLM take, `auto` decides by the host.
        first_token_timeout: seconds until a generation says something.
        token_timeout: seconds of silence allowed after that.
        request_timeout: seconds for everything else: connecting, the list of models, the text of an error.
        api_key: the server's, if it wants one.
    """

    name = "openai"

    def __init__(
        self,
        url: str = DEFAULT_OPENAI_URL,
        *,
        api: str = "chat",
        options: str = "auto",
        first_token_timeout: float = 300.0,
        token_timeout: float = 60.0,
        request_timeout: float = 10.0,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._is_chat = api == "chat"
        is_openai = urlsplit(self.url).hostname == "api.openai.com"
        self._is_extended = options == "extended" or (options == "auto" and not is_openai)
        self._max_tokens_name = "max_completion_tokens" if is_openai else "max_tokens"
        self._server = ModelServer(
            "the model server",
            self.url,
            self._refusal,
            first_token_timeout=first_token_timeout,
            token_timeout=token_timeout,
            request_timeout=request_timeout,
            api_key=api_key,
        )

    async def start(self) -> None:
        """Make the HTTP session. That the server does not answer yet is no error: it may start later."""
        await self._server.start()

    async def close(self) -> None:
        """End the HTTP session and with it every generation; safe to call twice."""
        await self._server.close()

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the server's models as objects like Ollama's, with what is known of them.

        Raises:
            BackendError: the server cannot be reached, refuses, or does not answer in time.
        """
        body = await self._server.fetch("/models", "list of models")
        try:
            models = json.loads(body)["data"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackendError("The model server's list of models cannot be read") from error
        models = models if isinstance(models, list) else []
        return [_tag(model) for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation, one list of pieces a read; closing the generator closes the HTTP connection.

        Raises:
            BackendError: see `ModelServer.stream`; or what is asked for cannot be said in this API.
        """
        if request.model == DEFAULT_MODEL:
            request = attrs.evolve(request, model=await self._default_model())
        if self._is_chat and not is_completion(request):
            path = "/chat/completions"
            body = chat_body(request, is_extended=self._is_extended, max_tokens_name=self._max_tokens_name)
        else:
            path, body = "/completions", completion_body(request, is_extended=self._is_extended)
        try:
            async with aclosing(self._server.stream(path, body, OpenAIStream())) as lists:
                async for pieces in lists:
                    yield pieces
        except BackendError as error:
            if error.code is not ErrorCode.MODEL_NOT_FOUND:
                raise
            # In the same words as of a model that a client may not use.
            raise BackendError(f"model '{bounded(request.model, 100)}' not found", error.code) from error

    async def _default_model(self) -> str:
        names = [model["name"] for model in await self.list_models()]
        if not names:
            raise BackendError("The model server lists no models", ErrorCode.MODEL_NOT_FOUND)
        return DEFAULT_MODEL if DEFAULT_MODEL in names else names[0]

    def _refusal(self, answer: HttpAnswer) -> BackendError:
        """Return the error that an HTTP answer other than 200 stands for."""
        status = answer.status
        if status in (401, 403):
            # What the server says about a key may have a part of that key in it.
            logger.warning("the model server at %s answers %d: does it get the right API key?", self.url, status)
            return BackendError(f"Model server error: {status} (it refuses the gateway)")
        text = answer.body.decode("utf-8", "replace").strip()
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = text
        text = bounded(message_of(content))
        code = _CODES.get(status, ErrorCode.SERVER_ERROR)
        if status in (400, 404) and (_NO_MODEL.search(text) or _code_in(content) == "model_not_found"):
            code = ErrorCode.MODEL_NOT_FOUND
        elif status == 404:
            logger.warning("the model server at %s does not know the path: is the URL right?", self.url)
        retry_after = answer.retry_after if code in (ErrorCode.RATE_LIMITED, ErrorCode.SERVER_BUSY) else None
        return BackendError(f"Model server error: {status} {text}".rstrip(), code, retry_after)


def _code_in(content: Any) -> Any:
    error = content.get("error") if isinstance(content, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _tag(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model as an object of Ollama's `/api/tags`, without what nobody knows.

    `meta` is llama.cpp's, `max_model_len` vLLM's.
    """
    tag: dict[str, Any] = {"name": model["id"], "model": model["id"]}
    created = count_of(model, "created")
    if created is not None and 0 < created < 1 << 32:
        tag["modified_at"] = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    meta = model["meta"] if isinstance(model.get("meta"), dict) else {}
    if (size := count_of(meta, "size")) is not None:
        tag["size"] = size
    details: dict[str, Any] = {}
    if (parameters := count_of(meta, "n_params")) is not None:
        details["parameter_size"] = f"{parameters / 1e9:.1f}B" if parameters >= 10**9 else f"{parameters / 1e6:.1f}M"
    if isinstance(quantization := meta.get("ftype"), str):
        details["quantization_level"] = quantization
    context = count_of(model, "max_model_len") or count_of(meta, "n_ctx")
    if context is not None:
        details["context_length"] = context
    return tag | ({"details": details} if details else {})
