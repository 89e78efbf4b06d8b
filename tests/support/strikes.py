"""Ctrl-C at every place of the library's code where CPython looks for signals, one place after the other.

    for strike in strikes(1000):
        client = ...
        strike(client.list_models)      # KeyboardInterrupt in there, at a later place each time

It ends after the first call that ran through without having been struck.
"""

from __future__ import annotations

import dis
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import wsclient

__all__ = ["Strike", "strikes"]

_LIBRARY = wsclient.__file__.removesuffix("__init__.py")


@functools.cache
def _places(code: CodeType) -> frozenset[int]:
    """Return where the instructions begin that follow a call: there CPython looks for signals.

    Not those that another handler guards than the call itself: a real signal is raised by the call.
    """
    bytecode = dis.Bytecode(code)

    def handler(offset: int) -> int | None:
        entries = bytecode.exception_entries  # type: ignore[attr-defined]
        return next((entry.target for entry in entries if entry.start <= offset < entry.end), None)

    return frozenset(
        after.offset
        for before, after in itertools.pairwise(bytecode)
        if before.opname.startswith("CALL") and handler(before.offset) == handler(after.offset)
    )


class Strike:
    """Runs a call and raises `KeyboardInterrupt` in it, at one place.

    Args:
        number: at which place, from 0.

    Attributes:
        place: where it was, `""` while it was not.
    """

    def __init__(self, number: int) -> None:
        self.place = ""
        self._left = number

    def __call__(self, call: Callable[[], object]) -> None:
        """Run the call until the strike; what else it raises comes through."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        except KeyboardInterrupt:
            assert self.place
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(_LIBRARY):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if event == "opcode" and frame.f_lasti in _places(frame.f_code) and not _is_in_finalizer(frame):
            self._left -= 1
            if self._left < 0:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._step


def _is_in_finalizer(frame: FrameType | None) -> bool:
    # There CPython itself swallows it.
    if isinstance(sys.exc_info()[1], GeneratorExit):
        return True
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def strikes(limit: int) -> Iterator[Strike]:
    """Return one strike after the other; a call that has more places than the limit fails the test."""
    for number in range(limit):
        strike = Strike(number)
        yield strike
        if not strike.place:
            return
    raise AssertionError(f"the call has more than {limit} places")
