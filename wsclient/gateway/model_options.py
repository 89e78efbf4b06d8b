"""The wire's `options` of a generate message -> what a model server may be told. Pure.

The rules are protocol.md section 4 (two forms, nested wins, a correct body is built here) and ollama_api.md section 2
(names, types). Everything that is not listed here is dropped: load-time options such as `num_ctx` make Ollama reload
the model, and `model`, `prompt` or `stream` among the options would override the request itself.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["LOAD_OPTIONS", "InvalidOptionError", "parse_model_options"]

# float32's largest number: Ollama would make infinity of anything above.
_MAX_FLOAT = 3.4028234e38
_MAX_INT = 2**63 - 1

# Every word of a text is compared with every stop string.
_MAX_STOPS = 64
_MAX_STOP_CHARS = 1024

# What Go's time.Duration holds, 292 years, in seconds.
_MAX_SECONDS = 9_223_372_036

_DURATION = re.compile(r"[-+]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

_Check = Callable[[Any], Any]


class InvalidOptionError(ValueError):
    """An option has a value that the model server could not use; the message names all three."""


class _Wrong(Exception):
    """What is allowed instead; turned into `InvalidOptionError`, which knows the name and the value."""


def _whole(low: int) -> _Check:
    def check(value: Any) -> int:
        # JavaScript knows one kind of number, so 500.0 is a whole one.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MAX_INT:
            raise _Wrong("a whole number" if low < -2 else f"a whole number >= {low}")
        return value

    return check


def _number(low: float, high: float, allowed: str) -> _Check:
    def check(value: Any) -> float:
        # The comparison is false for NaN, and exact for integers too large to be a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _Wrong(allowed)
        return value

    return check


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        raise _Wrong("a text")
    # Ollama takes an empty one for none given.
    return value or None


def _stop(value: Any) -> list[str] | None:
    if value in ("", []):
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise _Wrong("a text or a list of texts, none of them empty")
    if len(stops) > _MAX_STOPS or max(map(len, stops)) > _MAX_STOP_CHARS:
        raise _Wrong(f"at most {_MAX_STOPS} texts of at most {_MAX_STOP_CHARS} characters")
    return stops


def _format(value: Any) -> str | dict[str, Any] | None:
    if isinstance(value, dict) or value in ("json", ""):
        return value or None
    raise _Wrong('"json" or a JSON Schema object')


def _images(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        raise _Wrong("a list of base64 texts")
    return [_image(image) for image in value] or None


def _image(value: Any) -> str:
    image = _DATA_URL.sub("", value, count=1) if isinstance(value, str) else ""
    image = image.replace("\n", "").replace("\r", "")
    try:
        is_valid = bool(binascii.a2b_base64(image, strict_mode=True))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise _Wrong("a list of base64 texts")
    return image


def _keep_alive(value: Any) -> float | str | None:
    if value == "":
        return None
    if isinstance(value, str):
        is_valid = len(value) <= 64 and _DURATION.fullmatch(value) is not None
    else:
        is_valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_SECONDS
    if not is_valid:
        raise _Wrong('a number of seconds or a duration such as "5m" or "1h30m"')
    return value  # type: ignore[no-any-return]


def _think(value: Any) -> bool | str:
    if isinstance(value, bool) or value in ("low", "medium", "high", "max"):
        return value  # type: ignore[no-any-return]
    raise _Wrong('true, false, "low", "medium", "high" or "max"')


def _simple(value: Any) -> Any:
    """Check an option that only the operator's allow-list knows."""
    if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) <= _MAX_FLOAT):
        return value
    raise _Wrong("a number, a text or a truth value")


_ANY_INT = _whole(-_MAX_INT - 1)
_ANY_NUMBER = _number(-_MAX_FLOAT, _MAX_FLOAT, "a number")
_NOT_NEGATIVE = _number(0, _MAX_FLOAT, "a number >= 0")
_SHARE = _number(0, 1, "a number from 0 to 1")

_OPTIONS: dict[str, _Check] = {
    "num_predict": _whole(-2),
    "temperature": _NOT_NEGATIVE,
    # Ollama's runners take 0 and less for "all".
    "top_k": _ANY_INT,
    "top_p": _SHARE,
    "min_p": _SHARE,
    "typical_p": _SHARE,
    "repeat_last_n": _whole(-1),
    "repeat_penalty": _NOT_NEGATIVE,
    "presence_penalty": _ANY_NUMBER,
    "frequency_penalty": _ANY_NUMBER,
    "seed": _ANY_INT,
    "stop": _stop,
    "num_keep": _whole(-1),
}

_LOAD_OPTIONS: dict[str, _Check] = {
    "num_ctx": _whole(1),
    "num_batch": _whole(1),
    "num_gpu": _whole(-1),
    "main_gpu": _whole(0),
    "num_thread": _whole(0),
    "use_mmap": _truth,
    "draft_num_predict": _whole(0),
}

LOAD_OPTIONS = frozenset(_LOAD_OPTIONS)

_FIELDS: dict[str, _Check] = {
    "system": _text,
    "suffix": _text,
    "format": _format,
    "images": _images,
    "keep_alive": _keep_alive,
    "think": _think,
    "raw": _truth,
}

_ALIASES = {
    "max_tokens": "num_predict",
    "maxTokens": "num_predict",
    "topP": "top_p",
    "topK": "top_k",
    "systemPrompt": "system",
}


def parse_model_options(options: object, *, allow: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Turn a generate message's `options` into those of a `GenerateRequest`.

    Args:
        options: what the client sent. Ollama's names or the aliases of the seed's kind, flat, or nested in one more
            `options` object, which wins; `null` is unset. Anything but an object counts as no options, as it does on
            the original server.
        allow: names of further options to pass on, such as those of `LOAD_OPTIONS`; the operator's choice.

    Returns:
        Ollama's `options`, and the fields beside them.

    Raises:
        InvalidOptionError: a value is of the wrong type or makes no sense.
    """
    given = _flatten(options)
    extra = {name: _LOAD_OPTIONS.get(name, _simple) for name in allow}
    return _checked(given, extra | _OPTIONS), _checked(given, _FIELDS)


def _flatten(options: object) -> dict[str, tuple[str, Any]]:
    """Return what is given by Ollama's names, each with the name that the client used."""
    if not isinstance(options, Mapping):
        return {}
    given: dict[str, tuple[str, Any]] = {}
    nested = options.get("options")
    for level in (options, nested if isinstance(nested, Mapping) else {}):
        # Aliases first: where both names are given on one level, Ollama's own one counts.
        for name in sorted(level, key=lambda name: name not in _ALIASES):
            if level[name] is not None:
                given[_ALIASES.get(name, name)] = (name, level[name])
    return given


def _checked(given: Mapping[str, tuple[str, Any]], checks: Mapping[str, _Check]) -> dict[str, Any]:
    checked = {}
    for name, check in checks.items():
        if name in given:
            used_name, value = given[name]
            try:
                value = check(value)
            except _Wrong as wrong:
                raise InvalidOptionError(f"{used_name} must be {wrong} (got {_shown(value)})") from None
            if value is not None:
                checked[name] = value
    return checked


def _shown(value: Any) -> str:
    """Return a value as JSON, control characters escaped, shortened; of a list or object only what it is."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
