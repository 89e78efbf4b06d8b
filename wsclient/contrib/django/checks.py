"""The system checks of `wsclient.contrib.django`: what is wrong with WSCLIENT, before the first request meets it.

    E001  WSCLIENT is missing, or no dict       E007  no key is given, or its file is missing
    E002  there is no "default"                 E008  the key file's owner or permissions
    E003  an entry is no dict                   E009  the key cannot be used
    E004  an unknown option                     E010  CLIENT cannot be used
    E005  an option's value                     E011  CONFIG cannot be read
    E006  SERVER_URL
    W001  with --deploy: ALLOW_INSECURE         W002  with --deploy: ALLOW_READABLE_KEY

Nothing is connected to, and nobody is asked for a passphrase.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.checks import Error, Tags, Warning, register

from ...errors import InvalidKeyError
from ...keys import check_key_file_mode, load_private_key
from ...options import ClientOptions
from .configuration import Fault, configured, faults_of_entry, faults_of_setting, options_of

__all__ = ["check_deployment", "check_setting", "register_checks"]

_MAKE_ONE = "Make a key pair with `wsclient generate-keys`, or correct the path."


def register_checks() -> None:
    """Register the checks: under the tag `wsclient`, and for `check --deploy` under `security`."""
    register(check_setting, "wsclient")
    register(check_deployment, Tags.security, deploy=True)


def check_setting(app_configs: Any = None, **_: Any) -> list[Any]:
    """Return what is wrong with WSCLIENT and its keys."""
    setting = configured()
    faults = faults_of_setting(setting)
    if isinstance(setting, Mapping):
        for alias, entry in setting.items():
            found = faults_of_entry(alias, entry)
            options = None if found else options_of(alias)
            faults += found
            if options is not None:
                faults += _key_faults(f'WSCLIENT["{alias}"]', options)
    return [Error(fault.text, hint=fault.hint, id=f"wsclient.{fault.id}") for fault in faults]


def _key_faults(place: str, options: ClientOptions) -> Iterator[Fault]:
    path, source = options.private_key_path, options.private_key
    if path is not None:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            yield Fault("E007", f"{place}: the private key {path} does not exist.", _MAKE_ONE)
            return
        except OSError as error:
            yield Fault("E009", f"{place}: the private key {path} cannot be read: {error.strerror}.", _MAKE_ONE)
            return
        try:
            check_key_file_mode(path, status.st_uid, status.st_mode, os.geteuid(), options.allow_readable_key)
        except InvalidKeyError as error:
            yield Fault("E008", f"{place}: {error.message}.", _hint(error))
            return
    # What signs elsewhere has no key to look at, and who is asked for a passphrase may be a person, or a vault.
    if (callable(source) and not hasattr(source, "export_key")) or callable(options.passphrase):
        return
    try:
        load_private_key(source if path is None else path, options.passphrase, options.allow_readable_key)
    except InvalidKeyError as error:
        yield Fault("E009", f"{place}: {error.message}.", _hint(error))
    except TypeError as error:
        yield Fault("E009", f"{place}: {error}.", _MAKE_ONE)


def _hint(error: InvalidKeyError) -> str:
    return f"{error.description}.".replace("allow_readable_key=True", '"ALLOW_READABLE_KEY": True')


def check_deployment(app_configs: Any = None, **_: Any) -> list[Any]:
    """Return what is convenient in development and does not belong into production."""
    setting = configured()
    entries = setting.items() if isinstance(setting, Mapping) else ()
    warnings = []
    for alias, entry in entries:
        given = entry if isinstance(entry, Mapping) else {}
        if given.get("ALLOW_INSECURE") is True:
            text = f'WSCLIENT["{alias}"] has ALLOW_INSECURE set: prompts and answers may travel unencrypted.'
            warnings.append(Warning(text, hint="Use wss:// and leave it out.", id="wsclient.W001"))
        if given.get("ALLOW_READABLE_KEY") is True:
            text = f'WSCLIENT["{alias}"] has ALLOW_READABLE_KEY set: other users may read the private key.'
            warnings.append(Warning(text, hint="Run chmod 600 on the key and leave it out.", id="wsclient.W002"))
    return warnings
