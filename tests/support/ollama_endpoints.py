"""The paths of the fake Ollama, and what each answers (ollama_api.md sections 1 to 6)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from aiohttp import web

from .ollama_answers import BUSY, CREATED_AT, Answer, FakeModel, encode_line
from .ollama_refusals import request_error
from .ollama_streaming import RecordedRequest, Shape, send_stream

__all__ = ["Director", "Endpoints", "Refused", "answer_json"]

VERSION = "0.12.6"


class Refused(Exception):
    """Answer with this status and text, and be done."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Director(Protocol):
    """Who decides what a generation does."""

    models: Sequence[FakeModel]
    is_busy: bool

    def choose(self, model: str, prompt: str) -> Answer:
        """Return the answer to a prompt."""


class Endpoints:
    """The server's answers; all methods run on its event loop.

    Args:
        director: decides what generations do.
        permits: one is taken by each generation with the mode "hold".
    """

    def __init__(self, director: Director, permits: asyncio.Semaphore) -> None:
        self.director = director
        self.permits = permits
        self._loaded: set[str] = set()

    async def answer(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.StreamResponse:
        """Answer a request."""
        paths = self.paths()
        if request.path not in paths:
            return web.Response(status=404, text="404 page not found")
        methods, handler = paths[request.path]
        if request.method not in methods:
            return web.Response(status=405, text="405 method not allowed")
        try:
            if "POST" in methods:
                _check_readable(recorded)
            result = handler(self, request, recorded)
            return result if isinstance(result, web.StreamResponse) else await result
        except Refused as refused:
            return answer_json(self.error_record(refused.text, refused.status), refused.status)

    def paths(self) -> dict[str, tuple[tuple[str, ...], Callable[..., Any]]]:
        """Return each path with its methods and what answers it."""
        return _PATHS

    @staticmethod
    def error_record(text: str, status: int) -> dict[str, Any]:
        """Return an error as the server writes it."""
        return {"error": text}

    def _find(self, name: object) -> FakeModel | None:
        full = name if isinstance(name, str) and ":" in name else f"{name}:latest"
        return next((model for model in self.director.models if model.name == full), None)

    # --- the lists ---

    def root(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        return web.Response(text="Ollama is running")

    def version(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        return answer_json({"version": VERSION})

    def tags(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        return answer_json({"models": [model.to_tag() for model in self.director.models]})

    def ps(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        running = []
        for model in self.director.models:
            if model.name in self._loaded:
                tag = model.to_tag()
                del tag["modified_at"]
                running.append({**tag, "expires_at": CREATED_AT, "size_vram": model.size, "context_length": 4096})
        return answer_json({"models": running})

    def show(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        name = recorded.body.get("model")
        if not name:
            raise Refused(400, "model is required")
        model = self._find(name)
        if model is None:
            raise Refused(404, f"model '{name}' not found")
        return answer_json(
            {
                "license": "MIT",
                "modelfile": f"FROM /models/{model.digest}",
                "parameters": "stop    <end>",
                "template": "{{ .Prompt }}",
                "details": model.to_tag()["details"],
                "model_info": {"general.architecture": "llama"},
                "capabilities": list(model.capabilities),
                "modified_at": model.modified_at,
            }
        )

    def embed(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        texts = recorded.body.get("input")
        name = recorded.body.get("model", "")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        if self._find(name) is None:
            raise Refused(404, f'model "{name}" not found, try pulling it first')
        vectors = [[len(text) / 100, text.count(" ") / 100, 0.5] for text in texts]
        return answer_json({"model": name, "embeddings": vectors, "total_duration": 2, "load_duration": 1})

    # --- generations ---

    async def generate(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.StreamResponse:
        model = self._admit(recorded.body)
        prompt = recorded.body.get("prompt") or ""
        if not prompt:
            return self._load(recorded.body, model, _generate_record("", ""))
        return await self._write(request, recorded, prompt, _generate_record)

    async def chat(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.StreamResponse:
        if isinstance(recorded.body, dict) and not recorded.body.get("model"):
            raise Refused(400, "model is required")
        model = self._admit(recorded.body)
        messages = recorded.body.get("messages") or []
        if not messages:
            return self._load(recorded.body, model, _chat_record("", ""))
        return await self._write(request, recorded, str(messages[-1].get("content", "")), _chat_record)

    def _admit(self, body: Any) -> FakeModel:
        model = self._find(body.get("model", "")) if isinstance(body, dict) else None
        refusal = request_error(body, model)
        if refusal is not None:
            raise Refused(*refusal)
        assert model is not None
        if self.director.is_busy:
            raise Refused(503, BUSY)
        self._loaded.add(model.name)
        return model

    def _load(self, body: dict[str, Any], model: FakeModel, record: dict[str, Any]) -> web.Response:
        is_unload = body.get("keep_alive") in (0, "0", "0s")
        if is_unload:
            self._loaded.discard(model.name)
        reason = "unload" if is_unload else "load"
        return answer_json(
            {"model": body["model"], "created_at": CREATED_AT, **record, "done": True, "done_reason": reason}
        )

    async def _write(
        self, request: web.BaseRequest, recorded: RecordedRequest, prompt: str, shape: Shape
    ) -> web.StreamResponse:
        name = recorded.body["model"]
        answer = self.director.choose(name, prompt)
        started = time.monotonic()
        await asyncio.sleep(answer.first_delay)
        if answer.status != 200:
            raise Refused(answer.status, answer.error)
        head = {"model": name, "created_at": CREATED_AT}
        # A model that can think does, unless it is told not to.
        thoughts = answer.thinking if recorded.body.get("think") is not False else ()

        def final(text: str, thinking: str) -> dict[str, Any]:
            return {**head, **shape(text, thinking), **answer.final_fields(prompt, time.monotonic() - started)}

        if recorded.body.get("stream") is False:
            return answer_json(final("".join(answer.texts) + answer.final_text, "".join(thoughts)))
        lines: Iterable[bytes]
        if answer.unlimited:
            lines = _prepared_lines(name, answer.tokens, answer.token, shape)
        else:
            records = chain((shape("", thought) for thought in thoughts), (shape(text, "") for text in answer.texts))
            lines = (encode_line({**head, **record, "done": False}) for record in records)

        def final_line() -> bytes:
            return encode_line(final(answer.final_text, ""))

        return await send_stream(request, recorded, answer, lines, final_line, self.permits)


@lru_cache(maxsize=8)
def _prepared_lines(name: str, tokens: int, token: str | None, shape: Shape) -> list[bytes]:
    """Make the lines of an unlimited answer once: making them takes longer than sending them."""
    head = {"model": name, "created_at": CREATED_AT}
    texts = Answer(tokens=tokens, token=token).texts
    return [encode_line({**head, **shape(text, ""), "done": False}) for text in texts]


def _generate_record(text: str, thinking: str) -> dict[str, Any]:
    return {"response": text, "thinking": thinking} if thinking else {"response": text}


def _chat_record(text: str, thinking: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"message": {**message, "thinking": thinking} if thinking else message}


def answer_json(value: Any, status: int = 200) -> web.Response:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return web.Response(status=status, body=encode_line(value).rstrip(b"\n"), headers=headers)


def _check_readable(recorded: RecordedRequest) -> None:
    if not recorded.raw:
        raise Refused(400, "missing request body")
    try:
        json.loads(recorded.raw)
    except ValueError:
        first = chr(recorded.raw[0])
        raise Refused(400, f"invalid character {first!r} looking for beginning of value") from None


_READ = ("GET", "HEAD")
_PATHS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "/": (_READ, Endpoints.root),
    "/api/version": (_READ, Endpoints.version),
    "/api/tags": (_READ, Endpoints.tags),
    "/api/ps": (("GET",), Endpoints.ps),
    "/api/show": (("POST",), Endpoints.show),
    "/api/embed": (("POST",), Endpoints.embed),
    "/api/generate": (("POST",), Endpoints.generate),
    "/api/chat": (("POST",), Endpoints.chat),
}
