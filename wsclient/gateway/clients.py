"""What the clients file says: its entries as clients, and what is wrong with them (protocol.md section 6)."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import attrs

from ..core.auth import Key, hash_for_algorithm
from ..errors import InvalidKeyError
from ..keys import fingerprint, load_public_key, public_pem
from .clients_file import Content, RegistryError, Stamp
from .quotas import ClientQuota

__all__ = ["DEFAULT_ALGORITHM", "RegisteredClient", "Snapshot", "iso_time", "new_client", "outdated"]

DEFAULT_ALGORITHM = "SHA256"
# Fewer characters of an id could be a typing error that hits somebody.
_MIN_PREFIX = 6

# Our attribute, the file's key; in the order that the original writes them.
_FIELDS = {
    "id": "id",
    "name": "name",
    "public_key": "publicKey",
    "signature_algorithm": "signatureAlgorithm",
    "created_at": "createdAt",
    "last_connected": "lastConnected",
    "last_ip": "lastIP",
    "tags": "tags",
    "allowed_ips": "allowedIPs",
    # Ours: the original keeps it, and goes on asking for publicKey.
    "pending_key": "pendingKey",
}


@attrs.frozen(slots=True)
class RegisteredClient:
    """A client as the file describes it.

    Attributes:
        id: 32 hex digits, unless somebody wrote the file by hand.
        name: for people.
        public_key: PEM.
        signature_algorithm: a name that `hash_for_algorithm` may know; the default when the file has none.
        created_at, last_connected: ISO 8601, as the file has them.
        last_ip: the address of the last login.
        tags: for people.
        allowed_ips: addresses and networks that it may come from; empty for all.
        pending_key: PEM of the key that takes the place of `public_key` when it has logged in once.
        extra: what else the file has.
        quota: what `limits` and `models` in `extra` say.
    """

    id: str
    name: str
    public_key: str
    signature_algorithm: str = DEFAULT_ALGORITHM
    created_at: str | None = None
    last_connected: str | None = None
    last_ip: str | None = None
    tags: tuple[str, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    pending_key: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    quota: ClientQuota = attrs.field(init=False, eq=False, repr=False)

    @quota.default
    def _read_quota(self) -> ClientQuota:
        return ClientQuota.from_json(self.extra)

    @classmethod
    def from_json(cls, entry: object, default_algorithm: str = DEFAULT_ALGORITHM) -> RegisteredClient:
        """Return the client that an item of the file's array describes.

        Strict about what a login rests on, lenient about the rest: a bad date must not lock anybody out.

        Args:
            entry: the item.
            default_algorithm: for a client that is registered without one.

        Raises:
            ValueError: it has not the shape of a client; the message says what is wrong.
        """
        if not isinstance(entry, dict):
            raise ValueError(f"it is not an object but {type(entry).__name__}")
        for key in ("id", "publicKey"):
            if not isinstance(entry.get(key), str) or not entry[key]:
                raise ValueError(f"its {key} is missing, empty or not text")
        if not entry.get("name"):
            raise ValueError("its name is missing or empty")
        if not isinstance(entry.get("signatureAlgorithm"), str | None):
            raise ValueError("its signatureAlgorithm is not text")
        allowed = entry.get("allowedIPs") or []
        if not _is_texts(allowed):
            raise ValueError("its allowedIPs is not an array of texts")
        name = entry["name"]
        tags = entry.get("tags") or []
        return cls(
            id=entry["id"],
            # The original registers any JSON value as a name.
            name=name if isinstance(name, str) else json.dumps(name),
            public_key=entry["publicKey"],
            signature_algorithm=entry.get("signatureAlgorithm") or default_algorithm,
            created_at=_text_or_none(entry, "createdAt"),
            last_connected=_text_or_none(entry, "lastConnected"),
            last_ip=_text_or_none(entry, "lastIP"),
            tags=tuple(tags) if _is_texts(tags) else (),
            allowed_ips=tuple(allowed),
            pending_key=_text_or_none(entry, "pendingKey"),
            extra={key: value for key, value in entry.items() if key not in _FIELDS.values()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the item that describes the client, keys in the original's order."""
        values = {theirs: getattr(self, ours) for ours, theirs in _FIELDS.items()}
        entry = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value}
        return entry | dict(self.extra)

    @property
    def key(self) -> Key | None:
        """The public key, ready for `verify_signature`; `None` when it is not one we accept."""
        return _judge_key(self.public_key).key

    @property
    def login_keys(self) -> dict[str, Key]:
        """The keys that may log in now, those that we accept, by their PEM."""
        pems = (self.public_key, self.pending_key or self.public_key)
        return {pem: key for pem in pems if (key := _judge_key(pem).key) is not None}

    @property
    def fingerprint(self) -> str | None:
        """The key's fingerprint; `None` when it is not one we accept."""
        return _judge_key(self.public_key).fingerprint

    @property
    def pending_fingerprint(self) -> str | None:
        """The pending key's fingerprint; `None` when there is none that we accept."""
        return None if self.pending_key is None else _judge_key(self.pending_key).fingerprint

    def rotated(self) -> RegisteredClient:
        """Return the client when its pending key has taken the place of the other."""
        return attrs.evolve(self, public_key=self.pending_key or self.public_key, pending_key=None)

    def outlives(self, now: RegisteredClient | None) -> bool:
        """Return whether the client's connections may stay, after its entry has become another.

        A rotated key has ended no login: several programs with the old key are restarted one after the other, and
        what they stream meanwhile is nobody's harm. Any other key has been taken away from somebody.

        Args:
            now: the client as it is, `None` when it was removed.
        """
        if now is None or (now.signature_algorithm, now.allowed_ips) != (self.signature_algorithm, self.allowed_ips):
            return False
        return now.public_key in (self.public_key, self.pending_key)

    @property
    def fault(self) -> str | None:
        """Why the client cannot log in, `None` when it can: a weak or broken key, a refused algorithm."""
        judged = _judge_key(self.public_key)
        if judged.fault is not None:
            return judged.fault
        try:
            hash_for_algorithm(self.signature_algorithm)
        except ValueError as exc:
            return str(exc)
        return None

    def allows_address(self, address: str) -> bool:
        """Tell whether the client may come from an address.

        Args:
            address: IPv4 or IPv6, as the socket gives it.

        Returns:
            Whether `allowed_ips` is empty, or has the address or a network that it is in.
        """
        if not self.allowed_ips:
            return True
        with suppress(ValueError):
            peer = ipaddress.ip_address(address)
            # A socket that listens on both families shows IPv4 peers as ::ffff:1.2.3.4.
            peer = getattr(peer, "ipv4_mapped", None) or peer
            return any(peer in network for network in _networks(self.allowed_ips))
        return False


@attrs.frozen(slots=True)
class Snapshot:
    """The clients file at one moment.

    Attributes:
        stamp: of that moment.
        entries: the array's items as they are, good or bad.
        clients: the good ones by id, in the file's order.
        places: where each client's item is in `entries`, by id.
        problems: what is wrong, for the administrator.
    """

    stamp: Stamp
    entries: list[Any]
    clients: dict[str, RegisteredClient]
    places: dict[str, int]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, content: Content, default_algorithm: str = DEFAULT_ALGORITHM) -> Snapshot:
        """Return what a file's content means. A bad entry is skipped; nobody else is locked out by it."""
        clients: dict[str, RegisteredClient] = {}
        places: dict[str, int] = {}
        problems = []
        for place, entry in enumerate(content.entries):
            try:
                client = RegisteredClient.from_json(entry, default_algorithm)
                if client.id in clients:
                    raise ValueError(f"its id {client.id!r} is that of an earlier entry")
            except ValueError as exc:
                problems.append(f"entry {place + 1} is skipped: {exc}")
                continue
            clients[client.id], places[client.id] = client, place
            if client.fault is not None:
                problems.append(f"client {client.name!r} (entry {place + 1}) cannot log in: {client.fault}")
            if client.pending_key is not None and (fault := _judge_key(client.pending_key).fault) is not None:
                problems.append(f"client {client.name!r} (entry {place + 1}) cannot log in with its new key: {fault}")
            problems += [f"client {client.name!r} (entry {place + 1}): {problem}" for problem in client.quota.problems]
        return cls(content.stamp, content.entries, clients, places, tuple(problems))

    def entry(self, client_id: str) -> dict[str, Any]:
        """Return a client's own item of the array."""
        entry: dict[str, Any] = self.entries[self.places[client_id]]
        return entry

    def find(self, id_or_name: str) -> RegisteredClient | None:
        """Return the client with an id, else a name (in any case), else the beginning of an id; `None` if none has.

        Raises:
            RegistryError: several clients have that name, or ids that begin so.
        """
        if id_or_name in self.clients:
            return self.clients[id_or_name]
        found = [client for client in self.clients.values() if _same_name(client.name, id_or_name)]
        what = "are named"
        if not found and len(id_or_name) >= _MIN_PREFIX:
            found = [client for client in self.clients.values() if client.id.startswith(id_or_name)]
            what = "have ids that begin with"
        if len(found) > 1:
            ids = ", ".join(client.id for client in found)
            raise RegistryError(f"{len(found)} clients {what} {id_or_name!r}; say which by its id: {ids}")
        return found[0] if found else None

    def like(self, client: RegisteredClient) -> dict[str, tuple[RegisteredClient, str]]:
        """Return the clients that a new one would be a duplicate of, by id, each with what they share."""
        found: dict[str, tuple[RegisteredClient, str]] = {}
        for other in self.clients.values():
            if _same_name(other.name, client.name):
                found[other.id] = (other, "name")
            elif client.fingerprint in (other.fingerprint, other.pending_fingerprint):
                found[other.id] = (other, "key")
        return found

    def without(self, ids: set[str]) -> list[Any]:
        """Return the entries without those of some ids.

        All that bear such an id go, skipped ones too: a second entry would take the place of the removed first one.
        """
        return [entry for entry in self.entries if not isinstance(entry, dict) or str(entry.get("id")) not in ids]


def outdated(before: Snapshot, now: Snapshot) -> set[str]:
    """Return the ids of clients whose connections rest on what is no longer so."""
    return {id for id, client in before.clients.items() if not client.outlives(now.clients.get(id))}


def new_client(name: str, public_key_pem: str, algorithm: str, now: float) -> RegisteredClient:
    """Return a client that nobody has registered yet, with a fresh id.

    Args:
        name: 1 to 128 printable characters.
        public_key_pem: SPKI or PKCS#1 PEM.
        algorithm: a name that `hash_for_algorithm` knows.
        now: seconds since the epoch.

    Raises:
        InvalidKeyError: the key is none that we accept.
        ValueError: the name or the algorithm is not allowed.
    """
    bare = name.strip() if isinstance(name, str) else ""
    if not 0 < len(bare) <= 128 or not bare.isprintable():
        raise ValueError(f"name of a client must be 1 to 128 printable characters (got {repr(name)[:80]})")
    return RegisteredClient(
        id=secrets.token_hex(16),
        name=bare,
        public_key=public_pem(load_public_key(public_key_pem)),
        signature_algorithm=hash_for_algorithm(algorithm),
        created_at=iso_time(now),
    )


def iso_time(seconds: float) -> str:
    """Return a time since the epoch as the file writes it: `2026-11-22T18:33:42.377Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@attrs.frozen(slots=True)
class _Judged:
    key: Key | None = attrs.field(default=None, repr=False)
    fingerprint: str | None = None
    fault: str | None = None


@lru_cache(maxsize=16384)
def _judge_key(pem: str) -> _Judged:
    # Cached, because a login, a listing and each reading of the file ask again for the same keys.
    try:
        key = load_public_key(pem)
    except InvalidKeyError as exc:
        return _Judged(fault=exc.message)
    return _Judged(key, fingerprint(key))


@lru_cache(maxsize=1024)
def _networks(allowed: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    networks = []
    for text in allowed:
        # What is no address admits nobody: a typing error must not open the door.
        with suppress(ValueError):
            networks.append(ipaddress.ip_network(text.strip(), strict=False))
    return tuple(networks)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _text_or_none(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) and value else None


def _same_name(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()
