"""Commands about key pairs: `generate-keys`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..core.auth import Key
from ..keys import fingerprint, generate_key, key_pair_paths, save_key_pair
from . import terminal
from .client_config import ClientConfig, config_path
from .command import Command, path
from .failures import Failure, refusing_wrong_values

__all__ = ["PASSPHRASE_VARIABLE", "generate_keys", "is_encrypted", "make_key", "new_passphrase", "passphrase_flag"]

PASSPHRASE_VARIABLE = "WSCLIENT_PASSPHRASE"

passphrase_flag = click.option(
    "--passphrase",
    is_flag=True,
    help=f"Encrypt the private key; asks for the passphrase, unless {PASSPHRASE_VARIABLE} has it.",
)


@click.command(
    "generate-keys",
    cls=Command,
    examples="""
        wsclient generate-keys --name=my-client
        wsclient generate-keys --name=admin --key-size=4096 --passphrase
        wsclient generate-keys --name=sensor --type=ec --output-dir=/etc/sensor/keys
        """,
)
@click.option("--name", default="client", show_default=True, help="Name of the key pair: NAME_key.pem, NAME_key.pub.")
@click.option(
    "--output-dir",
    type=path,
    default="./keys",
    show_default=True,
    help="Where to; made if need be.",
)
@click.option("--type", "key_type", type=click.Choice(["rsa", "ec"]), default="rsa", show_default=True)
@click.option(
    "--key-size", type=int, metavar="BITS", help="RSA: 2048 to 8192, 3072 when left out. EC: 256 (default) or 384."
)
@passphrase_flag
@click.option("--create-config", is_flag=True, help="Also write NAME_config.json, for register-client to complete.")
def generate_keys(
    name: str, output_dir: Path, key_type: str, key_size: int | None, passphrase: bool, create_config: bool
) -> None:
    """Make a key pair for a client.

    The private key stays with the client, readable for you alone; the public key is what a server registers. Files
    that exist are never overwritten.
    """
    with refusing_wrong_values():
        paths = key_pair_paths(output_dir, name)
    config = config_path(output_dir, name)
    for file in (paths.private, paths.public, *([config] if create_config else [])):
        if file.exists():
            raise _existing(file)
    secret = new_passphrase() if passphrase else None
    key = make_key(key_type, key_size)
    try:
        save_key_pair(key, output_dir, name, secret)
    except FileExistsError as error:
        raise _existing(error.filename) from error
    facts = [("private key", str(paths.private)), ("public key", str(paths.public)), ("fingerprint", fingerprint(key))]
    if create_config:
        ClientConfig(client_id="", name=name, private_key=paths.private).write(config)
        facts.append(("config", f"{config} (register-client fills in its clientId)"))
    terminal.show_line(f"Made the key pair {name!r}.", "bold")
    terminal.show_facts(facts)
    terminal.show_line("Register it where the gateway runs:")
    terminal.show_command(["wsclient", "register-client", f"--name={name}", f"--key-path={paths.public}"])


def make_key(key_type: str, key_size: int | None) -> Key:
    """Make a private key; a large RSA key takes many seconds.

    Raises:
        click.UsageError: there is no such type or size.
    """
    if key_type == "rsa":
        terminal.show_progress("Making an RSA key takes a few seconds ...")
    with refusing_wrong_values():
        return generate_key(key_type, key_size)


def new_passphrase() -> str:
    """Return a passphrase for a new key: `WSCLIENT_PASSPHRASE`, else what somebody types twice.

    Raises:
        Failure: there is nobody to ask, or what was typed is empty or not the same.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given:
        return given
    if not terminal.is_interactive():
        raise Failure(f"there is no terminal to ask for the passphrase at; set {PASSPHRASE_VARIABLE}")
    secret = terminal.ask_secret("Passphrase for the new key:")
    if not secret:
        raise Failure("the passphrase is empty, nothing was made; without --passphrase the key is not encrypted")
    if terminal.ask_secret("The same again:") != secret:
        raise Failure("the two passphrases differ, nothing was made; try again")
    return secret


def is_encrypted(file: Path) -> bool:
    """Return whether a private key needs a passphrase; no when it cannot be read, which others will say better."""
    try:
        with open(file, "rb") as opened:
            return b"ENCRYPTED" in opened.read(4096)
    except OSError:
        return False


def _existing(file: str | Path) -> Failure:
    return Failure(f"{file} exists already and stays as it is; choose another --name or --output-dir")
