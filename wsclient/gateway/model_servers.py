"""Which model servers the settings name."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from .backends import Backend
from .errors import GatewayError
from .ollama_host import is_loopback
from .openai_url import read_api_key
from .settings import GatewaySettings

__all__ = ["make_backends"]

_log = logging.getLogger(__name__)


def make_backends(settings: GatewaySettings) -> Sequence[Backend]:
    """Return the model servers that the settings name, in their order.

    Raises:
        GatewayError: the model servers' API key cannot be read.
    """
    if settings.backend == "builtin":
        from .backends.builtin import BuiltinBackend

        return [BuiltinBackend()]
    if settings.backend == "openai":
        return _make_openai_backends(settings)
    from .backends.ollama import OllamaBackend

    return [
        OllamaBackend(url, first_token_timeout=settings.first_token_timeout, token_timeout=settings.token_timeout)
        for url in settings.ollama_url
    ]


def _make_openai_backends(settings: GatewaySettings) -> Sequence[Backend]:
    from .backends.openai import OpenAIBackend

    try:
        api_key = read_api_key(settings.openai_key_file, os.environ)
    except ValueError as error:
        raise GatewayError(str(error)) from error
    for url in settings.openai_url:
        if api_key is not None and url.startswith("http:") and not is_loopback(url):
            _log.warning("the API key for %s crosses the network in the clear; use https", url)
    return [
        OpenAIBackend(
            url,
            api=settings.openai_api,
            options=settings.openai_options,
            first_token_timeout=settings.first_token_timeout,
            token_timeout=settings.token_timeout,
            api_key=api_key,
        )
        for url in settings.openai_url
    ]
