"""The settings choose the model server, and what it is told of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from wsclient.gateway.backends.builtin import BuiltinBackend
from wsclient.gateway.backends.ollama import OllamaBackend
from wsclient.gateway.backends.openai import OpenAIBackend
from wsclient.gateway.errors import GatewayError
from wsclient.gateway.model_servers import make_backend
from wsclient.gateway.server import Gateway
from wsclient.gateway.settings import GatewaySettings


def test_each_backend_is_made_with_its_own_url() -> None:
    assert isinstance(make_backend(GatewaySettings(backend="builtin")), BuiltinBackend)
    ollama = make_backend(GatewaySettings(ollama_url="gpu:1"))
    assert isinstance(ollama, OllamaBackend)
    assert ollama.url == "http://gpu:1"
    openai = make_backend(GatewaySettings(backend="openai", openai_url="http://127.0.0.1:2"))
    assert isinstance(openai, OpenAIBackend)
    assert openai.url == "http://127.0.0.1:2/v1"


@pytest.mark.parametrize(
    ("url", "key", "warns"),
    [
        ("http://gpu.example:8000", "s3cret", True),
        ("http://gpu.example:8000", "", False),
        ("https://gpu.example", "s3cret", False),
        ("http://127.0.0.1:8000", "s3cret", False),
    ],
)
def test_a_key_that_crosses_the_network_in_the_clear_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, key: str, warns: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with caplog.at_level(logging.DEBUG):
        make_backend(GatewaySettings(backend="openai", openai_url=url))
    assert ("crosses the network in the clear" in caplog.text) is warns
    assert "s3cret" not in caplog.text


def test_a_key_that_cannot_be_read_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    settings = GatewaySettings(backend="openai", openai_key_file=tmp_path / "missing", data_dir=tmp_path)
    with pytest.raises(GatewayError, match="missing cannot be read"):
        Gateway(settings)
