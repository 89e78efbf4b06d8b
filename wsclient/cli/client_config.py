"""`NAME_config.json`: what a client needs to connect, in one file (protocol.md section 6)."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ..options import ClientOptions

__all__ = ["DEFAULT_SERVER_URL", "ClientConfig", "change_private_key", "config_path", "read_client_id"]

DEFAULT_SERVER_URL = "ws://127.0.0.1:3000"


def config_path(directory: Path, name: str) -> Path:
    """Return where the configuration of a client is."""
    return directory / f"{name}_config.json"


@attrs.frozen(kw_only=True)
class ClientConfig:
    """A client's configuration.

    Attributes:
        client_id: empty in a template, which a client refuses until `register-client` fills it in.
        name: for people.
        private_key: where it is; written as an absolute path, so that the file works from anywhere.
        server_url: the gateway.
        signature_algorithm: the one registered with the key.
    """

    client_id: str
    name: str
    private_key: Path
    server_url: str = DEFAULT_SERVER_URL
    signature_algorithm: str = "SHA256"

    def check(self) -> None:
        """Check it as the client will, except for the id.

        Raises:
            ValueError: it cannot be; the text names the option.
        """
        ClientOptions(
            server_url=self.server_url,
            client_id=self.client_id or "template",
            private_key_path=self.private_key,
            signature_algorithm=self.signature_algorithm,
            # Whether that network can be trusted is decided where the client runs.
            allow_insecure=True,
        )

    def write(self, path: Path) -> None:
        """Write it, in place of what is there; whoever reads it sees the old or the new one.

        Raises:
            OSError: it cannot be written.
        """
        config = {
            "clientId": self.client_id,
            "name": self.name,
            "privateKeyPath": str(self.private_key.absolute()),
            "serverUrl": self.server_url,
            "signatureAlgorithm": self.signature_algorithm,
        }
        _replace(path, config, 0o600)


def change_private_key(path: Path, private_key: Path) -> None:
    """Have a configuration name another private key; whoever reads it sees the old or the new one.

    Args:
        path: the configuration; all else in it stays, and so do its mode and its owner.
        private_key: where the key is.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it is no configuration.
    """
    # The link's target is replaced, not the link.
    path = Path(os.path.realpath(path))
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object")
    status = path.stat()
    _replace(path, config | {"privateKeyPath": str(private_key.absolute())}, status.st_mode & 0o777, status)


def _replace(path: Path, config: dict[str, Any], mode: int, owner: os.stat_result | None = None) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            if owner is not None and os.geteuid() == 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def read_client_id(path: Path) -> str | None:
    """Return the client id in a configuration file: `""` in a template, `None` when the file has none or is none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    client_id = config.get("clientId") if isinstance(config, dict) else None
    return client_id if isinstance(client_id, str) else None
