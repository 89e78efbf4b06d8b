"""The results of a batch: JSON lines in the order of the input, which an interrupted batch goes on with."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .failures import Failure

__all__ = ["ResultFile", "encode_result"]

# What every line of ours begins with: the sign that a file is ours, and may be mended.
_START = b'{"line": '


def encode_result(result: Mapping[str, Any]) -> str:
    """Return a result as a line of ASCII, which every reader takes and no terminal obeys."""
    return json.dumps({"line": result["line"], **result}).replace("\x7f", "\\u007f") + "\n"


class ResultFile:
    """The file of `--out`; a context manager. Only one batch at a time writes to it.

    Args:
        path: the file; made if it is not there.

    Raises:
        OSError: it cannot be written.
        Failure: another batch writes to it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A link stays one.
        self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
        self._redone: IO[bytes] | None = None
        self._written = 0
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            self._lock()
            self._mend()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another batch is writing to {self._path}; wait for it, or give another --out") from error

    def _mend(self) -> None:
        """Cut off a line that was not finished, as after a full disk or a sudden end."""
        size = self._file.seek(0, os.SEEK_END)
        start = size
        tail = b""
        while start > 0 and b"\n" not in tail:
            step = min(65536, start)
            start -= step
            self._file.seek(start)
            tail = self._file.read(step) + tail
        unfinished = tail.rpartition(b"\n")[2]
        if unfinished and not unfinished.startswith(_START) and not _START.startswith(unfinished):
            raise self._foreign()
        self._file.truncate(size - len(unfinished))

    def finished(self) -> Iterator[dict[str, Any]]:
        """Yield the results that are there.

        Raises:
            Failure: something else is.
        """
        self._file.seek(0)
        for line in self._file:
            try:
                result = json.loads(line) if line.startswith(_START) else None
            except ValueError:
                result = None
            if not isinstance(result, dict) or not isinstance(result.get("input"), str):
                raise self._foreign()
            yield result

    def redo(self) -> None:
        """Have what is written take the place of what is there, from its beginning on.

        Raises:
            OSError: there is no room beside it.
        """
        self._redone = open(self._draft, "wb")  # noqa: SIM115
        os.fchmod(self._redone.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))

    @property
    def _draft(self) -> Path:
        return self._target.with_name(self._target.name + ".redo")

    def write(self, result: Mapping[str, Any]) -> None:
        """Append a result, at once.

        Raises:
            OSError: it cannot be written.
        """
        line = encode_result(result).encode()
        if self._redone is None:
            self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            return
        try:
            self._redone.write(line)
            self._redone.flush()
        except OSError:
            # Half a line must not come to stand in the middle of others.
            self._abandon(self._redone)
            raise
        self._written += 1

    def _abandon(self, redone: IO[bytes]) -> None:
        self._redone = None
        with suppress(OSError):
            redone.close()
        self._draft.unlink()

    def _replace(self, redone: IO[bytes]) -> None:
        """Take over what was not reached, and put all of it in place."""
        self._file.seek(0)
        for number, line in enumerate(self._file):
            if number >= self._written:
                redone.write(line)
        redone.close()
        os.replace(self._draft, self._target)

    def _foreign(self) -> Failure:
        return Failure(f"{self._path} holds something else than results of wsclient batch; give another --out")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if self._redone is not None:
                self._replace(self._redone)
