"""The library's loggers. A log handler or filter of the program's own may raise; the library's threads must go on."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

__all__ = ["Logger"]


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger of `wsclient.*` that never raises: whoever logs has somebody waiting for what comes after it.

    Args:
        name: the logger's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log; every other method comes here."""
        with contextlib.suppress(Exception):
            # The record names who called, not this line.
            super().log(level, msg, *args, **{"stacklevel": 2} | kwargs)
