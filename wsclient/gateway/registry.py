"""Who may log in: the clients file, read and changed so that no concurrent change is lost.

The file has the original's format (protocol.md section 6), and what we do not know in it stays as it is. Needs no
aiohttp: the offline commands use it too. Everything here is synchronous; what waits for the disk or for another
process (`register`, `replace`, `rotate`, `revoke`, `flush_logins` and the first question) belongs into a thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from ..keys import load_public_key, public_pem
from . import clients_file
from .clients import DEFAULT_ALGORITHM, RegisteredClient, Snapshot, iso_time, new_client, outdated
from .clients_file import RegistryError, Stamp
from .copying import TakenOver
from .registry_errors import DuplicateClientError, PendingKeyError, UnknownClientError
from .revocation import Revocation, write_record

__all__ = [
    "ClientRegistry",
    "DuplicateClientError",
    "PendingKeyError",
    "RegisteredClient",
    "RegistryError",
    "Revocation",
    "UnknownClientError",
]

FLUSH_INTERVAL = 60.0
# How long a flush waits for other processes: the thread that it runs in has revocations to look for.
_FLUSH_WAIT = 0.25

# The state of a file that cannot even be looked at.
_UNSEEN: Stamp = (-1, -1, -1)


class ClientRegistry:
    """The registered clients: what the file said when it was last read, and changes to the file.

    `store/registry.py` keeps them in Redis instead, behind the same methods: it replaces how they are read, locked and
    written (`_current`, `_refresh`, `_exclusive`, `_write`, `_remove`, `_write_logins`), and nothing else.

    Reading is lazy: the first question reads the file, `reload_if_changed` reads it again. Each change reads the file
    first, under a lock between processes, and so never undoes another's. Safe to use from several threads.

    Args:
        path: the clients file; no file means no clients.
        revoked_dir: where revoked clients are kept; `revoked` beside the file when left out.
        lock_timeout: seconds that a change waits for other processes.
        default_algorithm: of clients that the file has without one.

    Attributes:
        kind: what holds the clients, for messages.
    """

    kind = "clients file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        revoked_dir: str | os.PathLike[str] | None = None,
        lock_timeout: float = clients_file.LOCK_TIMEOUT,
        default_algorithm: str = DEFAULT_ALGORITHM,
    ) -> None:
        self.path = Path(path)
        self.revoked_dir = self.path.parent / "revoked" if revoked_dir is None else Path(revoked_dir)
        self._lock_timeout = lock_timeout
        self._default_algorithm = default_algorithm
        # Held while the file is read or changed, so that an older snapshot never replaces a newer one. Taken after the
        # lock between processes, so that who waits for that keeps nobody from looking at the file.
        self._disk = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._broken: tuple[Stamp, RegistryError] | None = None
        # Whose logins have lost their ground since reload_if_changed told last, snapshot by snapshot: whoever came and
        # went in between may have logged in.
        self._outdated: set[str] = set()
        # Protects the three below; held for moments only, because the gateway's event loop takes it.
        self._memory = threading.Lock()
        self._logins: dict[str, tuple[str, float]] = {}
        # Pending keys that have logged in, by client id: in force at once, in the file soon.
        self._proven: dict[str, str] = {}
        self._flushed_at: float | None = None

    @property
    def place(self) -> str:
        """Where the clients are, for messages."""
        return str(self.path)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the file as last read: it is broken, entries are skipped, clients cannot log in."""
        broken, snapshot = self._broken, self._snapshot
        return (() if broken is None else (broken[1].message,)) + (() if snapshot is None else snapshot.problems)

    @property
    def stamp(self) -> Stamp:
        """Which state of the file the answers are from."""
        snapshot = self._snapshot
        return None if snapshot is None else snapshot.stamp

    def list(self) -> tuple[RegisteredClient, ...]:
        """Return all clients, in the file's order.

        Raises:
            RegistryError: the file was to be read for the first time and is broken.
        """
        return tuple(self._current().clients.values())

    def entries(self) -> tuple[dict[str, Any], ...]:
        """Return the clients as they are written, in the file's order.

        Raises:
            RegistryError: the file was to be read for the first time and is broken.
        """
        now = self._current()
        return tuple(now.entry(id) for id in now.clients)

    def get(self, client_id: str) -> RegisteredClient | None:
        """Return the client with an id, `None` when there is none.

        Raises:
            RegistryError: the file was to be read for the first time and is broken.
        """
        client = self._current().clients.get(client_id)
        if client is not None and client.pending_key and self._proven.get(client_id) == client.pending_key:
            return client.rotated()
        return client

    def find(self, id_or_name: str) -> RegisteredClient | None:
        """Return the client with an id, else a name (in any case), else the beginning of an id; `None` if none has.

        Raises:
            RegistryError: several clients have that name or ids that begin so, or the file was to be read for the first
                time and is broken.
        """
        return self._current().find(id_or_name)

    def register(
        self, name: str, public_key_pem: str, algorithm: str = DEFAULT_ALGORITHM, *, is_unique: bool = True
    ) -> RegisteredClient:
        """Add a client.

        Args:
            name: 1 to 128 printable characters.
            public_key_pem: SPKI or PKCS#1 PEM; written as SPKI.
            algorithm: a name that `hash_for_algorithm` knows; written as the hash.
            is_unique: whether nobody else may have its name or its key.

        Returns:
            The client with its new id.

        Raises:
            DuplicateClientError: the name (in any case) or the key is registered, and it must be unique.
            InvalidKeyError: the key is none that we accept.
            RegistryError: the file cannot be read, locked or written.
            ValueError: the name or the algorithm is not allowed.
        """
        client = new_client(name, public_key_pem, algorithm, time.time())
        with self._exclusive() as now:
            for existing, what in now.like(client).values() if is_unique else ():
                message = f"this {what} is registered already, to client {existing.name!r} (id {existing.id})"
                raise DuplicateClientError(f"{message}; revoke that one first", existing)
            self._write([*now.entries, client.to_json()])
        return client

    def replace(
        self, name: str, public_key_pem: str, algorithm: str = DEFAULT_ALGORITHM, reason: str = "Replaced"
    ) -> tuple[RegisteredClient, tuple[Revocation, ...]]:
        """Add a client and revoke those that have its name or its key, in one step.

        Args:
            name, public_key_pem, algorithm: as for `register`.
            reason: why, for the records.

        Returns:
            The new client, and who was revoked for it.

        Raises:
            InvalidKeyError: the key is none that we accept.
            RegistryError: the file or a record cannot be read, locked or written.
            ValueError: the name or the algorithm is not allowed.
        """
        client = new_client(name, public_key_pem, algorithm, time.time())
        with self._exclusive() as now:
            return client, self._remove(now, tuple(now.like(client)), reason, add=(client.to_json(),))

    def take_over(self, entries: Sequence[dict[str, Any]], overwrite: bool = False) -> TakenOver:
        """Add clients from elsewhere as they are, ids and all, in one step; those that are here already stay.

        Args:
            entries: items of a clients file's array.
            overwrite: whether those that are here otherwise become what `entries` say.

        Returns:
            What was done with each; doing it again changes nothing.

        Raises:
            RegistryError: the clients cannot be read, locked or written.
        """
        with self._exclusive() as now:
            taken = TakenOver.compare(entries, {id: now.entry(id) for id in now.clients}, overwrite)
            if taken.news:
                self._write([*now.without(set(taken.news)), *taken.news.values()])
        return taken

    def revoke(self, id_or_name: str, reason: str = "Manual revocation via CLI tool") -> Revocation:
        """Remove a client, and keep what it was in a record of its own (protocol.md section 6).

        Args:
            id_or_name: which one.
            reason: why, for the record.

        Returns:
            The client and where its record is.

        Raises:
            RegistryError: the file or the record cannot be read, locked or written, or the name is several clients'.
            UnknownClientError: there is no such client.
        """
        with self._exclusive() as now:
            return self._remove(now, [_known(now, id_or_name).id], reason)[0]

    def rotate(self, id_or_name: str, public_key_pem: str, *, replace_pending: bool = False) -> RegisteredClient:
        """Give a client a new key beside the one that it has.

        Both may log in until the new one has done so once; then the new one is the only one.

        Args:
            id_or_name: which client.
            public_key_pem: SPKI or PKCS#1 PEM; written as SPKI.
            replace_pending: whether it takes the place of a new key that has not logged in yet.

        Returns:
            The client as it is now.

        Raises:
            DuplicateClientError: a client has this key already.
            InvalidKeyError: the key is none that we accept.
            PendingKeyError: the client has a new key that has not logged in yet.
            RegistryError: the file cannot be read, locked or written.
            UnknownClientError: there is no such client.
        """
        pem = public_pem(load_public_key(public_key_pem))
        with self._exclusive() as now:
            client = _known(now, id_or_name)
            new = attrs.evolve(client, pending_key=pem)
            for other in now.clients.values():
                if new.pending_fingerprint in (other.fingerprint, other.pending_fingerprint):
                    message = f"this key is registered already, to client {other.name!r} (id {other.id})"
                    raise DuplicateClientError(f"{message}; make another one", other)
            if client.pending_key is not None and not replace_pending:
                message = f"client {client.name!r} (id {client.id}) has a new key already, which has not logged in yet"
                raise PendingKeyError(message, client)
            entries = now.entries.copy()
            entries[now.places[client.id]] = now.entry(client.id) | {"pendingKey": pem}
            self._write(entries)
        return new

    @property
    def is_readable(self) -> bool:
        """Whether the file could be read when it was last looked at."""
        return self._broken is None

    def reload_if_changed(self, wait: float = 0.0) -> set[str]:
        """Read the file again if it is another one than before; costs one `stat` otherwise.

        When the file is broken, the clients read before stay in force until it is mended.

        Args:
            wait: how many seconds to wait for another thread that changes the file.

        Returns:
            The ids of clients that were removed, or whose key, algorithm or allowed addresses are others, since the
            last call (by us or by anybody): their connections must end. Empty when another thread changes the file.

        Raises:
            RegistryError: the file is broken; once for each state of it.
        """
        if not self._disk.acquire(blocking=wait > 0, timeout=wait if wait > 0 else -1):
            return set()
        try:
            self._refresh()
            outdated, self._outdated = self._outdated, set()
            return outdated
        finally:
            self._disk.release()

    def note_login(self, client_id: str, ip: str, now: float, key: str | None = None) -> bool:
        """Remember a login, for the next `flush_logins`.

        Args:
            client_id: who logged in.
            ip: from where.
            now: seconds since the epoch.
            key: PEM of the key that it was.

        Returns:
            Whether that was the pending one, which is the only one from now on.
        """
        snapshot = self._snapshot
        client = None if snapshot is None else snapshot.clients.get(client_id)
        is_new = client is not None and client.pending_key is not None and key == client.pending_key
        with self._memory:
            self._logins[client_id] = (ip, now)
            if is_new and key is not None:
                self._proven[client_id] = key
                # Others that read the file let the old key in until then: the next flush waits for no minute.
                self._flushed_at = None
        return is_new

    def flush_logins(self, now: float, force: bool = False) -> bool:
        """Write the remembered logins into the file, once a minute at most.

        A client that is gone by then stays gone. Waits for other processes for a quarter of a second at most.

        Args:
            now: seconds since the epoch.
            force: do not wait for the minute, but for the other processes (at shutdown).

        Returns:
            Whether the file was written.

        Raises:
            RegistryError: the file cannot be read, locked or written; the logins are kept for the next try.
        """
        with self._memory:
            too_soon = self._flushed_at is not None and 0 <= now - self._flushed_at < FLUSH_INTERVAL
            if not self._logins or (too_soon and not force):
                return False
            logins, self._logins = self._logins, {}
            proven = self._proven.copy()
            # Also when it fails below: a full disk is not tried again every second.
            self._flushed_at = now
        try:
            timeout = self._lock_timeout if force else min(_FLUSH_WAIT, self._lock_timeout)
            if proven:
                self._write_rotations(proven, timeout)
            return self._write_logins(logins, timeout)
        except RegistryError:
            with self._memory:
                self._logins = logins | self._logins
            raise

    def _write_rotations(self, proven: dict[str, str], timeout: float) -> None:
        """Have new keys take the place of the old ones, as far as they are still the new ones."""
        with self._exclusive(timeout) as current:
            entries = current.entries.copy()
            for client_id, key in proven.items():
                client = current.clients.get(client_id)
                if client is not None and client.pending_key == key:
                    entry = current.entry(client_id) | {"publicKey": key}
                    del entry["pendingKey"]
                    entries[current.places[client_id]] = entry
            self._write(entries)
        with self._memory:
            # What has logged in since is left for the next time.
            self._proven = {id: key for id, key in self._proven.items() if proven.get(id) != key}

    def _write_logins(self, logins: dict[str, tuple[str, float]], timeout: float) -> bool:
        with self._exclusive(timeout) as current:
            known = [client_id for client_id in logins if client_id in current.clients]
            entries = current.entries.copy()
            for client_id in known:
                ip, when = logins[client_id]
                news = {"lastConnected": iso_time(when), "lastIP": ip}
                entries[current.places[client_id]] = current.entry(client_id) | news
            if known:
                self._write(entries)
            return bool(known)

    def _current(self) -> Snapshot:
        # A snapshot is never changed, only replaced: reading the reference needs no lock.
        snapshot = self._snapshot
        if snapshot is None:
            with self._disk:
                snapshot = self._snapshot or self._keep(clients_file.read(self.path))
        return snapshot

    def _keep(self, content: clients_file.Content) -> Snapshot:
        assert self._disk.locked()
        snapshot = Snapshot.of(content, self._default_algorithm)
        before = self._snapshot
        if before is not None and before.stamp != snapshot.stamp:
            self._outdated |= outdated(before, snapshot)
        self._snapshot, self._broken = snapshot, None
        return snapshot

    def _refresh(self) -> None:
        stamp = _UNSEEN
        try:
            stamp = clients_file.stamp_of(self.path)
            if self._snapshot is not None and stamp == self._snapshot.stamp:
                self._broken = None
            elif self._broken is None or stamp != self._broken[0]:
                self._keep(clients_file.read(self.path))
        except RegistryError as exc:
            is_news = self._broken is None or stamp != self._broken[0]
            self._broken = (stamp, exc)
            if is_news:
                raise

    @contextmanager
    def _exclusive(self, timeout: float | None = None) -> Iterator[Snapshot]:
        """Keep everybody else from changing the file, and hand over what it says now."""
        timeout = self._lock_timeout if timeout is None else timeout
        with clients_file.exclusive(self.path, timeout), self._disk:
            yield self._keep(clients_file.read(self.path))

    def _write(self, entries: Sequence[Any]) -> None:
        stamp = clients_file.write(self.path, entries)
        self._keep(clients_file.Content(stamp, [*entries]))

    def _remove(
        self, now: Snapshot, ids: Sequence[str], reason: str, add: Sequence[Any] = ()
    ) -> tuple[Revocation, ...]:
        # The records come first: a crash in between leaves a record too many, never a client nobody remembers.
        records: tuple[Path, ...] = ()
        try:
            for client_id in ids:
                records = (*records, write_record(self.revoked_dir, now.entry(client_id), reason, like=self.path))
            self._write([*now.without(set(ids)), *add])
        except RegistryError:
            for record in records:
                with suppress(OSError):
                    record.unlink()
            raise
        return tuple(Revocation(now.clients[id], record) for id, record in zip(ids, records, strict=True))


def _known(now: Snapshot, id_or_name: str) -> RegisteredClient:
    client = now.find(id_or_name)
    if client is None:
        raise UnknownClientError(f"no client has the id or name {id_or_name!r}; see: wsclient list-clients")
    return client
