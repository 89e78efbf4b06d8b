"""The command line, `wsclient ...`: keys, clients, serving, generating. Needs the extra `cli` (click and rich)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 ok, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        arguments: what stands after `wsclient`; the process's own when left out.
    """
    try:
        # Here, so that a missing extra is a sentence and not a traceback.
        from .program import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich", "filelock"):
            raise
        print(
            f"error: {package} is missing, which the wsclient command needs; "
            "in a checkout of ws-system-client run: pip install '.[cli]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return run(arguments)
