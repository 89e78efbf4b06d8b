"""TLS: who is trusted, and one connection that both directions use as hard as they can."""

from __future__ import annotations

import gc
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from wsclient import ConnectionFailedError, Generation, WSClient
from wsclient.gateway.thread import GatewayThread

from ..support.certificates import make_certificate, shared_certificate
from ..support.holdings import Holdings
from ..support.tls_flood import NUMBERS
from ..support.tls_front import TlsFront
from ..support.waiting import wait_until
from .conftest import MakeClient

ROOT = Path(__file__).parents[2]


@pytest.fixture
def front(gateway: GatewayThread) -> Iterator[TlsFront]:
    """TLS in front of the gateway with the built-in model."""
    with TlsFront(gateway.port, shared_certificate().server_context) as front:
        yield front


def test_a_self_made_certificate_works_with_an_ssl_context_that_trusts_it(
    front: TlsFront, make_client: MakeClient
) -> None:
    with make_client(front.url, ssl_context=shared_certificate().client_context) as client:
        assert client.complete("hi", max_tokens=20_000, seed=1).total_tokens == 20_000

    assert front.versions == ["TLSv1.3"]


def test_clients_share_the_default_context_while_one_of_them_is_connected(
    gateway: GatewayThread, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[weakref.ref[ssl.SSLContext]] = []
    certificate = make_certificate(tmp_path)

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificate.file)
        made.append(weakref.ref(context))
        return context

    monkeypatch.setattr(ssl, "create_default_context", make)
    with TlsFront(gateway.port, certificate.server_context) as front:
        clients = [make_client(front.url) for _ in range(3)]
        for client in clients:
            client.connect()
        assert len(made) == 1
        for client in clients:
            client.close()
        gc.collect()
        assert made[0]() is None
        clients[0].connect()
        assert len(made) == 2


def assert_refused(client: WSClient, front: TlsFront, reason: str, advice: str = "ssl_context") -> None:
    with pytest.raises(ConnectionFailedError, match=reason) as caught:
        client.connect()
    assert caught.value.code == "connection_failed"
    assert advice in caught.value.description
    assert not caught.value.retryable
    assert front.versions == []


def test_a_certificate_that_nobody_signed_is_refused(front: TlsFront, make_client: MakeClient) -> None:
    assert_refused(make_client(front.url), front, "certificate of 127.0.0.1 is not trusted: self-signed certificate")


def test_a_certificate_of_another_authority_is_refused(
    front: TlsFront, make_client: MakeClient, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path).client_context

    assert_refused(make_client(front.url, ssl_context=other), front, "is not trusted")


def test_a_certificate_for_another_host_is_refused(
    gateway: GatewayThread, make_client: MakeClient, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "gateway.example")

    with TlsFront(gateway.port, other.server_context) as front:
        client = make_client(front.url, ssl_context=other.client_context)
        assert_refused(client, front, "IP address mismatch", "a host name that the certificate is for")


def test_an_expired_certificate_is_refused(gateway: GatewayThread, make_client: MakeClient, tmp_path: Path) -> None:
    old = make_certificate(tmp_path, days=-2)

    with TlsFront(gateway.port, old.server_context) as front:
        assert_refused(
            make_client(front.url, ssl_context=old.client_context), front, "expired", "Renew it on the server"
        )


def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    front: TlsFront, make_client: MakeClient, holdings: Holdings
) -> None:
    client = make_client(front.url, auto_connect=True, reconnect_delay=0.01)
    errors: list[Any] = []
    client.on_error(errors.append)

    wait_until(lambda: errors)
    assert client.get_status() == "disconnected"
    assert not client.wait_ready(0.2)

    assert front.accepted == 1
    assert [error.code for error in errors] == ["connection_failed"]


def test_a_context_that_checks_nothing_is_the_user_s_own_choice(front: TlsFront, make_client: MakeClient) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    with make_client(front.url, ssl_context=context) as client:
        assert client.is_ready()


def test_tls_1_2_works_too(gateway: GatewayThread, make_client: MakeClient, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    certificate.server_context.maximum_version = ssl.TLSVersion.TLSv1_2

    with (
        TlsFront(gateway.port, certificate.server_context) as front,
        make_client(front.url, ssl_context=certificate.client_context) as client,
    ):
        assert client.complete("hi", max_tokens=20_000).total_tokens == 20_000
        assert front.versions == ["TLSv1.2"]


def test_close_says_goodbye_through_tls_too(front: TlsFront, make_client: MakeClient, gateway: GatewayThread) -> None:
    client = make_client(front.url, ssl_context=shared_certificate().client_context)
    client.connect()
    generation = client.stream("hi", max_tokens=100_000_000)
    next(generation)

    started = time.monotonic()
    client.close()

    assert time.monotonic() - started < 2
    wait_until(lambda: gateway.gateway.stats().connections == 0)


# --- both directions at once ------------------------------------------------------------------------------------------


@pytest.fixture
def flood(tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The URL of a server that floods, in a process of its own, and a context that trusts it."""
    certificate = make_certificate(tmp_path)
    command = [sys.executable, "-m", "tests.support.tls_flood", str(certificate.file)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"wss://127.0.0.1:{int(process.stdout.readline())}", certificate.client_context
        process.stdin.close()
        assert process.wait(10) == 0


class WatchedSocket(ssl.SSLSocket):
    """Notices when two threads are inside of it at once, which corrupts a TLS connection sooner or later."""

    encounters = 0
    calls = 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        with self._alone():
            return super().recv(buflen, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        with self._alone():
            return super().send(data, flags)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        cls = type(self)
        cls.calls += 1
        inside = self.__dict__.setdefault("inside", threading.Lock())
        is_alone = inside.acquire(blocking=False)
        cls.encounters += not is_alone
        try:
            yield
        finally:
            if is_alone:
                inside.release()


def read_numbers(client: WSClient, until: float) -> int:
    """Read the endless stream; every number must be the next one."""
    expected = cycle([f" {number}" for number in range(NUMBERS)])
    read = 0
    with client.stream("count") as generation:
        for token in generation:
            assert token == next(expected)
            read += 1
            # Asking for the time costs as much as a token.
            if not read % 1000 and time.monotonic() > until:
                return read
    raise AssertionError("the endless stream ended")


def send_prompts(client: WSClient, until: float) -> int:
    """Send large prompts, the next one as soon as one is out; each must be answered with its hash."""
    under_way: deque[tuple[Generation, str]] = deque()
    sent = 0
    while time.monotonic() < until or under_way:
        if time.monotonic() < until and len(under_way) < 8:
            prompt = f"{sent} " + chr(0x61 + sent % 26) * 700_001
            under_way.append((client.stream(prompt), sha256(prompt.encode()).hexdigest()))
            sent += 1
        else:
            generation, expected = under_way.popleft()
            assert generation.result(20).text == expected
    return sent


def saturate(url: str, context: ssl.SSLContext, make_client: MakeClient, seconds: float) -> tuple[int, int]:
    """Let one thread read and one send with all their might; return how many tokens and prompts it was."""
    client = make_client(url, ssl_context=context)
    client.connect()
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read_numbers, client, until)
        sending = pool.submit(send_prompts, client, until)
        tokens, prompts = reading.result(), sending.result()
    stats = client.stats()
    assert stats.connects == 1
    print(f"{tokens} tokens, {prompts} prompts, {stats.bytes_received} bytes in, {stats.bytes_sent} bytes out")
    return tokens, prompts


@pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_both_directions_of_one_tls_1_3_connection_can_be_saturated(
    seconds: float, flood: tuple[str, ssl.SSLContext], make_client: MakeClient
) -> None:
    tokens, prompts = saturate(*flood, make_client, seconds)

    assert tokens > 5000 * seconds
    assert prompts > 2 * seconds


def test_two_threads_are_never_inside_of_one_tls_socket(
    flood: tuple[str, ssl.SSLContext], make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, context = flood
    context.sslsocket_class = WatchedSocket
    monkeypatch.setattr(WatchedSocket, "calls", 0)
    monkeypatch.setattr(WatchedSocket, "encounters", 0)

    saturate(url, context, make_client, 1)

    assert WatchedSocket.calls > 1000
    assert WatchedSocket.encounters == 0


def test_a_default_context_from_before_gevents_monkey_patching_is_not_used_after_it() -> None:
    pytest.importorskip("gevent")
    program = """
import socket
from wsclient import transport
before = transport._default_context()
import gevent.monkey
gevent.monkey.patch_all()
after = transport._default_context()
after.wrap_socket(socket.socketpair()[0], do_handshake_on_connect=False, server_hostname="gate.example")
assert transport._default_context() is after
"""
    # Without gevent's own warning, which is about `before`.
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
