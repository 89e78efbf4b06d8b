"""Ctrl-C while the doctor works: it ends the check that looks, and tears no line apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

__all__ = ["CtrlC"]


class CtrlC:
    """Hears Ctrl-C; a context manager, which changes nothing where SIGINT is not Python's.

    Attributes:
        is_heard: whether there was one.
    """

    def __init__(self) -> None:
        self.is_heard = False
        self._is_welcome = False
        self._is_ours = False

    def __enter__(self) -> Self:
        self._is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._is_ours:
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def ending_this(self) -> Iterator[None]:
        """Have Ctrl-C end what stands in this block, at once, and nothing else."""
        try:
            self._is_welcome = True
            yield
            self._is_welcome = False
        except KeyboardInterrupt:
            self.is_heard = True
        finally:
            self._is_welcome = False

    def _hear(self, _: int, __: FrameType | None) -> None:
        self.is_heard = True
        if self._is_welcome:
            # Once: another one while this one is on its way would get past who waits for it.
            self._is_welcome = False
            raise KeyboardInterrupt
