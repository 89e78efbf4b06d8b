"""What keeps a gateway from starting that has an administrator or a metrics port."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from wsclient.gateway.server import GatewayError

from ..support.asking import TOKEN, ask
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend


def test_a_token_file_that_is_not_there_is_named(
    start_gateway: StartGateway, tmp_path: Path, backend: ScriptedBackend
) -> None:
    path = tmp_path / "token"
    with pytest.raises(GatewayError, match=f"^the admin token cannot be read: {path}: No such file or directory$"):
        start_gateway(admin_token_file=path)
    assert backend.is_closed


def test_a_token_file_that_others_can_change_is_refused(start_gateway: StartGateway, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o666)
    with pytest.raises(GatewayError, match=f"^the admin token cannot be used: {path} can be written by others"):
        start_gateway(admin_token_file=path)


def test_a_metrics_port_that_is_taken_is_named(start_gateway: StartGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=f"port {port} on 127.0.0.1 is in use by another program"):
            start_gateway(metrics_port=port)


def test_a_stop_closes_the_metrics_port(start_gateway: StartGateway) -> None:
    gateway = start_gateway(metrics_port=0)
    url = gateway.gateway.metrics_url
    assert ask(url, "/metrics").status == 200
    gateway.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(url, "/metrics")


def test_a_stop_does_not_wait_for_half_a_request_to_the_metrics_port(start_gateway: StartGateway) -> None:
    gateway = start_gateway(metrics_port=0)
    port = urlsplit(gateway.gateway.metrics_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        assert line.recv(100).startswith(b"HTTP/1.1 404")
        started = time.monotonic()
        gateway.stop()
        assert time.monotonic() - started < 5
