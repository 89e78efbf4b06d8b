"""Wrong logins in a real Redis: counted as `LoginGuard` counts them, by two gateways together. 1 s."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wsclient.gateway.guard import CannotCountError, LoginGuard, Refusal
from wsclient.gateway.store.address import StoreAddress
from wsclient.gateway.store.guard import StoreGuard
from wsclient.gateway.store.link import StoreLink

from ...support.redis_server import RedisServer

ADDRESS, ID = "192.0.2.1", "a client"


def run(server: RedisServer, work: Callable[..., Awaitable[Any]], **limits: Any) -> Any:
    """Have two guards, of two gateways, do some work."""

    async def main() -> Any:
        links = [StoreLink(StoreAddress.parse(server.url), "wsclient:") for _ in range(2)]
        try:
            return await work(*(StoreGuard(link, **limits) for link in links))
        finally:
            for link in links:
                await link.close()

    return asyncio.run(main())


def test_failures_at_two_gateways_count_together_and_as_at_one(redis_server: RedisServer) -> None:
    async def fail(one: StoreGuard, other: StoreGuard) -> list[Refusal]:
        return [await guard.failure(ADDRESS, ID) for guard in (one, other, one, other, one, other)]

    own = LoginGuard()
    assert run(redis_server, fail) == [own.failure(ADDRESS, ID, 0.0) for _ in range(6)]


def test_who_is_blocked_is_blocked_at_both_until_a_success(redis_server: RedisServer) -> None:
    async def block(one: StoreGuard, other: StoreGuard) -> list[int | None]:
        await one.failure(ADDRESS, ID)
        answers = [await other.blocked_for(ADDRESS, ID)]
        await one.failure(ADDRESS, ID)
        answers += [await other.blocked_for(ADDRESS, ID), await other.blocked_for("192.0.2.2", ID)]
        await one.success(ADDRESS, ID)
        return [*answers, await other.blocked_for(ADDRESS, ID)]

    assert run(redis_server, block, max_attempts=2) == [None, 2, None, None]


def test_a_block_ends_by_itself_and_the_next_one_is_longer(redis_server: RedisServer) -> None:
    async def work(one: StoreGuard, other: StoreGuard) -> list[Refusal]:
        first = await one.failure(ADDRESS, ID)
        while await other.blocked_for(ADDRESS, ID):
            await asyncio.sleep(0.02)
        return [first, await other.failure(ADDRESS, ID)]

    assert run(redis_server, work, max_attempts=1) == [Refusal(0, 1), Refusal(0, 2)]


def test_no_block_is_longer_than_the_longest(redis_server: RedisServer) -> None:
    async def fail(one: StoreGuard, _: StoreGuard) -> Refusal:
        return await one.failure(ADDRESS, ID)

    with redis_server.client() as redis:
        run(redis_server, fail, max_attempts=1, max_block=3.0)
        (key,) = redis.keys("wsclient:failures:*")
        redis.hset(key, mapping={"failures": 1000, "until": 0})
        assert run(redis_server, fail, max_attempts=1, max_block=3.0) == Refusal(0, 3)
        assert 3000 < redis.pttl(key) <= 6000
        assert 0 < redis.pttl("wsclient:failures") <= 6000


def test_strangers_cannot_fill_the_store(redis_server: RedisServer) -> None:
    async def flood(one: StoreGuard, _: StoreGuard) -> None:
        for number in range(50):
            await one.failure(ADDRESS, f"{number}" * 1000)

    run(redis_server, flood, max_entries=10)
    with redis_server.client() as redis:
        assert len(redis.keys("wsclient:failures:*")) == redis.zcard("wsclient:failures") == 10
        assert max(map(len, redis.keys())) < 64


def test_any_id_can_be_counted(redis_server: RedisServer) -> None:
    async def fail(one: StoreGuard, _: StoreGuard) -> list[Refusal]:
        return [await one.failure(ADDRESS, id) for id in ("", "\ud800", "a\x00\n")]

    assert run(redis_server, fail) == [Refusal(4)] * 3


@pytest.mark.parametrize("fault", ["freeze", "stop"])
def test_without_the_store_nothing_can_be_counted_and_only_the_first_waits(
    redis_server: RedisServer, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsclient.gateway.store.link.TIMEOUT", 0.3)

    async def work(one: StoreGuard, _: StoreGuard) -> tuple[float, list[int]]:
        loop = asyncio.get_running_loop()
        await one.blocked_for(ADDRESS, ID)
        getattr(redis_server, fault)()
        waits, begun = [], loop.time()
        # More than may ask at the same time: those behind are told without asking.
        for caught in await asyncio.gather(*(one.blocked_for(ADDRESS, ID) for _ in range(100)), return_exceptions=True):
            assert isinstance(caught, CannotCountError)
            waits.append(caught.retry_after)
        with pytest.raises(CannotCountError):
            await one.failure(ADDRESS, ID)
        return loop.time() - begun, waits

    took, waits = run(redis_server, work)
    # One time-out; the package's own is two seconds, and seven rounds of sixteen would be as long.
    assert took < 1.5
    assert {2, 3, 4, 5} >= set(waits)
    assert len(set(waits)) > 1
    if fault == "freeze":
        redis_server.thaw()


def test_it_counts_again_when_the_store_is_back(redis_server: RedisServer) -> None:
    async def work(one: StoreGuard, _: StoreGuard) -> Refusal:
        await one.failure(ADDRESS, ID)
        redis_server.stop()
        with pytest.raises(CannotCountError):
            await one.failure(ADDRESS, ID)
        redis_server.start()
        while True:
            try:
                return await one.failure(ADDRESS, ID)
            except CannotCountError:
                await asyncio.sleep(0.05)

    assert run(redis_server, work) == Refusal(3)
