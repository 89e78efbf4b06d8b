"""The doctor's questions about the key, and about the clients file when it is at hand."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import attrs

from ..core.auth import Key
from ..gateway.ollama_host import is_loopback
from ..gateway.registry import ClientRegistry, RegisteredClient, RegistryError
from ..gateway.store.address import STORE_VARIABLE
from ..keys import fingerprint, load_private_key, read_key_file
from .connecting import ask_passphrase
from .doctor_findings import NotNow, Trouble, found
from .doctor_settings import Patient

__all__ = ["check_key", "check_key_file", "check_registration"]

_Found = tuple[str, dict[str, Any]]


def check_key_file(patient: Patient) -> _Found:
    """Check that the key's file is there, and safe from others."""
    path = patient.told.get("private_key_path")
    if path is None and patient.told.get("private_key"):
        raise NotNow("the key itself is in WSCLIENT_PRIVATE_KEY")
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise Trouble("no private key is given", "Give --key=NAME_key.pem, or a --config that has privateKeyPath")
    path = os.path.expanduser(path)
    assert patient.base is not None
    read_key_file(path, patient.base.allow_readable_key)
    mode = f"{stat.S_IMODE(os.stat(path).st_mode):04o}"
    return found(f"{path}, mode {mode}", path=path, mode=mode)


def check_key(patient: Patient) -> _Found:
    """Check that the key can be used for a login."""
    source = patient.told.get("private_key_path") or patient.told.get("private_key")
    if not source:
        raise NotNow("there is none")
    assert patient.base is not None
    passphrase = patient.base.passphrase
    if patient.told.get("private_key_path"):
        begun = time.monotonic()
        passphrase = ask_passphrase(attrs.evolve(patient.base, private_key=None, private_key_path=source)).passphrase
        # Nobody is timed while he types.
        patient.deadline += time.monotonic() - begun
    patient.key = load_private_key(source, passphrase, patient.base.allow_readable_key)
    kind, shown = kind_of(patient.key), fingerprint(patient.key)
    return found(f"{kind}, fingerprint {shown}", kind=kind, fingerprint=shown)


def kind_of(key: Key) -> str:
    """Return a key's type and size for people."""
    bits: Any = getattr(key, "size_in_bits", None)
    return f"RSA {bits()} bits" if bits is not None else f"EC {str(getattr(key, 'curve', '')).removeprefix('NIST ')}"


def check_registration(patient: Patient) -> _Found:
    """Check that the clients file, if it is at hand, has this client with this key."""
    path = _clients_file(patient)
    try:
        registry = ClientRegistry(path)
        client = registry.get(patient.told["client_id"])
    except RegistryError as error:
        raise Trouble(error.message, "Mend the file, or give another one as --clients-file") from error
    if client is None:
        raise _unknown(path, registry, patient.told["client_id"])
    if client.fault is not None:
        raise Trouble(f"{client.name!r} in {path} cannot log in: {client.fault}", "Register it with another key")
    patient.registered = client
    return _compare(patient, client, path)


def _compare(patient: Patient, client: RegisteredClient, path: Path) -> _Found:
    facts = {"name": client.name, "file": str(path), "fingerprint": client.fingerprint}
    if patient.key is None:
        return found(f"{client.name!r} in {path}; without the key nothing can be compared", **facts)
    if fingerprint(patient.key) not in (client.fingerprint, client.pending_fingerprint):
        raise Trouble(
            f"{client.name!r} is registered in {path} with another key, {client.fingerprint}",
            "Give that key's private half as --key, or register this one: wsclient register-client --force",
            **facts,
        )
    limited = f", and only from {', '.join(client.allowed_ips)}" if client.allowed_ips else ""
    return found(f"{client.name!r} in {path}, with this key{limited}", **facts)


def _clients_file(patient: Patient) -> Path:
    if patient.clients_file is not None:
        if not patient.clients_file.exists():
            raise Trouble(f"there is no {patient.clients_file}", "Give the gateway's own file as --clients-file")
        return patient.clients_file
    if os.environ.get(STORE_VARIABLE, "").strip():
        raise NotNow(f"the clients are in the store that {STORE_VARIABLE} names; see: wsclient list-clients")
    # What `wsclient serve` would use when it is started here.
    path = Path(os.environ.get("DATA_DIR") or "data", "authorized_clients.json")
    if not path.exists() or not is_loopback(patient.url):
        raise NotNow("the gateway's clients file is not here; give it as --clients-file where the gateway runs")
    return path


def _unknown(path: Path, registry: ClientRegistry, client_id: str) -> Trouble:
    again = "Register it: wsclient register-client --name=NAME --key-path=NAME_key.pub"
    safe_id = re.sub(r"[^A-Za-z0-9_-]", "_", client_id)[:64]
    for record in sorted(registry.revoked_dir.glob(f"{safe_id}_*.json"), reverse=True):
        try:
            revoked = json.loads(record.read_text(encoding="utf-8"))
            when, why = revoked["revokedAt"], revoked["reason"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return Trouble(f"client {client_id} was revoked at {when} ({why})", again, revoked_at=str(when))
    return Trouble(f"{path} has no client {client_id}", again)
