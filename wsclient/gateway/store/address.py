"""Where the store is: its URL taken apart, the password kept apart from what may be shown. Needs no `redis`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from ..secret_file import read_secret

__all__ = ["DEFAULT_PREFIX", "STORE_VARIABLE", "StoreAddress", "check_prefix"]

STORE_VARIABLE = "WSCLIENT_STORE"
DEFAULT_PREFIX = "wsclient:"

_SCHEMES = ("redis", "rediss", "unix")
_WHAT = "a URL like redis://host:6379/0, rediss://user:password@host or unix:///path/to/redis.sock?db=0"
_PORT = 6379
_MAX_PREFIX_CHARS, _MAX_PASSWORD_BYTES = 64, 4096
# Of the parameters that the package knows, those that cannot turn the verification of a certificate off.
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@attrs.frozen(kw_only=True)
class StoreAddress:
    """A Redis (or Valkey), and how to get in.

    Attributes:
        shown: the URL without user, password and parameters, for logs and errors.
        host, port: of `redis://` and `rediss://`.
        socket_path: of `unix://`, `None` otherwise.
        db: the number of the database.
        username, password: `None` when there is none.
        is_encrypted: whether TLS is spoken; the server's certificate and name are always checked.
        tls_files: paths for TLS, by the package's names: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`.
    """

    shown: str
    host: str = ""
    port: int = _PORT
    socket_path: str | None = None
    db: int = 0
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    is_encrypted: bool = False
    tls_files: dict[str, str] = attrs.field(factory=dict, hash=False)

    @classmethod
    def parse(cls, url: object) -> StoreAddress:
        """Read a URL.

        Raises:
            ValueError: it is none of a store; the text shows nothing of it that could be a password.
        """
        try:
            parts = urlsplit(url.strip() if isinstance(url, str) else "")
            port = parts.port
        except ValueError:
            raise ValueError(f"must be {_WHAT} (its host or port is wrong)") from None
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"must be {_WHAT}")
        if parts.fragment:
            raise ValueError("must have no '#': in a password it is written %23")
        parameters = _parameters(parts)
        if parts.scheme == "unix":
            path = unquote(parts.path)
            if not path.startswith("/") or parts.hostname:
                raise ValueError("of a socket must be unix:///absolute/path.sock, with ?db=1 for another database")
            db, shown = parameters.get("db", "0"), f"unix://{path}"
        else:
            if not parts.hostname:
                raise ValueError(f"must be {_WHAT} (it names no host)")
            path = parts.path.strip("/")
            db, shown = parameters.get("db", path or "0"), f"{parts.scheme}://{_host(parts)}:{port or _PORT}"
        if not (db.isascii() and db.isdigit() and len(db) <= 9):
            raise ValueError("must name its database by a number, as in redis://host:6379/0")
        return cls(
            shown=f"{shown}?db={db}" if parts.scheme == "unix" else f"{shown}/{int(db)}",
            host=parts.hostname or "",
            port=port or _PORT,
            socket_path=path if parts.scheme == "unix" else None,
            db=int(db),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            is_encrypted=parts.scheme == "rediss",
            tls_files={name: value for name, value in parameters.items() if name in _TLS_FILES},
        )

    def with_password_from(self, path: Path | None) -> StoreAddress:
        """Return the address with the password that a file holds; itself without a file.

        Raises:
            OSError: the file cannot be read.
            ValueError: others can read or change it, it is empty, or the URL has a password too.
        """
        if path is None:
            return self
        if self.password is not None:
            raise ValueError("the password is in the store's URL and in a file; leave one of them out")
        password = read_secret(path, _MAX_PASSWORD_BYTES)
        if not password:
            raise ValueError(f"{path} holds no password")
        return attrs.evolve(self, password=password)


def check_prefix(prefix: object) -> str:
    """Return what the names of all keys begin with.

    Raises:
        ValueError: it cannot be that.
    """
    if not isinstance(prefix, str) or not 0 < len(prefix) <= _MAX_PREFIX_CHARS or not prefix.isprintable():
        raise ValueError(f"must be 1 to {_MAX_PREFIX_CHARS} printable characters (got {repr(prefix)[:80]})")
    return prefix


def _parameters(parts: SplitResult) -> dict[str, str]:
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = ("db", *_TLS_FILES) if parts.scheme == "rediss" else ("db",)
    for name in parameters:
        if name not in allowed:
            raise ValueError(f"may have only the parameters {', '.join(allowed)} (got {name[:40]!r})")
    return parameters


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host
