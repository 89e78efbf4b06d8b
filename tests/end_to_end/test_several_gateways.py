"""nginx, two gateways and one Redis, each in a process of its own: what a team with several machines has. 15 s."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import websocket

from wsclient import ConnectionLostError, ServerBusyError, WSClient
from wsclient.core.auth import Key, sign_challenge
from wsclient.keys import public_pem

from ..cli.programs import run_program
from ..resilience.gateway_process import GatewayProcess
from ..support.asking import TOKEN, ask, register
from ..support.certificates import Certificate, make_certificate
from ..support.fake_ollama import FakeOllama
from ..support.nginx_server import NginxServer, skip_without_nginx
from ..support.redis_server import RedisServer
from ..support.waiting import wait_until
from .programs import free_port

CLIENTS = 12
DELAY = 0.2


@attrs.frozen
class Team:
    """Everything that runs.

    Attributes:
        url: of nginx.
        certificate: nginx's.
        gateways: the two behind it.
        ollama: the model server behind them.
        redis: the store.
        client_id: of a client that is registered with `ec_key`, through the first gateway.
    """

    url: str
    certificate: Certificate
    gateways: tuple[GatewayProcess, GatewayProcess]
    ollama: FakeOllama
    redis: RedisServer
    client_id: str


@pytest.fixture
def team(tmp_path: Path, redis_server: RedisServer, ec_key: Key) -> Iterator[Team]:
    """nginx, two gateways, Redis and a model server."""
    skip_without_nginx()
    token = tmp_path / "admin-token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    with ExitStack() as stack:
        ollama = stack.enter_context(FakeOllama())
        flags = [f"--store={redis_server.url}", f"--ollama-url={ollama.url}", "--max-running=100"]
        flags += ["--trusted-proxy=127.0.0.1", f"--admin-token-file={token}"]
        one, other = (GatewayProcess(tmp_path / "unused", *flags) for _ in range(2))
        for gateway in (one, other):
            stack.callback(gateway.kill)
        with ThreadPoolExecutor(2) as pool:
            for started in [pool.submit(gateway.start) for gateway in (one, other)]:
                started.result()
        certificate = make_certificate(tmp_path)
        nginx = stack.enter_context(NginxServer(tmp_path, free_port(), (one.port, other.port), certificate.file))
        client_id = register(one.url, "team", public_pem(ec_key)).json["clientId"]
        yield Team(nginx.url, certificate, (one, other), ollama, redis_server, client_id)
    assert not (tmp_path / "unused").exists()


@pytest.fixture
def connect(team: Team, ec_key_pem: str) -> Iterator[Callable[..., WSClient]]:
    """Makes clients that have logged in, through nginx unless another URL is given."""
    with ExitStack() as stack:

        def make(url: str = "", **options: Any) -> WSClient:
            given = {"client_id": team.client_id, "private_key": ec_key_pem, "reconnect_delay": DELAY, **options}
            tls = {} if url else {"ssl_context": team.certificate.client_context}
            return stack.enter_context(WSClient(url or team.url, **given, **tls))

        yield make


def clients_of(gateway: GatewayProcess) -> int:
    """Return how many clients a gateway has."""
    figures = ask(gateway.url, "/metrics", token=TOKEN).body.decode()
    found = re.search(r"^wsclient_gateway_clients (\d+)", figures, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_registered_through_one_logs_in_through_both_and_revoked_is_thrown_out_of_both(
    team: Team, connect: Callable[..., WSClient], tmp_path: Path
) -> None:
    clients = [connect(gateway.url) for gateway in team.gateways] + [connect()]
    assert [client.complete("hi", "tiny:1b").text for client in clients] == [" t000 t001 t002 t003 t004"] * 3
    done = run_program(["revoke-client", "--client-id=team", "--force"], tmp_path, {"WSCLIENT_STORE": team.redis.url})
    assert done.code == 0, done.err
    wait_until(lambda: [client.status for client in clients] == ["auth_failed"] * 3, 1.0)


def test_a_gateway_sees_its_clients_addresses_behind_nginx(team: Team, ec_key: Key) -> None:
    # Any address of 127.0.0.0/8 is this machine's.
    with (
        socket.create_connection(("127.0.0.1", urlsplit(team.url).port), source_address=("127.0.0.9", 0)) as plain,
        team.certificate.client_context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        line = websocket.create_connection(team.url, socket=secure, timeout=10, suppress_origin=True)
        challenge = json.loads(line.recv())["challenge"]
        signature = sign_challenge(ec_key, challenge, "SHA256")
        line.send(json.dumps({"type": "authenticate", "clientId": team.client_id, "signature": signature}))
        assert json.loads(line.recv())["success"] is True
        with team.redis.client() as redis:
            noted = wait_until(lambda: redis.hget("wsclient:logins", team.client_id))
        assert json.loads(str(noted))["lastIP"] == "127.0.0.9"


def consume(client: WSClient, pieces: list[str]) -> ConnectionLostError | None:
    """Read a long generation; return what it was lost with, `None` when it ended well."""
    try:
        for piece in client.stream("long", "tiny:1b"):
            pieces += [piece]
    except ConnectionLostError as error:
        return error
    return None


def test_when_a_gateway_is_killed_its_clients_are_back_on_the_other_and_every_generation_is_accounted_for(
    team: Team, connect: Callable[..., WSClient]
) -> None:
    tokens = 120
    team.ollama.script(prompt="long", tokens=tokens, delay=0.02)
    clients = [connect() for _ in range(CLIENTS)]
    counts = [clients_of(gateway) for gateway in team.gateways]
    assert counts == [CLIENTS // 2] * 2
    texts: list[list[str]] = [[] for _ in clients]
    with ThreadPoolExecutor(CLIENTS) as pool:
        waiters = [pool.submit(consume, *each) for each in zip(clients, texts, strict=True)]
        wait_until(lambda: all(len(pieces) >= 5 for pieces in texts), 20.0)
        team.gateways[0].kill()
        killed = time.monotonic()
        wait_until(lambda: sum(client.stats().reconnects for client in clients) == CLIENTS // 2, 10.0)
        # The first delay with its jitter, and what a busy machine needs to dial; the second delay ends later.
        assert time.monotonic() - killed < 1.2 * DELAY + 3.0
        assert all(client.is_ready() for client in clients)
        ends = [waiter.result(30) for waiter in waiters]
    whole = "".join(f" t{number:03}" for number in range(tokens))
    for client, pieces, error in zip(clients, texts, ends, strict=True):
        text = "".join(pieces)
        assert client.stats().reconnects == (error is not None)
        if error is None:
            assert text == whole
        else:
            assert error.text == text
            assert whole.startswith(text)
            assert len(text) < len(whole)
    assert sum(error is not None for error in ends) == CLIENTS // 2
    assert [client.complete("hi", "tiny:1b").text for client in clients] == [" t000 t001 t002 t003 t004"] * CLIENTS
    assert clients_of(team.gateways[1]) == CLIENTS
    # And a gateway that comes back has its share again.
    team.gateways[0].start()
    wait_until(lambda: connect().complete("hi", "tiny:1b").text and clients_of(team.gateways[0]) > 0, 20.0)


@pytest.mark.slow  # 20 s: Redis is away for ten.
def test_ten_seconds_without_redis_cost_nobody_a_token(team: Team, connect: Callable[..., WSClient]) -> None:
    team.ollama.script(prompt="long", tokens=700, delay=0.02)
    streaming = [connect(gateway.url) for gateway in team.gateways]
    texts: list[list[str]] = [[] for _ in streaming]
    with ThreadPoolExecutor(2) as pool:
        waiters = [pool.submit(consume, *each) for each in zip(streaming, texts, strict=True)]
        wait_until(lambda: all(texts), 20.0)
        team.redis.stop()
        stopped = time.monotonic()
        while (left := stopped + 10.0 - time.monotonic()) > 0:
            before = [len(pieces) for pieces in texts]
            with pytest.raises(ServerBusyError) as caught:
                connect()
            assert caught.value.retry_after is not None
            time.sleep(min(1.0, left))
            assert all(len(pieces) > count for pieces, count in zip(texts, before, strict=True))
        team.redis.start()
        wait_until(lambda: can_connect(connect), 10.0)
        assert [waiter.result(30) for waiter in waiters] == [None, None]
    assert {len(pieces) for pieces in texts} == {700}
    assert [client.stats().reconnects for client in streaming] == [0, 0]


def can_connect(connect: Callable[..., WSClient]) -> bool:
    try:
        return connect().is_ready()
    except ServerBusyError:
        return False
