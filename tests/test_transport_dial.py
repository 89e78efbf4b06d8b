"""Dialling: each way it fails is an error of its own, and nothing stays open; proxies; giving up."""

from __future__ import annotations

import base64
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from wsclient.errors import ConnectionFailedError, ConnectionTimeoutError, WSClientError, may_reconnect
from wsclient.testing.scripted_server import Peer, ScriptedServer
from wsclient.transport import Transport, proxy_of

from .support.certificates import shared_certificate
from .support.fast_clients import fast_options
from .support.holdings import Holdings
from .support.lines import in_thread
from .support.waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = Holdings.now()
    yield
    before.wait_until_none_gained()


def dial_error(url: str, **options: Any) -> WSClientError:
    transport = Transport(fast_options(url, **options))
    with pytest.raises(WSClientError) as caught:
        transport.dial()
    transport.close()
    return caught.value


def answering(status: str, headers: dict[str, str] | None = None, body: bytes = b"") -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond(status, headers, body)
        peer.wait_until_gone()

    return ScriptedServer(script, upgrade=False)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens_is_connection_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = dial_error(f"ws://127.0.0.1:{port}")
    assert type(error) is ConnectionFailedError
    assert error.message == f"cannot reach ws://127.0.0.1:{port}/: Connection refused"
    assert may_reconnect(error)


def test_a_host_that_does_not_exist_is_connection_failed() -> None:
    error = dial_error("ws://no-such-host.localhost.invalid", allow_insecure=True, proxy="")
    assert type(error) is ConnectionFailedError
    assert error.message.startswith("cannot resolve host 'no-such-host.localhost.invalid'")
    assert may_reconnect(error)


def test_a_certificate_nobody_vouches_for_is_connection_failed_and_final() -> None:
    with ScriptedServer(Peer.wait_until_gone, tls=shared_certificate().server_context) as server:
        error = dial_error(server.url)
    assert type(error) is ConnectionFailedError
    assert "the TLS certificate of 127.0.0.1 is not trusted" in error.message
    assert "ssl_context" in error.description
    assert not may_reconnect(error)


def test_a_certificate_of_another_host_is_connection_failed_and_final() -> None:
    certificate = shared_certificate()
    with ScriptedServer(Peer.wait_until_gone, tls=certificate.server_context, host="127.0.0.2") as server:
        error = dial_error(server.url, ssl_context=certificate.client_context)
    assert type(error) is ConnectionFailedError
    assert "the TLS certificate of 127.0.0.2 is not trusted" in error.message
    assert not may_reconnect(error)


def test_a_server_without_tls_where_tls_is_expected_is_connection_failed() -> None:
    def script(peer: Peer) -> None:
        peer.receive_bytes()
        peer.respond("400 Bad Request")

    with ScriptedServer(script, upgrade=False) as server:
        error = dial_error(server.url.replace("ws:", "wss:"))
    assert type(error) is ConnectionFailedError
    assert error.message.startswith("no TLS connection to wss://")


@pytest.mark.parametrize(
    ("status", "is_retried"),
    [
        ("404 Not Found", False),
        ("401 Unauthorized", False),
        ("408 Request Timeout", True),
        ("429 Too Many Requests", True),
        ("500 Internal Server Error", True),
        ("503 Service Unavailable", True),
        ("200 OK", True),
    ],
)
def test_another_http_answer_than_101_is_connection_failed(status: str, is_retried: bool) -> None:
    with answering(status, {"Content-Length": "2"}, b"no") as server:
        error = dial_error(server.url)
    assert type(error) is ConnectionFailedError
    assert error.message == f"{server.url}/ answered HTTP {status[:3]} instead of 101"
    assert may_reconnect(error) is is_retried


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("401 Unauthorized", "wants a login of its own"),
        ("404 Not Found", "check the host, port and path of server_url"),
        ("429 Too Many Requests", "try again in a moment"),
        ("502 Bad Gateway", "not running behind its proxy"),
        ("302 Found", "Give the URL that it leads to"),
    ],
)
def test_what_another_http_answer_means_is_its_description(status: str, advice: str) -> None:
    with answering(status, {"Content-Length": "0"}) as server:
        assert advice in dial_error(server.url).description


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(status: str) -> None:
    with ScriptedServer(Peer.wait_until_gone, upgrade=False) as elsewhere:
        with answering(status, {"Location": elsewhere.url}) as server:
            error = dial_error(server.url)
        assert elsewhere.peers == []
    assert type(error) is ConnectionFailedError
    assert f"answered HTTP {status[:3]} instead of 101; redirects are not followed" in error.message
    assert not may_reconnect(error)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("999999999", 86_400.0),
        ("9" * 400, None),
        ("\u00b2", None),
        ("soon", None),
        ("-1", None),
    ],
)
def test_a_retry_after_of_the_upgrade_is_kept_when_it_is_seconds(said: str, meant: float | None) -> None:
    with answering("503 Service Unavailable", {"Retry-After": said}) as server:
        assert dial_error(server.url).retry_after == meant


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 lots of luck\r\n\r\n",
        b"HTTP/1.1 101\r\nno colon\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"",
    ],
)
def test_rubbish_instead_of_an_upgrade_is_connection_failed(garbage: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send_frame(garbage)

    with ScriptedServer(script, upgrade=False) as server:
        error = dial_error(server.url)
    assert type(error) is ConnectionFailedError
    assert may_reconnect(error)


def test_a_server_that_never_answers_is_a_connection_timeout() -> None:
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        error = dial_error(server.url, connect_timeout=0.1)
    assert type(error) is ConnectionTimeoutError
    assert error.message == f"no connection to {server.url}/ within 0.1 s"


def test_a_server_that_never_shakes_hands_is_a_connection_timeout() -> None:
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        error = dial_error(server.url.replace("ws:", "wss:"), connect_timeout=0.1)
    assert type(error) is ConnectionTimeoutError


def test_what_the_server_says_reaches_no_terminal_as_it_is() -> None:
    with answering("404 \x1b[31mred\x07") as server:
        assert dial_error(server.url).message.isprintable()


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [None, "127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://gate.example/", "gate.example"),
        ("ws://gate.example:80/", "gate.example"),
        ("ws://gate.example:443/", "gate.example:443"),
        ("ws://b\u00fccher.example:8000/", "xn--bcher-kva.example:8000"),
        ("ws://[2001:db8::1]:8000/", "[2001:db8::1]:8000"),
    ],
)
def test_the_host_of_the_upgrade_is_the_urls_whatever_address_is_dialled(
    monkeypatch: pytest.MonkeyPatch, url: str, host: str, address: str | None
) -> None:
    seen: list[str] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        seen.extend(line for line in peer.request if line.startswith("Host:"))
        peer.respond("404 Not Found")

    with ScriptedServer(script, upgrade=False) as server:
        here, resolve = urlsplit(server.url), socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: resolve(here.hostname, here.port, 0, socket.SOCK_STREAM))
        with pytest.raises(ConnectionFailedError, match="404"):
            Transport(fast_options(url, allow_insecure=True, proxy="")).dial(address)
    assert seen == [f"Host: {host}"]


def test_the_upgrade_carries_the_headers_and_neither_origin_nor_extensions() -> None:
    with ScriptedServer(Peer.wait_until_gone) as server:
        transport = Transport(fast_options(server.url + "/path?query=1", headers={"X-Tenant": "a b"}))
        transport.dial()
        peer = wait_until(lambda: server.peers)[0]
        assert peer.request[0] == "GET /path?query=1 HTTP/1.1"
        assert peer.header("X-Tenant") == "a b"
        assert peer.header("Origin") is None
        assert peer.header("Sec-WebSocket-Extensions") is None
        transport.close()


# --- proxies ----------------------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that tunnels; a context manager.

    Attributes:
        requests: the head of every CONNECT request.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._server = ScriptedServer(self._tunnel, upgrade=False)
        self.address = self._server.url.removeprefix("ws://")

    def __enter__(self) -> Proxy:
        self._server.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.__exit__(*exception)

    def _tunnel(self, peer: Peer) -> None:
        peer.read_request()
        self.requests.append("\n".join(peer.request))
        host, _, port = peer.request[0].split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as target:
            peer.send_frame(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while True:
                ready, _, _ = select.select([peer.socket, target], [], [])
                if target in ready:
                    data = target.recv(65536)
                    if not data:
                        return
                    peer.send_frame(data)
                if peer.socket in ready:
                    target.sendall(peer.receive_bytes())


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def gateway() -> Iterator[ScriptedServer]:
    with ScriptedServer(Peer.wait_until_gone) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def dial_through(gateway: ScriptedServer, **options: Any) -> None:
    transport = Transport(fast_options(gateway.url, **options))
    transport.dial()
    transport.close()


def test_a_proxy_is_used_with_its_credentials(gateway: ScriptedServer, proxy: Proxy) -> None:
    dial_through(gateway, proxy=f"http://me:s%40crt@{proxy.address}")
    (request,) = proxy.requests
    assert request.startswith(f"CONNECT 127.0.0.1:{gateway.port} HTTP/1.1")
    assert base64.b64encode(b"me:s@crt").decode() in request


def test_a_proxy_that_was_named_is_used_whatever_no_proxy_says(
    gateway: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost,*")
    dial_through(gateway, proxy=f"http://{proxy.address}")
    assert len(proxy.requests) == 1


def test_the_environments_proxy_is_used_when_none_is_named(
    gateway: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    dial_through(gateway)
    assert len(proxy.requests) == 1


def test_the_environments_no_proxy_is_respected(
    gateway: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dial_through(gateway)
    assert proxy.requests == []


def test_no_proxy_is_used_when_the_option_is_empty(
    gateway: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    dial_through(gateway, proxy="")
    assert proxy.requests == []


def test_which_proxy_a_dial_goes_through_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(**options: Any) -> str | None:
        return proxy_of(fast_options("ws://127.0.0.1:9", **options), "ws://127.0.0.1:9")

    assert proxy() is None
    assert proxy(proxy="socks5://me:s3cret@there:1") == "there:1"
    monkeypatch.setenv("http_proxy", "http://here:2")
    assert proxy() == "here:2"
    assert proxy(proxy="") is None
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert proxy() is None


def test_a_proxy_that_refuses_is_connection_failed_without_its_password() -> None:
    with answering("407 Proxy Authentication Required") as proxy:
        error = dial_error("ws://127.0.0.1:9", proxy=proxy.url.replace("ws://", "http://me:s3cret@"))
    assert type(error) is ConnectionFailedError
    assert "through the proxy" in error.message
    assert "s3cret" not in str(error)


def test_a_socks_proxy_without_its_package_is_connection_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("websocket._http.HAVE_PYTHON_SOCKS", False)
    error = dial_error("ws://127.0.0.1:9", proxy="socks5://127.0.0.1:9")
    assert type(error) is ConnectionFailedError
    assert "Python Socks is needed" in error.message


# --- giving a dial up -------------------------------------------------------------------------------------------------


def test_an_abort_ends_a_dial_that_waits_for_the_upgrade() -> None:
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        transport = Transport(fast_options(server.url))
        errors: list[WSClientError] = []

        def dial() -> None:
            try:
                transport.dial()
            except ConnectionFailedError as error:
                errors.append(error)

        dialling = in_thread(dial)
        wait_until(lambda: server.peers)
        # The socket is known once the TCP connection stands.
        wait_until(lambda: transport._ws.sock is not None)
        transport.abort()
        dialling.join(2)
        assert not dialling.is_alive()
        assert len(errors) == 1


def test_a_dial_given_up_before_it_began_does_not_connect() -> None:
    with ScriptedServer(Peer.wait_until_gone) as server:
        transport = Transport(fast_options(server.url))
        transport.abort()
        with pytest.raises(ConnectionFailedError, match="given up"):
            transport.dial()
        assert server.peers == []


def test_a_dial_given_up_at_its_very_end_closes_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    connected, given_up = threading.Event(), threading.Event()
    errors: list[WSClientError] = []
    with ScriptedServer(Peer.wait_until_gone) as server:
        transport = Transport(fast_options(server.url))
        upgrade = transport._upgrade

        def slow_upgrade(address: str | None) -> None:
            upgrade(address)
            connected.set()
            given_up.wait(5)

        monkeypatch.setattr(transport, "_upgrade", slow_upgrade)

        def dial() -> None:
            try:
                transport.dial()
            except ConnectionFailedError as error:
                errors.append(error)

        dialling = in_thread(dial)
        assert connected.wait(5)
        transport.abort()
        given_up.set()
        dialling.join(2)
        assert [error.message for error in errors] == ["the connection attempt was given up"]
        assert transport.receive() == b""
