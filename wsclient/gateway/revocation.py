"""What is kept of a client that was revoked: a record in a file of its own (protocol.md section 6)."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import attrs

from . import clients_file
from .clients import RegisteredClient, iso_time
from .clients_file import RegistryError

__all__ = ["Revocation", "write_record"]


@attrs.frozen(slots=True)
class Revocation:
    """A client that was revoked.

    Attributes:
        client: as it was.
        record: what keeps it, for later questions: a file, or a place in the store.
    """

    client: RegisteredClient
    record: Path | str


def write_record(directory: Path, entry: dict[str, Any], reason: str, like: Path) -> Path:
    """Write down what a client was, now that it is being revoked.

    Args:
        directory: where; made when it is not there.
        entry: the client's item of the clients file.
        reason: why.
        like: the file whose owner and mode the record gets.

    Returns:
        The record's path.

    Raises:
        RegistryError: it cannot be written.
    """
    revoked_at = iso_time(time.time())
    # The id may have been written by hand: it must not lead out of the directory.
    name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', entry['id'])[:64]}_{re.sub('[:.]', '-', revoked_at)}.json"
    record = {"client": entry, "revokedAt": revoked_at, "reason": reason}
    path = directory / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        clients_file.write_new(path, clients_file.dump_json(record), like=like)
    except OSError as exc:
        raise RegistryError(f"{path} cannot be written: {exc.strerror or exc}; nobody was revoked") from exc
    return path
