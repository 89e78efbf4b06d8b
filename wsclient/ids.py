"""What every message of ours is marked with: an id and a time."""

from __future__ import annotations

import secrets
import time

__all__ = ["new_id", "timestamp"]


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed: the original keeps all clients' generation ids in one map."""
    return f"{prefix}_{secrets.token_hex(16)}"


def timestamp() -> int:
    """Return the wire's timestamp: epoch milliseconds."""
    return time.time_ns() // 1_000_000
