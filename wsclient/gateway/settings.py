"""What a gateway can be told, each setting declared and checked once. Importable without the extra `gateway`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..core.auth import hash_for_algorithm
from .addresses import normal_origin, parse_network
from .admin_token import ADMIN_TOKEN_VARIABLE, check_admin_token, read_admin_token
from .ollama_host import DEFAULT_OLLAMA_URL, parse_ollama_host
from .openai_url import DEFAULT_OPENAI_URL, parse_openai_url
from .store.address import DEFAULT_PREFIX, STORE_VARIABLE, StoreAddress, check_prefix

__all__ = ["BACKENDS", "GatewaySettings"]

BACKENDS = ("ollama", "openai", "builtin")

_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_optional = attrs.validators.optional
_ALL_ADDRESSES = frozenset({"0.0.0.0", "::"})
_METRICS_HOST = "127.0.0.1"
_NO_METRICS_PORT = "metrics_host is of no use without metrics_port"
_NUMBER, _BYTES = "a whole number", "a number of bytes"

# The original logs through winston; its names are taken as well as Python's.
_LOG_LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "http": logging.DEBUG,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
    "silly": logging.DEBUG,
}


def _got(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(low: int, high: int, what: str) -> _Validator:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{attribute.name} must be {what} from {low} to {high} (got {_got(value)})")

    return check


def _seconds(low: float, high: float) -> _Validator:
    """Return a validator for a time; what is above `high` was most likely meant as milliseconds."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high:
            raise ValueError(f"{attribute.name} must be {low:g} to {high:g} seconds (got {_got(value)})")

    return check


def _texts(value: Any) -> Any:
    """Return what a repeatable flag gave as a tuple; what cannot be one is left for the validator to name."""
    return tuple(value) if isinstance(value, list | tuple) else value


def _each(check: Callable[[str], object], what: str) -> _Validator:
    """Return a validator for a tuple of texts, for none of which `check` raises `ValueError`."""

    def check_all(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, tuple):
            raise ValueError(f"{attribute.name} must be a list of texts (got {_got(value)})")
        for item in value:
            try:
                check(item)
            except (ValueError, TypeError, AttributeError):
                raise ValueError(f"{attribute.name} must be {what} (got {_got(item)})") from None

    return check_all


def _origin_or_any(value: str) -> None:
    if value != "*":
        normal_origin(value)


def _text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{attribute.name} must be a text that is not empty (got {_got(value)})")


def _one_of(*allowed: str) -> _Validator:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} must be one of {', '.join(map(repr, allowed))} (got {_got(value)})")

    return check


def _algorithm(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        hash_for_algorithm(value)
    except ValueError as error:
        raise ValueError(f"{attribute.name}: {error}") from None


def _token(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    # The value is a secret: unlike the others' errors, this one does not show it.
    check_admin_token(value if isinstance(value, str) else "")


def _store_url(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        StoreAddress.parse(value)
    except ValueError as error:
        raise ValueError(f"{attribute.name} {error}") from None


def _key_prefix(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        check_prefix(value)
    except ValueError as error:
        raise ValueError(f"{attribute.name} {error}") from None


def _log_level(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or value.lower() not in _LOG_LEVELS:
        raise ValueError(f"{attribute.name} must be one of {', '.join(_LOG_LEVELS)} (got {_got(value)})")


def _path(value: Any) -> Any:
    """Return a path as such; what cannot be one is left for `_is_path` to name."""
    return Path(value).expanduser() if isinstance(value, str | os.PathLike) and os.fspath(value) else value


def _is_path(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, Path):
        raise ValueError(f"{attribute.name} must be text or a Path, and not empty (got {_got(value)})")


def _ollama_url(value: Any) -> str:
    """Return the model server's base URL; the `/api` that the original's `OLLAMA_API_URL` ends with is left off."""
    if not isinstance(value, str):
        raise ValueError(f"ollama_url must be a URL like {DEFAULT_OLLAMA_URL!r} (got {_got(value)})")
    try:
        url = parse_ollama_host(value)
    except ValueError as error:
        raise ValueError(str(error).replace("OLLAMA_HOST", "ollama_url", 1)) from None
    return url.removesuffix("/api").rstrip("/")


def _openai_url(value: Any) -> str:
    try:
        return parse_openai_url(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise ValueError(f"openai_url {error}") from None


def _urls(name: str, parse: Callable[[Any], str], value: Any) -> tuple[str, ...]:
    """Return the URLs of model servers, given as one, as several with commas between them, or as a list of such."""
    given = value if isinstance(value, list | tuple) else [value]
    parts = [part for item in given for part in (item.split(",") if isinstance(item, str) else [item])]
    # One alone may be empty, as Ollama's own variable; between commas that is a slip of the pen.
    if not parts or (len(parts) > 1 and not all(parts)):
        raise ValueError(f"{name} must be URLs with commas between them (got {_got(value)})")
    urls = tuple(map(parse, parts))
    if len(set(urls)) < len(urls):
        raise ValueError(f"{name} must name each model server once (got {_got(value)})")
    return urls


def _ollama_urls(value: Any) -> tuple[str, ...]:
    return _urls("ollama_url", _ollama_url, value)


def _openai_urls(value: Any) -> tuple[str, ...]:
    return _urls("openai_url", _openai_url, value)


@attrs.frozen(kw_only=True)
class GatewaySettings:
    """Everything a gateway can be told, checked at birth. Times are seconds, sizes are bytes.

    Attributes:
        host: the address to listen on; 127.0.0.1 keeps the gateway to this machine.
        port: the port to listen on; 0 for a free one.
        data_dir: where the clients file is.
        clients_file: the clients file, when it is not `authorized_clients.json` in `data_dir`.
        store: the URL of the Redis that several gateways share, instead of the clients file: `redis://`, `rediss://` or
            `unix://`. It may have a password: give it by the environment then, or the password by a file.
        store_prefix: what the names of all keys in it begin with.
        store_password_file: a file that holds its password.
        backend: `"ollama"`, `"openai"` for any server of OpenAI's API, or `"builtin"` for the small model that needs no
            model server.
        ollama_url: where Ollama answers: a URL, or host and port; a path `/api` at the end makes no difference.
            Several, in a list or with commas between them, share the work; kept as a tuple.
        openai_url: the base URL of the server of OpenAI's API; without a path it is `/v1`. Several as for `ollama_url`.
        openai_key_file: the file of its API key; `OPENAI_API_KEY` in the environment counts when there is none.
        openai_api: `"chat"`, or `"completions"` for prompts without the model's template.
        openai_options: `"standard"` for the options that OpenAI documents, `"extended"` for those of llama.cpp's server
            and vLLM too; `"auto"` is `"standard"` at api.openai.com and `"extended"` elsewhere.
        default_model: the model of requests that name none.
        auth_timeout: how long a connection may take to log in.
        max_auth_attempts: failed logins in a row before an address is made to wait.
        default_signature_algorithm: for clients registered without one.
        max_message_size: of one message from a client that has logged in.
        max_message_size_before_login: of one message from anybody else.
        max_messages_before_login: that a connection may send until it has logged in.
        max_sockets_before_login_per_address: connections of one address that have not logged in.
        max_open_requests: of one connection, running at the same time.
        max_open_bytes: that the running requests of one client have together, over all its connections; one alone may
            have more.
        max_open_generations: of one client over all its connections; `None`, as for the next two, for no limit. These
            and `max_message_size` are defaults: the clients file can say otherwise of each client.
        requests_per_minute: of one client over all its connections; generations and lists of models count.
        max_prompt_size: of the prompt and the system prompt together.
        max_unsent_bytes: that wait for a client to read them before it is cut off.
        write_timeout: how long a client may read less than 1 KiB a second while much waits for it.
        close_timeout: how long the other side of a closing handshake is waited for.
        first_token_timeout: how long the model server may take for its first token; a cold model loads in this time.
        token_timeout: how long it may be silent after that.
        max_running: generations that one model works at, at each model server; what `OLLAMA_NUM_PARALLEL` says suits an
            Ollama best.
        max_waiting: generations that may wait for one model; beyond that requests are told that it is busy.
        max_wait: how long one may wait for its turn.
        allow_origin: web pages that may connect, as `https://host`, or `*` for all; who sends no Origin is no web page.
        trusted_proxy: addresses and networks of the reverse proxies whose `X-Forwarded-For` is believed.
        tls_cert: a PEM file with the certificate and its chain, for `wss://`; read again when it changes.
        tls_key: a PEM file with its private key, when that is not in the certificate's file.
        drain: how long an orderly stop lets running generations finish.
        admin_token: what an administrator proves itself with who registers clients over HTTP; without one, nobody can.
            It is a secret: give it by the environment or by a file, never on a command line.
        admin_token_file: a file that holds it; wins over `admin_token`.
        metrics_port: the port of `/metrics`, `/healthz` and `/readyz` for operators, without a token; 0 for a free one,
            `None` for none.
        metrics_host: the address of that port.
        log_level: of the loggers `wsclient.gateway.*`; used by whoever sets up logging.
    """

    host: str = attrs.field(default="127.0.0.1", validator=_text)
    port: int = attrs.field(default=3000, validator=_whole(0, 65535, _NUMBER))
    data_dir: Path = attrs.field(default=Path("data"), converter=_path, validator=_is_path)
    clients_file: Path | None = attrs.field(default=None, converter=_path, validator=_optional(_is_path))
    store: str | None = attrs.field(default=None, repr=False, validator=_optional(_store_url))
    store_prefix: str = attrs.field(default=DEFAULT_PREFIX, validator=_key_prefix)
    store_password_file: Path | None = attrs.field(default=None, converter=_path, validator=_optional(_is_path))
    backend: str = attrs.field(default="ollama", validator=_one_of(*BACKENDS))
    ollama_url: tuple[str, ...] = attrs.field(default=(DEFAULT_OLLAMA_URL,), converter=_ollama_urls)
    openai_url: tuple[str, ...] = attrs.field(default=(DEFAULT_OPENAI_URL,), converter=_openai_urls)
    openai_key_file: Path | None = attrs.field(
        default=None, converter=_path, validator=attrs.validators.optional(_is_path)
    )
    openai_api: str = attrs.field(default="chat", validator=_one_of("chat", "completions"))
    openai_options: str = attrs.field(default="auto", validator=_one_of("auto", "standard", "extended"))
    default_model: str = attrs.field(validator=_text)
    auth_timeout: float = attrs.field(default=10.0, validator=_seconds(0.01, 3600))
    max_auth_attempts: int = attrs.field(default=5, validator=_whole(1, 1000, _NUMBER))
    default_signature_algorithm: str = attrs.field(default="SHA256", validator=_algorithm)
    max_message_size: int = attrs.field(default=32 << 20, validator=_whole(8192, 1 << 30, _BYTES))
    max_message_size_before_login: int = attrs.field(default=8192, validator=_whole(1024, 1 << 20, _BYTES))
    max_messages_before_login: int = attrs.field(default=4, validator=_whole(1, 1000, _NUMBER))
    max_sockets_before_login_per_address: int = attrs.field(
        default=256, validator=_whole(1, 1_000_000, "a whole number")
    )
    max_open_requests: int = attrs.field(default=1024, validator=_whole(1, 1_000_000, _NUMBER))
    max_open_bytes: int = attrs.field(default=64 << 20, validator=_whole(8192, 1 << 40, _BYTES))
    max_open_generations: int | None = attrs.field(default=None, validator=_optional(_whole(0, 1_000_000, _NUMBER)))
    requests_per_minute: int | None = attrs.field(default=None, validator=_optional(_whole(0, 100_000, _NUMBER)))
    max_prompt_size: int | None = attrs.field(default=None, validator=_optional(_whole(1, 1 << 30, _BYTES)))
    max_unsent_bytes: int = attrs.field(default=16 << 20, validator=_whole(1 << 16, 1 << 30, _BYTES))
    write_timeout: float = attrs.field(default=30.0, validator=_seconds(0.01, 3600))
    close_timeout: float = attrs.field(default=1.0, validator=_seconds(0.01, 60))
    first_token_timeout: float = attrs.field(default=300.0, validator=_seconds(0.01, 86400))
    token_timeout: float = attrs.field(default=60.0, validator=_seconds(0.01, 86400))
    max_running: int = attrs.field(validator=_whole(1, 100_000, "a whole number"))
    max_waiting: int = attrs.field(default=64, validator=_whole(0, 100_000, "a whole number"))
    max_wait: float = attrs.field(default=120.0, validator=_seconds(0, 86400))
    allow_origin: tuple[str, ...] = attrs.field(
        default=(), converter=_texts, validator=_each(_origin_or_any, "origins like 'https://example.org', or '*'")
    )
    trusted_proxy: tuple[str, ...] = attrs.field(
        default=(), converter=_texts, validator=_each(parse_network, "addresses or networks like '10.0.0.0/8'")
    )
    tls_cert: Path | None = attrs.field(default=None, converter=_path, validator=_optional(_is_path))
    tls_key: Path | None = attrs.field(default=None, converter=_path, validator=_optional(_is_path))
    drain: float = attrs.field(default=10.0, validator=_seconds(0, 3600))
    admin_token: str | None = attrs.field(default=None, repr=False, validator=attrs.validators.optional(_token))
    admin_token_file: Path | None = attrs.field(
        default=None, converter=_path, validator=attrs.validators.optional(_is_path)
    )
    metrics_port: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_whole(0, 65535, "a whole number"))
    )
    metrics_host: str = attrs.field(default=_METRICS_HOST, validator=_text)
    log_level: str = attrs.field(default="info", validator=_log_level)

    def __attrs_post_init__(self) -> None:
        if self.store is None and self.store_password_file is not None:
            raise ValueError("store_password_file is of no use without store")
        if self.store is not None and self.clients_file is not None:
            raise ValueError("clients_file is of no use with store; give one of them")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key is of no use without tls_cert")
        if self.metrics_host != _METRICS_HOST and self.metrics_port is None:
            raise ValueError(_NO_METRICS_PORT)
        hosts = {self.host, self.metrics_host}
        if self.metrics_port and self.metrics_port == self.port and (len(hosts) == 1 or hosts & _ALL_ADDRESSES):
            raise ValueError(f"metrics_port must be another one than port (got {self.port} for both)")

    @default_model.default
    def _default_model(self) -> str:
        # llama2 is the original's own default, from the days when it was everybody's first (protocol.md section 6);
        # "default" is the first model that the server of OpenAI's API lists.
        if self.backend == "openai":
            return "default"
        return "builtin" if self.backend == "builtin" else "llama2"

    @max_running.default
    def _max_running(self) -> int:
        # An Ollama works at 1 to 4 and lets all others wait in the order of their coming; servers behind OpenAI's API
        # batch dozens; the built-in model only takes turns.
        if self.backend == "ollama":
            return 4
        return 64 if self.backend == "openai" else 100_000

    @property
    def model_server_urls(self) -> tuple[str, ...]:
        """Where the model servers are; empty when the backend needs none."""
        return {"ollama": self.ollama_url, "openai": self.openai_url}.get(self.backend, ())

    @property
    def clients_path(self) -> Path:
        """The clients file's path."""
        return self.clients_file or self.data_dir / "authorized_clients.json"

    def find_store(self) -> StoreAddress | None:
        """Return where the store is, its password included; `None` when there is none.

        Raises:
            OSError: the password's file cannot be read.
            ValueError: that file is open to others or empty, or there are two passwords.
        """
        if self.store is None:
            return None
        return StoreAddress.parse(self.store).with_password_from(self.store_password_file)

    def read_admin_token(self) -> str | None:
        """Return the admin token, `None` when there is none.

        Raises:
            OSError: its file cannot be read.
            ValueError: its file is open to others, or holds no token.
        """
        return self.admin_token if self.admin_token_file is None else read_admin_token(self.admin_token_file)

    @property
    def log_level_number(self) -> int:
        """The log level as the module `logging` counts."""
        return _LOG_LEVELS[self.log_level.lower()]

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> GatewaySettings:
        """Read the original server's environment variables (protocol.md section 6), and `OPENAI_BASE_URL`.

        A variable that is empty counts as not set.

        Args:
            environ: the variables; the process's own when left out.
            **overrides: settings that win over them; `None` counts as not given, and so does a flag that may be
                repeated and was not there: `()`.

        Returns:
            The settings.

        Raises:
            ValueError: a variable or a setting is not what it must be; the text names it.
            TypeError: there is no such setting.
        """
        environ = os.environ if environ is None else environ
        given = {name: value for name, value in overrides.items() if value not in (None, ())}
        if "metrics_host" in given and "metrics_port" not in given:
            # Also when it is the default: who gives it expects figures.
            raise ValueError(_NO_METRICS_PORT)
        backend = given.get("backend", _PLAIN.backend)
        for variable, (name, parse) in _VARIABLES.items():
            text = environ.get(variable, "").strip()
            if not text or name in given:
                continue
            # A model of Ollama's means nothing to another backend.
            if _BACKEND_OF.get(variable.partition("_")[0], backend) != backend:
                continue
            try:
                given[name] = parse(text)
                attrs.evolve(_PLAIN, **{name: given[name]})
            except ValueError as error:
                raise ValueError(f"the environment variable {variable}: {error}") from None
        return cls(**given)


def _parse_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number (got {_got(text)})") from None


def _parse_milliseconds(text: str) -> float:
    return _parse_whole(text) / 1000


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "HOST": ("host", str),
    "PORT": ("port", _parse_whole),
    "DATA_DIR": ("data_dir", str),
    "OLLAMA_API_URL": ("ollama_url", str),
    "OLLAMA_DEFAULT_MODEL": ("default_model", str),
    "OPENAI_BASE_URL": ("openai_url", str),
    "AUTH_TIMEOUT_MS": ("auth_timeout", _parse_milliseconds),
    "MAX_AUTH_ATTEMPTS": ("max_auth_attempts", _parse_whole),
    "DEFAULT_SIGNATURE_ALGORITHM": ("default_signature_algorithm", str),
    "LOG_LEVEL": ("log_level", str),
    ADMIN_TOKEN_VARIABLE: ("admin_token", str),
    STORE_VARIABLE: ("store", str),
}

_BACKEND_OF = {"OLLAMA": "ollama", "OPENAI": "openai"}

# Each variable is tried on this one by itself, so that an error can say which it came from.
_PLAIN = GatewaySettings()
