"""A model server as one client sees it: without the models that it may not use."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ...core.wire_errors import bounded
from ...errors import ErrorCode
from . import Backend, BackendError, Final, GenerateRequest, Piece

__all__ = ["AllowedModels", "unknown_model"]


class AllowedModels:
    """A backend that hides models.

    What is hidden is answered for as what does not exist, in the words of the backend behind, which never hears of it.

    Args:
        backend: the model server, for everybody; it is neither started nor closed here.
        allows: says whether the client may use a model now.
    """

    def __init__(self, backend: Backend, allows: Callable[[object], bool]) -> None:
        self._backend = backend
        self._allows = allows
        self.name = backend.name

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the models that the client may use; see `Backend`."""
        models = await self._backend.list_models()
        return [model for model in models if self._allows(model.get("name", model.get("model")))]

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Stream a generation; see `Backend`. When its turn comes `GenerateRequest.is_allowed` is asked again."""
        if self._allows(request.model):
            return self._backend.generate(request)
        return _refuse(self.name, request.model)


def unknown_model(backend: str, model: str) -> BackendError:
    """Return what a backend of that name says of a model that it does not have."""
    text = f"model '{bounded(model, 100)}' not found"
    if backend == "ollama":
        # What the backend makes of Ollama's own answer.
        answer = {"error": f"model '{model}' not found"}
        text = "Ollama API error: 404 " + bounded(json.dumps(answer, ensure_ascii=False, separators=(",", ":")))
    return BackendError(text, ErrorCode.MODEL_NOT_FOUND)


async def _refuse(backend: str, model: str) -> AsyncGenerator[list[Piece | Final], None]:
    raise unknown_model(backend, model)
    yield []  # Never reached: it is what makes this a generator.
