"""Hypothesis strategies for whatever a server may say: any JSON in any field of every message of the protocol."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["EXTREMES", "IDS", "json_values", "messages"]

# Stand for the client's open requests: two generations, then one of each other kind.
IDS = ["g1", "g2", "m", "p", "s"]
# What floats, timers, terminals and UTF-8 stumble over.
EXTREMES: list[Any] = [
    None,
    [],
    {},
    False,
    2**63,
    -(2**64),
    10**400,
    -(10**400),
    1e308,
    5e-324,
    -0.0,
    "",
    "\ud800",
    "\x00\x1b[2J",
    "\u2028",
    "x" * 2000,
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(EXTREMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return the right kind of value in three of four cases, and any in the fourth."""
    return st.one_of(right, right, right, json_values)


def _object(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, st.sampled_from(EXTREMES) | json_values))


_models = st.lists(
    st.text(max_size=5) | _object("name", "model", "size", "digest", "modified_at", "details") | json_values, max_size=2
)
_usage = _object("promptTokens", "completionTokens", "doneReason", "totalDuration", "loadDuration", "evalDuration")

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(IDS),
    "requestId": st.sampled_from(IDS),
    "action": st.just("stop"),
    "model": st.text(max_size=5),
    "token": st.text(max_size=5),
    "kind": st.just("thinking"),
    "challenge": st.just("c" * 64),
    "success": st.booleans(),
    "models": _models,
    "error": st.sampled_from(["no", "No active generation with that ID", "Generation failed: aborted"]),
    "code": st.just("generation_error"),
    "totalTokens": st.integers(0, 9),
    "elapsedTime": st.floats(0, 9),
    "isCancelled": st.booleans(),
    "remainingAttempts": st.integers(0, 9),
    "retryAfter": st.integers(0, 9),
    "maxMessageBytes": st.integers(),
    "server": st.just({"name": "wsclient-gateway"}),
    "timestamp": st.integers(),
    "usage": _usage,
}
_TYPES = {
    "challenge": ("challenge",),
    "auth_result": ("success", "error", "code", "remainingAttempts", "retryAfter", "server", "maxMessageBytes"),
    "models_result": ("models",),
    "stream_start": ("model",),
    "stream_token": ("token", "kind"),
    "stream_end": ("totalTokens", "elapsedTime", "isCancelled", "usage"),
    "ack": ("requestId", "action"),
    "pong": (),
    "error": ("error", "code", "retryAfter"),
    "nonsense": (),
}
_fields = {name: mostly(right) for name, right in _FIELDS.items()}


def _message(type: str, names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    optional = {name: _fields[name] for name in (*names, "timestamp")}
    return st.fixed_dictionaries({"type": st.just(type), "id": _fields["id"]}, optional=optional)


messages = st.one_of(
    *(_message(type, names) for type, names in _TYPES.items()),
    # Any field in any message, and the type and the id may be missing.
    st.fixed_dictionaries({}, optional={"type": mostly(st.sampled_from(list(_TYPES))), **_fields}),
)
