"""A server of OpenAI's API that does as it is told; `FakeOllama` says how.

Source: OpenAI's API reference, "Create chat completion", "Create completion", "List models" and "Error codes"; the
order of the events of a stream, and `timings` with them, as llama.cpp's server sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
from aiohttp import web

from .fake_ollama import FakeOllama
from .ollama_answers import MODELS, Answer, FakeModel, encode_line
from .ollama_endpoints import Endpoints, Refused, answer_json
from .ollama_streaming import Framing, RecordedRequest, send_stream

__all__ = ["FakeOpenAI"]

CREATED = 1_700_000_000

# What OpenAI's own API takes; it refuses a request that has anything else.
_COMMON = "model stream stream_options max_tokens temperature top_p presence_penalty frequency_penalty seed stop n"
_ARGUMENTS = {
    "/v1/chat/completions": f"{_COMMON} messages max_completion_tokens response_format reasoning_effort tools".split(),
    "/v1/completions": f"{_COMMON} prompt suffix echo best_of".split(),
}


def _error(text: str, status: int) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    return {"error": {"message": text, "type": kind, "param": None, "code": codes.get(status)}}


SSE = Framing("text/event-stream", b"data: ", b"\n\n", lambda text: _error(text, 500))


def _event(record: dict[str, Any]) -> bytes:
    return SSE.frame(encode_line(record).rstrip())


class _Endpoints(Endpoints):
    director: FakeOpenAI

    def paths(self) -> dict[str, Any]:
        return {
            "/v1/models": (("GET",), _Endpoints.list_models),
            "/v1/chat/completions": (("POST",), _Endpoints.complete),
            "/v1/completions": (("POST",), _Endpoints.complete),
        }

    @staticmethod
    def error_record(text: str, status: int) -> dict[str, Any]:
        return _error(text, status)

    def list_models(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.Response:
        self._check_key(request)
        owner = {"object": "model", "created": CREATED, "owned_by": "fake"}
        return answer_json({"object": "list", "data": [{"id": model.name, **owner} for model in self.director.models]})

    async def complete(self, request: web.BaseRequest, recorded: RecordedRequest) -> web.StreamResponse:
        self._check_key(request)
        body = recorded.body
        prompt = self._admit_request(request.path, body)
        answer = self.director.choose(body["model"], prompt)
        await asyncio.sleep(answer.first_delay)
        if answer.status != 200:
            raise Refused(answer.status, answer.error)
        # Nothing here asks for a whole answer.
        assert body.get("stream") is True
        is_chat = "chat" in request.path
        if is_chat and answer.after:
            # The event with the role comes before the pieces.
            answer = attrs.evolve(answer, after=answer.after + 1)
        lines = (_event(self._chunk(body, is_chat, *piece)) for piece in self._pieces(answer, is_chat))
        final = b"".join(self._final_events(body, is_chat, answer, prompt))
        return await send_stream(request, recorded, answer, lines, lambda: final, self.permits, SSE)

    def _check_key(self, request: web.BaseRequest) -> None:
        key = self.director.api_key
        given = request.headers.get("Authorization", "")
        if key is not None and given != f"Bearer {key}":
            raise Refused(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}.")

    def _admit_request(self, path: str, body: Any) -> str:
        """Refuse a request that is not right, or return its prompt."""
        if self.director.is_busy:
            raise Refused(503, "Loading model")
        if self.director.is_strict and (unknown := set(body) - set(_ARGUMENTS[path])):
            raise Refused(400, f"Unrecognized request argument supplied: {min(unknown)}")
        if all(model.name != body["model"] for model in self.director.models):
            raise Refused(404, f"The model `{body['model']}` does not exist")
        if body.get("max_tokens", 1) < 1:
            raise Refused(400, "max_tokens must be at least 1")
        if "chat" not in path:
            return str(body["prompt"])
        content = body["messages"][-1]["content"]
        return str(content if isinstance(content, str) else content[0]["text"])

    def _pieces(self, answer: Answer, is_chat: bool) -> list[tuple[str, str]]:
        role = [("role", "assistant")] if is_chat else []
        thoughts = [(self.director.thinking_name, thought) for thought in answer.thinking]
        return role + thoughts + [("content", text) for text in answer.texts]

    def _chunk(
        self, body: dict[str, Any], is_chat: bool, name: str, text: str, reason: str | None = None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if not is_chat:
            choice["text"] = text
        else:
            choice["delta"] = {name: text} if name else {}
        return {**self._head(body, is_chat), "choices": [choice]}

    def _head(self, body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        return {"id": "cmpl-1", "object": kind, "created": CREATED, "model": body["model"]}

    def _final_events(self, body: dict[str, Any], is_chat: bool, answer: Answer, prompt: str) -> list[bytes]:
        events = []
        if answer.done_reason is not None:
            events.append(_event(self._chunk(body, is_chat, "", "", answer.done_reason)))
        if (body.get("stream_options") or {}).get("include_usage") and answer.has_metrics:
            count = len(answer.texts) + len(answer.thinking)
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": count}
            timings = {"prompt_ms": 1.5, "predicted_ms": 2.5}
            events.append(_event({**self._head(body, is_chat), "choices": [], "usage": usage, "timings": timings}))
        if self.director.says_done:
            events.append(SSE.frame(b"[DONE]"))
        return events


class FakeOpenAI(FakeOllama):
    """The server; a context manager.

    Args:
        models: what is served.
        default: what a generation does that nothing else decides about.
        port: where to listen; 0 is any free one.
        api_key: what requests must bring; `None` lets everybody in.

    Attributes:
        is_strict: while true, arguments that OpenAI does not document are refused.
        says_done: whether a stream ends with `[DONE]`.
        thinking_name: what a piece of thinking is called.
    """

    endpoints = _Endpoints

    def __init__(
        self,
        models: Sequence[FakeModel] = MODELS,
        *,
        default: Answer | None = None,
        port: int = 0,
        api_key: str | None = None,
    ) -> None:
        super().__init__(models, default=default, port=port)
        self.api_key = api_key
        self.is_strict = False
        self.says_done = True
        self.thinking_name = "reasoning_content"

    @property
    def base_url(self) -> str:
        """The URL that a backend is told."""
        return f"{self.url}/v1"
