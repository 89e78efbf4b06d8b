"""What every model server behind the gateway has in common.

A backend yields *lists* of pieces: what was ready together in one read of the model server leaves in one write to the
client, and at high token rates that is where the time goes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

import attrs

from ...errors import ErrorCode

__all__ = ["Backend", "BackendError", "Final", "GenerateRequest", "Piece", "SilentError", "UnreachableError"]


@attrs.frozen(slots=True)
class Piece:
    """A piece of text, as the model server cut it."""

    text: str
    is_thinking: bool = False


@attrs.frozen(slots=True)
class Final:
    """The model server's last word on a generation; times in milliseconds, `None` for what it did not say."""

    done_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_duration: float | None = None
    load_duration: float | None = None
    eval_duration: float | None = None


@attrs.frozen(kw_only=True, slots=True)
class GenerateRequest:
    """One generation, checked: what `gateway/model_options.py` made of the wire's options.

    Attributes:
        model: the model's name.
        prompt: the prompt's text.
        options: sampling options under Ollama's own names (`temperature`, `num_predict`, `stop` as a list ...).
        fields: Ollama's top-level fields (`system`, `format`, `images`, `keep_alive`, `think`, ...).
        client_id: who asks; model servers are not told.
        id: the client's id of it, any JSON value; no model server needs it, who watches one does.
        is_allowed: says whether the client may use the model now; asked again when the request's turn has come.
    """

    model: str
    prompt: str
    options: dict[str, Any] = attrs.field(factory=dict)
    fields: dict[str, Any] = attrs.field(factory=dict)
    client_id: str = ""
    id: Any = attrs.field(default="", eq=False)
    is_allowed: Callable[[], bool] = attrs.field(default=lambda: True, eq=False, repr=False)


class BackendError(Exception):
    """The model server refused, failed or broke off.

    Args:
        message: for the client's eyes: bounded, one line.
        code: the wire's code (protocol.md section 3, right column).
        retry_after: seconds after which another try can make sense.
    """

    def __init__(
        self, message: str, code: ErrorCode = ErrorCode.SERVER_ERROR, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after = retry_after


class UnreachableError(BackendError):
    """No connection to the model server can be had: nothing was sent."""


class SilentError(BackendError):
    """The model server has the request and did not answer in time."""


class Backend(Protocol):
    """A model server. All methods run on the gateway's event loop; cancelling one lets go of the model server."""

    @property
    def name(self) -> str:
        """What kind of model server it is."""

    async def start(self) -> None:
        """Make what the backend needs before the first request; raise `BackendError` when that cannot be."""

    async def close(self) -> None:
        """Let go of everything; safe to call twice."""

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models as Ollama's `/api/tags` objects; raise `BackendError`."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation: lists of pieces, the last item of the last list is the only `Final`.

        The caller closes the generator (`contextlib.aclosing`): that lets go of the model server at once, where
        leaving it to the garbage collector would let the model write on.

        Raises `BackendError`; a stream without the model server's final word is one with `GENERATION_INCOMPLETE`.
        """
