"""What the doctor finds: pure; which check needs which, and how one finding is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar

import attrs

from ..errors import WSClientError
from .doctor_interrupt import CtrlC
from .failures import next_step

__all__ = ["Check", "Finding", "NotNow", "Status", "Trouble", "examine", "found"]

_Patient = TypeVar("_Patient")


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Finding:
    """What a check found; `--json` shows it under these names.

    Attributes:
        check: which one.
        status: how it ended.
        text: what is so.
        fix: what to do, of a failed one.
        seconds: how long it took.
        facts: figures of it.
    """

    check: str
    status: Status
    text: str
    fix: str | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = attrs.field(factory=dict)
    # Whether it was skipped because an earlier one failed; then so are those that need it.
    is_blocked: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "check": self.check,
            "status": str(self.status),
            "text": self.text,
            "fix": self.fix,
            "seconds": round(self.seconds, 4),
            "facts": self.facts,
        }


class Trouble(Exception):
    """A check failed.

    Args:
        text: what is wrong.
        fix: what to do.
        facts: figures.
    """

    def __init__(self, text: str, fix: str, **facts: Any) -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix
        self.facts = facts


class NotNow(Exception):
    """A check says nothing here; the text says why."""


_Found = tuple[str, dict[str, Any]]


def found(text: str, **facts: Any) -> _Found:
    """Return what a check that is passed tells."""
    return text, facts


@attrs.frozen
class Check(Generic[_Patient]):
    """One of the doctor's questions.

    Attributes:
        name: in `--json`.
        title: for people.
        look: answers it with what `found` returns; raises `Trouble`, `NotNow`, or an error of the library.
        needs: the checks without whose success it makes no sense; those that say nothing here do not count.
        is_quick: whether it is done even when no time is left.
    """

    name: str
    title: str
    look: Callable[[_Patient], _Found]
    needs: tuple[str, ...] = ()
    is_quick: bool = False


def examine(
    checks: Sequence[Check[_Patient]], patient: _Patient, deadline: Callable[[], float], note: Callable[[Finding], None]
) -> tuple[list[Finding], bool]:
    """Go through the checks; Ctrl-C skips the rest of them.

    Args:
        checks: in their order.
        patient: what each looks at.
        deadline: returns the monotonic time after which nothing is begun.
        note: told of each finding at once.

    Returns:
        A finding for every check, and whether there was a Ctrl-C.
    """
    findings: dict[str, Finding] = {}
    titles = {check.name: check.title for check in checks}
    with CtrlC() as ctrl_c:
        for check in checks:
            finding = _skipped(check, "interrupted by Ctrl-C")
            if not ctrl_c.is_heard:
                with ctrl_c.ending_this():
                    finding = _look(check, patient, findings, titles, deadline())
            findings[check.name] = finding
            note(finding)
    return list(findings.values()), ctrl_c.is_heard


def _look(
    check: Check[_Patient], patient: _Patient, findings: dict[str, Finding], titles: dict[str, str], deadline: float
) -> Finding:
    for need in check.needs:
        if findings[need].status is Status.FAILED or findings[need].is_blocked:
            return _skipped(check, f"it needs: {titles[need]}")
    begun = time.monotonic()
    if begun >= deadline and not check.is_quick:
        return _skipped(check, "no time is left; give more with --timeout")
    try:
        text, facts = check.look(patient)
    except NotNow as why:
        return Finding(check.name, Status.SKIPPED, str(why), seconds=time.monotonic() - begun)
    except Exception as error:
        trouble = _trouble(error)
        seconds = time.monotonic() - begun
        return Finding(check.name, Status.FAILED, trouble.text, trouble.fix, seconds, trouble.facts)
    return Finding(check.name, Status.OK, text, None, time.monotonic() - begun, facts)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, Trouble):
        return error
    if isinstance(error, WSClientError):
        return Trouble(error.message, next_step(error), code=str(error.code))
    # One check that nobody foresaw must not take the others along.
    return Trouble(f"unexpected {type(error).__name__}: {error}", "To see where, run: wsclient models --debug")


def _skipped(check: Check[Any], why: str) -> Finding:
    return Finding(check.name, Status.SKIPPED, why, is_blocked=True)
