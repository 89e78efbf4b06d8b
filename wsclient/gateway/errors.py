"""What keeps a gateway from starting, said in one sentence. Importable without the extra `gateway`."""

from __future__ import annotations

__all__ = ["GatewayError"]


class GatewayError(Exception):
    """The gateway cannot start: its port, its host name, its clients file or its backend. The text says what to do."""
