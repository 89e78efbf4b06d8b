"""What a client can be told, each option declared and checked once."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import attrs

from .core.auth import hash_for_algorithm

__all__ = ["ClientOptions"]

_ENVIRONMENT_PREFIX = "WSCLIENT_"


def got(value: Any) -> str:
    """Return a value as error texts show it, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_number(value: Any) -> bool:
    """Return whether it is a finite number that fits a float, and not a truth value."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _seconds(certainly_milliseconds: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return a validator for a time in seconds; what is above the bound was meant as milliseconds (the seed's unit)."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not is_number(value) or value <= 0:
            raise ValueError(f"{attribute.name} must be a number of seconds > 0 (got {got(value)})")
        if value >= certainly_milliseconds:
            raise ValueError(
                f"{attribute.name} is in seconds: {got(value)} looks like milliseconds; did you mean {value / 1000:g}?"
            )

    return check


def _size(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1024:
        raise ValueError(f"{attribute.name} must be a whole number of bytes >= 1024 (got {got(value)})")


def _true_or_false(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be True or False (got {got(value)})")


def _attempts(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{attribute.name} must be a whole number >= 0, or None for ever (got {got(value)})")


def _nonempty_text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{attribute.name} must be a text that is not empty (got {got(value)})")


def _algorithm(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a text like 'RSA-SHA256' (got {got(value)})")
    hash_for_algorithm(value)


def _headers(value: Any) -> dict[str, str]:
    """Return a copy: what the caller does with the mapping later is his own business."""
    if not isinstance(value, Mapping):
        raise TypeError(f"headers must map names to texts (got {type(value).__name__})")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str) or any(c in name + text for c in "\r\n\0"):
            # The value may be a secret, so only the name is shown.
            raise ValueError(f"headers must map names to texts without line breaks (see {got(name)})")
    return dict(value)


def _private_key(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    # Whatever it is, it is never shown.
    if value is None or callable(value) or hasattr(value, "export_key"):
        return
    if not isinstance(value, str | bytes | bytearray):
        allowed = "PEM text or bytes, a key object, or a function that signs"
        raise TypeError(f"{attribute.name} must be {allowed} (got {type(value).__name__})")
    if "-----BEGIN" not in (value if isinstance(value, str) else value.decode("latin-1")):
        raise ValueError(f"{attribute.name} must be PEM text, '-----BEGIN ...'; for a file give private_key_path")


def _passphrase(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, str | bytes) and not callable(value):
        allowed = "text or bytes, or a function that returns one"
        raise TypeError(f"{attribute.name} must be {allowed} (got {type(value).__name__})")


def _ssl_context(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{attribute.name} must be an ssl.SSLContext or None (got {got(value)})")


def _proxy(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None or value == "":
        return
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        is_right = parts.scheme in ("http", "socks4", "socks4a", "socks5", "socks5h") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_right = False
    if not is_right:
        # Not shown: it may carry a password.
        raise ValueError(
            f"{attribute.name} must be a URL like 'http://host:3128', '' for none, or None for the environment's"
        )


def _expand(path: Any) -> str:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"private_key_path must be the path of a file (got {got(path)})")
    if not os.fspath(path):
        raise ValueError("private_key_path must be the path of a file (got '')")
    return os.path.expanduser(path)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def _websocket_urls(value: Any) -> str | tuple[str, ...]:
    """Return the URL, or several, each as `_websocket_url` does."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _websocket_url(value)
    urls = tuple(_websocket_url(url) for url in value)
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if not urls or twice:
        fault = f"names {twice!r} twice" if twice else "has no address in it"
        raise ValueError(f"server_url {fault}; give a URL like 'wss://host', or several different ones")
    return urls


def _websocket_url(value: Any) -> str:
    """Return the URL with a ws scheme; `http(s)://` means `ws(s)://` (protocol.md section 6)."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"server_url must be a URL like 'wss://host' (got {got(value)})")
    try:
        parts = urlsplit(value.strip())
    except ValueError as error:
        raise ValueError(f"server_url is not a URL: {error} (got {got(value)})") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"server_url must start with ws:// or wss:// and name a host (got {got(value)})")
    if parts.username is not None or parts.password is not None:
        raise ValueError("server_url must not carry a user name or password; pass headers= instead")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"server_url has an invalid port (got {got(value)})") from None
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path or "/", parts.query, ""))


@attrs.frozen(kw_only=True)
class ClientOptions:
    """Everything a client can be told, checked at birth. Times are seconds, sizes are bytes.

    Attributes:
        server_url: `ws://` or `wss://`; `http(s)://` means the same. Several, of one system, are tried in order, the
            next one at every failed attempt, and the pauses come between rounds.
        client_id: the id that the server gave when the client was registered.
        private_key_path: the PEM file of the registered key; its permissions are checked.
        signature_algorithm: the one registered with the key: `RSA-SHA256`, `-384` or `-512`.
        auto_reconnect: dial again after a loss, with backoff.
        reconnect_delay: seconds before the first reconnect attempt; doubles with each, jitter of 20 %.
        ping_interval: seconds of silence after which the line is probed.
        request_timeout: seconds that a request may take, waiting for a connection included.
        auto_connect: connect in the background when the client is made.
        private_key: instead of a path: PEM text or bytes, a key object, or `sign(challenge: bytes) -> bytes`.
        passphrase: of the private key, text or bytes, or a callable that returns it.
        max_reconnect_attempts: in a row, then `reconnect_failed`; `None` for ever.
        max_reconnect_delay: seconds that no backoff pause exceeds.
        pong_timeout: seconds for the answer to a probe, and for a stalled send to make progress.
        connect_timeout: seconds for DNS, TCP, TLS and the WebSocket upgrade together, at each address.
        auth_timeout: seconds for the challenge to come, and again for the verdict.
        max_message_size: bytes of one incoming message.
        max_unread_bytes: bytes of a generation that nobody has read yet; each token counts its text plus 64 bytes,
            which is what it costs in memory.
        ssl_context: instead of the default one; the only way to change how certificates are verified.
        headers: more HTTP headers for the upgrade.
        proxy: `http://host:port`, `socks5://...` (with python-socks installed), `""` for none, `None` for what the
            environment says.
        allow_insecure: allow `ws://` to other hosts than this one.
        allow_readable_key: allow a key file that group or others can read.

    Raises:
        ValueError, TypeError: an option is wrong; the text names the option, the value and what is allowed.
    """

    server_url: str | tuple[str, ...] = attrs.field(converter=_websocket_urls)
    client_id: str = attrs.field(validator=_nonempty_text)
    private_key_path: str | None = attrs.field(default=None, converter=attrs.converters.optional(_expand))
    signature_algorithm: str = attrs.field(default="RSA-SHA256", validator=_algorithm)
    auto_reconnect: bool = attrs.field(default=True, validator=_true_or_false)
    reconnect_delay: float = attrs.field(default=1.0, validator=_seconds(300))
    ping_interval: float = attrs.field(default=30.0, validator=_seconds(3_600))
    request_timeout: float = attrs.field(default=60.0, validator=_seconds(20_000))
    auto_connect: bool = attrs.field(default=False, validator=_true_or_false)
    private_key: Any = attrs.field(default=None, validator=_private_key, repr=False)
    passphrase: Any = attrs.field(default=None, validator=_passphrase, repr=False)
    max_reconnect_attempts: int | None = attrs.field(default=10, validator=_attempts)
    max_reconnect_delay: float = attrs.field(default=30.0, validator=_seconds(3_600))
    pong_timeout: float = attrs.field(default=10.0, validator=_seconds(1_000))
    connect_timeout: float = attrs.field(default=10.0, validator=_seconds(1_000))
    auth_timeout: float = attrs.field(default=10.0, validator=_seconds(1_000))
    max_message_size: int = attrs.field(default=64 * 1024 * 1024, validator=_size)
    max_unread_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=_size)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, validator=_ssl_context, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_headers, repr=False)
    proxy: str | None = attrs.field(default=None, validator=_proxy, repr=False)
    allow_insecure: bool = attrs.field(default=False, validator=_true_or_false)
    allow_readable_key: bool = attrs.field(default=False, validator=_true_or_false)

    def __attrs_post_init__(self) -> None:
        if (self.private_key_path is None) == (self.private_key is None):
            raise ValueError("give either private_key_path or private_key (got both or neither)")
        for url in self.server_urls:
            if url.startswith("ws:") and not self.allow_insecure and not _is_loopback(urlsplit(url).hostname or ""):
                raise ValueError(
                    f"server_url {url!r} is not encrypted; use wss://, or allow_insecure=True in a trusted network"
                )

    @property
    def server_urls(self) -> tuple[str, ...]:
        """All of `server_url`, one or several."""
        return (self.server_url,) if isinstance(self.server_url, str) else self.server_url

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> ClientOptions:
        """Read `WSCLIENT_SERVER_URL`, `WSCLIENT_CLIENT_ID`, `WSCLIENT_PRIVATE_KEY_PATH` and so on, one for each option.

        Args:
            environ: the environment, `os.environ` when left out.
            **options: options that win over the environment.

        Raises:
            ValueError, TypeError: an option is wrong or missing; the text names the variable.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in attrs.fields(cls):
            variable = _ENVIRONMENT_PREFIX + field.name.upper()
            if field.name not in options and environ.get(variable):
                values[field.name] = from_text(field.name, environ[variable], variable)
        _leave_one_key(values, options)
        missing = [name for name in ("server_url", "client_id") if name not in values and name not in options]
        if missing:
            names = " and ".join(_ENVIRONMENT_PREFIX + name.upper() for name in missing)
            raise ValueError(f"{names} must be set in the environment (or pass {', '.join(missing)})")
        try:
            return cls(**(values | options))
        except (ValueError, TypeError) as error:
            variables = [_ENVIRONMENT_PREFIX + name.upper() for name in values if re.search(rf"\b{name}\b", str(error))]
            if not variables:
                raise
            raise type(error)(f"{error} [from {' and '.join(variables)}]") from None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **options: Any) -> ClientOptions:
        """Read the JSON that `wsclient register-client` writes.

        A relative `privateKeyPath` is looked for from the working directory, then from the file's own folder.

        Args:
            path: the configuration file.
            **options: options that win over the file.

        Raises:
            OSError: the file cannot be read.
            ValueError, TypeError: it is not such a configuration, or an option is wrong.
        """
        values = read_config(path)
        _leave_one_key(values, options)
        missing = [theirs for theirs in ("serverUrl", "clientId") if _CONFIG_NAMES[theirs] not in values | options]
        if missing:
            lacking = f"{Path(path)} lacks {' and '.join(missing)}"
            raise ValueError(f"{lacking}; write it again with: wsclient register-client")
        return cls(**(values | options))


_CONFIG_NAMES = {
    "serverUrl": "server_url",
    "clientId": "client_id",
    "privateKeyPath": "private_key_path",
    "signatureAlgorithm": "signature_algorithm",
}


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options that a configuration file has, as they are; see `ClientOptions.from_config`.

    Args:
        path: the configuration file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object.
    """
    file = Path(path)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a JSON object (got {type(config).__name__})")
    values = {ours: config[theirs] for theirs, ours in _CONFIG_NAMES.items() if theirs in config}
    if isinstance(values.get("private_key_path"), str):
        values["private_key_path"] = _find_key(values["private_key_path"], file)
    return values


def _leave_one_key(values: dict[str, Any], options: dict[str, Any]) -> None:
    """Have a key that was passed win over one that was read, of whichever kind."""
    if options.get("private_key") is not None or options.get("private_key_path") is not None:
        values.pop("private_key", None)
        values.pop("private_key_path", None)


def _find_key(text: str, config: Path) -> str:
    key = Path(os.path.expanduser(text))
    candidates = (key, config.parent / key, config.parent / key.name)
    return str(next((candidate for candidate in candidates if candidate.exists()), key))


_TEXT_OPTIONS = frozenset(
    {"server_url", "client_id", "private_key_path", "signature_algorithm", "private_key", "passphrase", "proxy"}
)
# A comma can be part of a URL; one before a scheme is none.
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[a-z]+://)")
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def from_text(name: str, text: str, variable: str) -> Any:
    """Return an option's value from the text of a variable; what is wrong with it is told by the variable's name."""
    if name == "server_url" and len(urls := _BETWEEN_URLS.split(text.strip())) > 1:
        return urls
    if name in _TEXT_OPTIONS:
        return text
    if name == "headers":
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
        return {header.strip(): value.strip() for header, _, value in pairs}
    if name == "ssl_context":
        raise ValueError(f"{variable}: ssl_context cannot be given as text; pass it to from_env()")
    default = attrs.fields_dict(ClientOptions)[name].default
    if isinstance(default, bool):
        if text.strip().lower() not in _SWITCHES:
            raise ValueError(f"{variable} must be one of {', '.join(_SWITCHES)} (got {got(text)})")
        return _SWITCHES[text.strip().lower()]
    if name == "max_reconnect_attempts" and text.strip().lower() == "none":
        return None
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        raise ValueError(f"{variable} must be a number (got {got(text)})") from None
