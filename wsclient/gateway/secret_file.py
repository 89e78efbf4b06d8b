"""Files that hold a secret: who may own them, and who may read them. Importable without the extra `gateway`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["read_secret"]


def read_secret(path: Path, max_bytes: int) -> str:
    """Read a secret from its file; white space around it does not count.

    Args:
        path: belongs to this user or root. Only root's own files may be readable by others: that is how service
            managers and containers hand out secrets.
        max_bytes: what is read at most.

    Raises:
        OSError: it cannot be read.
        ValueError: others can read or change it.
    """
    with open(path, "rb") as file:
        # The open file is judged, not the path: nobody can put another one there in between.
        status = os.fstat(file.fileno())
        shown = f"mode {stat.S_IMODE(status.st_mode):04o}"
        if status.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"{path} belongs to user {status.st_uid}; make it your own: chown {os.geteuid()} {path}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{path} can be written by others ({shown}); run: chmod 600 {path}")
        if status.st_mode & (stat.S_IRGRP | stat.S_IROTH) and status.st_uid != 0:
            raise ValueError(f"{path} can be read by others ({shown}); run: chmod 600 {path}")
        return file.read(max_bytes).decode("utf-8", "replace").strip()
