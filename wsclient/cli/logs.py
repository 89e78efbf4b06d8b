"""The library's log, when somebody asked for it; the library itself adds no handler."""

from __future__ import annotations

import logging

from . import terminal

__all__ = ["log_nowhere", "log_to_stderr"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _CleanFormatter(logging.Formatter):
    """What strangers sent (names, reasons) is in the log too; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal.clean(super().format(record))


def log_to_stderr(level: int) -> None:
    """Write the log of `wsclient.*` to stderr.

    Args:
        level: as the module `logging` counts.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_CleanFormatter(_FORMAT))
    logger = logging.getLogger("wsclient")
    logger.handlers = [handler]
    logger.setLevel(level)


def log_nowhere() -> None:
    """Keep the log of `wsclient.*` quiet: Python writes warnings that nobody handles to stderr, between our lines."""
    logging.getLogger("wsclient").handlers = [logging.NullHandler()]
