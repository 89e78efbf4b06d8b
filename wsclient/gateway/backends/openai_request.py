"""A `GenerateRequest` -> the body of a request to OpenAI's API. Pure.

Source: OpenAI's API reference, "Create chat completion" and "Create completion". Beyond those, llama.cpp's server and
vLLM (and most who speak the API) take sampling options under names of their own, and ignore those that they do not
know; OpenAI itself refuses a request that has any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ErrorCode
from . import BackendError, GenerateRequest

__all__ = ["chat_body", "completion_body", "is_completion"]

_STANDARD = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop")

# Ollama's name -> the names of llama.cpp and of vLLM.
_EXTENDED = {
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p",),
    "repeat_last_n": ("repeat_last_n",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),
}

# The first characters of an image in base64 -> what it is.
_IMAGE_TYPES = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}

_ONLY_CHAT = {"system": "a system text", "images": "images", "format": "a format", "think": "thinking"}


def is_completion(request: GenerateRequest) -> bool:
    """Return whether only the completions endpoint can do what is asked: no template, or a text after the gap."""
    return bool(request.fields.get("raw") or request.fields.get("suffix"))


def chat_body(request: GenerateRequest, *, is_extended: bool, max_tokens_name: str = "max_tokens") -> dict[str, Any]:
    """Return the body for `/chat/completions`.

    Args:
        request: what is asked.
        is_extended: whether to send what goes beyond OpenAI's own options.
        max_tokens_name: OpenAI's newer models refuse the name that all others know.
    """
    fields = request.fields
    messages: list[dict[str, Any]] = []
    if system := fields.get("system"):
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": _content(request)})
    body = _body(request, is_extended, max_tokens_name)
    body["messages"] = messages
    if format := fields.get("format"):
        body["response_format"] = _response_format(format)
    if (think := fields.get("think")) is not None:
        body |= _thinking(think, is_extended)
    return body


def completion_body(request: GenerateRequest, *, is_extended: bool) -> dict[str, Any]:
    """Return the body for `/completions`.

    Raises:
        BackendError: something is asked for that only chats have.
    """
    for name, what in _ONLY_CHAT.items():
        if request.fields.get(name):
            text = f"{what} cannot be had together with a raw prompt, a suffix, or the completions API"
            raise BackendError(text[0].upper() + text[1:], ErrorCode.INVALID_REQUEST)
    body = _body(request, is_extended, "max_tokens")
    body["prompt"] = request.prompt
    if suffix := request.fields.get("suffix"):
        body["suffix"] = suffix
    return body


def _body(request: GenerateRequest, is_extended: bool, max_tokens_name: str) -> dict[str, Any]:
    options = request.options
    # Always streamed: llama.cpp's server notices only then that nobody waits for the answer any more.
    body: dict[str, Any] = {"model": request.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: options[name] for name in _STANDARD if name in options}
    # Ollama takes a negative number for "no limit", and for "another one each time".
    if options.get("num_predict", -1) >= 0:
        body[max_tokens_name] = options["num_predict"]
    if options.get("seed", -1) >= 0:
        body["seed"] = options["seed"]
    return body | _extras(options) if is_extended else body


def _extras(options: Mapping[str, Any]) -> dict[str, Any]:
    extras = {theirs: options[ours] for ours, names in _EXTENDED.items() if ours in options for theirs in names}
    if extras.get("top_k", 1) <= 0:
        # "All" has only this one spelling that every server knows.
        extras["top_k"] = -1
    return extras


def _content(request: GenerateRequest) -> str | list[dict[str, Any]]:
    images = request.fields.get("images")
    if not images:
        return request.prompt
    parts: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
    parts += ({"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images)
    return parts


def _data_url(image: str) -> str:
    kinds = (kind for start, kind in _IMAGE_TYPES.items() if image.startswith(start))
    return f"data:{next(kinds, 'image/png')};base64,{image}"


def _response_format(format: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(format, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": format}}


def _thinking(think: bool | str, is_extended: bool) -> dict[str, Any]:
    if isinstance(think, str):
        # "max" is Ollama's alone.
        return {"reasoning_effort": "high" if think == "max" else think}
    # A plain yes or no is a matter of the model's template, which OpenAI's own API does not know.
    return {"chat_template_kwargs": {"enable_thinking": think}} if is_extended else {}
