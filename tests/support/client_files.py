"""Clients files for tests: fresh keys, entries, and writing as another program would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsclient.keys import generate_key, public_pem

__all__ = ["entries", "entry", "new_pem", "put", "recorded_file"]

_CLI = Path(__file__).parent.parent / "transcripts" / "cli.txt"


def new_pem() -> str:
    """Return the public PEM of a fresh key; EC, because those are made in a millisecond."""
    return public_pem(generate_key("ec"))


def entry(name: str, pem: str, id: str | None = None, **more: Any) -> dict[str, Any]:
    """Return an item of the file's array."""
    return {"id": id or name * 4, "name": name, "publicKey": pem} | more


def entries(path: Path) -> list[Any]:
    """Return the items that a clients file holds."""
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, list)
    return loaded


def put(path: Path, content: Any) -> None:
    """Write the file as another program would: in place, without our lock."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def recorded_file() -> bytes:
    """Return the clients file that cli.txt shows, byte for byte."""
    text = _CLI.read_text(encoding="utf-8")
    start = text.index("[\n  {\n")
    return text[start : text.index("\n]", start) + 2].encode()
