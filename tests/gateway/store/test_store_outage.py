"""A Redis that stops, stalls, is full or never was one: streams go on, logins wait, and it is said. 14 s, slow 10 s."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wsclient import ServerBusyError, WSClient
from wsclient.core.auth import Key, sign_challenge
from wsclient.gateway.errors import GatewayError
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.store.registry import StoreRegistry
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ...support.asking import ask
from ...support.certificates import make_certificate
from ...support.gateway_peers import Peer
from ...support.redis_server import RedisServer
from ...support.waiting import wait_until
from ..scripted_backend import ScriptedBackend

SECRET = "s3cr3t-of-the-store"
SLOWLY_FROZEN = pytest.param("freeze", marks=pytest.mark.slow)


@pytest.fixture
def client_id(registry: StoreRegistry, ec_key: Key) -> str:
    """The id of a client that is registered with `ec_key`."""
    return registry.register("test-client", public_pem(ec_key)).id


@pytest.fixture
def gateway(redis_server: RedisServer, client_id: str, backend: ScriptedBackend) -> Iterator[GatewayThread]:
    """A gateway with the store."""
    settings = GatewaySettings(port=0, store=redis_server.url, close_timeout=0.2, metrics_port=0)
    with GatewayThread(settings, backend) as thread:
        yield thread


@pytest.fixture
def log_in(gateway: GatewayThread, client_id: str, ec_key: Key) -> Iterator[Callable[[], Peer]]:
    """Makes clients that have logged in."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(gateway.url)).log_in(client_id, ec_key)


@pytest.fixture
def make_client(gateway: GatewayThread, client_id: str, ec_key_pem: str) -> Iterator[Callable[..., WSClient]]:
    """Makes clients of the library."""
    with ExitStack() as stack:

        def make(**options: Any) -> WSClient:
            given = {"client_id": client_id, "private_key": ec_key_pem, "reconnect_delay": 0.1, **options}
            client = WSClient(gateway.url, **given)
            stack.callback(client.close)
            return client

        yield make


@contextmanager
def outage(server: RedisServer, fault: str) -> Iterator[None]:
    """Have the store stopped, or frozen with its sockets open."""
    if fault == "stop":
        server.stop()
    else:
        server.freeze()
    try:
        yield
    finally:
        if fault == "stop":
            server.start()
        else:
            server.thaw()


def try_login(gateway: GatewayThread, client_id: str, key: Key) -> tuple[dict[str, Any], int | None]:
    """Try to log in; return the answer, and the code of the close that follows a refusal."""
    with Peer(gateway.url) as peer:
        answer = peer.try_login(client_id, sign_challenge(key, peer.challenge, "SHA256"))
        return answer, None if answer.get("success") else peer.receive_close()[0]


@pytest.mark.parametrize("fault", ["stop", SLOWLY_FROZEN])
def test_logins_are_put_off_and_all_is_well_when_the_store_is_back(
    fault: str,
    redis_server: RedisServer,
    gateway: GatewayThread,
    client_id: str,
    ec_key: Key,
    make_client: Callable[..., WSClient],
) -> None:
    with outage(redis_server, fault):
        answer, close = try_login(gateway, client_id, ec_key)
        assert (answer["type"], answer["code"], close) == ("error", "server_busy", 1013)
        assert 2 <= answer["retryAfter"] <= 5
        assert answer["error"] == f"Logins cannot be checked now. Please try again in {answer['retryAfter']} seconds."
        with pytest.raises(ServerBusyError) as caught:
            make_client().connect()
        assert caught.value.retryable
        assert caught.value.retry_after in (2, 3, 4, 5)
        # One that comes by itself comes back by itself.
        waiting = make_client(auto_connect=True)
        wait_until(lambda: not asked_well(gateway, "/readyz"))
    assert waiting.wait_ready(15.0)
    wait_until(lambda: asked_well(gateway, "/readyz"))


def asked_well(gateway: GatewayThread, path: str) -> bool:
    answer = ask(gateway.gateway.metrics_url.removesuffix("/metrics"), path)
    # No model server is behind the scripted backend; only the store counts here.
    return "the store cannot be read" not in answer.json["reasons"]


@pytest.mark.parametrize("fault", [pytest.param("stop", marks=pytest.mark.slow), "freeze"])
def test_who_has_logged_in_streams_on_without_a_hiccup(
    fault: str,
    redis_server: RedisServer,
    gateway: GatewayThread,
    backend: ScriptedBackend,
    log_in: Callable[[], Peer],
    client_id: str,
) -> None:
    streaming, pinging = log_in(), log_in()
    streaming.send(type="generate", id="g", prompt="hold 1")
    streaming.receive_until("stream_token")
    with outage(redis_server, fault), ExitStack() as stack:
        # Who waits for the store meanwhile; each for two seconds with one that is frozen.
        for _ in range(20):
            stranger = stack.enter_context(Peer(gateway.url))
            stranger.send(type="authenticate", clientId=client_id, signature="AAAA")
        slowest, until = 0.0, time.monotonic() + 2.5
        while time.monotonic() < until:
            begun = time.monotonic()
            pinging.send(type="ping", id="p")
            assert pinging.receive()["type"] == "pong"
            slowest = max(slowest, time.monotonic() - begun)
        # A second would be half of the store's time-out.
        assert slowest < 1.0
        assert pinging.generate("say a new one")[-1]["type"] == "stream_end"
        backend.release()
        assert streaming.receive_until("stream_end")[-1]["isCancelled"] is False


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_limits_hold_for_each_gateway_by_itself_meanwhile(
    fault: str, redis_server: RedisServer, registry: StoreRegistry, log_in: Callable[[], Peer]
) -> None:
    (entry,) = registry.entries()
    limits = {"requestsPerMinute": 3, "maxOpenGenerations": 1}
    registry.take_over([entry | {"limits": limits}], overwrite=True)
    peer = log_in()
    assert peer.generate("say one")[-1]["type"] == "stream_end"
    with outage(redis_server, fault):
        assert peer.generate("say two")[-1]["type"] == "stream_end"
        begun = time.monotonic()
        peer.send(type="generate", id="h", prompt="hang 1")
        assert peer.receive_until("stream_token", "error")[-1]["type"] == "stream_token"
        assert peer.generate("say no")[-1]["code"] == "server_busy"
        # Only the first one asked the store, and waited.
        assert time.monotonic() - begun < 1.0
        # The one before the outage counts too.
        peer.send(type="models", id="m")
        assert peer.receive()["code"] == "rate_limited"


def test_a_stop_is_heard_while_the_store_is_asked(
    redis_server: RedisServer, registry: StoreRegistry, log_in: Callable[[], Peer]
) -> None:
    (entry,) = registry.entries()
    registry.take_over([entry | {"limits": {"maxOpenGenerations": 1}}], overwrite=True)
    peer = log_in()
    with outage(redis_server, "freeze"):
        begun = time.monotonic()
        peer.send(type="generate", id="g", prompt="hang 1")
        peer.send(type="stop", id="s", requestId="g")
        (*_, end) = peer.receive_until("stream_end", "error")
        assert (end["isCancelled"], end["totalTokens"]) == (True, 0)
        assert time.monotonic() - begun < 1.5


def test_a_revocation_that_was_missed_is_noticed_when_the_store_is_back(
    redis_server: RedisServer, gateway: GatewayThread, registry: StoreRegistry, log_in: Callable[[], Peer]
) -> None:
    peer = log_in()
    redis_server.stop()
    wait_until(lambda: not gateway.gateway.registry.is_readable)
    # Behind the gateway's back: there is a Redis for a moment, and no notice comes from it.
    redis_server.start()
    registry.channel = "elsewhere"
    registry.revoke("test-client")
    assert peer.receive_close() == (4003, "revoked")


def test_a_store_that_lost_everything_throws_nobody_out(
    redis_server: RedisServer, gateway: GatewayThread, log_in: Callable[[], Peer], client_id: str, ec_key: Key
) -> None:
    peer = log_in()
    with redis_server.client() as redis:
        redis.flushall()
    wait_until(lambda: not gateway.gateway.registry.is_readable)
    assert peer.generate("say I am here")[-1]["type"] == "stream_end"
    # Whom the gateway knows may come in: what the store lost is no revocation.
    assert try_login(gateway, client_id, ec_key)[0]["success"] is True


def test_an_outage_is_told_once_and_never_the_password(ec_key: Key, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer(password=SECRET) as server:
        settings = GatewaySettings(port=0, store=server.url, close_timeout=0.2)
        with GatewayThread(settings, ScriptedBackend()) as gateway:
            client_id = gateway.gateway.registry.register("a", public_pem(ec_key)).id
            assert try_login(gateway, client_id, ec_key)[0]["success"] is True
            server.stop()
            for _ in range(5):
                assert try_login(gateway, client_id, ec_key)[0]["code"] == "server_busy"
            wait_until(lambda: not gateway.gateway.registry.is_readable)
            server.start()
            wait_until(lambda: try_login(gateway, client_id, ec_key)[0].get("success") is True, 10.0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("nobody can log in until" in text for text in warnings) == 1
    assert sum("gives trouble" in text for text in warnings) == 1
    assert sum("answers again" in record.getMessage() for record in caplog.records) == 1
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", ["stop", SLOWLY_FROZEN])
def test_a_gateway_stops_within_seconds_without_its_store(
    fault: str, redis_server: RedisServer, gateway: GatewayThread, log_in: Callable[[], Peer]
) -> None:
    log_in()
    with outage(redis_server, fault):
        begun = time.monotonic()
        gateway.stop()
        assert time.monotonic() - begun < 8.0


def test_a_gateway_that_has_much_to_tell_stops_at_once(
    redis_server: RedisServer, registry: StoreRegistry, client_id: str, ec_key: Key
) -> None:
    (entry,) = registry.entries()
    registry.take_over([entry | {"limits": {"maxOpenGenerations": 100}}], overwrite=True)
    settings = GatewaySettings(port=0, store=redis_server.url, close_timeout=0.2)
    for _ in range(5):
        with GatewayThread(settings, ScriptedBackend()) as gateway, Peer(gateway.url).log_in(client_id, ec_key) as peer:
            for number in range(1, 21):
                peer.send(type="generate", id=number, prompt="hang 1")
            for number in range(1, 21):
                peer.send(type="stop", id=100 + number, requestId=number)
            begun = time.monotonic()
            gateway.stop()
            assert time.monotonic() - begun < 5.0


# --- at the start -----------------------------------------------------------------------------------------------------


def start_error(url: str, **settings: Any) -> str:
    """Start a gateway, which must fail, and return what it says."""
    gateway = GatewayThread(GatewaySettings(port=0, store=url, **settings), ScriptedBackend())
    with pytest.raises(GatewayError) as caught:
        gateway.start()
    text = str(caught.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


@pytest.fixture
def guarded_server() -> Iterator[RedisServer]:
    """A Redis with a password."""
    with RedisServer(password=SECRET) as server:
        yield server


def test_a_wrong_password_is_one_clear_line(redis_server: RedisServer, guarded_server: RedisServer) -> None:
    shown = f"the store at redis://127.0.0.1:{guarded_server.port}/0"
    for credentials in (f":wrong{SECRET}", f"user:{SECRET}"):
        url = f"redis://{credentials}@127.0.0.1:{guarded_server.port}"
        assert start_error(url) == f"{shown} refuses the user or the password; check both"
    without = f"redis://127.0.0.1:{guarded_server.port}"
    assert start_error(without) == f"{shown} asks for a password; see --store-password-file"


def test_a_right_password_from_a_file_lets_it_in(guarded_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(SECRET)
    settings = GatewaySettings(
        port=0, store=f"redis://127.0.0.1:{guarded_server.port}", store_password_file=path, close_timeout=0.2
    )
    with GatewayThread(settings, ScriptedBackend()) as gateway:
        assert gateway.gateway.registry.list() == ()
    path.write_text("wrong")
    assert "refuses the user or the password" in start_error(
        f"redis://127.0.0.1:{guarded_server.port}", store_password_file=path
    )
    path.unlink()
    assert start_error("redis://127.0.0.1", store_password_file=path) == (
        f"the store's password cannot be read: {path}: No such file or directory"
    )


def test_a_socket_is_a_store_too(redis_server: RedisServer) -> None:
    settings = GatewaySettings(port=0, store=f"unix://{redis_server.socket_path}?db=1", close_timeout=0.2)
    with GatewayThread(settings, ScriptedBackend()) as gateway:
        assert gateway.gateway.registry.place == f"unix://{redis_server.socket_path}?db=1"


def test_tls_is_spoken_and_the_servers_certificate_is_checked(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    right, wrong = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    flags = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(right.file))
    files = ("--tls-cert-file", str(right.file), "--tls-key-file", str(right.file))
    with RedisServer(*flags, *files):
        url = f"rediss://localhost:{port}/0"
        settings = GatewaySettings(port=0, store=f"{url}?ssl_ca_certs={right.file}", close_timeout=0.2)
        with GatewayThread(settings, ScriptedBackend()) as gateway:
            assert gateway.gateway.registry.place == url
        for doubtful in (url, f"{url}?ssl_ca_certs={wrong.file}"):
            said = start_error(doubtful)
            assert said.startswith(f"the store at {url} cannot be reached: "), said
            assert "certificate verify failed" in said
        text = f"{tmp_path}/none.pem cannot be read; correct ssl_ca_certs in the URL"
        assert start_error(f"{url}?ssl_ca_certs={tmp_path}/none.pem").endswith(f" cannot be reached: {text}")


def test_a_database_that_is_not_there_is_one_clear_line(redis_server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/99"
    assert start_error(url) == f"the store at {url} has no database 99; give another number in the URL"


def test_a_full_store_is_one_clear_line(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        redis.config_set("maxmemory", "100kb")
    text = "is full; raise its maxmemory, or give it an instance alone"
    assert start_error(redis_server.url) == f"the store at {redis_server.url} {text}"


def test_a_replica_is_one_clear_line(redis_server: RedisServer) -> None:
    with RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
        wait_until(lambda: "is loading" not in start_error(replica.url))
        text = "is a read-only replica; give the primary's URL"
        assert start_error(replica.url) == f"the store at {replica.url} {text}"


def test_a_user_who_may_not_write_is_one_clear_line(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        redis.acl_setuser("reader", enabled=True, passwords=[f"+{SECRET}"], keys="*", commands=["+@read", "+info"])
    url = f"redis://reader:{SECRET}@127.0.0.1:{redis_server.port}"
    assert "does not let this user do what a gateway does: " in start_error(url)


def test_no_store_at_all_is_one_clear_line(redis_server: RedisServer) -> None:
    redis_server.kill()
    text = "cannot be reached: Connection refused; check that a Redis runs there"
    assert start_error(redis_server.url) == f"the store at {redis_server.url} {text}"


@pytest.mark.parametrize("url", ["redis://nowhere.invalid:6379/0", "unix:///nowhere/redis.sock?db=0"])
def test_a_place_that_does_not_exist_is_one_clear_line(url: str) -> None:
    assert start_error(url).startswith(f"the store at {url} cannot be reached: ")


@contextmanager
def server_that_says(words: bytes | None) -> Iterator[int]:
    """A server that greets with some words, or closes at once; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with ExitStack() as stack:
                while True:
                    try:
                        line = stack.enter_context(listening.accept()[0])
                    except OSError:
                        return
                    if words is None:
                        line.close()
                    else:
                        line.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Redis; check the host and the port"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is no Redis; check the host and the port"),
        (b"", "does not answer within 2 s; check that it runs and is a Redis"),
        (None, "cannot be reached: "),
    ],
)
def test_what_is_no_redis_is_one_clear_line(words: bytes | None, why: str) -> None:
    with server_that_says(words) as port:
        assert start_error(f"redis://127.0.0.1:{port}").startswith(f"the store at redis://127.0.0.1:{port}/0 {why}")


def test_a_store_that_drops_clients_when_full_is_warned_of(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server.client() as redis:
        redis.config_set("maxmemory", "100mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
    settings = GatewaySettings(port=0, store=redis_server.url, close_timeout=0.2)
    with caplog.at_level(logging.WARNING), GatewayThread(settings, ScriptedBackend()):
        pass
    assert "drops clients when it is full (maxmemory-policy allkeys-lru); set it to noeviction" in caplog.text
