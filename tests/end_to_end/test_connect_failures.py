"""Every way in which `connect()` fails: its own error with the seed's code, within its deadline, and nothing left."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    InvalidAuthError,
    InvalidKeyError,
    ProtocolError,
    RateLimitedError,
    WSClient,
    WSClientError,
)
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.thread import GatewayThread
from wsclient.testing.scripted_server import Peer, Script, ScriptedServer, polite

from ..support.certificates import shared_certificate
from ..support.holdings import Holdings
from .conftest import MakeClient

# What a step may take in these tests, and how much later than that its error may come on a machine that is very busy;
# the steps that must not be the ones to end it have twice as long as both together.
STEP = 0.4
SLACK = 2.0

FailToConnect = Callable[..., WSClientError]


@pytest.fixture
def fail_to_connect(make_client: MakeClient) -> FailToConnect:
    """Lets a client fail to connect and returns the error; nothing may be left although the client is not closed."""

    def fail(url: str, *, within: float = 1.0, **options: Any) -> WSClientError:
        before = Holdings.now()
        client = make_client(url, **options)
        started = time.monotonic()
        with pytest.raises(WSClientError) as caught:
            client.connect()
        assert time.monotonic() - started < within + SLACK
        before.wait_until_none_gained()
        assert not client.is_ready()
        return caught.value

    return fail


def assert_is(error: WSClientError, kind: type[WSClientError], code: str) -> None:
    assert type(error) is kind
    assert error.code == code
    assert error.message
    assert error.description
    assert error.id is None


# --- a gateway that refuses -------------------------------------------------------------------------------------------


def test_a_wrong_key_is_invalid_auth(
    gateway: GatewayThread, fail_to_connect: FailToConnect, other_rsa_key: Any
) -> None:
    error = fail_to_connect(gateway.url, private_key=other_rsa_key)

    assert_is(error, InvalidAuthError, "invalid_auth")
    assert not error.retryable


def test_an_unknown_client_id_is_invalid_auth(gateway: GatewayThread, fail_to_connect: FailToConnect) -> None:
    error = fail_to_connect(gateway.url, client_id="0" * 32)

    assert_is(error, InvalidAuthError, "invalid_auth")


def test_a_revoked_client_is_invalid_auth(
    gateway: GatewayThread, fail_to_connect: FailToConnect, make_client: MakeClient, registry: ClientRegistry
) -> None:
    with make_client(gateway.url) as client:
        assert client.is_ready()
    registry.revoke("my-client")

    # The gateway looks at the file twice a second.
    deadline = time.monotonic() + 2
    while True:
        try:
            with make_client(gateway.url):
                assert time.monotonic() < deadline
        except InvalidAuthError:
            break

    assert_is(fail_to_connect(gateway.url), InvalidAuthError, "invalid_auth")


def test_unknown_revoked_and_wrong_key_are_told_the_same(
    gateway: GatewayThread, fail_to_connect: FailToConnect, other_rsa_key: Any
) -> None:
    wrong_key = fail_to_connect(gateway.url, private_key=other_rsa_key)
    unknown = fail_to_connect(gateway.url, client_id="0" * 32)

    assert (wrong_key.message, wrong_key.description) == (unknown.message, unknown.description)


def test_too_many_wrong_logins_are_rate_limited_and_say_for_how_long(
    gateway: GatewayThread, fail_to_connect: FailToConnect, other_rsa_key: Any
) -> None:
    errors = [fail_to_connect(gateway.url, private_key=other_rsa_key) for _ in range(5)]

    assert [error.code for error in errors] == ["invalid_auth"] * 4 + ["rate_limited"]
    assert_is(errors[-1], RateLimitedError, "rate_limited")
    assert errors[-1].retry_after == 16


def test_the_right_key_works_after_a_wrong_one(
    gateway: GatewayThread, fail_to_connect: FailToConnect, make_client: MakeClient, other_rsa_key: Any
) -> None:
    fail_to_connect(gateway.url, private_key=other_rsa_key)

    with make_client(gateway.url) as client:
        assert client.complete("hi", max_tokens=2).total_tokens == 2


def test_a_key_file_that_is_not_there_is_invalid_key_before_anything_is_dialled(
    gateway: GatewayThread, fail_to_connect: FailToConnect, tmp_path: Path
) -> None:
    error = fail_to_connect(gateway.url, private_key_path=tmp_path / "none.pem")

    assert_is(error, InvalidKeyError, "invalid_key")
    assert gateway.gateway.stats().total_connections == 0


# --- nobody there -----------------------------------------------------------------------------------------------------


def test_no_server_is_connection_failed(fail_to_connect: FailToConnect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    error = fail_to_connect(f"ws://127.0.0.1:{port}")

    assert_is(error, ConnectionFailedError, "connection_failed")
    assert isinstance(error, ConnectionError)
    assert "refused" in error.message


def test_a_gateway_that_was_stopped_is_connection_failed(
    gateway: GatewayThread, fail_to_connect: FailToConnect
) -> None:
    gateway.stop()

    assert_is(fail_to_connect(gateway.url), ConnectionFailedError, "connection_failed")


def test_an_unknown_host_is_connection_failed(fail_to_connect: FailToConnect, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    error = fail_to_connect("wss://gateway.example")

    assert_is(error, ConnectionFailedError, "connection_failed")
    assert "gateway.example" in error.message


def test_a_name_service_that_hangs_is_connection_timeout_within_the_deadline(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, holdings: Holdings
) -> None:
    is_over = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        is_over.wait()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    client = make_client("wss://gateway.example", connect_timeout=STEP)
    started = time.monotonic()
    try:
        with pytest.raises(ConnectionTimeoutError):
            client.connect()
        client.close()
        assert time.monotonic() - started < STEP + SLACK
    finally:
        is_over.set()
    # No thread can be taken out of getaddrinfo, but when it comes back it finds that it was given up.
    holdings.wait_until_none_gained()


# --- servers that are none --------------------------------------------------------------------------------------------


def says(text: bytes) -> Script:
    """A server that answers the request with these bytes."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send_frame(text)
        peer.accept_and_say_nothing()

    return script


def silent(peer: Peer) -> None:
    peer.accept_and_say_nothing()


def dripping(peer: Peer) -> None:
    peer.read_request()
    peer.send_frame(b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ")
    while True:
        peer.send_frame(b"x")
        time.sleep(0.05)


def hanging_up(peer: Peer) -> None:
    peer.read_request()


def resetting(peer: Peer) -> None:
    peer.read_request()
    peer.drop(reset=True)


def upgraded(*data: bytes | str, hangs_up: bool = False) -> Script:
    """A server that says this once it is a WebSocket: texts in frames, bytes as they are."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        for item in data:
            if isinstance(item, str):
                peer.send(item)
            else:
                peer.send_frame(item)
        if not hangs_up:
            peer.accept_and_say_nothing()

    return script


CHALLENGE = '{"type":"challenge","challenge":"%s"}' % ("0123456789abcdef" * 4)
PLAIN_HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
WRONG_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
)

RUDE: dict[str, tuple[Script, type[WSClientError], str]] = {
    "says nothing at all": (silent, ConnectionTimeoutError, "connection_timeout"),
    "drips its answer for ever": (dripping, ConnectionTimeoutError, "connection_timeout"),
    "never sends a challenge": (upgraded(), ChallengeTimeoutError, "auth_challenge_timeout"),
    "sends only what nobody knows": (
        upgraded('{"type":"welcome"}'),
        ChallengeTimeoutError,
        "auth_challenge_timeout",
    ),
    "never judges the login": (upgraded(CHALLENGE), AuthTimeoutError, "auth_timeout"),
    "says the login took too long": (
        upgraded('{"type":"error","error":"Authentication timeout","code":"auth_timeout"}'),
        AuthTimeoutError,
        "auth_timeout",
    ),
    "is a web server": (says(PLAIN_HTTP), ConnectionFailedError, "connection_failed"),
    "has no such page": (
        says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        ConnectionFailedError,
        "connection_failed",
    ),
    "is not HTTP": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), ConnectionFailedError, "connection_failed"),
    "is binary": (says(bytes(range(256))), ConnectionFailedError, "connection_failed"),
    "answers another handshake": (says(WRONG_ACCEPT), ConnectionFailedError, "connection_failed"),
    "hangs up": (hanging_up, ConnectionFailedError, "connection_failed"),
    "resets": (resetting, ConnectionFailedError, "connection_failed"),
    "hangs up after the upgrade": (
        upgraded(hangs_up=True),
        ConnectionLostError,
        "connection_lost",
    ),
    "hangs up after the challenge": (
        upgraded(CHALLENGE, hangs_up=True),
        ConnectionLostError,
        "connection_lost",
    ),
    "is a WebSocket without JSON": (upgraded("hello"), ProtocolError, "protocol_error"),
    "sends JSON that is no message": (upgraded("[1, 2]"), ProtocolError, "protocol_error"),
    "breaks RFC 6455": (upgraded(b"\xff\xff\xff\xff"), ProtocolError, "protocol_error"),
    "wants something else signed": (
        upgraded('{"type":"challenge","challenge":"I owe you 100 $"}'),
        ProtocolError,
        "protocol_error",
    ),
    "lets in without a login": (upgraded('{"type":"auth_result","success":true}'), ProtocolError, "protocol_error"),
}


@pytest.mark.parametrize("behaviour", RUDE)
def test_a_server_that_(behaviour: str, fail_to_connect: FailToConnect) -> None:
    script, kind, code = RUDE[behaviour]
    is_timeout = issubclass(kind, TimeoutError) and behaviour != "says the login took too long"
    # The other step has a time of its own, so that an error cannot come in time by accident.
    times = {"connect_timeout": 5.0, "auth_timeout": 5.0}
    times["connect_timeout" if kind is ConnectionTimeoutError else "auth_timeout"] = STEP

    with ScriptedServer(script, upgrade=False) as server:
        started = time.monotonic()
        error = fail_to_connect(server.url, within=STEP if is_timeout else 1.0, **times)
        elapsed = time.monotonic() - started

        assert_is(error, kind, code)
        assert not is_timeout or elapsed >= STEP
        assert len(server.peers) == 1


def test_a_redirect_is_not_followed(fail_to_connect: FailToConnect) -> None:
    # It could lead anywhere, without TLS too, and whoever is there would be given a signature.
    with ScriptedServer(polite) as elsewhere:
        location = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        with ScriptedServer(says(location.encode()), upgrade=False) as server:
            error = fail_to_connect(server.url)

        assert elsewhere.peers == []
    assert_is(error, ConnectionFailedError, "connection_failed")
    assert "302" in error.message


def test_plain_where_tls_is_expected_is_connection_failed(fail_to_connect: FailToConnect) -> None:
    with ScriptedServer(polite, tls=shared_certificate().server_context) as server:
        error = fail_to_connect(f"ws://127.0.0.1:{server.port}")

    assert_is(error, ConnectionFailedError, "connection_failed")


def test_tls_where_plain_is_expected_is_connection_failed(
    gateway: GatewayThread, fail_to_connect: FailToConnect
) -> None:
    error = fail_to_connect(f"wss://127.0.0.1:{gateway.port}")

    assert_is(error, ConnectionFailedError, "connection_failed")
    assert "TLS" in error.message


def test_tls_with_a_server_that_says_nothing_is_connection_timeout(fail_to_connect: FailToConnect) -> None:
    with ScriptedServer(silent, upgrade=False) as server:
        error = fail_to_connect(f"wss://127.0.0.1:{server.port}", within=STEP, connect_timeout=STEP)

    assert_is(error, ConnectionTimeoutError, "connection_timeout")


# --- what stays after a failure ---------------------------------------------------------------------------------------


def test_a_first_connect_that_fails_is_not_tried_again_by_itself(make_client: MakeClient) -> None:
    with ScriptedServer(hanging_up, upgrade=False) as server:
        client = make_client(server.url, reconnect_delay=0.01)

        with pytest.raises(ConnectionFailedError):
            client.connect()

        assert client.get_status() == "disconnected"
        assert not client.wait_ready(0.2)
        assert len(server.peers) == 1


def test_the_time_that_connect_is_given_is_kept(make_client: MakeClient) -> None:
    with ScriptedServer(silent, upgrade=False) as server:
        client = make_client(server.url)
        started = time.monotonic()

        with pytest.raises(ConnectionTimeoutError):
            client.connect(timeout=STEP)

        assert STEP <= time.monotonic() - started < STEP + SLACK


def test_connect_works_once_the_reason_is_gone(gateway: GatewayThread, make_client: MakeClient) -> None:
    client = make_client(gateway.url)
    gateway.stop()
    with pytest.raises(ConnectionFailedError):
        client.connect()

    gateway.start()
    client.connect()

    assert client.complete("hi", max_tokens=2).total_tokens == 2


def test_every_one_of_many_threads_gets_an_error_of_its_own(make_client: MakeClient) -> None:
    errors: list[WSClientError] = []

    def connect(client: WSClient) -> None:
        try:
            client.connect()
        except WSClientError as error:
            errors.append(error)

    with ScriptedServer(upgraded(), upgrade=False) as server:
        client = make_client(server.url, auth_timeout=STEP)
        threads = [threading.Thread(target=connect, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)

        assert len(server.peers) == 1
    assert [error.code for error in errors] == ["auth_challenge_timeout"] * 8
    assert len({id(error) for error in errors}) == 8


def test_a_hundred_failures_leave_nothing(make_client: MakeClient, client_id: str, rsa_key: Any) -> None:
    before = Holdings.now()
    with ScriptedServer(says(PLAIN_HTTP), upgrade=False) as server:
        clients = [WSClient(server.url, client_id=client_id, private_key=rsa_key) for _ in range(100)]
        for client in clients:
            with pytest.raises(ConnectionFailedError):
                client.connect()
    before.wait_until_none_gained()
