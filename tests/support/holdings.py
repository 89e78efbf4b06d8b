"""What a process holds on to: the library's threads, and open file descriptors."""

from __future__ import annotations

import os
import threading
from typing import Self

import attrs

from .waiting import wait_until

__all__ = ["Holdings"]


@attrs.frozen
class Holdings:
    """The library's threads and the open descriptors of this process at one moment."""

    threads: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        """Return what there is now."""
        threads = (thread for thread in threading.enumerate() if thread.name.startswith("wsclient-"))
        return cls(frozenset(f"{thread.name} {thread.ident}" for thread in threads), frozenset(_descriptors()))

    def gained(self) -> list[str]:
        """Return what has come since, and is still there."""
        now = type(self).now()
        return sorted((now.threads - self.threads) | (now.descriptors - self.descriptors))

    def wait_until_none_gained(self, timeout: float = 5.0) -> None:
        """Wait until nothing is there any more that has come since; fails by name when something stays."""
        try:
            wait_until(lambda: not self.gained(), timeout)
        except TimeoutError:
            raise AssertionError(f"still there after {timeout:g} s: {self.gained()}") from None


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/dev/fd"):
        try:
            # The target tells a socket from one that has its number again.
            found.append(f"fd {number} {os.readlink(f'/dev/fd/{number}')}")
        except FileNotFoundError:
            # The one that the listing itself needed.
            continue
        except OSError:
            found.append(f"fd {number}")
    return found
