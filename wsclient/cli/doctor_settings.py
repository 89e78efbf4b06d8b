"""What the doctor looks at, and the first questions: what was it told, and is the URL one?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from ..client import WSClient
from ..core.auth import Key, hash_for_algorithm
from ..gateway.registry import RegisteredClient
from ..options import ClientOptions, read_config
from .connecting import example_config
from .doctor_findings import NotNow, Trouble, found
from .doctor_probe import Probe

__all__ = ["Patient", "check_algorithm", "check_client_id", "check_settings", "check_url"]

_VARIABLES = ("server_url", "client_id", "private_key_path", "private_key", "signature_algorithm")


def _sign_nothing(_: bytes) -> bytes:
    raise AssertionError("options for looking, not for logging in")


@attrs.define(kw_only=True)
class Patient:
    """What the doctor was told, and what the checks found out for those after them.

    Attributes:
        config: the configuration file, if one was named.
        flags: the options that were given at the command line, by their names in `ClientOptions`.
        clients_file: the gateway's clients file, if one was named.
        model: what to generate with; the server's default when `None`.
        deadline: monotonic time at which everything must be over.
        told: what flags, file and environment say, unchecked; flags first.
        base: the options that are left to the environment.
        addresses: what `socket.getaddrinfo` said.
        certificate: what the server's certificate says, once it was verified.
        key: the private key.
        registered: the client in the clients file.
        probe: a connection that waits for the challenge.
        client: once it is told to log in.
        software: what the gateway's HTTP server calls itself.
    """

    config: Path | None
    flags: Mapping[str, Any]
    clients_file: Path | None
    model: str | None
    deadline: float
    told: dict[str, Any] = attrs.field(factory=dict)
    base: ClientOptions | None = None
    url: str = ""
    addresses: list[tuple[Any, ...]] = attrs.field(factory=list)
    certificate: Any = None
    key: Key | None = attrs.field(default=None, repr=False)
    registered: RegisteredClient | None = None
    probe: Probe | None = None
    client: WSClient | None = None
    software: str = ""

    def options(self, **more: Any) -> ClientOptions:
        """Return the options to connect with, without a key unless `more` has one.

        Raises:
            ValueError, TypeError: one is wrong; the text names it.
        """
        assert self.base is not None
        told = {"server_url": self.told["server_url"], "allow_insecure": self.told["allow_insecure"]}
        return attrs.evolve(self.base, **(told | more))

    @property
    def host(self) -> str:
        """The URL's host."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The URL's port."""
        return urlsplit(self.url).port or (443 if self.is_encrypted else 80)

    @property
    def is_encrypted(self) -> bool:
        """Whether the URL wants TLS."""
        return self.url.startswith("wss:")

    def leave(self) -> None:
        """End the connections that were made."""
        if self.probe is not None:
            self.probe.end()
        if self.client is not None:
            self.client.close()

    def seconds(self, most: float) -> float:
        """Return how long a check may take: `most`, or what is left."""
        return max(0.1, min(most, self.deadline - time.monotonic()))


_Found = tuple[str, dict[str, Any]]


def check_settings(patient: Patient) -> _Found:
    """Collect what the flags, the configuration file and the environment say."""
    environment: dict[str, Any] = {
        name: os.environ[f"WSCLIENT_{name.upper()}"]
        for name in _VARIABLES
        if os.environ.get(f"WSCLIENT_{name.upper()}")
    }
    if "server_url" in environment:
        with suppress(ValueError):
            # It may hold several; what is no URL is told as one.
            environment["server_url"] = _urls_of(environment["server_url"])
    try:
        patient.base = ClientOptions.from_env(
            server_url="ws://127.0.0.1", client_id="nobody", private_key=_sign_nothing, signature_algorithm="SHA256"
        )
    except (ValueError, TypeError) as error:
        raise Trouble(str(error), "Correct or unset the variable") from error
    file = _read_file(patient.config)
    patient.told = {**environment, **file, **patient.flags}
    patient.told["allow_insecure"] = bool(patient.flags.get("allow_insecure")) or patient.base.allow_insecure
    sources = [name for name, part in (("the flags", patient.flags), ("WSCLIENT_*", environment)) if part]
    if patient.config is not None:
        sources.insert(0, str(patient.config))
    if not sources:
        raise Trouble("nothing says how to connect", f"Give --config={example_config()}")
    return found(f"read from {', '.join(sources)}")


def _urls_of(text: str) -> tuple[str, ...]:
    variable = {"WSCLIENT_SERVER_URL": text}
    options = ClientOptions.from_env(variable, client_id="nobody", private_key=_sign_nothing, allow_insecure=True)
    return options.server_urls


def _read_file(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return read_config(config)
    except OSError as error:
        raise Trouble(f"{config} cannot be read: {error.strerror}", f"Give --config={example_config()}") from error
    except ValueError as error:
        raise Trouble(str(error), "Write it again with: wsclient register-client") from error


def check_url(patient: Patient) -> _Found:
    """Check the server's URL, without looking whether anybody is there."""
    if not patient.told.get("server_url"):
        raise Trouble("no URL is given", "Give --server-url, or a --config that has serverUrl")
    try:
        urls = patient.options().server_urls
    except (ValueError, TypeError) as error:
        text, _, advice = str(error).replace("allow_insecure=True", "--allow-insecure").partition("; ")
        advice = advice or "Correct it to the gateway's, such as wss://host or ws://localhost:3000"
        raise Trouble(text, advice[0].upper() + advice[1:]) from error
    # From here on it is the only one.
    patient.url = patient.told["server_url"] = urls[0]
    kind = "encrypted" if patient.is_encrypted else "not encrypted"
    others = f"; to examine another one of {len(urls)}: --server-url={urls[1]}" if len(urls) > 1 else ""
    return found(f"{patient.url} ({kind}){others}", url=patient.url)


def check_client_id(patient: Patient) -> _Found:
    """Check that there is a client id."""
    client_id = patient.told.get("client_id")
    if client_id is None:
        raise Trouble("no client id is given", "Give --client-id, or the --config that register-client wrote")
    if not isinstance(client_id, str) or not client_id.strip():
        raise Trouble("the client id is empty", "Register the client, which gives it one: wsclient register-client")
    return found(client_id, id=client_id)


def check_algorithm(patient: Patient) -> _Found:
    """Check the signature algorithm, and that it is the registered one if that is known."""
    given = patient.told.get("signature_algorithm", "RSA-SHA256")
    try:
        hash_name = hash_for_algorithm(given)
    except ValueError as error:
        text, _, allowed = str(error).partition("; use ")
        raise Trouble(text, f"Use {allowed}") from error
    if patient.registered is None:
        return found(hash_name, algorithm=hash_name)
    registered = patient.registered.signature_algorithm
    try:
        if hash_for_algorithm(registered) == hash_name:
            return found(f"{hash_name}, as registered", algorithm=hash_name, registered=hash_name)
    except ValueError as error:
        raise NotNow(f"the one in the clients file is not usable: {error}") from error
    raise Trouble(
        f"it is {hash_name}, but the client is registered with {registered}",
        f"Set signatureAlgorithm to {registered} in the configuration file, or WSCLIENT_SIGNATURE_ALGORITHM",
        algorithm=hash_name,
        registered=registered,
    )
