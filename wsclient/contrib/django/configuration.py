"""What the setting WSCLIENT says, read in one place for the clients and for the checks.

    WSCLIENT = {
        "default": {
            "SERVER_URL": "wss://host",
            "CLIENT_ID": "...",
            "PRIVATE_KEY_PATH": BASE_DIR / "keys/my-client_key.pem",
        },
    }

Each entry has the options of `ClientOptions` by their names in capitals, and two keys besides: CONFIG, the file that
`wsclient register-client` wrote, which the entry's options win over; and CLIENT, for tests and subclasses: a client,
taken as it is, or a class or function (or its dotted path) that makes one, called with all these options as keywords.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...client import WSClient
from ...options import ClientOptions, got

__all__ = ["DEFAULT_ALIAS", "Fault", "configured", "faults_of_entry", "faults_of_setting", "make_client", "options_of"]

DEFAULT_ALIAS = "default"
_OPTIONS = {field.name.upper(): field.name for field in attrs.fields(ClientOptions)}
_KEYS = ("CLIENT", "CONFIG")
# What `wsclient register-client` writes into the file.
_IN_CONFIG = ("server_url", "client_id", "private_key_path", "signature_algorithm")
# What is right for every option, so that each can be tried by itself.
_SOUND: dict[str, Any] = {"server_url": "wss://localhost", "client_id": "client", "allow_insecure": True}
_NO_CLIENT = 'Write WSCLIENT = {"default": {"SERVER_URL": ..., "CLIENT_ID": ..., "PRIVATE_KEY_PATH": ...}}.'


@attrs.frozen
class Fault:
    """Something that is wrong with the setting.

    Attributes:
        id: of the system check, without `wsclient.`.
        text: what is wrong.
        hint: what to do about it.
    """

    id: str
    text: str
    hint: str


def configured() -> Any:
    """Return the setting WSCLIENT as it is; `None` without one."""
    return getattr(settings, "WSCLIENT", None)


def faults_of_setting(value: Any) -> list[Fault]:
    """Return what is wrong with the setting as a whole; its entries are not looked at."""
    if value is None:
        return [Fault("E001", "The setting WSCLIENT is missing.", _NO_CLIENT)]
    if not isinstance(value, Mapping):
        return [Fault("E001", f"WSCLIENT must be a dict (got {type(value).__name__}).", _NO_CLIENT)]
    if DEFAULT_ALIAS not in value:
        hint = f'Call one of its clients "{DEFAULT_ALIAS}": that is the one of get_client().'
        return [Fault("E002", f'WSCLIENT has no "{DEFAULT_ALIAS}".', hint)]
    return []


def faults_of_entry(alias: str, entry: Any) -> list[Fault]:
    """Return what is wrong with an entry; a file that CONFIG names is read, a key is not.

    Args:
        alias: its name in WSCLIENT.
        entry: what stands there.
    """
    place = f'WSCLIENT["{alias}"]'
    if not isinstance(entry, Mapping):
        return [Fault("E003", f"{place} must be a dict (got {type(entry).__name__}).", _NO_CLIENT)]
    try:
        maker = _maker(entry)
    except (ImportError, TypeError) as error:
        hint = "It is a client, or a class or function that makes one, or its dotted path; leave it out for WSClient."
        return [Fault("E010", f"{place}: CLIENT cannot be used: {error}", hint)]
    faults = [*_unknown_names(place, entry, maker), *_wrong_values(place, entry)]
    # What only shows when all of it is put together; a maker of one's own decides for itself what it needs.
    if not faults and (maker is None or "CONFIG" in entry):
        try:
            _build(entry)
        except OSError as error:
            hint = "CONFIG is the file that `wsclient register-client` wrote."
            faults.append(Fault("E011", f"{place}: CONFIG cannot be read: {error}", hint))
        except (ValueError, TypeError) as error:
            faults.append(_wrong(place, error))
    return faults


def make_client(alias: str) -> WSClient:
    """Make the client of an alias, not connected.

    Raises:
        ImproperlyConfigured: there is none, or something is wrong with the setting; the text is the check's.
        InvalidKeyError: with AUTO_CONNECT, the key cannot be used.
    """
    entry = _entry(alias)
    maker = _maker(entry)
    if maker is None:
        return WSClient.from_options(_build(entry))
    try:
        client: WSClient = maker(**_keywords(entry))
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f'WSCLIENT["{alias}"]: {_in_capitals(str(error))}') from error
    return client


def options_of(alias: str) -> ClientOptions | None:
    """Return the options of an alias, `None` when a CLIENT of its own takes them.

    Raises:
        ImproperlyConfigured: as `make_client`.
    """
    entry = _entry(alias)
    return None if _maker(entry) is not None else _build(entry)


def _entry(alias: str) -> Mapping[str, Any]:
    setting = configured()
    faults = [] if isinstance(setting, Mapping) else faults_of_setting(setting)
    if not faults:
        if alias not in setting:
            known = ", ".join(map(str, setting)) or "none"
            raise ImproperlyConfigured(f'WSCLIENT has no "{alias}"; it has: {known}')
        faults = faults_of_entry(alias, setting[alias])
    if faults:
        raise ImproperlyConfigured(f"{faults[0].text} {faults[0].hint}")
    entry: Mapping[str, Any] = setting[alias]
    return entry


def _maker(entry: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return what makes the client, `None` for `WSClient` itself.

    Raises:
        ImportError: it cannot be imported.
        TypeError: it cannot be called.
    """
    given = entry.get("CLIENT")
    maker: Any = import_string(given) if isinstance(given, str) else given
    if isinstance(maker, WSClient):
        # It has its options already.
        return lambda **_: maker
    if maker is not None and not callable(maker):
        raise TypeError(f"{got(given)} is neither a client nor makes one")
    return None if maker is WSClient else maker


def _keywords(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a maker of one's own is called with: all options of the entry, and of the file that CONFIG names."""
    given = {key.lower(): value for key, value in entry.items() if key not in _KEYS}
    if "CONFIG" in entry:
        options = _build(entry)
        read = {name: getattr(options, name) for name in _IN_CONFIG}
        given |= {name: value for name, value in read.items() if value is not None}
    return given


def _build(entry: Mapping[str, Any]) -> ClientOptions:
    given = {name: entry[key] for key, name in _OPTIONS.items() if key in entry}
    if "CONFIG" in entry:
        if not isinstance(entry["CONFIG"], str | os.PathLike):
            raise TypeError(f"CONFIG must be the path of a file (got {got(entry['CONFIG'])})")
        return ClientOptions.from_config(entry["CONFIG"], **given)
    if missing := [key for key in ("SERVER_URL", "CLIENT_ID") if key not in entry]:
        raise ValueError(f"{' and '.join(missing)} must be given, or CONFIG")
    return ClientOptions(**given)


def _unknown_names(place: str, entry: Mapping[Any, Any], maker: Callable[..., Any] | None) -> Iterator[Fault]:
    known = [*_KEYS, *_OPTIONS]
    if maker is not None:
        # A class of one's own may take more.
        known += [
            name.upper() for name, parameter in _parameters(maker).items() if parameter.kind != parameter.VAR_KEYWORD
        ]
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key).upper(), known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known))}."
            yield Fault("E004", f"{place} has an unknown option {got(key)}.", hint)


def _parameters(maker: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(maker).parameters
    except (ValueError, TypeError):
        # Written in C, and it does not say.
        return {}


def _wrong_values(place: str, entry: Mapping[Any, Any]) -> Iterator[Fault]:
    for key, name in _OPTIONS.items():
        is_key = name.startswith("private_key")
        # No key under one of the two names is right when there is one under the other.
        if key not in entry or (is_key and entry[key] is None):
            continue
        try:
            ClientOptions(**(_SOUND | ({} if is_key else {"private_key": bytes}) | {name: entry[key]}))
        except (ValueError, TypeError) as error:
            yield _wrong(place, error)


def _wrong(place: str, error: Exception) -> Fault:
    text = _in_capitals(str(error))
    if "SERVER_URL" in text and "CLIENT_ID" not in text:
        return Fault("E006", f"{place}: {text}", 'It is a URL like "wss://host"; "ws://" is for this machine.')
    if "PRIVATE_KEY" in text:
        hint = "PRIVATE_KEY_PATH is the file that `wsclient generate-keys` made, NAME_key.pem."
        return Fault("E007", f"{place}: {text}", hint)
    return Fault("E005", f"{place}: {text}", "The README's table of options says what each takes.")


def _in_capitals(text: str) -> str:
    """Return an error's text with the options called as they are in the setting."""
    # The short names are words too: those count only where the text begins with what it is about.
    names = "|".join(name for name in _OPTIONS.values() if "_" in name)
    text = re.sub(rf"\b(?:{names})\b", lambda found: found[0].upper(), text)
    return re.sub(rf"^(?:{'|'.join(_OPTIONS.values())})\b", lambda found: found[0].upper(), text)
