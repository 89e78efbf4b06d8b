"""Clients in a real Redis: what the clients file promises holds there too. 2 s."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from wsclient.gateway.copying import TakenOver
from wsclient.gateway.registry import DuplicateClientError, PendingKeyError, RegistryError, UnknownClientError
from wsclient.gateway.store import registry as module
from wsclient.gateway.store.registry import StoreRegistry

from ...support.client_files import entry, new_pem
from ...support.redis_server import RedisServer
from .conftest import OpenRegistry


def names(registry: StoreRegistry) -> list[str]:
    return [client.name for client in registry.list()]


def test_who_is_registered_through_one_is_known_to_the_other(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    assert theirs.list() == ()
    client = mine.register("a", new_pem(), "SHA512")
    assert theirs.reload_if_changed() == set()
    assert theirs.get(client.id) == client
    assert theirs.find("A") == client


def test_clients_are_listed_in_the_order_of_their_registration(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    for name in ("c", "a", "b"):
        mine.register(name, new_pem())
        # Within the same millisecond the ids would decide.
        time.sleep(0.002)
    assert names(mine) == names(theirs) == ["c", "a", "b"]


def test_who_is_revoked_through_one_is_told_of_once_by_the_other(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    kept, gone = (mine.register(name, new_pem()) for name in ("kept", "gone"))
    theirs.list()
    mine.revoke("gone")
    assert theirs.reload_if_changed() == {gone.id}
    assert theirs.reload_if_changed() == set()
    assert [client.id for client in theirs.list()] == [kept.id]


def test_who_comes_and_goes_between_two_looks_is_told_of(registry: StoreRegistry) -> None:
    client = registry.register("a", new_pem())
    registry.revoke("a")
    assert registry.reload_if_changed() == {client.id}


def test_a_revoked_client_is_kept_in_a_record(registry: StoreRegistry, redis_server: RedisServer) -> None:
    client = registry.register("a", new_pem())
    revocation = registry.revoke("a", "left the company")
    with redis_server.client() as redis:
        ((field, text),) = redis.hgetall("wsclient:revoked").items()
    record = json.loads(text)
    assert (record["client"], record["reason"]) == (client.to_json(), "left the company")
    assert field == f"{client.id}_{record['revokedAt']}"
    assert str(revocation.record) == f"{field} of wsclient:revoked in redis://127.0.0.1:{redis_server.port}/0"


def test_a_name_or_key_is_registered_once(registry: StoreRegistry) -> None:
    pem = new_pem()
    registry.register("a", pem)
    for name, key in (("A", new_pem()), ("b", pem)):
        with pytest.raises(DuplicateClientError, match="is registered already"):
            registry.register(name, key)
    assert registry.register("b", pem, is_unique=False).name == "b"


def test_replacing_is_one_step(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    old = mine.register("a", new_pem())
    theirs.list()
    new, revoked = mine.replace("a", new_pem())
    assert [revocation.client.id for revocation in revoked] == [old.id]
    assert theirs.reload_if_changed() == {old.id}
    assert [client.id for client in theirs.list()] == [new.id]


def test_an_unknown_client_cannot_be_revoked(registry: StoreRegistry) -> None:
    with pytest.raises(UnknownClientError, match="no client has the id or name 'nobody'"):
        registry.revoke("nobody")


def test_a_new_key_stands_beside_the_old_one_until_it_has_logged_in(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    old, new = new_pem(), new_pem()
    id = mine.register("a", old).id
    theirs.list()
    mine.rotate("a", new)
    assert theirs.reload_if_changed() == set()
    assert list(theirs.list()[0].login_keys) == [old, new]
    theirs.note_login(id, "10.0.0.1", 1000.0, new)
    assert theirs.flush_logins(1000.0) is True
    # A rotation ends no login.
    assert mine.reload_if_changed() == set()
    assert list(mine.list()[0].login_keys) == [new]
    assert open_registry().entries()[0].keys() & {"pendingKey", "lastIP"} == {"lastIP"}


def test_a_new_key_is_refused_when_it_is_somebodys_or_another_one_waits(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    pem, second = new_pem(), new_pem()
    mine.register("a", new_pem())
    theirs.register("b", pem)
    with pytest.raises(DuplicateClientError, match="this key is registered already, to client 'b'"):
        mine.rotate("a", pem)
    with pytest.raises(UnknownClientError, match="no client has the id or name 'nobody'"):
        mine.rotate("nobody", new_pem())
    theirs.rotate("a", new_pem())
    with pytest.raises(PendingKeyError, match="has a new key already"):
        mine.rotate("a", second)
    assert mine.rotate("a", second, replace_pending=True).pending_key == second


def test_concurrent_changes_lose_nothing(open_registry: OpenRegistry) -> None:
    def register(number: int) -> None:
        registry = open_registry()
        for count in range(5):
            registry.register(f"{number}.{count}", new_pem())

    threads = [threading.Thread(target=register, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(open_registry().list()) == 30


def test_of_two_with_the_same_name_at_the_same_time_one_is_refused(open_registry: OpenRegistry) -> None:
    outcomes = []

    def register() -> None:
        try:
            outcomes.append(open_registry().register("a", new_pem()).name)
        except DuplicateClientError:
            outcomes.append("refused")

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["a", "refused", "refused", "refused"]


def test_fields_that_we_do_not_know_are_kept(registry: StoreRegistry, open_registry: OpenRegistry) -> None:
    strange = entry("a", new_pem(), color={"r": 1}, limits={"requestsPerMinute": 3})
    registry.take_over([strange])
    registry.register("b", new_pem())
    assert open_registry().entries()[0] == strange
    client = open_registry().find("a")
    assert client is not None
    assert client.quota.limits == {"requests_per_minute": 3}


def test_a_change_of_the_key_ends_connections_and_one_of_a_limit_does_not(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    first = entry("a", new_pem())
    mine.take_over([first])
    theirs.list()
    mine.take_over([first | {"limits": {"requestsPerMinute": 3}}], overwrite=True)
    assert theirs.reload_if_changed() == set()
    assert theirs.list()[0].quota.limits == {"requests_per_minute": 3}
    mine.take_over([first | {"publicKey": new_pem()}], overwrite=True)
    assert theirs.reload_if_changed() == {first["id"]}


def test_what_is_no_client_is_skipped_and_named(registry: StoreRegistry, redis_server: RedisServer) -> None:
    registry.register("a", new_pem())
    with redis_server.client() as redis:
        redis.hset("wsclient:clients", mapping={"x": "no json", "y": json.dumps(entry("z", new_pem()))})
    registry._version = -1
    registry.reload_if_changed()
    assert names(registry) == ["a"]
    assert sorted(registry.problems) == [
        "client 'x' is skipped: its id is missing, empty or not text",
        "client 'y' is skipped: its id is 'zzzz'",
    ]


def test_who_changes_keeps_his_place_and_who_is_gone_leaves_none(
    registry: StoreRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOLES", 2)
    items = [entry(name, new_pem()) for name in "abc"]
    registry.take_over(items)
    registry.take_over([items[0] | {"color": "red"}], overwrite=True)
    for number in range(20):
        registry.register(f"{number}", new_pem())
        registry.revoke(f"{number}")
    assert registry.entries() == (items[0] | {"color": "red"}, *items[1:])
    assert registry._snapshot is not None
    assert len(registry._snapshot.entries) <= 2 * 3 + 3


def test_only_what_changed_is_read_again(
    open_registry: OpenRegistry, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = open_registry(), open_registry()
    for number in range(20):
        mine.register(f"{number}", new_pem())
    theirs.list()
    monkeypatch.setattr(theirs, "_read_all", lambda: pytest.fail("everything was read"))
    mine.revoke("7")
    mine.register("new", new_pem())
    theirs.reload_if_changed()
    assert set(names(theirs)) == {*map(str, range(20)), "new"} - {"7"}


def test_who_is_too_far_behind_reads_everything(open_registry: OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHANGES_KEPT", 3)
    mine, theirs = open_registry(), open_registry()
    gone = mine.register("gone", new_pem())
    theirs.list()
    mine.revoke("gone")
    for number in range(4):
        mine.register(f"{number}", new_pem())
    assert theirs.reload_if_changed() == {gone.id}
    # Whose order is another one when some were registered within the same millisecond.
    assert set(names(theirs)) == set(names(mine)) == {"0", "1", "2", "3"}


# --- last logins ------------------------------------------------------------------------------------------------------


def test_last_logins_are_listed_and_make_nobody_read_the_client_again(open_registry: OpenRegistry) -> None:
    mine, theirs = open_registry(), open_registry()
    client = mine.register("a", new_pem())
    theirs.list()
    before = theirs.stamp
    mine.note_login(client.id, "192.0.2.1", 1_800_000_000.0)
    assert mine.flush_logins(0.0)
    theirs.reload_if_changed()
    assert theirs.stamp == before
    listed = open_registry().list()[0]
    assert (listed.last_connected, listed.last_ip) == ("2027-01-15T08:00:00.000Z", "192.0.2.1")


def test_a_login_does_not_bring_a_revoked_client_back(open_registry: OpenRegistry, redis_server: RedisServer) -> None:
    mine, theirs = open_registry(), open_registry()
    client = mine.register("a", new_pem())
    mine.note_login(client.id, "192.0.2.1", 0.0)
    theirs.revoke("a")
    assert not mine.flush_logins(0.0)
    with redis_server.client() as redis:
        assert sorted(redis.keys()) == ["wsclient:changes", "wsclient:revoked", "wsclient:version"]


# --- a store in trouble -----------------------------------------------------------------------------------------------


def test_a_store_that_is_gone_leaves_the_clients_in_force(registry: StoreRegistry, redis_server: RedisServer) -> None:
    client = registry.register("a", new_pem())
    redis_server.stop()
    with pytest.raises(RegistryError, match="cannot be reached: Connection refused"):
        registry.reload_if_changed()
    # It is told once.
    assert registry.reload_if_changed() == set()
    assert (registry.is_readable, registry.get(client.id)) == (False, client)
    redis_server.start()
    assert registry.reload_if_changed() == set()
    assert (registry.is_readable, names(registry)) == (True, ["a"])


def test_a_revocation_while_the_store_was_out_of_reach_is_noticed(
    open_registry: OpenRegistry, redis_server: RedisServer
) -> None:
    mine, theirs = open_registry(), open_registry()
    client = mine.register("a", new_pem())
    theirs.list()
    redis_server.stop()
    with pytest.raises(RegistryError):
        theirs.reload_if_changed()
    redis_server.start()
    mine.revoke("a")
    assert theirs.reload_if_changed() == {client.id}


def test_after_an_outage_everything_is_read_since_versions_may_be_counted_anew(
    open_registry: OpenRegistry, redis_server: RedisServer
) -> None:
    mine, theirs = open_registry(), open_registry()
    mine.register("kept", new_pem())
    redis_server.stop()
    redis_server.start()
    lost = mine.register("lost", new_pem())
    theirs.list()
    # A crash, and a successor that counts its changes to the same number.
    redis_server.kill()
    with pytest.raises(RegistryError):
        theirs.reload_if_changed()
    redis_server.start()
    open_registry().register("other", new_pem())
    assert theirs.reload_if_changed() == {lost.id}
    assert names(theirs) == ["kept", "other"]


def test_a_store_that_lost_everything_revokes_nobody(registry: StoreRegistry, redis_server: RedisServer) -> None:
    registry.register("a", new_pem())
    with redis_server.client() as redis:
        redis.flushall()
    with pytest.raises(RegistryError, match="has lost its clients; put back a backup, or copy them: wsclient store"):
        registry.reload_if_changed()
    assert registry.reload_if_changed() == set()
    assert (names(registry), registry.is_readable) == (["a"], False)


def test_a_change_without_the_lock_changes_nothing(registry: StoreRegistry, redis_server: RedisServer) -> None:
    registry.register("a", new_pem())
    with redis_server.client() as redis, registry._exclusive() as now:
        # As after ten seconds of sleep.
        redis.set("wsclient:lock", "another's")
        with pytest.raises(RegistryError, match="took too long and was not made"):
            registry._write([*now.entries, entry("b", new_pem())])
    assert names(registry) == ["a"]


def test_a_lock_that_another_holds_is_waited_for_and_said(
    open_registry: OpenRegistry, redis_server: RedisServer
) -> None:
    registry = open_registry(lock_timeout=0.05)
    with redis_server.client() as redis:
        redis.set("wsclient:lock", "another's", px=10_000)
        with pytest.raises(RegistryError, match=r"is being changed by another process for more than 0\.05 s"):
            registry.register("a", new_pem())
        assert redis.get("wsclient:lock") == "another's"


def test_a_full_store_takes_no_client_and_stays_as_it_is(registry: StoreRegistry, redis_server: RedisServer) -> None:
    registry.register("a", new_pem())
    with redis_server.client() as redis:
        redis.config_set("maxmemory", "1mb")
        with pytest.raises(RegistryError, match="is full; raise its maxmemory"):
            registry.register("b", new_pem())
        redis.config_set("maxmemory", "0")
    assert registry.register("b", new_pem()).name == "b"
    assert names(registry) == ["a", "b"]


def test_two_prefixes_are_two_stores(open_registry: OpenRegistry) -> None:
    open_registry(prefix="one:").register("a", new_pem())
    assert open_registry(prefix="two:").list() == ()


def test_a_store_that_is_filled_again_throws_nobody_out_meanwhile(
    open_registry: OpenRegistry, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITTEN_AT_ONCE", 2)
    mine, theirs = open_registry(), open_registry()
    backup = [entry(name, new_pem()) for name in "abcdefg"]
    theirs.take_over(backup)
    with redis_server.client() as redis:
        redis.flushall()
    with pytest.raises(RegistryError, match="has lost its clients"):
        theirs.reload_if_changed()
    send, seen = mine._send, []

    def send_and_look(*arguments: Any) -> int:
        version = send(*arguments)
        seen.append((theirs.reload_if_changed(), len(theirs.list())))
        return version

    monkeypatch.setattr(mine, "_send", send_and_look)
    mine.take_over(backup)
    assert seen == [(set(), 7)] * 4
    assert theirs.is_readable
    # And who was not in the backup is gone.
    assert names(open_registry()) == names(theirs) == list("abcdefg")


# --- clients from elsewhere -------------------------------------------------------------------------------------------


def test_taking_over_says_what_was_done_and_is_idempotent(registry: StoreRegistry) -> None:
    one, two = entry("one", new_pem()), entry("two", new_pem())
    registry.take_over([one])
    taken = registry.take_over([one | {"lastIP": "192.0.2.1"}, two])
    assert (taken.copied, taken.unchanged, taken.differing) == (("two",), ("one",), ())
    version = registry.stamp
    assert registry.take_over([one, two]) == TakenOver(unchanged=("one", "two"))
    assert registry.stamp == version


def test_who_differs_stays_unless_told_otherwise(registry: StoreRegistry) -> None:
    here = entry("a", new_pem())
    registry.take_over([here])
    other = here | {"publicKey": new_pem()}
    assert registry.take_over([other]).differing == ("a",)
    assert registry.entries() == (here,)
    assert registry.take_over([other], overwrite=True).overwritten == ("a",)
    assert registry.entries() == (other,)
