"""Whether the model server answers and which models it has, asked no more often than somebody needs to know."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from .backends import Backend, BackendError

__all__ = ["OTHER", "BackendWatch"]

_log = logging.getLogger(__name__)

OTHER = "other"

_TIMEOUT = 3.0
# A model server with more models than this shows the others under one name.
_MAX_NAMES = 100


class BackendWatch:
    """Asks the model server for its models, which is how it is told whether it answers. Belongs to the event loop.

    Args:
        backend: the model server.
        default_model: what clients get who name no model; known even when the model server does not list it.

    Attributes:
        models: what it listed last; kept while it does not answer.
        failure: why it did not answer when it was asked last.
    """

    def __init__(self, backend: Backend, default_model: str = "") -> None:
        self._backend = backend
        self._default_model = default_model
        self.models: list[dict[str, Any]] = []
        self.failure = ""
        self._names: frozenset[str] = frozenset()
        self._is_answering = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def is_answering(self, max_age: float = 5.0) -> bool:
        """Return whether the model server answers; takes three seconds at most.

        Args:
            max_age: how many seconds old the answer may be. However many ask, the model server is asked once.
        """
        self.ask(max_age)
        if self._asking is not None:
            # Shielded: the others wait for it too.
            await asyncio.shield(self._asking)
        return self._is_answering

    def ask(self, max_age: float) -> None:
        """Begin to ask, unless that is under way or was done within `max_age` seconds; nobody waits for the answer."""
        loop = asyncio.get_running_loop()
        if self._asking is None and loop.time() - self._asked_at >= max_age:
            self._asking = loop.create_task(self._ask())

    def expire(self) -> None:
        """Have the next question asked, whatever the age of the last answer."""
        self._asked_at = float("-inf")

    def label(self, model: str) -> str:
        """Return the name under which a model is counted: its own if the model server has it, else `"other"`.

        Strangers name models; without this each name would cost memory for good.
        """
        for name in (model, f"{model}:latest"):
            if name in self._names:
                return name
        return model if model == self._default_model else OTHER

    @property
    def names(self) -> frozenset[str]:
        """The names of the models that the model server listed when it was asked last; a hundred at most."""
        return self._names

    def close(self) -> None:
        """Let go of the question that is under way."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_TIMEOUT):
                models = await self._backend.list_models()
        except (BackendError, TimeoutError) as error:
            self._is_answering = False
            self.failure = error.message if isinstance(error, BackendError) else f"no answer within {_TIMEOUT:g} s"
        except Exception as error:
            _log.error("the backend failed to list models with %s", type(error).__name__)
            self._is_answering = False
            self.failure = type(error).__name__
        else:
            self._is_answering = True
            self.models = models
            self._names = _names(models)
        finally:
            self._asked_at = loop.time()
            self._asking = None


def _names(models: list[dict[str, Any]]) -> frozenset[str]:
    names = (model.get("name") for model in models[:_MAX_NAMES])
    return frozenset(name for name in names if isinstance(name, str) and name)
