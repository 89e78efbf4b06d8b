"""The moment after a fork: what a child makes anew of its parent's, it makes at the first use, and once.

Not in the fork's own hook: gunicorn's gevent worker patches `threading` and `queue` after it.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["renewing"]

# Taken by a child's threads that meet something of the parent's, held while it is made anew; nothing is taken inside.
_renewing = threading.Lock()


def renewing() -> AbstractContextManager[Any]:
    """Return the lock of those who make something anew: several threads of a child may be the first to use it."""
    return _renewing


def _forget_parents_lock() -> None:
    global _renewing
    _renewing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_lock)
