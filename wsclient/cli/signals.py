"""Signals that end a command which has something to put in order first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

__all__ = ["deferring_ctrl_c", "ending_in_order"]


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the command as Ctrl-C does: nothing is left behind."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    with _handling({signal.SIGTERM: end, signal.SIGHUP: end}):
        yield


@contextmanager
def deferring_ctrl_c() -> Iterator[Callable[[], None]]:
    """Have the first Ctrl-C, SIGTERM or SIGHUP take effect only where it tears nothing apart; a second does at once.

    Yields:
        What to call there, often: it raises `KeyboardInterrupt` or `SystemExit` when there was a signal.
    """
    numbers: list[int] = []

    def end() -> None:
        if numbers:
            raise KeyboardInterrupt if numbers[0] == signal.SIGINT else SystemExit(128 + numbers[0])

    def note(number: int, _: FrameType | None) -> None:
        numbers.append(number)
        if len(numbers) > 1:
            end()

    with _handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), note)):
        yield end


@contextmanager
def _handling(handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
