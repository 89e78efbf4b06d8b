"""The HTTP side: what becomes a WebSocket, and what everybody else hears."""

from __future__ import annotations

import http.client
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.gateway_peers import RawPeer

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def ask(
    gateway: GatewayThread, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Send an HTTP request and return status, headers and, unless it was upgraded, the body."""
    parts = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = "" if response.status == 101 else response.read().decode()
        response.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()


def test_the_key_is_answered_as_rfc_6455_shows(gateway: GatewayThread) -> None:
    status, headers, _ = ask(gateway, headers=UPGRADE)
    assert status == 101
    # The example of RFC 6455 section 1.3.
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["upgrade"] == "websocket"
    assert headers["connection"].lower() == "upgrade"
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize("path", ["/", "/api/ws", "/any/where?at=all", "/%2e%2e/x"])
def test_any_path_upgrades(gateway: GatewayThread, path: str) -> None:
    assert ask(gateway, path=path, headers=UPGRADE)[0] == 101


def test_no_extension_and_no_sub_protocol_is_ever_accepted(gateway: GatewayThread) -> None:
    offers = {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "chat, superchat"}
    status, headers, _ = ask(gateway, headers=UPGRADE | offers)
    assert status == 101
    assert "sec-websocket-extensions" not in headers
    assert "sec-websocket-protocol" not in headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "dG9vIHNob3J0"}, 400),
        ({"Sec-WebSocket-Key": "!!!"}, 400),
        ({"Connection": "keep-alive"}, 400),
    ],
)
def test_a_faulty_upgrade_is_refused(gateway: GatewayThread, headers: dict[str, str], status: int) -> None:
    got, answer, _ = ask(gateway, headers=UPGRADE | headers)
    assert got == status
    assert answer.get("sec-websocket-version") == ("13" if status == 426 else None)


def test_only_a_get_upgrades(gateway: GatewayThread) -> None:
    assert ask(gateway, "POST", headers=UPGRADE)[0] == 400


def test_a_browser_is_told_what_this_is(gateway: GatewayThread) -> None:
    status, headers, body = ask(gateway)
    assert status == 404
    assert headers["content-type"].startswith("text/plain")
    assert "WebSocket" in body


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/auth/register"), ("DELETE", "/"), ("OPTIONS", "*")])
def test_nothing_else_is_at_home(gateway: GatewayThread, method: str, path: str) -> None:
    assert ask(gateway, method, path)[0] == 404


def test_frames_sent_along_with_the_upgrade_are_not_lost(gateway: GatewayThread) -> None:
    parts = urlsplit(gateway.url)
    lines = [f"{name}: {value}" for name, value in {"Host": parts.netloc, **UPGRADE}.items()]
    request = "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as raw:
        # A ping, masked with zeros.
        raw.sendall(request + b"\x89\x80\0\0\0\0")
        received = b""
        while not received.endswith(b"\x8a\x00"):
            data = raw.recv(4096)
            assert data, received
            received += data


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100])
def test_what_is_not_http_gets_no_traceback_into_the_log(
    gateway: GatewayThread, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    parts: Any = urlsplit(gateway.url)
    with caplog.at_level(logging.INFO), socket.create_connection((parts.hostname, parts.port), timeout=5) as raw:
        raw.sendall(rubbish + b"\r\n\r\n")
        while raw.recv(4096):
            pass
    assert caplog.text == ""


def test_the_answer_names_the_gateway_and_no_library(gateway: GatewayThread) -> None:
    with RawPeer(gateway.url) as peer:
        assert "Server: wsclient-gateway/" in peer.response
        assert "aiohttp" not in peer.response
