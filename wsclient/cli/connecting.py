"""How a command reaches a gateway: single flags, the file of `--config`, or the environment."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from ..errors import ErrorCode, WSClientError
from ..options import ClientOptions
from . import terminal
from .client_config import read_client_id
from .command import path
from .keys import is_encrypted

__all__ = [
    "CONNECTION_SECTION",
    "add_connection_flags",
    "ask_passphrase",
    "connection_flags",
    "example_config",
    "read_options",
]


# What a connection cannot do without: the option and its flag.
_NEEDED = {"server_url": "--server-url", "client_id": "--client-id", "private_key_path": "--key"}
_VARIABLES = {
    "server_url": ("WSCLIENT_SERVER_URL",),
    "client_id": ("WSCLIENT_CLIENT_ID",),
    "private_key_path": ("WSCLIENT_PRIVATE_KEY_PATH", "WSCLIENT_PRIVATE_KEY"),
}


CONNECTION_SECTION = {"Connection": ("config", "server_url", "client_id", "key", "allow_insecure")}
"""The heading for these flags in a command's help."""

_FLAGS = (
    click.option("--config", type=path, envvar="WSCLIENT_CONFIG", help="The file that register-client wrote."),
    click.option("--server-url", multiple=True, help="The gateway, such as wss://host; may be given several times."),
    click.option("--client-id", help="The id that register-client gave."),
    click.option("--key", type=path, help="The private key, NAME_key.pem."),
    click.option("--allow-insecure", is_flag=True, help="Allow ws:// to other machines than this one."),
)


def add_connection_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags that say how to connect, each as an argument."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def connection_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how to connect, and what they mean as its argument `connection`."""

    @functools.wraps(command)
    def read_first(
        *args: Any, config: Any, server_url: Any, client_id: Any, key: Any, allow_insecure: Any, **kwargs: Any
    ) -> None:
        connection = ask_passphrase(read_options(config, server_url, client_id, key, allow_insecure))
        try:
            command(*args, connection=connection, **kwargs)
        except WSClientError as error:
            error.message = _naming_the_server(error, connection)
            raise

    return add_connection_flags(read_first)


# Errors of a connection, which somebody with several gateways and clients cannot place without their names.
_CODES_OF_CONNECTIONS = {
    ErrorCode.CONNECTION_TIMEOUT,
    ErrorCode.AUTH_CHALLENGE_TIMEOUT,
    ErrorCode.AUTH_TIMEOUT,
    ErrorCode.CONNECTION_LOST,
    ErrorCode.PROTOCOL_ERROR,
}


def _naming_the_server(error: WSClientError, connection: ClientOptions) -> str:
    urls = ", ".join(connection.server_urls)
    if error.code is ErrorCode.INVALID_AUTH:
        return f"{urls} does not let client {connection.client_id!r} in: {error.message}"
    if error.code in _CODES_OF_CONNECTIONS and not any(url in error.message for url in connection.server_urls):
        return f"{urls}: {error.message}"
    return error.message


def read_options(
    config: Path | None, server_url: Sequence[str], client_id: str | None, key: Path | None, allow_insecure: bool
) -> ClientOptions:
    """Return what the flags say about the connection; they win over the file, the file over `WSCLIENT_*`.

    Raises:
        click.UsageError: it is wrong or not enough.
    """
    # One is no list: errors name it as it was written.
    urls = server_url[0] if len(server_url) == 1 else server_url or None
    flags = {"server_url": urls, "client_id": client_id, "private_key_path": key}
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if config is not None:
        given = _read_config(config, given)
    missing = [
        flag
        for name, flag in _NEEDED.items()
        if name not in given and not any(os.environ.get(variable) for variable in _VARIABLES[name])
    ]
    if missing:
        raise _wrong(f"how to connect? {', '.join(missing)} missing; give --config={example_config()}")
    if allow_insecure:
        given["allow_insecure"] = True
    try:
        return ClientOptions.from_env(**given)
    except (ValueError, TypeError) as error:
        raise _wrong(str(error).replace("allow_insecure=True", "--allow-insecure")) from error


def ask_passphrase(options: ClientOptions) -> ClientOptions:
    """Return the options with the passphrase that the key needs, if there is somebody to ask for it."""
    key = options.private_key_path
    if key is None or options.passphrase is not None or not terminal.is_interactive() or not is_encrypted(Path(key)):
        return options
    # Here, and not when the library needs it: the deadlines of the connection run by then.
    return attrs.evolve(options, passphrase=terminal.ask_secret(f"Passphrase of {key}:"))


def _read_config(config: Path, given: dict[str, Any]) -> dict[str, Any]:
    try:
        # Whether an unencrypted line will do is decided when everything is together.
        options = ClientOptions.from_config(config, allow_insecure=True, **given)
    except OSError as error:
        raise _wrong(f"{config} cannot be read: {error.strerror}; register-client writes such a file") from error
    except (ValueError, TypeError) as error:
        if "client_id" not in given and read_client_id(config) == "":
            raise _wrong(f"{config} has no clientId; register the client with: wsclient register-client") from error
        raise _wrong(_naming_the_origin(str(error), config, given)) from error
    return {name: getattr(options, name) for name in (*_NEEDED, "signature_algorithm")}


def _naming_the_origin(text: str, config: Path, given: dict[str, Any]) -> str:
    """Say which flag a wrong option is from, or else that it is the file's."""
    for name in given:
        if text.startswith(name):
            return text.replace(name, _NEEDED[name], 1)
    if not text.startswith(str(config)):
        return f"{config}: {text}"
    return f"{text}; write it again with: wsclient register-client" if "register-client" not in text else text


def example_config() -> str:
    """Return the configuration file that there is here, or else what one is called."""
    found = sorted(Path("keys").glob("*_config.json"))
    return str(found[0]) if len(found) == 1 else "keys/NAME_config.json, which register-client writes"


def _wrong(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context(silent=True))
