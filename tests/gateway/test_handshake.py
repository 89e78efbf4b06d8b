"""The HTTP side: what becomes a WebSocket, and what everybody else hears."""

from __future__ import annotations

import http.client
import logging
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.gateway_peers import RawPeer
from .conftest import StartGateway
from .test_lobby import is_dropped

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


# --- web pages --------------------------------------------------------------------------------------------------------


def test_no_web_page_may_connect_unless_it_is_allowed(gateway: GatewayThread) -> None:
    status, _, body = ask(gateway, headers=UPGRADE | {"Origin": "https://example.org"})
    assert status == 403
    assert "Origin" in body
    assert "--allow-origin" in body
    assert ask(gateway, headers=UPGRADE)[0] == 101


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("https://example.org", "https://example.org", 101),
        ("HTTPS://Example.org:443/", "https://example.org", 101),
        ("https://example.org", "HTTPS://EXAMPLE.ORG", 101),
        ("https://example.org", "http://example.org", 403),
        ("https://example.org", "https://example.org:8443", 403),
        ("https://example.org", "https://example.org.evil.test", 403),
        ("https://example.org", "https://evil.test/https://example.org", 403),
        ("https://example.org", "null", 403),
        ("https://example.org", "", 403),
        ("http://[::1]:80", "http://[::1]", 101),
        ("null", "null", 101),
        ("*", "https://anybody.test", 101),
    ],
)
def test_an_origin_is_allowed_by_scheme_host_and_port(
    start_gateway: StartGateway, allowed: str, origin: str, status: int
) -> None:
    gateway = start_gateway(allow_origin=("https://other.test", allowed))
    assert ask(gateway, headers=UPGRADE | {"Origin": origin})[0] == status


# --- how much may be said before the upgrade -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Many: x\r\n" * 500 + b"\r\n",
    ],
    ids=["request line", "header", "headers"],
)
def test_a_head_over_the_limits_is_refused(gateway: GatewayThread, request_head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw:
        raw.sendall(request_head)
        assert raw.recv(4096).startswith(b"HTTP/1.0 400 ")


def test_a_head_of_more_than_64_kib_is_not_waited_for(gateway: GatewayThread) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw:
        with suppress(ConnectionError):
            raw.sendall(b"GET / HTTP/1.1\r\n" + (b"X-Many: " + b"x" * 4000 + b"\r\n") * 20)
        # Less than the time to log in, after which it would be dropped anyway.
        assert is_dropped(raw)


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_who_sends_on_and_on_without_an_upgrade_is_dropped(gateway: GatewayThread, start: bytes) -> None:
    line = b"X: " + b"x" * 4000 + b"\r\n" if start.startswith(b"GET") else b"fa0\r\n" + b"x" * 4000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw, suppress(ConnectionError):
        raw.sendall(start)
        while sent < 50_000_000:
            raw.sendall(line)
            sent += len(line)
    # What the kernel's buffers took in the meantime counts too.
    assert sent < 20_000_000


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
