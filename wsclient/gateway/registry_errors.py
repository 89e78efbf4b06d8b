"""Why the registered clients were not changed as asked."""

from __future__ import annotations

from .clients import RegisteredClient
from .clients_file import RegistryError

__all__ = ["DuplicateClientError", "PendingKeyError", "UnknownClientError"]


class DuplicateClientError(RegistryError):
    """A registered client has this name or this key already.

    Args:
        message: which one, and what to do.
        existing: that client.
    """

    def __init__(self, message: str, existing: RegisteredClient) -> None:
        super().__init__(message)
        self.existing = existing


class PendingKeyError(DuplicateClientError):
    """The client has a new key already, which has not logged in yet."""


class UnknownClientError(RegistryError):
    """No registered client has this id or name."""
