"""The clients file on disk: a JSON array, read whole, changed under a lock between processes, replaced atomically.

What the entries mean is `registry.py`'s business. The original's own way of writing (from memory, whatever the file
says by then) loses what others wrote; here nobody writes without having read under the lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import attrs
from filelock import FileLock, Timeout

__all__ = ["Content", "RegistryError", "Stamp", "dump_json", "exclusive", "read", "stamp_of", "write", "write_new"]

Stamp: TypeAlias = tuple[int, int, int] | None
"""What tells one state of the file from another without reading it; `None` for no file."""

LOCK_TIMEOUT = 10.0


class RegistryError(Exception):
    """The clients file cannot be read, understood, locked or written; nothing was changed.

    Args:
        message: names the file, the reason and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@attrs.frozen(slots=True)
class Content:
    """The file at one moment.

    Attributes:
        stamp: of that moment.
        entries: the array's items as they are, good or bad.
    """

    stamp: Stamp
    entries: list[Any]


def stamp_of(path: Path) -> Stamp:
    """Return the file's stamp now; one `stat`.

    Raises:
        RegistryError: the file cannot be looked at.
    """
    try:
        return _stamp(os.stat(path))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _disk_error(path, "looked at", exc) from exc


def read(path: Path) -> Content:
    """Read the file; no file is an empty array.

    Raises:
        RegistryError: it cannot be read, or is not a JSON array; the message says where it goes wrong.
    """
    try:
        with open(path, "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            data = file.read()
    except FileNotFoundError:
        return Content(None, [])
    except OSError as exc:
        raise _disk_error(path, "read", exc) from exc
    return Content(stamp, _parse(path, data))


def _parse(path: Path, data: bytes) -> list[Any]:
    if not data.strip():
        raise RegistryError(f"{path} is empty; put back a backup of it, or write [] into it for no clients")
    try:
        entries = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise RegistryError(f"{path} is not UTF-8 (byte {exc.start}); mend it, or put back a backup") from exc
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise RegistryError(f"{path} is not valid JSON: {exc.msg} ({where}); mend it, or put back a backup") from exc
    except (ValueError, RecursionError) as exc:
        raise RegistryError(f"{path} is not valid JSON: {exc}; mend it, or put back a backup") from exc
    if not isinstance(entries, list):
        raise RegistryError(f"{path} must hold a JSON array of clients (it begins with {data.strip()[:1]!r})")
    return entries


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


@contextmanager
def exclusive(path: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Keep every other process of ours from changing the file meanwhile.

    Args:
        path: the clients file; the lock is a file beside it, and stays there.
        timeout: how many seconds to wait for others.

    Raises:
        RegistryError: others took too long, or the lock's file cannot be made.
    """
    path = _real(path)
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Asked for often: a change takes a few milliseconds, and who asks rarely loses to who asks often.
        lock = FileLock(lock_path, timeout=timeout, poll_interval=0.005)
        lock.acquire()
    except Timeout:
        raise RegistryError(f"{path} is locked by another process for more than {timeout:g} s; try again") from None
    except OSError as exc:
        raise _disk_error(lock_path, "locked", exc) from exc
    try:
        _give_to_owner(lock_path, path)
        yield
    finally:
        lock.release()


def write(path: Path, entries: Sequence[Any]) -> Stamp:
    """Replace the file; whoever reads it sees the old or the new one, also after a power cut.

    Call it under `exclusive` only.

    Returns:
        The new file's stamp.

    Raises:
        RegistryError: it cannot be written; the old file is untouched.
    """
    # The link's target is replaced, not the link. The draft's name is fixed: the lock makes it ours alone, and what a
    # crash left behind is swept away by the next change.
    path = _real(path)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        write_new(draft, dump_json([*entries]), like=path)
        stamp = stamp_of(draft)
        os.replace(draft, path)
        _sync_directory(path.parent)
    except OSError as exc:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise _disk_error(path, "written", exc) from exc
    return stamp


def write_new(path: Path, data: bytes, like: Path) -> None:
    """Write a file that must not exist yet, and have it on the disk before returning.

    Args:
        path: the new file.
        data: its content.
        like: the file whose mode it gets; 0600 when that one does not exist.

    Raises:
        OSError: it exists, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, os.stat(like).st_mode & 0o777)
            _give_to_owner(path, like)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def dump_json(value: Any) -> bytes:
    """Write JSON as the original does: two spaces, no newline at the end, letters as they are."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair in somebody's name: legal in JSON as an escape, impossible in UTF-8.
        return json.dumps(value, indent=2).encode()


def _real(path: Path) -> Path:
    # Not Path.resolve: until Python 3.12 that raises RuntimeError for links in a circle.
    return Path(os.path.realpath(path))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _give_to_owner(path: Path, like: Path) -> None:
    # An administrator who registers a client as root must not lock out the gateway, which runs as somebody else.
    if os.geteuid() != 0:
        return
    owner = os.stat(like if like.exists() else like.parent)
    status = os.stat(path)
    if (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
        with suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync_directory(directory: Path) -> None:
    # Not every file system can; the file itself is in place by now, so this is no failure.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _disk_error(path: Path, what: str, exc: OSError) -> RegistryError:
    return RegistryError(f"{path} cannot be {what}: {exc.strerror or exc}")
