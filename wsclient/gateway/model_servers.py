"""Which model server the settings name."""

from __future__ import annotations

import logging
import os

from .backends import Backend
from .errors import GatewayError
from .ollama_host import is_loopback
from .openai_url import read_api_key
from .settings import GatewaySettings

__all__ = ["make_backend"]

_log = logging.getLogger(__name__)


def make_backend(settings: GatewaySettings) -> Backend:
    """Return the backend that the settings name.

    Raises:
        GatewayError: the model server's API key cannot be read.
    """
    if settings.backend == "builtin":
        from .backends.builtin import BuiltinBackend

        return BuiltinBackend()
    if settings.backend == "openai":
        return _make_openai_backend(settings)
    from .backends.ollama import OllamaBackend

    return OllamaBackend(
        settings.ollama_url,
        first_token_timeout=settings.first_token_timeout,
        token_timeout=settings.token_timeout,
    )


def _make_openai_backend(settings: GatewaySettings) -> Backend:
    from .backends.openai import OpenAIBackend

    try:
        api_key = read_api_key(settings.openai_key_file, os.environ)
    except ValueError as error:
        raise GatewayError(str(error)) from error
    url = settings.openai_url
    if api_key is not None and url.startswith("http:") and not is_loopback(url):
        _log.warning("the API key for %s crosses the network in the clear; use https", url)
    return OpenAIBackend(
        url,
        api=settings.openai_api,
        options=settings.openai_options,
        first_token_timeout=settings.first_token_timeout,
        token_timeout=settings.token_timeout,
        api_key=api_key,
    )
