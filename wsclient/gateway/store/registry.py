"""Who may log in, kept in Redis: `ClientRegistry` for several gateways; imports `redis`.

A hash has the clients file's entries by id. A number counts the changes, and a list names the clients of the latest
ones, so that each gateway reads what is new and no more. A change is made under a lock, as in the file; what is
written counts only while the lock is held, so that a process that slept through its time changes nothing.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs
from redis.exceptions import RedisError

from ..clients import DEFAULT_ALGORITHM, RegisteredClient, Snapshot, iso_time, outdated
from ..clients_file import LOCK_TIMEOUT, RegistryError
from ..registry import ClientRegistry, Revocation
from . import scripts
from .address import DEFAULT_PREFIX, StoreAddress
from .connecting import make_client, telling_failures

__all__ = ["StoreRegistry"]

# Milliseconds that a change may take; a process that dies meanwhile keeps the others waiting for so long.
_LOCK_TIME = 10_000
# Changes that the list remembers; who is further behind reads everything.
_CHANGES_KEPT = 10_000
_READ_AT_ONCE, _WRITTEN_AT_ONCE = 500, 500
_ASK_AGAIN = 0.01
# Places of clients that have gone, before those of the others move up.
_HOLES = 1000


class StoreRegistry(ClientRegistry):
    """The registered clients: what the store said when it was last read, and changes to it (`ClientRegistry`).

    Args:
        address: which store.
        prefix: what names of keys begin with.
        lock_timeout: seconds that a change waits for other processes.
        default_algorithm: of clients that are there without one.
    """

    kind = "store"

    def __init__(
        self,
        address: StoreAddress,
        prefix: str = DEFAULT_PREFIX,
        lock_timeout: float = LOCK_TIMEOUT,
        default_algorithm: str = DEFAULT_ALGORITHM,
    ) -> None:
        super().__init__(address.shown, lock_timeout=lock_timeout, default_algorithm=default_algorithm)
        self.address = address
        self.client = make_client(address)
        self.channel = f"{prefix}changes"
        names = ("lock", "version", "changes", "clients", "logins", "revoked", "filling")
        self._keys = {name: f"{prefix}{name}" for name in names}
        # The version of the snapshot; -1 once it may be of another line of changes, as after a failover.
        self._version = -1
        # What is wrong with which client's entry.
        self._faults: dict[str, tuple[str, ...]] = {}
        # Of the lock that this thread holds, while it does.
        self._token = ""
        self._look = self.client.register_script(scripts.LOOK)
        self._commit_changes = self.client.register_script(scripts.COMMIT)

    @property
    def place(self) -> str:
        """Where the clients are, for messages."""
        return self.address.shown

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _current(self) -> Snapshot:
        snapshot = self._snapshot
        if snapshot is None:
            with self._disk:
                snapshot = self._snapshot or self._read()
        return snapshot

    def _refresh(self) -> None:
        is_news = self._broken is None
        try:
            self._read()
        except RegistryError as exc:
            # What comes back may be a replica that missed changes, and counts them anew: everything is read then.
            self._version = -1
            self._broken = (None, exc)
            if is_news:
                raise
        else:
            self._broken = None

    def _read(self) -> Snapshot:
        """Read what changed since the last time, or everything."""
        assert self._disk.locked()
        before = self._snapshot
        with telling_failures(self.address):
            keys = [self._keys[name] for name in ("version", "changes", "clients", "filling")]
            version, *news = self._look(keys=keys, args=[self._version, int(before is not None)])
            if version < 0:
                raise RegistryError(f"the store at {self.place} is being filled; the clients read before stay in force")
            if before is not None and not version:
                if before.stamp == (0, 0, 0):
                    return before
                text = "has lost its clients; put back a backup, or copy them: wsclient store copy"
                raise RegistryError(f"the store at {self.place} {text}")
            if before is not None and news:
                changes = dict(zip(_texts(news[0]), map(_parse, news[1]), strict=True))
                return self._keep_changes(before, changes, version)
            entries = self._read_all()
        self._faults.clear()
        snapshot = self._merge(Snapshot((version, 0, 0), [], {}, {}, ()), _in_order(entries), version)
        if before is not None:
            self._outdated |= outdated(before, snapshot)
        self._snapshot, self._version = snapshot, version
        return snapshot

    def _keep_changes(self, before: Snapshot, changes: Mapping[str, Any], version: int) -> Snapshot:
        if changes:
            snapshot = self._merge(before, changes, version)
            self._outdated |= outdated(_some(before, changes), _some(snapshot, changes))
            self._snapshot, self._version = snapshot, version
        return self._snapshot or before

    def _merge(self, before: Snapshot, changes: Mapping[str, Any], version: int) -> Snapshot:
        """Return a snapshot with some entries changed, `None` for those that are gone.

        All others are neither read nor sorted anew: of a hundred thousand that takes a second, and holds up streams.
        No key is looked at, unlike in a file: nobody but these programs writes here.
        """
        entries, clients, places = before.entries.copy(), before.clients.copy(), before.places.copy()
        for id, entry in changes.items():
            client = self._client_of(id, entry)
            if client is None:
                clients.pop(id, None)
                if id in places:
                    # A hole, so that the others keep their places.
                    entries[places.pop(id)] = None
                continue
            if id not in places:
                places[id] = len(entries)
                entries.append(None)
            entries[places[id]], clients[id] = entry, client
        if len(entries) > 2 * len(clients) + _HOLES:
            entries = [entries[places[id]] for id in clients]
            places = {id: place for place, id in enumerate(clients)}
        problems = tuple(text for texts in self._faults.values() for text in texts)
        return Snapshot((version, 0, 0), entries, clients, places, problems)

    def _client_of(self, id: str, entry: Any) -> RegisteredClient | None:
        """Return what an entry describes, `None` when it is no client, and note what is wrong with it."""
        self._faults.pop(id, None)
        if entry is None:
            return None
        try:
            client = RegisteredClient.from_json(entry, self._default_algorithm)
            if client.id != id:
                raise ValueError(f"its id is {client.id!r}")
        except ValueError as exc:
            self._faults[id] = (f"client {id!r} is skipped: {exc}",)
            return None
        if client.quota.problems:
            self._faults[id] = tuple(f"client {client.name!r}: {text}" for text in client.quota.problems)
        return client

    def _read_all(self) -> dict[str, Any]:
        entries = {}
        # Not in one go, during which the store would serve nobody else. A change meanwhile is in the next look again.
        for id, data in self.client.hscan_iter(self._keys["clients"], count=_READ_AT_ONCE):
            entries[_text(id)] = _parse(data)
        for id, data in self.client.hscan_iter(self._keys["logins"], count=_READ_AT_ONCE):
            entry, login = entries.get(_text(id)), _parse(data)
            if isinstance(entry, dict) and isinstance(login, dict):
                entry |= login
        return entries

    # --- changing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self, timeout: float | None = None) -> Iterator[Snapshot]:
        # Once before the lock: reading everything may take longer than a change may.
        self._current()
        with self._lock(self._lock_timeout if timeout is None else timeout) as token, self._disk:
            self._token = token
            try:
                yield self._read()
            finally:
                self._token = ""

    @contextmanager
    def _lock(self, timeout: float) -> Iterator[str]:
        token, deadline = secrets.token_hex(16), time.monotonic() + timeout
        with telling_failures(self.address):
            while not self.client.set(self._keys["lock"], token, nx=True, px=_LOCK_TIME):
                if time.monotonic() >= deadline:
                    text = f"is being changed by another process for more than {timeout:g} s; try again"
                    raise RegistryError(f"the store at {self.place} {text}")
                time.sleep(_ASK_AGAIN * random.uniform(0.5, 1.5))
        try:
            yield token
        finally:
            # Without an answer it ends by itself.
            with suppress(RedisError, OSError):
                self.client.register_script(scripts.UNLOCK)(keys=[self._keys["lock"]], args=[token])

    def _write(self, entries: Sequence[Any]) -> None:
        self._commit(entries, {})

    def _commit(self, entries: Sequence[Any], records: Mapping[str, Any]) -> None:
        """Write what differs from the snapshot, and records of who was revoked, in one step."""
        assert self._snapshot is not None
        now = self._snapshot
        after = {entry["id"]: entry for entry in entries if isinstance(entry, dict)}
        puts = {id: entry for id, entry in after.items() if not _is_same(now, id, entry)}
        removed = [id for id in now.places if id not in after]
        ids = list(puts)
        # A hundred thousand in one go would keep the store from serving anybody for seconds.
        while len(ids) > _WRITTEN_AT_ONCE:
            some, ids = ids[:_WRITTEN_AT_ONCE], ids[_WRITTEN_AT_ONCE:]
            self._send({id: puts[id] for id in some}, (), {}, _LOCK_TIME)
        version = self._send({id: puts[id] for id in ids}, removed, records, 0)
        self._keep_changes(now, {**puts, **dict.fromkeys(removed)}, version)

    def _send(
        self, puts: Mapping[str, Any], removed: Sequence[str], records: Mapping[str, Any], more_within: int
    ) -> int:
        arguments: list[str | int] = [self._token, self.channel, _CHANGES_KEPT]
        arguments += [len(puts), len(removed), len(records), more_within]
        for id, entry in puts.items():
            arguments += [id, _dump(entry)]
        arguments += removed
        for name, record in records.items():
            arguments += [name, _dump(record)]
        with telling_failures(self.address):
            version: int | None = self._commit_changes(keys=list(self._keys.values()), args=arguments)
        if version is None:
            text = "took too long and was not made; try again"
            raise RegistryError(f"the change of the store at {self.place} {text}")
        return version

    def _remove(
        self, now: Snapshot, ids: Sequence[str], reason: str, add: Sequence[Any] = ()
    ) -> tuple[Revocation, ...]:
        revoked_at = iso_time(time.time())
        records = {
            f"{id}_{revoked_at}": {"client": now.entry(id), "revokedAt": revoked_at, "reason": reason} for id in ids
        }
        self._commit([*now.without(set(ids)), *add], records)
        where = f"{self._keys['revoked']} in {self.place}"
        return tuple(Revocation(now.clients[id], f"{name} of {where}") for id, name in zip(ids, records, strict=True))

    def flush_logins(self, now: float, force: bool = False) -> bool:
        """Write the remembered logins down; see `ClientRegistry`. Not while the store is known to be out of reach."""
        return (self.is_readable or force) and super().flush_logins(now, force)

    def _write_logins(self, logins: dict[str, tuple[str, float]], timeout: float) -> bool:
        # No change of a client: nobody has to read it again, and no lock is needed.
        note = self.client.register_script(scripts.NOTE_LOGINS)
        keys, noted = [self._keys["clients"], self._keys["logins"]], 0
        with telling_failures(self.address):
            for start in range(0, len(logins), _READ_AT_ONCE):
                arguments = []
                for id, (ip, when) in [*logins.items()][start : start + _READ_AT_ONCE]:
                    arguments += [id, _dump({"lastConnected": iso_time(when), "lastIP": ip})]
                noted += note(keys=keys, args=arguments)
        return noted > 0


def _in_order(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries with the oldest client first."""

    def age(item: tuple[str, Any]) -> tuple[str, str]:
        id, entry = item
        return (str(entry.get("createdAt") or "") if isinstance(entry, dict) else "", id)

    # What cannot be read is no client, but is none that has gone either.
    return {id: {} if entry is None else entry for id, entry in sorted(entries.items(), key=age)}


def _is_same(now: Snapshot, id: str, entry: dict[str, Any]) -> bool:
    place = now.places.get(id)
    # Most are the very same object.
    return place is not None and (now.entries[place] is entry or now.entries[place] == entry)


def _some(snapshot: Snapshot, ids: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot with some clients only, so that a change of one is not paid for by comparing all."""
    return attrs.evolve(snapshot, clients={id: snapshot.clients[id] for id in ids if id in snapshot.clients})


def _parse(data: bytes | None) -> Any:
    """Return an entry, `None` for none; what is no JSON is an empty one."""
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return {}


def _dump(value: Any) -> str:
    # ASCII: half a surrogate pair in somebody's name cannot be written otherwise.
    return json.dumps(value, separators=(",", ":"))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _texts(data: Sequence[bytes]) -> list[str]:
    return [_text(item) for item in data]
