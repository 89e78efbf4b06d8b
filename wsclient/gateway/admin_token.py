"""The administrator's token: what it may be, its file, and comparing it. Importable without the extra `gateway`."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from .secret_file import read_secret

__all__ = [
    "ADMIN_TOKEN_VARIABLE",
    "KEY_PENDING",
    "REGISTRATION_PATH",
    "ROTATION_PATH",
    "STATUS_PATH",
    "AdminToken",
    "check_admin_token",
    "read_admin_token",
]

ADMIN_TOKEN_VARIABLE = "WSCLIENT_ADMIN_TOKEN"
REGISTRATION_PATH = "/api/auth/register"
ROTATION_PATH = "/api/auth/rotate"
STATUS_PATH = "/api/status"
KEY_PENDING = "key_pending"
"""The code of a refusal to rotate a client's key once more, before the last new one has logged in."""

_MIN_CHARS, _MAX_CHARS = 16, 512
_HOW = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def check_admin_token(text: str) -> str:
    """Return a token that can be one; the error never shows it.

    Raises:
        ValueError: it is too short to be safe, too long, or cannot stand in an HTTP header.
    """
    if not _MIN_CHARS <= len(text) <= _MAX_CHARS or not re.fullmatch(r"[!-~]+", text):
        what = f"{_MIN_CHARS} to {_MAX_CHARS} printable ASCII characters without spaces"
        raise ValueError(f"the admin token must be {what}; {_HOW}")
    return text


def read_admin_token(path: Path) -> str:
    """Read a token from its file; white space around it does not count.

    Args:
        path: see `read_secret`.

    Raises:
        OSError: it cannot be read.
        ValueError: others can read or change it, or what it holds cannot be a token.
    """
    text = read_secret(path, 4 * _MAX_CHARS)
    try:
        return check_admin_token(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class AdminToken:
    """A token to compare with; keeps no copy of it.

    Args:
        text: the token.
    """

    def __init__(self, text: str) -> None:
        self._digest = _digest(text)

    def is_in(self, authorization: str) -> bool:
        """Return whether an `Authorization` header brings this token; takes as long for every wrong one.

        Args:
            authorization: the header's value.
        """
        scheme, _, credentials = authorization.partition(" ")
        # Compared whatever the scheme is, and as digests, which all have the same length.
        is_right = hmac.compare_digest(_digest(credentials.strip()), self._digest)
        return is_right and scheme.lower() == "bearer"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
