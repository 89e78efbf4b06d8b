"""What goes out: the arguments of a call -> its message, its open request, and where the outcome goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from .core.messages import GenerateMessage, ModelsMessage, PingMessage, StopMessage
from .core.requests import OpenRequest, RequestKind
from .feed import GenerationFeed, GenerationListener
from .futures import Future
from .generation import Reply
from .generation_options import parse_generation_options
from .ids import new_id
from .models import read_models
from .options import ClientOptions

__all__ = ["Outgoing", "RequestMessage", "plan_batch", "plan_generation"]


RequestMessage: TypeAlias = GenerateMessage | ModelsMessage | PingMessage | StopMessage


@attrs.frozen(eq=False, repr=False)
class Outgoing:
    """One request: its message, its open request, and its handle unless that is a generation."""

    message: RequestMessage
    request: OpenRequest
    reply: Reply | None = None


def plan_generation(
    prompt: Any,
    model: Any,
    options: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
    client_options: ClientOptions,
    *,
    keeps_tokens: bool,
    listener: weakref.ref[GenerationListener] | None = None,
) -> Outgoing:
    """Check the arguments of a generation and make what is needed to send it.

    Args:
        prompt, model, options, keywords: see `WSClient.generate`.
        client_options: the client's options.
        keeps_tokens, listener: see `GenerationFeed`.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be text (got {type(prompt).__name__})")
    if not prompt:
        raise ValueError("prompt must not be empty")
    if model is not None and not isinstance(model, str):
        raise TypeError(f"model must be a name or None (got {type(model).__name__})")
    parsed, deadlines = parse_generation_options(options, keywords, client_options.request_timeout)
    limit = client_options.max_unread_bytes
    feed = GenerationFeed(new_id("gen"), model, limit, keeps_tokens=keeps_tokens, listener=listener)
    fields: dict[str, Any] = {"id": feed.id, "prompt": prompt}
    if model:
        fields["model"] = model
    if wire_options := parsed.to_wire():
        fields["options"] = wire_options
    request = OpenRequest(
        id=feed.id,
        kind=RequestKind.GENERATION,
        sink=feed,
        answer_timeout=deadlines.first_token,
        token_timeout=deadlines.token,
        total_timeout=deadlines.total,
    )
    return Outgoing(GenerateMessage(**fields), request)


def plan_batch(messages: Sequence[Mapping[str, Any]], options: ClientOptions) -> list[Outgoing]:
    """Check a batch and make what is needed to send it.

    Args:
        messages: see `WSClient.send_batch`.
        options: the client's options.

    Raises:
        TypeError, ValueError: an item is wrong; the text names its index.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TypeError(f"send_batch takes a list of mappings (got {type(messages).__name__})")
    if not messages:
        # The server answers an empty batch with silence (protocol.md section 2).
        raise ValueError("send_batch needs at least one message")
    plan = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"batch item {index} must be a mapping (got {type(message).__name__})")
        make = _ITEMS.get(str(message.get("type")))
        if make is None:
            raise ValueError(
                f"batch item {index}: type must be one of {', '.join(_ITEMS)} (got {message.get('type')!r})"
            )
        try:
            plan.append(make(message, options))
        except (TypeError, ValueError) as error:
            raise type(error)(f"batch item {index}: {error}") from None
    return plan


def _generate(message: Mapping[str, Any], options: ClientOptions) -> Outgoing:
    prompt, model, given = message.get("prompt"), message.get("model"), message.get("options")
    return plan_generation(prompt, model, given, {}, options, keeps_tokens=True)


def _models(message: Mapping[str, Any], options: ClientOptions) -> Outgoing:
    id = new_id("models")
    return _answered(ModelsMessage(id=id), id, RequestKind.MODELS, read_models, options)


def _ping(message: Mapping[str, Any], options: ClientOptions) -> Outgoing:
    id = new_id("ping")
    return _answered(PingMessage(id=id), id, RequestKind.PING, float, options)


def _stop(message: Mapping[str, Any], options: ClientOptions) -> Outgoing:
    target = message.get("requestId", message.get("id"))
    if not isinstance(target, str) or not target:
        raise ValueError("id must be the id of a generation")
    id = new_id("stop")
    return _answered(StopMessage(id=id, request_id=target), id, RequestKind.STOP, bool, options)


def _answered(
    message: RequestMessage,
    id: str,
    kind: RequestKind,
    convert: Callable[[Any], Any],
    options: ClientOptions,
) -> Outgoing:
    future: Future[Any] = Future()
    request = OpenRequest(id=id, kind=kind, sink=future, answer_timeout=options.request_timeout)
    return Outgoing(message, request, Reply(id, future, convert))


_ITEMS: dict[str, Callable[[Mapping[str, Any], ClientOptions], Outgoing]] = {
    "generate": _generate,
    "models": _models,
    "ping": _ping,
    "stop": _stop,
}
