"""The server's answers after the login: which request each belongs to, and each generation's tokens in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ProtocolError, WSClientError
from .actions import Action, Answered, Ended, Failed, Started, StopOnServer, StrayError, Tokens
from .decoding import decode_server_message
from .messages import (
    AckMessage,
    ErrorMessage,
    ModelsResultMessage,
    PongMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
)
from .requests import RequestKind, RequestTable

__all__ = ["Answers"]

# Equal to no id that JSON can hold; null is one.
_NO_ID = object()


class Answers:
    """Routes what comes in to the open requests.

    Attributes:
        requests: what the server still owes an answer; `open` it before sending, an answer can be faster.
        latency: the last ping's round trip in seconds.
        tokens: tokens received.
        ignored: messages of unknown type, or for ids nobody waits for.
    """

    def __init__(self) -> None:
        self.requests = RequestTable()
        self.latency: float | None = None
        self.tokens = 0
        self.ignored = 0

    def receive(self, values: list[Any], now: float) -> list[Action]:
        """Take a batch of parsed messages and say what to deliver.

        Args:
            values: what `decode_values` returned.
            now: the time.
        """
        actions: list[Action] = []
        batches: dict[str, list[str]] = {}
        current: Any = _NO_ID
        tokens: list[str] = []
        for value in values:
            # The hot path: every field it reads may be missing or of any type, and then the message takes the
            # careful path. A token that is not text is found when the batch is joined.
            try:
                if value["type"] == "stream_token" and "kind" not in value:
                    id = value["id"]
                    if id != current:
                        tokens = batches.setdefault(id, [])
                        current = id
                    tokens.append(value["token"])
                    continue
            except (KeyError, TypeError):
                pass
            current = _NO_ID
            self._receive_one(value, now, batches, actions)
        for id in batches:
            self._flush(id, batches[id], now, actions)
        return actions

    def _flush(self, id: str, tokens: list[str], now: float, actions: list[Action], is_thinking: bool = False) -> None:
        request = self.requests.get(id)
        if request is None or not request.is_generation:
            self.ignored += len(tokens)
            return
        try:
            text = "".join(tokens)
        except TypeError:
            good = next(index for index, token in enumerate(tokens) if not isinstance(token, str))
            self._flush(id, tokens[:good], now, actions)
            kind = type(tokens[good]).__name__
            self._fail_one(ProtocolError(f"stream_token message: token must be text (got {kind})", id=id), now, actions)
            return
        if tokens:
            is_first, request.last_token_at = request.last_token_at is None, now
            if is_first:
                # The silence allowed from now on may be shorter than the wait for a cold model was.
                self.requests.new_due = min(self.requests.new_due, request.deadline())
            self.tokens += len(tokens)
            actions.append(Tokens(request.sink, tokens, text, is_thinking))

    def _fail_one(self, error: WSClientError, now: float, actions: list[Action]) -> None:
        """Fail the request that an error names, or report it as belonging to none."""
        request = self.requests.finish(error.id, now) if error.id is not None else None
        if request is None:
            actions.append(StrayError(error))
            return
        actions.append(Failed(request.sink, error))
        if isinstance(error, ProtocolError) and request.is_generation:
            actions.append(StopOnServer(request.id))

    def _receive_one(self, value: Any, now: float, batches: dict[str, list[str]], actions: list[Action]) -> None:
        try:
            message = decode_server_message(value)
        except ProtocolError as error:
            self._flush_before(error.id, now, batches, actions)
            self._fail_one(error, now, actions)
            return
        self._flush_before(getattr(message, "id", None), now, batches, actions)
        handler = _HANDLERS.get(type(message))
        if handler is None:
            self.ignored += 1
        else:
            handler(self, message, now, actions)

    def _flush_before(self, id: Any, now: float, batches: dict[str, list[str]], actions: list[Action]) -> None:
        # Tokens that came before this message are delivered before it.
        if isinstance(id, str) and id in batches:
            self._flush(id, batches.pop(id), now, actions)

    def _receive_models(self, message: ModelsResultMessage, now: float, actions: list[Action]) -> None:
        self._answer(message.id, RequestKind.MODELS, message.models, now, actions)

    def _receive_pong(self, message: PongMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is not None and request.kind is RequestKind.PING:
            self.latency = now - request.opened_at
        self._answer(message.id, RequestKind.PING, self.latency, now, actions)

    def _receive_ack(self, message: AckMessage, now: float, actions: list[Action]) -> None:
        self._answer(message.id, RequestKind.STOP, True, now, actions)

    def _answer(self, id: Any, kind: RequestKind, value: Any, now: float, actions: list[Action]) -> None:
        request = self.requests.get(id or "")
        if request is None:
            self.ignored += 1
        elif request.kind is not kind:
            self._fail_one(ProtocolError(f"the server answered {request.kind} with {kind}", id=id), now, actions)
        else:
            self.requests.finish(request.id, now)
            actions.append(Answered(request.sink, value))

    def _receive_start(self, message: StreamStartMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None or not request.is_generation:
            self.ignored += 1
        else:
            actions.append(Started(request.sink, message.model or None))

    def _receive_kind_of_token(self, message: StreamTokenMessage, now: float, actions: list[Action]) -> None:
        self._flush(message.id or "", [message.token], now, actions, is_thinking=message.kind == "thinking")

    def _receive_end(self, message: StreamEndMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None or not request.is_generation:
            self.ignored += 1
        else:
            self.requests.finish(request.id, now)
            actions.append(Ended(request.sink, message))

    def _receive_error(self, message: ErrorMessage, now: float, actions: list[Action]) -> None:
        request = self.requests.get(message.id or "")
        if request is None:
            if message.id:
                self.ignored += 1
            else:
                actions.append(StrayError(message.to_error()))
        elif request.kind is RequestKind.STOP and message.error.startswith("No active generation"):
            self.requests.finish(request.id, now)
            actions.append(Answered(request.sink, False))
        elif request.is_generation and message.is_abort():
            # How the original ends a stopped generation; cancelled, by whomever, is a result.
            self.requests.finish(request.id, now)
            actions.append(Ended(request.sink, StreamEndMessage(id=request.id, is_cancelled=True)))
        else:
            self._fail_one(message.to_error(), now, actions)


_Handler = Callable[[Answers, Any, float, list[Action]], None]
_HANDLERS: dict[type, _Handler] = {
    ModelsResultMessage: Answers._receive_models,
    PongMessage: Answers._receive_pong,
    AckMessage: Answers._receive_ack,
    StreamStartMessage: Answers._receive_start,
    StreamTokenMessage: Answers._receive_kind_of_token,
    StreamEndMessage: Answers._receive_end,
    ErrorMessage: Answers._receive_error,
}
