"""`rotate-key`: a new key for a client, while programs go on with the old one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import click

from ..core.auth import Key
from ..errors import WSClientError
from ..keys import KeyPairPaths, fingerprint, key_pair_paths, load_public_key, public_pem, save_key_pair
from . import terminal
from .choosing import (
    ask_or_refuse,
    check_encryption,
    check_mode,
    chosen_client,
    client_argument,
    force_option,
    registered_client,
)
from .client_config import DEFAULT_SERVER_URL, change_private_key, config_path
from .command import Command, path
from .connecting import read_options
from .failures import Failure, refusing_wrong_values
from .keys import is_encrypted, make_key, new_passphrase, passphrase_flag
from .online import Conflict, find_admin_token, rotate_online
from .registries import Whereabouts, registry_options, whereabouts

__all__ = ["rotate_key"]

_REPLACE_PENDING = "Replace that one?"


class _Book(Protocol):
    """Where a client's new key is registered."""

    @property
    def place(self) -> tuple[str, str]:
        """What it is and where, for people."""

    def look(self, client: str) -> None:
        """Find out, before a key is made, whether the client can be given one; ask what has to be asked."""

    def register(self, client: str, pem: str) -> str:
        """Register the key and return the client's id."""


@attrs.define
class _Registry:
    where: Whereabouts
    force: bool

    @property
    def place(self) -> tuple[str, str]:
        return self.where.fact

    def look(self, client: str) -> None:
        with self.where.open() as registry:
            found = registered_client(registry, client)
        if found.pending_key is not None and not self.force:
            what = f"client {found.name!r} has a new key already ({found.pending_fingerprint or 'unusable'})"
            ask_or_refuse([f"{what}, which has not logged in yet"], _REPLACE_PENDING)
            self.force = True

    def register(self, client: str, pem: str) -> str:
        with self.where.open() as registry:
            return registry.rotate(client, pem, replace_pending=self.force).id


@attrs.define
class _Gateway:
    url: str
    token: str = attrs.field(repr=False)
    force: bool

    @property
    def place(self) -> tuple[str, str]:
        return "gateway", self.url

    def look(self, client: str) -> None:
        # Only the key itself can be asked about.
        return

    def register(self, client: str, pem: str) -> str:
        try:
            return rotate_online(self.url, client, pem, self.token, replaces=self.force)
        except Conflict as conflict:
            ask_or_refuse([conflict.message], _REPLACE_PENDING)
            return rotate_online(self.url, client, pem, self.token, replaces=True)


@click.command(
    "rotate-key",
    cls=Command,
    sections={"With --online": ("server_url", "admin_token_file", "allow_insecure")},
    examples="""
        wsclient rotate-key my-client
        wsclient rotate-key --config=/etc/app/app_config.json --type=ec
        wsclient rotate-key my-client --key-path=./from-its-owner_key.pub
        wsclient rotate-key my-client --online --admin-token-file=admin-token
        """,
)
@client_argument
@click.option("--config", type=path, help="The client's configuration.  [default: keys/CLIENT_config.json]")
@click.option("--key-path", type=path, help="A public key that its owner has made; none is made here then.")
@click.option("--type", "key_type", type=click.Choice(["rsa", "ec"]), help="As the old key's when left out.")
@click.option("--key-size", type=int, metavar="BITS", help="As for generate-keys; as the old key's when left out.")
@passphrase_flag
@registry_options
@force_option("Replace a new key that has not logged in yet, without asking.")
@click.option("--online", is_flag=True, help="Ask the gateway instead of changing the clients file.")
@click.option("--server-url", help="The gateway, if it is not the configuration's.")
@click.option("--admin-token-file", type=path, help="File of the admin token, if it is not in WSCLIENT_ADMIN_TOKEN.")
@click.option("--allow-insecure", is_flag=True, help="Send the token unencrypted to another machine.")
@click.pass_context
def rotate_key(
    context: click.Context,
    /,
    client: str | None,
    client_id: str | None,
    config: Path | None,
    key_path: Path | None,
    key_type: str | None,
    key_size: int | None,
    passphrase: bool,
    force: bool,
    online: bool,
    server_url: str | None,
    admin_token_file: Path | None,
    allow_insecure: bool,
    **where: Any,
) -> None:
    """Give a client a new key, beside the one that it has.

    Makes a key pair next to the old one, registers it, and has the client's configuration name it. Programs that run
    go on with the old key, which is valid until the new one has logged in once.
    """
    check_mode(context, online, ("admin_token_file", "allow_insecure", "server_url"))
    place = whereabouts(context, **where)
    flags = {"--config": config, "--type": key_type, "--key-size": key_size, "--passphrase": passphrase}
    for flag in (flag for flag, given in flags.items() if given and key_path is not None):
        raise click.UsageError(f"{flag} cannot be given together with --key-path", context)
    if config is None:
        client = chosen_client(client, client_id)
    elif client or client_id:
        raise click.UsageError("CLIENT cannot be given together with --config, which says whose it is", context)
    pair = None
    if key_path is None:
        pair = _OldPair.of(config or config_path(Path("keys"), client or ""), key_type, key_size, passphrase)
    book: _Book = _Registry(place, force)
    if online:
        url = server_url or (pair.server_url if pair is not None else DEFAULT_SERVER_URL)
        check_encryption(url, allow_insecure)
        book = _Gateway(url, find_admin_token(admin_token_file), force)
    if pair is not None:
        _rotate_here(book, pair)
    elif key_path is not None:
        _rotate_to(book, client or "", load_public_key(key_path))


@attrs.frozen(kw_only=True)
class _OldPair:
    """The key pair that is to be followed by another, and what that one shall be.

    Attributes:
        config: the client's configuration.
        client_id, server_url, private_key: what it says.
        type, size: of the new key.
        is_secret: whether the new key is to be encrypted.
    """

    config: Path
    client_id: str
    server_url: str
    private_key: Path
    type: str
    size: int | None
    is_secret: bool

    @classmethod
    def of(cls, config: Path, type: str | None, size: int | None, is_secret: bool) -> _OldPair:
        """Return what a configuration leads to.

        Raises:
            Failure: there is none, or it leads to no private key.
            click.UsageError: it cannot be read.
        """
        if not config.exists():
            advice = "give --config, or --key-path with a public key that the client's owner has made"
            raise Failure(f"there is no {config}; {advice}")
        options = read_options(config, (), None, None, True)
        if options.private_key_path is None or not Path(options.private_key_path).exists():
            what = "names no private key that is here"
            raise Failure(f"{config} {what}; rotate where the old one is, or give --key-path with a public key")
        private = Path(options.private_key_path)
        old_type, old_size = _kind_of(private.with_suffix(".pub"))
        return cls(
            config=config,
            client_id=options.client_id,
            # Of several gateways of one system each can do it.
            server_url=options.server_urls[0],
            private_key=private,
            type=type or old_type,
            size=old_size if size is None and type in (None, old_type) else size,
            is_secret=is_secret or is_encrypted(private),
        )

    def next_paths(self) -> KeyPairPaths:
        """Return where the new pair goes: `NAME-2_key.pem`, then `NAME-3_key.pem`, beside the old one."""
        name = self.config.name.removesuffix(".json").removesuffix("_config")
        number = 2
        while True:
            paths = key_pair_paths(self.private_key.parent, f"{name}-{number}")
            if not paths.private.exists() and not paths.public.exists():
                return paths
            number += 1


def _kind_of(public_key: Path) -> tuple[str, int | None]:
    """Return the type and the size of a key; of small RSA keys the usual size, and so when it cannot be read."""
    try:
        # Any, because only one of the two types has a curve, and only the other a size.
        key: Any = load_public_key(public_key)
    except WSClientError:
        return "rsa", None
    if hasattr(key, "curve"):
        return "ec", int(key.curve.rpartition("-")[2])
    bits = key.size_in_bits()
    return "rsa", bits if 3072 < bits <= 8192 else None


def _rotate_here(book: _Book, old: _OldPair) -> None:
    book.look(old.client_id)
    with refusing_wrong_values():
        paths = old.next_paths()
    secret = new_passphrase() if old.is_secret else None
    key = make_key(old.type, old.size)
    save_key_pair(key, paths.private.parent, paths.private.name.removesuffix("_key.pem"), secret)
    try:
        for file, like in ((paths.private, old.private_key), (paths.public, old.private_key)):
            _give_to_owner(file, like)
        client_id = book.register(old.client_id, public_pem(key))
    except BaseException:
        paths.private.unlink()
        paths.public.unlink()
        raise
    try:
        change_private_key(old.config, paths.private)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        advice = f"set privateKeyPath to {paths.private.absolute()} there"
        raise Failure(f"the new key is registered, but {old.config} cannot be changed: {reason}; {advice}") from error
    files = [("private key", _shown(paths.private)), ("public key", _shown(paths.public)), ("config", str(old.config))]
    _show(book, client_id, key, files)
    terminal.show_line("Restart its programs, or end the old key now by logging in once:")
    terminal.show_command(["wsclient", "models", f"--config={old.config}"])


def _rotate_to(book: _Book, client: str, key: Key) -> None:
    book.look(client)
    _show(book, book.register(client, public_pem(key)), key, [])


def _show(book: _Book, client_id: str, key: Key, files: Sequence[tuple[str, str]]) -> None:
    terminal.show_line("Registered the new key; the old one is valid until it has logged in once.", "bold")
    terminal.show_facts([("id", client_id), ("fingerprint", fingerprint(key)), book.place, *files])


def _shown(path: Path) -> str:
    # Configurations name their keys by absolute paths; people are in a folder.
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _give_to_owner(path: Path, like: Path) -> None:
    # Who rotates as root must not lock out the program, which runs as somebody else.
    if os.geteuid() == 0:
        status = like.stat()
        os.chown(path, status.st_uid, status.st_gid)
