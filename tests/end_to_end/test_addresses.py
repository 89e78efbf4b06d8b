"""A gateway at several addresses: real gateways and real sockets, some dead, some silent, one killed in mid-answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import ConnectionFailedError, ConnectionLostError, WSClient
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.scripted_server import Peer, ScriptedServer
from wsclient.transport import Transport

from ..support.certificates import make_certificate
from ..support.fast_clients import fast_options
from ..support.tls_front import TlsFront
from ..support.waiting import wait_until
from .conftest import MakeClient, StartGateway

NAME = "gateway.example"
Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Gives a name addresses of this machine, as /etc/hosts would; all other names keep theirs."""
    known = socket.getaddrinfo

    def give(name: str, *addresses: str) -> None:
        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            hosts = addresses if host == name else (host,)
            return [found for host in hosts for found in known(host, port, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return give


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def assert_works(client: WSClient) -> None:
    assert client.complete("Hello", max_tokens=5).total_tokens == 5


def is_at(client: WSClient, gateway: GatewayThread) -> bool:
    return bool(client.is_ready() and client._connection._session.addresses.current.url == f"{gateway.url}/")


def test_a_dead_address_and_a_silent_one_are_passed_over(gateway: GatewayThread, make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"ws://127.0.0.1:{unused_port()}", f"ws://127.0.0.1:{silent.getsockname()[1]}", gateway.url]
        client = make_client(urls, connect_timeout=0.5)
        started = time.monotonic()
        client.connect()
        assert time.monotonic() - started >= 0.5
        assert_works(client)


def test_when_no_address_works_the_error_names_each(make_client: MakeClient) -> None:
    ports = [unused_port() for _ in range(2)]
    client = make_client([f"ws://127.0.0.1:{port}" for port in ports])
    with pytest.raises(ConnectionFailedError) as caught:
        client.connect()
    for port in ports:
        assert f"cannot reach ws://127.0.0.1:{port}/: Connection refused" in caught.value.message


def test_a_client_whose_gateway_is_stopped_in_mid_answer_is_back_at_the_next_one(
    start_gateway: StartGateway, make_client: MakeClient
) -> None:
    first, second = start_gateway(), start_gateway()
    client = make_client([first.url, second.url], reconnect_delay=0.05)
    generation = client.stream("Hello", max_tokens=10_000_000)
    text = generation.read()
    first.stop()
    with pytest.raises(ConnectionLostError) as caught:
        generation.result()
    assert text
    assert caught.value.text.startswith(text)
    assert client.wait_ready(5)
    assert is_at(client, second)
    assert_works(client)


def test_a_client_goes_back_when_the_other_gateway_is_lost_too(
    start_gateway: StartGateway, make_client: MakeClient
) -> None:
    gateways = [start_gateway(), start_gateway()]
    client = make_client([gateway.url for gateway in gateways], reconnect_delay=0.05, max_reconnect_attempts=None)
    client.connect()
    gateways[0].stop()
    wait_until(lambda: is_at(client, gateways[1]))
    start_gateway(port=gateways[0].port)
    gateways[1].stop()
    wait_until(lambda: is_at(client, gateways[0]))
    assert_works(client)


# --- names with several addresses -------------------------------------------------------------------------------------


def test_a_name_whose_first_address_is_silent_is_reached_at_its_second(
    resolve: Resolve, gateway: GatewayThread, make_client: MakeClient
) -> None:
    resolve(NAME, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.2", gateway.port)):
        client = make_client(f"ws://{NAME}:{gateway.port}", allow_insecure=True, connect_timeout=0.3, proxy="")
        client.connect()
        assert_works(client)


def test_a_client_is_back_at_the_other_address_of_a_name(
    resolve: Resolve, start_gateway: StartGateway, make_client: MakeClient
) -> None:
    resolve(NAME, "127.0.0.1", "127.0.0.2")
    first = start_gateway()
    start_gateway(host="127.0.0.2", port=first.port)
    url = f"ws://{NAME}:{first.port}"
    client = make_client(url, allow_insecure=True, reconnect_delay=0.05, proxy="")
    client.connect()
    first.stop()
    wait_until(lambda: client.stats().reconnects == 1)
    assert client._connection._session.addresses.current.address == "127.0.0.2"
    assert_works(client)


def test_the_name_is_what_tls_checks_and_asks_for_whatever_address_is_dialled(
    resolve: Resolve, gateway: GatewayThread, make_client: MakeClient, tmp_path: Any
) -> None:
    resolve(NAME, "127.0.0.1")
    certificate = make_certificate(tmp_path, NAME)
    asked: list[str] = []
    certificate.server_context.sni_callback = lambda _sock, name, _context: asked.append(name)
    with TlsFront(gateway.port, certificate.server_context) as front:
        port = front.url.rsplit(":", 1)[1]
        client = make_client(f"wss://{NAME}:{port}", ssl_context=certificate.client_context, proxy="")
        client.connect()
        assert asked == [NAME]


@pytest.mark.parametrize("host", [NAME, "127.0.0.1"])
def test_the_name_is_what_http_asks_for_whatever_address_is_dialled(resolve: Resolve, host: str) -> None:
    resolve(NAME, "127.0.0.1")
    with ScriptedServer(Peer.wait_until_gone) as server:
        url = f"ws://{host}:{server.port}/chat?room=1"
        transport = Transport(fast_options(url, allow_insecure=True, proxy=""))
        (address,) = transport.resolve()
        transport.dial(address)
        transport.close()
        (peer,) = server.peers
    assert peer.request[0] == "GET /chat?room=1 HTTP/1.1"
    assert peer.header("Host") == f"{host}:{server.port}"


def test_a_name_is_left_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise AssertionError("the name was resolved here")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    named = Transport(fast_options(f"wss://{NAME}", proxy="http://proxy.example:3128"))
    assert named.resolve() == []
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Transport(fast_options(f"wss://{NAME}")).resolve() == []
