"""What a generation can be told, checked before anything is sent, and its form on the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import attrs

from .options import got, is_number

__all__ = ["Deadlines", "GenerationKeywords", "GenerationOptions", "parse_generation_options"]


class GenerationKeywords(TypedDict, total=False):
    """The keywords of `generate`, `stream` and `complete`, for type checkers."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_tokens: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    system: str | None
    format: str | Mapping[str, Any] | None
    images: Sequence[str | bytes] | None
    keep_alive: float | str | None
    think: bool | str | None
    first_token_timeout: float | None
    token_timeout: float | None
    timeout: float | None


@attrs.frozen(kw_only=True)
class Deadlines:
    """How long a generation may take, in seconds.

    Attributes:
        first_token: until its first sign of life; a cold model loads in this time.
        token: between two signs of life after that.
        total: in all, `None` for no bound.
    """

    first_token: float
    token: float
    total: float | None


def _number(low: float, high: float, what: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not is_number(value) or not low <= value <= high:
            raise _wrong(name, what, value)
        return value

    return check


def _whole_number(low: int | None, what: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
            raise _wrong(name, what, value)
        return value

    return check


def _wrong(name: str, what: str, value: Any) -> Exception:
    kind = ValueError if isinstance(value, int | float | str) and not isinstance(value, bool) else TypeError
    return kind(f"{name} must be {what} (got {got(value)})")


def _text(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    return value


def _stop_texts(name: str, value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise _wrong(name, "a text or a list of texts, none empty", value)
    return value if isinstance(value, str) else list(texts)


def _format(name: str, value: Any) -> Any:
    if value != "json" and not isinstance(value, Mapping):
        raise _wrong(name, "'json' or a JSON Schema as a mapping", value)
    return value if value == "json" else dict(value)


def _images(name: str, value: Any) -> Any:
    if not isinstance(value, list | tuple) or not all(isinstance(image, str | bytes) for image in value):
        # A text would be taken for its letters, and the images themselves are no use in an error.
        raise TypeError(f"{name} must be a list of images, each bytes or base64 text (got {type(value).__name__})")
    return [base64.b64encode(image).decode() if isinstance(image, bytes) else image for image in value]


def _keep_alive(name: str, value: Any) -> Any:
    if not is_number(value) and not isinstance(value, str):
        raise _wrong(name, "seconds, or a duration like '5m'", value)
    return value


def _think(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and value not in ("low", "medium", "high", "max"):
        raise _wrong(name, "True, False, 'low', 'medium', 'high' or 'max'", value)
    return value


_OPTION_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "temperature": _number(0, 1e9, "a number >= 0"),
    "top_p": _number(0, 1, "a number from 0 to 1"),
    "top_k": _whole_number(0, "a whole number >= 0"),
    "max_tokens": _whole_number(-2, "a whole number >= -2"),
    "seed": _whole_number(None, "a whole number"),
    "stop": _stop_texts,
    "system": _text,
    "format": _format,
    "images": _images,
    "keep_alive": _keep_alive,
    "think": _think,
}
_DEADLINE_NAMES = ("first_token_timeout", "token_timeout", "timeout")

# The names that Ollama knows inside its nested `options` object (protocol.md section 4).
_NESTED_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "num_predict",
    "seed": "seed",
    "stop": "stop",
}

_FIRST_TOKEN_TIMEOUT = 300.0


@attrs.frozen
class GenerationOptions:
    """The checked options of one generation.

    Attributes:
        values: by our names, the ones we do not know included.
    """

    values: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def to_wire(self) -> dict[str, Any]:
        """Return the `options` of a generate message.

        Flat names as documented, and beside them Ollama's own names nested in `options`: the original server copies
        everything flat into Ollama's request body, where only the nested ones count (protocol.md section 4).
        """
        wire = dict(self.values)
        given = wire.get("options")
        nested = {theirs: wire[ours] for ours, theirs in _NESTED_NAMES.items() if ours in wire}
        if isinstance(nested.get("stop"), str):
            # Ollama answers 500 to a text where it wants a list (ollama_api.md section 2).
            nested["stop"] = [nested["stop"]]
        if isinstance(given, Mapping):
            nested |= given
        if nested:
            wire["options"] = nested
        return wire


def parse_generation_options(
    options: Mapping[str, Any] | None, keywords: Mapping[str, Any], request_timeout: float
) -> tuple[GenerationOptions, Deadlines]:
    """Check the options of a generation, keywords winning over the mapping; `None` means not given.

    Args:
        options: the `options` argument; names that we do not know are passed on to the server.
        keywords: the keyword arguments; a name that we do not know is an error.
        request_timeout: seconds, the client's default between two tokens.

    Raises:
        TypeError: an unknown keyword (the text names the nearest one), or a value of the wrong type.
        ValueError: a value out of range, or an option that is not the caller's to set.
    """
    known = (*_OPTION_CHECKS, *_DEADLINE_NAMES)
    for name in keywords:
        if name not in known:
            # Here, because hardly anybody needs it: importing it takes 2 ms.
            import difflib

            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f" (there are: {', '.join(known)})"
            raise TypeError(f"unknown generation option {name!r}{hint}")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping (got {got(options)})")
    given = {**(options or {}), **{name: value for name, value in keywords.items() if value is not None}}
    deadlines = _parse_deadlines(given, request_timeout)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("model", "prompt", "stream"):
            # On the original server they would override the request itself.
            raise ValueError(f"{name!r} cannot be an option; it belongs to the call")
        if value is not None:
            values[name] = _OPTION_CHECKS[name](name, value) if name in _OPTION_CHECKS else value
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"options must be JSON values: {error}") from None
    return GenerationOptions(values), deadlines


def _parse_deadlines(given: dict[str, Any], request_timeout: float) -> Deadlines:
    times = {}
    for name in _DEADLINE_NAMES:
        value = given.pop(name, None)
        if value is not None and (not is_number(value) or value <= 0):
            raise _wrong(name, "a number of seconds > 0", value)
        times[name] = value
    return Deadlines(
        first_token=times["first_token_timeout"] or _FIRST_TOKEN_TIMEOUT,
        token=times["token_timeout"] or request_timeout,
        total=times["timeout"],
    )
