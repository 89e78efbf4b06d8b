"""A server's list of models -> `ModelInfo`, whatever fields are missing."""

from __future__ import annotations

from typing import Any

from .events import ModelInfo

__all__ = ["read_models"]


def read_models(models: list[Any]) -> list[ModelInfo]:
    """Return the models of a `models_result`; entries without a name are left out.

    Args:
        models: Ollama's objects, or plain strings from an older server (protocol.md section 2).
    """
    found = (_read_model(model) for model in models)
    return [model for model in found if model is not None]


def _read_model(model: Any) -> ModelInfo | None:
    if isinstance(model, str):
        return ModelInfo(name=model, raw={"name": model}) if model else None
    if not isinstance(model, dict):
        return None
    name = _text(model, "name") or _text(model, "model")
    if name is None:
        return None
    given = model.get("details")
    details = given if isinstance(given, dict) else {}
    size = model.get("size")
    return ModelInfo(
        name=name,
        size=size if isinstance(size, int) and not isinstance(size, bool) else None,
        digest=_text(model, "digest"),
        modified_at=_text(model, "modified_at"),
        family=_text(details, "family"),
        parameter_size=_text(details, "parameter_size"),
        quantization_level=_text(details, "quantization_level"),
        format=_text(details, "format"),
        raw=model,
    )


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None
