"""What the fake Ollama refuses, and in which words (ollama_api.md sections 2 and 6). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .ollama_answers import FakeModel

__all__ = ["option_error", "request_error"]

_INTEGERS = (
    "num_predict top_k seed num_keep repeat_last_n num_ctx num_batch num_gpu main_gpu num_thread draft_num_predict"
)
_FLOATS = "temperature top_p min_p typical_p repeat_penalty presence_penalty frequency_penalty"

_GO_NAMES = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_TOP_LEVEL: dict[str, tuple[type, str]] = {
    "model": (str, "string"),
    "prompt": (str, "string"),
    "suffix": (str, "string"),
    "system": (str, "string"),
    "stream": (bool, "bool"),
    "raw": (bool, "bool"),
    "images": (list, "[]api.ImageData"),
    "messages": (list, "[]api.Message"),
    "options": (dict, "map[string]interface {}"),
}


def request_error(body: Any, model: FakeModel | None) -> tuple[int, str] | None:
    """Return the status and the text that Ollama refuses a request with, `None` when it does not.

    Args:
        body: the decoded body of a generate or chat request.
        model: the installed model it names, if there is one.
    """
    if not isinstance(body, dict):
        return 400, f"json: cannot unmarshal {_GO_NAMES[type(body)]} into Go value of type api.GenerateRequest"
    for name, (kind, go_type) in _TOP_LEVEL.items():
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            what = _GO_NAMES[type(value)]
            return 400, f"json: cannot unmarshal {what} into Go struct field GenerateRequest.{name} of type {go_type}"
    keep_alive = body.get("keep_alive")
    if isinstance(keep_alive, str) and keep_alive.lstrip("+-").isdecimal() and keep_alive != "0":
        return 400, f'time: missing unit in duration "{keep_alive}"'
    if model is None:
        return 404, f"model '{body.get('model', '')}' not found"
    if body.get("raw") and any(body.get(name) for name in ("system", "template", "context")):
        return 400, "raw mode does not support template, system, or context"
    think = body.get("think")
    if think is not None and not isinstance(think, bool) and think not in ("low", "medium", "high", "max"):
        return 400, f"invalid think value: {json.dumps(think)}"
    if think and "thinking" not in model.capabilities:
        return 400, f'"{body["model"]}" does not support thinking'
    if "completion" not in model.capabilities:
        return 400, f'"{body["model"]}" does not support generate'
    wanted_format = body.get("format")
    if wanted_format not in (None, "", "json") and not isinstance(wanted_format, dict):
        return 500, f'invalid format: {json.dumps(wanted_format)}; expected "json" or a valid JSON Schema object'
    text = option_error(body.get("options") or {})
    return None if text is None else (500, text)


def option_error(options: Mapping[str, Any]) -> str | None:
    """Return what Ollama says about a wrong type among the options; names it does not know it ignores."""
    for name, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            continue
        if name in _INTEGERS.split() and not is_number:
            return f'option "{name}" must be of type integer'
        if name in _FLOATS.split() and not is_number:
            return f'option "{name}" must be of type float32'
        if name == "stop" and not isinstance(value, list):
            return 'option "stop" must be of type array'
        if name == "stop" and not all(isinstance(stop, str) for stop in value):
            return 'option "stop" must be of an array of strings'
        if name == "use_mmap" and not isinstance(value, bool):
            return 'option "use_mmap" must be of type boolean'
    return None
