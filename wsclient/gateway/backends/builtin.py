"""A model server inside the gateway: no installation, no download, no GPU, and no sense in what it says.

It is for trying things out and for tests: real text, one frame a token, varying with every request and reproducible
with a seed (design.md section 6). What it writes comes out of `gateway/ngram.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ...core.wire_errors import bounded
from ...errors import ErrorCode
from ..ngram import NgramModel, Sampling, Walk, default_model
from ..stop_strings import StopStrings
from . import BackendError, Final, GenerateRequest, Piece

__all__ = ["BuiltinBackend"]

MODEL_NAME = "builtin:latest"
_NAMES = frozenset({"builtin", MODEL_NAME})

# Ollama's cap on a request without a limit, 10 x num_ctx, with its smallest default context (ollama_api.md section 2).
UNLIMITED_TOKENS = 10 * 4096
DEFAULT_TOKENS = 128

# Words a list: under a millisecond of the event loop's time once the walk is warm, a few while it is cold.
_BATCH = 128

# Fields that ask for what this model does not have. Ollama answers such a request with 400 and the same words.
_MISSING_ABILITIES = {"think": "thinking", "images": "vision", "suffix": "insert", "format": "format"}


class BuiltinBackend:
    """The model `builtin:latest`, a few thousand words of Python's own documentation shaken well.

    It honours `temperature`, `top_k`, `top_p`, `seed`, `num_predict` and `stop`, and takes and ignores `system`,
    `raw`, `keep_alive` and the other sampling options. It ends at `num_predict` (128 when left out; negative: 40,960,
    the most that Ollama lets a small model write; 0: at once), at a stop string, or when it is cancelled.

    Args:
        model: what writes the text; the one built from Python's documentation when left out.
    """

    name = "builtin"

    def __init__(self, model: NgramModel | None = None) -> None:
        self._model = model
        self._started_at = ""

    async def start(self) -> None:
        """Build the model, in a thread; safe to call twice.

        Raises:
            BackendError: this Python came without its documentation text.
        """
        await self._ready()

    async def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    async def list_models(self) -> list[dict[str, Any]]:
        """Return the one model, as an object of Ollama's `/api/tags`."""
        model = await self._ready()
        details = {
            "parent_model": "",
            "format": "ngram",
            "family": "ngram",
            "families": ["ngram"],
            "parameter_size": f"{model.size / 1000:.1f}K",
            "quantization_level": "none",
        }
        digest = hashlib.sha256(f"{MODEL_NAME} {model.size}".encode()).hexdigest()
        return [
            {
                "name": MODEL_NAME,
                "model": MODEL_NAME,
                "modified_at": self._started_at,
                "size": model.size,
                "digest": digest,
                "details": details,
            }
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        """Write a text, a word a piece.

        Raises:
            BackendError: another model is asked for, or something that this one does not have.
        """
        _check(request)
        model = await self._ready()
        started = time.monotonic()
        options = request.options
        limit = options.get("num_predict", DEFAULT_TOKENS)
        stops = StopStrings(options.get("stop", ()))
        walk = model.walk(request.prompt, _sampling(options))
        for words in _batches(walk, stops, UNLIMITED_TOKENS if limit < 0 else limit):
            if words:
                yield [Piece(word) for word in words]
                # Others are waiting for the event loop too, and this is where a cancellation arrives.
                await asyncio.sleep(0)
        milliseconds = (time.monotonic() - started) * 1000
        yield [
            Final(
                done_reason="stop" if stops.is_stopped else "length",
                prompt_tokens=model.count(request.prompt),
                completion_tokens=stops.words_read,
                total_duration=milliseconds,
                load_duration=0.0,
                eval_duration=milliseconds,
            )
        ]

    async def _ready(self) -> NgramModel:
        if self._model is None:
            try:
                self._model = await asyncio.to_thread(default_model)
            except ImportError as error:
                raise BackendError("the built-in model needs pydoc_data, which this Python came without") from error
        if not self._started_at:
            self._started_at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return self._model


def _batches(walk: Walk, stops: StopStrings, limit: int) -> Iterator[list[str]]:
    while limit > 0 and not stops.is_stopped:
        yield stops.feed(walk.take(min(limit, _BATCH)))
        limit -= _BATCH
    yield stops.flush()


def _sampling(options: Mapping[str, Any]) -> Sampling:
    names = ("temperature", "top_k", "top_p", "seed")
    return Sampling(**{name: options[name] for name in names if name in options})


def _check(request: GenerateRequest) -> None:
    if request.model not in _NAMES:
        raise BackendError(f"model '{bounded(request.model, 100)}' not found", ErrorCode.MODEL_NOT_FOUND)
    for name, ability in _MISSING_ABILITIES.items():
        if request.fields.get(name):
            raise BackendError(f'"builtin" does not support {ability}', ErrorCode.INVALID_REQUEST)
