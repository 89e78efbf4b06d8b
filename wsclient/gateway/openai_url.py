"""Where a server of OpenAI's API is, and the key for it. Importable without aiohttp."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["API_KEY_VARIABLE", "DEFAULT_OPENAI_URL", "parse_openai_url", "read_api_key"]

# Where llama.cpp's server listens unless told otherwise.
DEFAULT_OPENAI_URL = "http://127.0.0.1:8080/v1"

API_KEY_VARIABLE = "OPENAI_API_KEY"

_MAX_KEY_CHARS = 4096


def parse_openai_url(text: str) -> str:
    """Return the base URL that a setting stands for: without a path it is `/v1`, any other path is kept.

    Raises:
        ValueError: it is no URL of http or https, or has a user name, password, query or fragment.
    """
    # First, so that no error shows a password.
    if "@" in text:
        raise ValueError("must not have a user name or password in it")
    try:
        parts = urlsplit(text.strip())
        # Read for its error: it is checked only here.
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be a URL like {DEFAULT_OPENAI_URL!r} (got {text[:100]!r})")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment in it")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def read_api_key(path: Path | None, environ: Mapping[str, str]) -> str | None:
    """Return the model server's API key, `None` when there is none; an error never shows it.

    Args:
        path: its file, which wins; white space around the key does not count. It belongs to this user or root, and
            only root's own files may be readable by others: that is how containers hand out secrets.
        environ: where `OPENAI_API_KEY` may be.

    Raises:
        ValueError: the file cannot be read or others can, or what there is cannot be a key.
    """
    if path is None:
        key, origin = environ.get(API_KEY_VARIABLE, "").strip(), API_KEY_VARIABLE
        if not key:
            return None
    else:
        key, origin = _read(path), str(path)
    if not re.fullmatch(rf"[!-~]{{1,{_MAX_KEY_CHARS}}}", key):
        raise ValueError(f"the API key in {origin} must be printable ASCII characters without spaces")
    return key


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            # The open file is judged, not the path: nobody can put another one there in between.
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid not in (os.geteuid(), 0):
                raise ValueError(f"the API key {path} belongs to user {status.st_uid}, not to this one or root")
            if mode & 0o022 or (mode & 0o044 and status.st_uid != 0):
                raise ValueError(f"the API key {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")
            return file.read(2 * _MAX_KEY_CHARS).decode("ascii", "replace").strip()
    except OSError as error:
        raise ValueError(f"the API key {path} cannot be read: {error.strerror}") from error
