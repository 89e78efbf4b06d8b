"""A file that is written as a whole: whoever reads it sees what was there before, or all of what is there now."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["OutFile"]


class OutFile:
    """A file that comes into being, or is replaced, when all of it was written; a context manager.

    What was written before an exception stays in a file beside it, with `.part` at the end of its name. What is no
    plain file (a pipe, a device) is written to directly.

    Args:
        path: where to; through links, as other programs write.

    Raises:
        OSError: it cannot be written; said before anything is.

    Attributes:
        part: where the text is until it is whole, `None` for what is no plain file.
        size: how many characters were written.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = None
        with suppress(FileNotFoundError):
            mode = os.stat(self._path).st_mode
        is_plain = mode is None or stat.S_ISREG(mode)
        self.part = self._path.with_name(self._path.name + ".part") if is_plain else None
        self.size = 0
        try:
            self._file: IO[str] = open(self.part or self._path, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if mode is not None and is_plain:
            os.fchmod(self._file.fileno(), stat.S_IMODE(mode))

    def write(self, text: str) -> None:
        """Write text, at once: what came is there, however this ends.

        Raises:
            OSError: it cannot be written.
        """
        self._file.write(text)
        self._file.flush()
        self.size += len(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            # A full disk can show itself as late as here: then nothing is replaced.
            self._file.close()
            if self.part is not None:
                os.replace(self.part, self._path)
            return
        with suppress(OSError):
            self._file.close()
        if self.part is not None and self.size == 0:
            with suppress(OSError):
                self.part.unlink()
