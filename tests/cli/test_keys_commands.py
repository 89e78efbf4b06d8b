"""`generate-keys`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from Crypto.PublicKey.ECC import EccKey
from Crypto.PublicKey.RSA import RsaKey

from wsclient import InvalidKeyError
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import fingerprint, load_private_key, load_public_key

from .conftest import Run
from .programs import Program
from .test_rotate_command import make_client


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_makes_an_rsa_key_of_3072_bits_unless_told_otherwise(run: Run, folder: Path) -> None:
    assert run("generate-keys", "--name=my-client").code == 0
    key = load_private_key(folder / "keys" / "my-client_key.pem")
    assert isinstance(key, RsaKey)
    assert key.size_in_bits() == 3072


def test_it_makes_the_size_asked_for(run: Run, folder: Path) -> None:
    assert run("generate-keys", "--key-size=2048").code == 0
    key = load_private_key(folder / "keys" / "client_key.pem")
    assert isinstance(key, RsaKey)
    assert key.size_in_bits() == 2048


def test_it_makes_an_ec_key(run: Run, folder: Path) -> None:
    assert run("generate-keys", "--type=ec", "--key-size=384").code == 0
    key = load_private_key(folder / "keys" / "client_key.pem")
    assert isinstance(key, EccKey)
    assert key.curve == "NIST P-384"


def test_the_public_key_is_the_private_keys_other_half(run: Run, folder: Path) -> None:
    run("generate-keys", "--type=ec")
    private = load_private_key(folder / "keys" / "client_key.pem")
    assert load_public_key(folder / "keys" / "client_key.pub") == private.public_key()


def test_the_private_key_is_the_users_alone_even_with_an_open_umask(run: Run, folder: Path) -> None:
    before = os.umask(0)
    try:
        run("generate-keys", "--type=ec", "--create-config")
    finally:
        os.umask(before)
    assert mode(folder / "keys" / "client_key.pem") == 0o600
    assert mode(folder / "keys" / "client_config.json") == 0o600
    assert mode(folder / "keys") == 0o700


def test_it_says_where_the_files_are_and_the_fingerprint(run: Run, folder: Path) -> None:
    out = run("generate-keys", "--name=x", "--type=ec", "--output-dir=there").out
    key = load_public_key(folder / "there" / "x_key.pub")
    assert "private key  there/x_key.pem\n" in out
    assert "public key   there/x_key.pub\n" in out
    assert f"fingerprint  {fingerprint(key)}\n" in out


def test_it_names_the_next_command_which_works(run: Run) -> None:
    out = run("generate-keys", "--name=my client", "--type=ec").out
    assert out.endswith("  wsclient register-client '--name=my client' '--key-path=keys/my client_key.pub'\n")
    assert run("register-client", "--name=my client", "--key-path=keys/my client_key.pub").code == 0


def test_a_tilde_in_the_directory_is_the_home_directory(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    run("generate-keys", "--type=ec", "--output-dir=~/keys")
    assert (folder / "home" / "keys" / "client_key.pem").exists()


@pytest.mark.parametrize("existing", ["client_key.pem", "client_key.pub"])
def test_it_never_overwrites_a_key(run: Run, folder: Path, existing: str) -> None:
    (folder / "keys").mkdir()
    (folder / "keys" / existing).write_text("precious")
    done = run("generate-keys", "--type=ec")
    assert done.code == 1
    assert (
        done.err == f"error: keys/{existing} exists already and stays as it is; choose another --name or --output-dir\n"
    )
    assert [(file.name, file.read_text()) for file in (folder / "keys").iterdir()] == [(existing, "precious")]


def test_it_never_overwrites_a_configuration(run: Run, folder: Path) -> None:
    (folder / "keys").mkdir()
    (folder / "keys" / "client_config.json").write_text("precious")
    assert run("generate-keys", "--type=ec", "--create-config").code == 1
    assert [file.name for file in (folder / "keys").iterdir()] == ["client_config.json"]


def test_the_configuration_is_a_template_without_an_id(run: Run, folder: Path) -> None:
    run("generate-keys", "--name=x", "--type=ec", "--create-config")
    assert json.loads((folder / "keys" / "x_config.json").read_text()) == {
        "clientId": "",
        "name": "x",
        "privateKeyPath": str(folder / "keys" / "x_key.pem"),
        "serverUrl": "ws://127.0.0.1:3000",
        "signatureAlgorithm": "SHA256",
    }


@pytest.mark.parametrize(
    "arguments",
    [("--key-size=1024",), ("--type=ec", "--key-size=521"), ("--type=dsa",), ("--name=../x",), ("--name=",)],
)
def test_wrong_values_are_one_line_and_exit_code_2_and_nothing_is_written(
    run: Run, folder: Path, arguments: tuple[str, ...]
) -> None:
    done = run("generate-keys", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_one_line(run: Run, folder: Path) -> None:
    (folder / "file").touch()
    done = run("generate-keys", "--type=ec", "--output-dir=file/keys")
    assert (done.code, done.err) == (1, "error: file/keys: Not a directory\n")


def test_nothing_of_the_private_key_is_shown(run: Run, folder: Path) -> None:
    done = run("--debug", "generate-keys", "--type=ec")
    body = (folder / "keys" / "client_key.pem").read_text().splitlines()[1]
    assert body not in done.out + done.err
    assert "PRIVATE KEY" not in done.out + done.err


class TestPassphrase:
    def test_it_is_asked_for_twice_at_a_terminal_and_never_seen(self, folder: Path) -> None:
        with Program("generate-keys", "--type=ec", "--passphrase", cwd=folder, columns=80) as program:
            for question in ("Passphrase for the new key: ", "The same again: "):
                program.wait_for(question)
                program.type("correct horse\n")
            assert program.wait() == 0
        assert "horse" not in program.out
        private = folder / "keys" / "client_key.pem"
        assert load_private_key(private, "correct horse").has_private()
        with pytest.raises(InvalidKeyError, match="is encrypted"):
            load_private_key(private)

    @pytest.mark.parametrize(
        ("typed", "says"), [(("one", "two"), "the two passphrases differ"), (("",), "the passphrase is empty")]
    )
    def test_what_is_mistyped_makes_no_key(self, folder: Path, typed: tuple[str, ...], says: str) -> None:
        with Program("generate-keys", "--type=ec", "--passphrase", cwd=folder, columns=80) as program:
            for question, text in zip(("Passphrase", "again"), typed, strict=False):
                program.wait_for(question)
                program.type(text + "\n")
            assert program.wait() == 1
        assert says in program.out
        assert list(folder.iterdir()) == []

    def test_without_a_terminal_it_comes_from_the_environment(
        self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = run("generate-keys", "--type=ec", "--passphrase")
        assert (done.code, done.out) == (1, "")
        assert done.err.endswith("set WSCLIENT_PASSPHRASE\n")
        assert list(folder.iterdir()) == []
        monkeypatch.setenv("WSCLIENT_PASSPHRASE", "correct horse")
        assert run("generate-keys", "--type=ec", "--passphrase").code == 0
        assert load_private_key(folder / "keys" / "client_key.pem", "correct horse").has_private()

    def test_commands_that_connect_ask_for_it(self, folder: Path, gateway: GatewayThread) -> None:
        make_client(folder, "tester", gateway.url, passphrase="correct horse")
        gateway.gateway.registry.reload_if_changed()
        with Program("models", "--config=keys/tester_config.json", cwd=folder, columns=80) as program:
            program.wait_for("tester_key.pem: ")
            program.type("correct horse\n")
            assert program.wait() == 0
        assert "llama2" in program.out
        assert "horse" not in program.out
