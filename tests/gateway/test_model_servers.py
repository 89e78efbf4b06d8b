"""The settings choose the model server, and what it is told of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from wsclient.gateway.backends.builtin import BuiltinBackend
from wsclient.gateway.backends.ollama import OllamaBackend
from wsclient.gateway.backends.openai import OpenAIBackend
from wsclient.gateway.errors import GatewayError
from wsclient.gateway.model_servers import make_backends
from wsclient.gateway.server import Gateway
from wsclient.gateway.settings import GatewaySettings


def test_each_backend_is_made_with_its_own_url() -> None:
    (builtin,) = make_backends(GatewaySettings(backend="builtin"))
    assert isinstance(builtin, BuiltinBackend)
    (ollama,) = make_backends(GatewaySettings(ollama_url="gpu:1"))
    assert isinstance(ollama, OllamaBackend)
    assert ollama.url == "http://gpu:1"
    (openai,) = make_backends(GatewaySettings(backend="openai", openai_url="http://127.0.0.1:2"))
    assert isinstance(openai, OpenAIBackend)
    assert openai.url == "http://127.0.0.1:2/v1"


def test_each_of_several_model_servers_has_a_backend_in_the_order_of_the_settings() -> None:
    ollamas = make_backends(GatewaySettings(ollama_url=["b:1", "a:1"]))
    assert [ollama.url for ollama in ollamas if isinstance(ollama, OllamaBackend)] == ["http://b:1", "http://a:1"]
    openais = make_backends(GatewaySettings(backend="openai", openai_url="http://b:1,http://a:1"))
    assert [openai.url for openai in openais if isinstance(openai, OpenAIBackend)] == ["http://b:1/v1", "http://a:1/v1"]


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
        make_backends(GatewaySettings(backend="openai", openai_url=url))
    assert ("crosses the network in the clear" in caplog.text) is warns
    assert "s3cret" not in caplog.text


def test_a_key_that_cannot_be_read_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    settings = GatewaySettings(backend="openai", openai_key_file=tmp_path / "missing", data_dir=tmp_path)
    with pytest.raises(GatewayError, match="missing cannot be read"):
        Gateway(settings)
