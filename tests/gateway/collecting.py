"""A generation of a backend, from its first piece to its end."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from wsclient.gateway.backends import Backend, BackendError, GenerateRequest

__all__ = ["collect"]


async def collect(backend: Backend, prompt: str = "hi", **request: Any) -> tuple[list[Any], BackendError | None]:
    """Return the pieces of a generation, and the error it ended with."""
    pieces: list[Any] = []
    try:
        async with aclosing(
            backend.generate(GenerateRequest(**{"model": "llama2", "prompt": prompt, **request}))
        ) as lists:
            async for batch in lists:
                assert batch
                pieces += batch
    except BackendError as error:
        return pieces, error
    return pieces, None
