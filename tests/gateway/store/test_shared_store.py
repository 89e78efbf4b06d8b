"""Two gateways and one Redis, all of them real: clients, wrong logins and quotas are the same at both. 10 s."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from wsclient.core.auth import Key, sign_challenge
from wsclient.gateway.backends import Final, GenerateRequest, Piece
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.store import accounts
from wsclient.gateway.store.registry import StoreRegistry
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ...support.asking import TOKEN, ask
from ...support.gateway_peers import Peer
from ...support.redis_server import RedisServer
from ...support.waiting import wait_until
from ..scripted_backend import ScriptedBackend

StartGateway = Callable[..., GatewayThread]
LogIn = Callable[[GatewayThread], Peer]


@pytest.fixture
def client_id(registry: StoreRegistry, ec_key: Key) -> str:
    """The id of a client that is registered with `ec_key`."""
    return registry.register("test-client", public_pem(ec_key)).id


@pytest.fixture
def start_gateway(redis_server: RedisServer, client_id: str) -> Iterator[StartGateway]:
    """Starts gateways that share the store."""
    with ExitStack() as stack:

        def start(backend: ScriptedBackend | None = None, **settings: Any) -> GatewayThread:
            given = {"port": 0, "store": redis_server.url, "close_timeout": 0.2, **settings}
            return stack.enter_context(GatewayThread(GatewaySettings(**given), backend or ScriptedBackend()))

        yield start


@pytest.fixture
def gateways(start_gateway: StartGateway) -> tuple[GatewayThread, GatewayThread]:
    """Two gateways."""
    return start_gateway(), start_gateway()


@pytest.fixture
def log_in(client_id: str, ec_key: Key) -> Iterator[LogIn]:
    """Makes clients that have logged in."""
    with ExitStack() as stack:
        yield lambda gateway: stack.enter_context(Peer(gateway.url)).log_in(client_id, ec_key)


def can_log_in(gateway: GatewayThread, client_id: str, key: Key) -> bool:
    with Peer(gateway.url) as peer:
        return peer.try_login(client_id, sign_challenge(key, peer.challenge, "SHA256")).get("success") is True


def give_limits(registry: StoreRegistry, **limits: int) -> None:
    (entry,) = registry.entries()
    registry.take_over([entry | {"limits": limits}], overwrite=True)


# --- clients ----------------------------------------------------------------------------------------------------------


def test_who_is_registered_through_one_gateway_logs_in_through_the_other(
    start_gateway: StartGateway, other_rsa_key: Key
) -> None:
    one, other = start_gateway(admin_token=TOKEN), start_gateway()
    body = {"name": "new", "publicKey": public_pem(other_rsa_key), "unique": True}
    json_type = {"Content-Type": "application/json"}
    question: dict[str, Any] = {"method": "POST", "token": TOKEN, "body": json.dumps(body).encode()}
    answer = ask(one.url, "/api/auth/register", headers=json_type, **question)
    assert answer.status == 201
    assert can_log_in(other, answer.json["clientId"], other_rsa_key)
    assert ask(one.url, "/api/auth/register", headers=json_type, **question).status == 409


def test_who_is_revoked_is_thrown_out_of_both_within_a_second(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry
) -> None:
    peers = [log_in(gateway) for gateway in gateways]
    begun = time.monotonic()
    registry.revoke("test-client")
    assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 2
    assert time.monotonic() - begun < 1.0


def test_a_notice_alone_is_enough(
    start_gateway: StartGateway, log_in: LogIn, registry: StoreRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsclient.gateway.housekeeping._PAUSE", 60.0)
    gateway = start_gateway()
    peer = log_in(gateway)
    wait_for_a_listener(registry)
    registry.revoke("test-client")
    assert peer.receive_close() == (4003, "revoked")


def test_the_look_alone_is_enough_when_the_notice_is_lost(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry
) -> None:
    peers = [log_in(gateway) for gateway in gateways]
    # Where nobody listens.
    registry.channel = "elsewhere"
    begun = time.monotonic()
    registry.revoke("test-client")
    assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 2
    assert time.monotonic() - begun < 1.0


def test_what_was_missed_while_the_notices_connection_was_lost_is_noticed_when_it_is_back(
    start_gateway: StartGateway,
    log_in: LogIn,
    registry: StoreRegistry,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsclient.gateway.housekeeping._PAUSE", 60.0)
    peer = log_in(start_gateway())
    wait_for_a_listener(registry)
    channel, registry.channel = registry.channel, "elsewhere"
    registry.revoke("test-client")
    with redis_server.client() as redis:
        assert redis.pubsub_numsub(channel) == [(channel, 1)]
        redis.client_kill_filter(_type="pubsub")
    assert peer.receive_close() == (4003, "revoked")


def test_what_comes_twice_is_done_once(
    gateways: tuple[GatewayThread, GatewayThread],
    log_in: LogIn,
    registry: StoreRegistry,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers = [log_in(gateway) for gateway in gateways]
    caplog.set_level(logging.INFO, "wsclient")
    registry.revoke("test-client")
    with redis_server.client() as redis:
        for _ in range(50):
            redis.publish(registry.channel, "1")
    assert [peer.receive_close() for peer in peers] == [(4003, "revoked")] * 2
    assert sum("was revoked or changed" in record.message for record in caplog.records) == 2


def test_the_old_key_logs_in_at_each_until_the_new_one_has_at_one_and_ends_no_connection(
    gateways: tuple[GatewayThread, GatewayThread],
    log_in: LogIn,
    registry: StoreRegistry,
    client_id: str,
    ec_key: Key,
    rsa_key: Key,
) -> None:
    peers = [log_in(gateway) for gateway in gateways]
    registry.rotate("test-client", public_pem(rsa_key))
    wait_until(lambda: all(len(gateway.gateway.registry.list()[0].login_keys) == 2 for gateway in gateways))
    one, other = gateways
    assert can_log_in(one, client_id, ec_key)
    assert can_log_in(other, client_id, rsa_key)
    assert not can_log_in(other, client_id, ec_key)
    wait_until(lambda: list(one.gateway.registry.list()[0].login_keys) == [public_pem(rsa_key)])
    assert not can_log_in(one, client_id, ec_key)
    assert can_log_in(one, client_id, rsa_key)
    for peer in peers:
        peer.send(type="ping", id="still there")
        assert peer.receive()["id"] == "still there"


def wait_for_a_listener(registry: StoreRegistry) -> None:
    """Wait until a gateway listens to notices."""
    wait_until(lambda: registry.client.pubsub_numsub(registry.channel)[0][1] == 1)


# --- wrong logins -----------------------------------------------------------------------------------------------------


def test_wrong_logins_count_together(
    gateways: tuple[GatewayThread, GatewayThread], client_id: str, ec_key: Key
) -> None:
    answers = []
    for number in range(6):
        with Peer(gateways[number % 2].url) as peer:
            answers.append(peer.try_login(client_id, "AAAA"))
    assert [answer.get("remainingAttempts") for answer in answers] == [4, 3, 2, 1, None, None]
    assert [answer.get("retryAfter") for answer in answers[4:]] == [16, 16]
    assert not can_log_in(gateways[0], client_id, ec_key)


def test_a_success_at_one_clears_the_failures_at_the_other(
    gateways: tuple[GatewayThread, GatewayThread], client_id: str, log_in: LogIn
) -> None:
    one, other = gateways
    for _ in range(2):
        for _ in range(4):
            with Peer(one.url) as peer:
                remaining = peer.try_login(client_id, "AAAA")["remainingAttempts"]
        assert remaining == 1
        log_in(other)


# --- quotas -----------------------------------------------------------------------------------------------------------


def test_open_generations_count_together(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry
) -> None:
    give_limits(registry, maxOpenGenerations=2)
    one, other = (log_in(gateway) for gateway in gateways)
    for peer in (one, other):
        wait_until(lambda: registry.reload_if_changed() == set())
        start_hanging(peer)
    for peer in (one, other):
        (_, refused) = peer.generate("say no", id="third")
        assert refused["code"] == "server_busy"
        assert refused["error"].endswith("More than 2 generations are open for this client")
    one.send(type="stop", id="s", requestId="hanging")
    one.receive_until("stream_end")
    assert other.generate("say yes", id="fourth")[-1]["type"] == "stream_end"


def start_hanging(peer: Peer) -> None:
    """Begin a generation that hangs, which must be admitted."""
    peer.send(type="generate", id="hanging", prompt="hang 1")
    assert peer.receive_until("stream_token", "error")[-1]["type"] == "stream_token"


def test_one_after_the_other_is_never_too_many(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry
) -> None:
    give_limits(registry, maxOpenGenerations=1)
    peers = [log_in(gateway) for gateway in gateways]
    for number in range(40):
        assert peers[number % 2].generate("say yes", id=f"g{number}")[-1]["type"] == "stream_end"
    # And within one gateway, where a client is as fast as can be.
    for number in range(40):
        assert peers[0].generate("say yes", id=f"g{number}")[-1]["type"] == "stream_end"


@pytest.mark.parametrize("how", ["stop", "leave"])
def test_who_stops_or_leaves_makes_room_at_both(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry, how: str
) -> None:
    give_limits(registry, maxOpenGenerations=1)
    one, other = (log_in(gateway) for gateway in gateways)
    start_hanging(one)
    if how == "leave":
        one.close()
    else:
        one.send(type="stop", id="s", requestId="hanging")
        one.receive_until("stream_end")
    wait_until(lambda: other.generate("say yes")[-1]["type"] == "stream_end")


def test_requests_a_minute_count_together(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry, redis_server: RedisServer
) -> None:
    give_limits(registry, requestsPerMinute=4)
    one, other = (log_in(gateway) for gateway in gateways)
    for peer in (one, other):
        assert peer.generate("say yes")[-1]["type"] == "stream_end"
        peer.send(type="models", id="m")
        assert peer.receive()["type"] == "models_result"
    for peer in (one, other):
        refused = peer.generate("say no")[-1]
        assert (refused["code"], 55 <= refused["retryAfter"] <= 60) == ("rate_limited", True)
        peer.send(type="models", id="m")
        refused = peer.receive()
        assert (refused["code"], 55 <= refused["retryAfter"] <= 60) == ("rate_limited", True)
    # As a minute later.
    with redis_server.client() as redis:
        (key,) = redis.keys("wsclient:requests:*")
        assert 0 < redis.pttl(key) <= 60_000
        redis.delete(key)
    assert one.generate("say yes")[-1]["type"] == "stream_end"


def test_who_asks_for_models_that_he_may_not_use_is_counted_too(
    start_gateway: StartGateway, log_in: LogIn, registry: StoreRegistry
) -> None:
    (entry,) = registry.entries()
    registry.take_over([entry | {"limits": {"requestsPerMinute": 2}, "models": ["tiny"]}], overwrite=True)
    peer = log_in(start_gateway())
    codes = [peer.generate("say no", model="large")[-1]["code"] for _ in range(3)]
    assert codes == ["model_not_found", "model_not_found", "rate_limited"]


def test_a_try_that_was_renewed_meanwhile_does_not_count_against_itself(
    start_gateway: StartGateway, log_in: LogIn, registry: StoreRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_RENEW_EVERY", 0.01)
    monkeypatch.setattr(accounts, "_LOOK_AGAIN", 0.5)
    give_limits(registry, maxOpenGenerations=1)
    one, other = (log_in(start_gateway()) for _ in range(2))
    start_hanging(one)
    other.send(type="generate", id="second", prompt="say yes")
    assert other.receive()["type"] == "stream_start"
    one.send(type="stop", id="s", requestId="hanging")
    assert other.receive_until("stream_end", "error")[-1]["type"] == "stream_end"


def test_who_has_no_limits_leaves_nothing_in_the_store(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, redis_server: RedisServer
) -> None:
    assert log_in(gateways[0]).generate("say yes")[-1]["type"] == "stream_end"
    with redis_server.client() as redis:
        kinds = {key.split(":")[1] for key in redis.scan_iter()}
    assert kinds <= {"clients", "changes", "version", "logins", "probe", "lock"}


def test_what_a_killed_gateway_counted_expires(
    start_gateway: StartGateway,
    log_in: LogIn,
    registry: StoreRegistry,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The one that lives keeps the client's key alive, which must not help the dead one's count.
    monkeypatch.setattr(accounts, "_RENEW_EVERY", 0.1)
    give_limits(registry, maxOpenGenerations=2)
    peer = log_in(start_gateway())
    start_hanging(peer)
    with redis_server.client() as redis:
        (key,) = redis.keys("wsclient:open:*")
        redis.zadd(key, {"dead:1": time.time() * 1000 + 500})
        assert peer.generate("say no")[-1]["code"] == "server_busy"
        wait_until(lambda: peer.generate("say yes")[-1]["type"] == "stream_end")
        assert redis.zscore(key, "dead:1") is None


def test_a_running_generation_is_renewed_and_counts_on(
    start_gateway: StartGateway, log_in: LogIn, registry: StoreRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_LEASE", 1.0)
    monkeypatch.setattr(accounts, "_RENEW_EVERY", 0.1)
    give_limits(registry, maxOpenGenerations=1)
    one, other = (log_in(start_gateway()) for _ in range(2))
    start_hanging(one)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert other.generate("say no")[-1]["code"] == "server_busy"


@pytest.fixture
def _told_nothing_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is told what has ended only by whoever needs it to know."""

    async def idle(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(accounts.SharedAccounts, "keep", idle)


@pytest.mark.usefixtures("_told_nothing_in_the_background")
def test_a_stopped_gateway_leaves_no_count_behind(
    gateways: tuple[GatewayThread, GatewayThread], log_in: LogIn, registry: StoreRegistry
) -> None:
    give_limits(registry, maxOpenGenerations=1)
    one, other = (log_in(gateway) for gateway in gateways)
    start_hanging(one)
    gateways[0].stop()
    assert other.generate("say yes")[-1]["type"] == "stream_end"


class _SlowToClose(ScriptedBackend):
    """A model server that takes a second to be let go of, after its last word."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
        try:
            async for items in super().generate(request):
                yield items
        finally:
            await asyncio.sleep(1.0)


@pytest.mark.usefixtures("_told_nothing_in_the_background")
def test_a_generation_has_ended_with_its_last_word(
    start_gateway: StartGateway, log_in: LogIn, registry: StoreRegistry
) -> None:
    give_limits(registry, maxOpenGenerations=1)
    peer = log_in(start_gateway(_SlowToClose()))
    for number in range(3):
        assert peer.generate("say yes", id=f"g{number}")[-1]["type"] == "stream_end"
