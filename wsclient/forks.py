"""The moment after a fork: what a child makes anew of its parent's, it makes at the first use, and once.

Not in the fork's own hook: gunicorn's gevent worker patches `threading` and `queue` after it.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["renewing", "tell_after_fork"]

# Taken by a child's threads that meet something of the parent's, held while it is made anew; nothing is taken inside.
_renewing = threading.Lock()


class _Inherited(Protocol):
    def forget_parent(self) -> None:
        """Let go of what is the parent's. In the child, before anything else runs there."""


# Forked children find here what they have of their parent.
_inherited: weakref.WeakSet[_Inherited] = weakref.WeakSet()


def renewing() -> AbstractContextManager[Any]:
    """Return the lock of those who make something anew: several threads of a child may be the first to use it."""
    return _renewing


def tell_after_fork(it: _Inherited) -> None:
    """Have `it.forget_parent()` called in every forked child; it is held weakly."""
    _inherited.add(it)


def _forget_parents() -> None:
    global _renewing
    _renewing = threading.Lock()
    for it in list(_inherited):
        it.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
