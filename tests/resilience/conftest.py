"""Fixtures for tests on a bad line: those of the whole path, and a gateway in a process that can be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from wsclient.testing.fault_proxy import FaultProxy

from ..end_to_end.conftest import (
    MakeClient,
    StartGateway,
    client,
    client_id,
    gateway,
    holdings,
    key_path,
    make_client,
    ollama,
    ollama_client,
    ollama_gateway,
    registry,
    start_gateway,
)
from .gateway_process import GatewayProcess

__all__ = [
    "MakeClient",
    "MakeProxy",
    "StartGateway",
    "StartProcess",
    "client",
    "client_id",
    "gateway",
    "holdings",
    "key_path",
    "make_client",
    "ollama",
    "ollama_client",
    "ollama_gateway",
    "registry",
    "start_gateway",
]

MakeProxy = Callable[[int], FaultProxy]
StartProcess = Callable[..., GatewayProcess]


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Makes proxies in front of a port of loopback; they are closed after the test."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(FaultProxy(port))


@pytest.fixture
def start_process(tmp_path: Path, client_id: str) -> Iterator[StartProcess]:
    """Starts gateways in processes of their own, which know the registered client."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(GatewayProcess(tmp_path / "data", *arguments))
