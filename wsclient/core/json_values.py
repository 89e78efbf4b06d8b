"""JSON text messages -> values, a whole batch at once.

One `json.loads` for a batch of a few hundred messages costs a quarter of one for each. Joining is only sound when no
message can reach into its neighbour, so a marker number stands between any two: it must come back at every second
place of the parsed list. It cannot be forged: when its digits occur anywhere in the batch the messages are parsed one
by one, an integer has just one spelling in JSON, and above 2**53 no float equals it.

With the extra `speed` installed the same code decodes with orjson. What orjson refuses is tried again with the standard
library, so that both accept the same messages (orjson knows no lone surrogates). Two things differ: orjson returns an
integer over 64 bits as a float, and takes 1024 levels of nesting where the standard library takes what is left of the
interpreter's recursion limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

from ..errors import ProtocolError

try:
    import orjson
except ImportError:
    _fast_loads: Callable[[bytes], Any] | None = None
else:
    _fast_loads = orjson.loads

__all__ = ["decode_values", "is_accelerated"]

_MARKER: Final = 9_007_199_254_740_993
_MARKER_DIGITS: Final = str(_MARKER).encode()
_LARGE: Final = 64 * 1024
_SEPARATOR: Final = b"," + _MARKER_DIGITS + b","


def is_accelerated() -> bool:
    """Return whether orjson decodes."""
    return _fast_loads is not None


def decode_values(payloads: list[bytes], loads: Callable[[bytes], Any] | None = _fast_loads) -> list[Any]:
    """Parse JSON texts, each of which must be one value.

    Args:
        payloads: valid UTF-8, as `FrameParser.feed` returns it.
        loads: a faster parser than the standard library's, or `None`.

    Returns:
        One value for each payload, in order; a `ProtocolError` stands in the place of one that is not JSON.
    """
    if len(payloads) > 1 and len(payloads[0]) > _LARGE:
        # A large message comes first in its read, and joining would copy and search it.
        return [_decode_value(payloads[0], loads), *decode_values(payloads[1:], loads)]
    if len(payloads) > 1:
        joined = _SEPARATOR.join(payloads)
        if joined.count(_MARKER_DIGITS) == len(payloads) - 1:
            try:
                values = loads(b"[" + joined + b"]") if loads is not None else _strict_loads(b"[" + joined + b"]")
            except (ValueError, RecursionError):
                values = None
            if values is not None and values[1::2] == [_MARKER] * (len(payloads) - 1) and len(values) % 2:
                return values[::2]  # type: ignore[no-any-return]
    return [_decode_value(payload, loads) for payload in payloads]


def _decode_value(payload: bytes, loads: Callable[[bytes], Any] | None) -> Any:
    if loads is not None:
        try:
            return loads(payload)
        except (ValueError, RecursionError):
            pass
    try:
        return _strict_loads(payload)
    except (ValueError, RecursionError) as error:
        return ProtocolError(f"a message is not JSON: {_reason(error)}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    # 1e999 would become an infinity, which no JSON can carry on and no timer can wait for; orjson refuses it too.
    number = float(digits)
    if number in (math.inf, -math.inf):
        raise ValueError("number is out of range")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)


def _strict_loads(payload: bytes) -> Any:
    # Decoded here: json.loads(bytes) guesses UTF-16 and UTF-32 too, and lets invalid surrogates pass.
    return _decoder.decode(payload.decode())


def _reason(error: Exception) -> str:
    # Never the text itself: it may be a prompt or a token.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "nested too deeply" if isinstance(error, RecursionError) else "invalid number or text"
