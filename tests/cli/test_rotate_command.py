"""`rotate-key`. Takes 6 s."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient import InvalidAuthError, WSClient
from wsclient.cli.client_config import ClientConfig
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import fingerprint, generate_key, load_private_key, load_public_key, public_pem, save_key_pair

from ..support.asking import TOKEN
from ..support.client_files import new_pem
from ..support.waiting import wait_until
from .conftest import Run

CLIENTS_FILE = Path("data", "authorized_clients.json")


def make_client(folder: Path, name: str, server_url: str = "ws://127.0.0.1:3000", **options: Any) -> str:
    """Register a client, with its key and its configuration in the usual places, and return its id."""
    key = generate_key(*options.pop("kind", ("ec",)))
    paths = save_key_pair(key, folder / "keys", name, **options)
    client = ClientRegistry(folder / CLIENTS_FILE).register(name, public_pem(key))
    config = ClientConfig(client_id=client.id, name=name, private_key=paths.private, server_url=server_url)
    config.write(folder / "keys" / f"{name}_config.json")
    return client.id


def registered(folder: Path) -> Any:
    (entry,) = json.loads((folder / CLIENTS_FILE).read_text())
    return entry


def config_of(folder: Path, name: str = "alice") -> Any:
    return json.loads((folder / "keys" / f"{name}_config.json").read_text())


class TestInTheClientsFile:
    @pytest.fixture
    def alice(self, folder: Path) -> str:
        """The id of a registered client."""
        return make_client(folder, "alice")

    def test_a_running_program_goes_on_with_the_old_key_until_the_new_one_has_logged_in(
        self, run: Run, folder: Path, gateway: GatewayThread
    ) -> None:
        make_client(folder, "alice", gateway.url)
        path = folder / "keys" / "alice_config.json"
        with WSClient.from_config(path) as old:
            assert run("rotate-key", "alice").code == 0
            old.disconnect()
            old.connect()
            with WSClient.from_config(path) as new:
                assert new.list_models()
            assert old.list_models()
            wait_until(lambda: "pendingKey" not in registered(folder))
            old.disconnect()
            with pytest.raises(InvalidAuthError):
                old.connect()
        with WSClient.from_config(path) as again:
            assert again.list_models()

    def test_the_new_pair_is_next_to_the_old_one_and_the_configuration_names_it(
        self, run: Run, folder: Path, alice: str
    ) -> None:
        before = config_of(folder)
        old = (folder / "keys" / "alice_key.pem").read_bytes()
        done = run("rotate-key", "alice")
        private = folder / "keys" / "alice-2_key.pem"
        assert config_of(folder) == before | {"privateKeyPath": str(private)}
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert (folder / "keys" / "alice_key.pem").read_bytes() == old
        new = load_private_key(private)
        assert registered(folder)["pendingKey"] == public_pem(new)
        assert load_public_key(folder / "keys" / "alice-2_key.pub") == new.public_key()
        assert f"  fingerprint   {fingerprint(new)}\n" in done.out
        assert "  private key   keys/alice-2_key.pem\n" in done.out

    def test_the_configuration_keeps_its_mode_its_link_and_what_else_is_in_it(
        self, run: Run, folder: Path, alice: str
    ) -> None:
        link = folder / "keys" / "alice_config.json"
        target = folder / "real.json"
        link.rename(target)
        link.symlink_to(target)
        target.write_text(json.dumps(json.loads(target.read_text()) | {"note": "ünï"}))
        target.chmod(0o640)
        assert run("rotate-key", "alice").code == 0
        assert link.is_symlink()
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert json.loads(target.read_text())["note"] == "ünï"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_what_root_makes_belongs_to_whom_the_old_files_belong(self, run: Run, folder: Path, alice: str) -> None:
        for name in ("alice_key.pem", "alice_config.json"):
            os.chown(folder / "keys" / name, 1234, 1234)
        # The tools of root's own may not read a stranger's key: only its public half and its owner are looked at.
        assert run("rotate-key", "alice").code == 0
        owners = {path.name: path.stat().st_uid for path in (folder / "keys").iterdir()}
        assert {name: uid for name, uid in owners.items() if uid != 1234} == {"alice_key.pub": 0}

    @pytest.mark.parametrize(("kind", "curve"), [(("ec", 256), "NIST P-256"), (("ec", 384), "NIST P-384")])
    def test_the_new_key_is_of_the_old_ones_kind(
        self, run: Run, folder: Path, kind: tuple[str, int], curve: str
    ) -> None:
        make_client(folder, "alice", kind=kind)
        run("rotate-key", "alice")
        assert getattr(load_private_key(folder / "keys" / "alice-2_key.pem"), "curve", None) == curve

    def test_it_can_be_of_another_kind(self, run: Run, folder: Path, alice: str) -> None:
        assert run("rotate-key", "alice", "--type=rsa", "--key-size=2048").code == 0
        key = load_private_key(folder / "keys" / "alice-2_key.pem")
        assert isinstance(key, RsaKey)
        assert key.size_in_bits() == 2048

    def test_of_an_encrypted_key_the_new_one_is_encrypted_too(
        self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_client(folder, "alice", passphrase="secret")
        done = run("rotate-key", "alice")
        assert (done.code, done.out) == (1, "")
        assert done.err == "error: there is no terminal to ask for the passphrase at; set WSCLIENT_PASSPHRASE\n"
        assert "pendingKey" not in registered(folder)
        monkeypatch.setenv("WSCLIENT_PASSPHRASE", "secret")
        assert run("rotate-key", "alice").code == 0
        private = folder / "keys" / "alice-2_key.pem"
        assert "ENCRYPTED" in private.read_text()
        assert load_private_key(private, "secret").has_private()

    def test_a_new_key_that_has_not_logged_in_is_replaced_only_when_told(
        self, run: Run, folder: Path, alice: str
    ) -> None:
        run("rotate-key", "alice")
        first = registered(folder)["pendingKey"]
        done = run("rotate-key", "alice")
        assert done.code == 1
        assert done.err.startswith("error: client 'alice' has a new key already (")
        assert done.err.endswith("which has not logged in yet; give --yes to replace that one\n")
        assert registered(folder)["pendingKey"] == first
        assert not (folder / "keys" / "alice-3_key.pem").exists()
        assert run("rotate-key", "alice", "--yes").code == 0
        assert registered(folder)["pendingKey"] == (folder / "keys" / "alice-3_key.pub").read_text()

    def test_a_key_that_its_owner_has_made_needs_neither_the_old_key_nor_a_configuration(
        self, run: Run, folder: Path, alice: str
    ) -> None:
        pem = new_pem()
        (folder / "sent.pub").write_text(pem)
        before = sorted((folder / "keys").iterdir())
        assert run("rotate-key", alice[:8], "--key-path=sent.pub").code == 0
        assert registered(folder)["pendingKey"] == pem
        assert sorted((folder / "keys").iterdir()) == before

    def test_what_could_not_be_registered_leaves_no_key_behind(
        self, run: Run, folder: Path, alice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = sorted((folder / "keys").iterdir())
        (folder / CLIENTS_FILE).with_name(".authorized_clients.json.draft").mkdir()
        done = run("rotate-key", "alice")
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "authorized_clients.json cannot be written" in done.err
        assert sorted((folder / "keys").iterdir()) == before

    def test_a_configuration_that_cannot_be_changed_is_named_with_what_to_write_there(
        self, run: Run, folder: Path, alice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As root, and with a key beside it that can be written, no folder is read-only.
        def refuse(path: Path, private_key: Path) -> None:
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr("wsclient.cli.rotating.change_private_key", refuse)
        done = run("rotate-key", "alice")
        assert (done.code, done.err.count("\n")) == (1, 1)
        private = folder / "keys" / "alice-2_key.pem"
        assert "the new key is registered, but keys/alice_config.json cannot be changed: Read-only file" in done.err
        assert f"set privateKeyPath to {private} there" in done.err
        assert registered(folder)["pendingKey"] == public_pem(load_private_key(private))

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            ((), 2, "which client? give its name or id"),
            (("bob",), 1, "there is no keys/bob_config.json; give --config, or --key-path"),
            (("alice", "--config=keys/alice_config.json"), 2, "CLIENT cannot be given together with --config"),
            (("alice", "--key-path=x.pub", "--type=ec"), 2, "--type cannot be given together with --key-path"),
            (("alice", "--key-path=x.pub"), 1, "x.pub cannot be read"),
            (("bob", "--key-path=keys/alice_key.pub"), 1, "no client has the id or name 'bob'"),
            (("alice", "--key-path=keys/alice_key.pub"), 1, "this key is registered already, to client 'alice'"),
            (("alice", "--clients-file=other.json"), 1, "no client has the id or name"),
            (("alice", "--server-url=ws://127.0.0.1:1"), 2, "--server-url only has a meaning with --online"),
            (("alice", "--type=ec", "--key-size=512"), 2, "size of an EC key must be 256 or 384"),
        ],
    )
    def test_what_cannot_be_is_one_line_and_changes_nothing(
        self, run: Run, folder: Path, alice: str, arguments: tuple[str, ...], code: int, says: str
    ) -> None:
        before = registered(folder), config_of(folder), sorted((folder / "keys").iterdir())
        done = run("rotate-key", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
        assert says in done.err
        assert (registered(folder), config_of(folder), sorted((folder / "keys").iterdir())) == before


class TestOnline:
    @pytest.fixture
    def administered(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayThread]:
        """A gateway with an administrator, whose token is in the environment."""
        monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
        settings = GatewaySettings(
            port=0, data_dir=folder / "data", backend="builtin", admin_token=TOKEN, close_timeout=0.2
        )
        with GatewayThread(settings) as gateway:
            yield gateway

    def test_the_gateway_is_asked_and_the_new_key_logs_in(
        self, run: Run, folder: Path, administered: GatewayThread
    ) -> None:
        make_client(folder, "alice", administered.url)
        done = run("rotate-key", "alice", "--online")
        assert (done.code, done.err) == (0, "")
        assert f"  gateway      {administered.url}/\n" in done.out
        assert run("rotate-key", "alice", "--online").err.endswith("give --yes to replace that one\n")
        assert run("rotate-key", "alice", "--online", "--yes").code == 0
        with WSClient.from_config(folder / "keys" / "alice_config.json") as client:
            assert client.list_models()
        wait_until(lambda: registered(folder)["publicKey"] == (folder / "keys" / "alice-3_key.pub").read_text())

    def test_a_key_that_somebody_has_is_refused_for_good(
        self, run: Run, folder: Path, administered: GatewayThread
    ) -> None:
        make_client(folder, "alice", administered.url)
        server = f"--server-url={administered.url}"
        done = run("rotate-key", "alice", "--online", server, "--key-path=keys/alice_key.pub")
        assert done.code == 1
        assert "this key is registered already, to client 'alice'" in done.err
        assert "--yes" not in done.err

    def test_a_gateway_that_refuses_leaves_no_key_behind(
        self, run: Run, folder: Path, gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
        make_client(folder, "alice", gateway.url)
        before = sorted((folder / "keys").iterdir())
        done = run("rotate-key", "alice", "--online")
        assert done.code == 1
        assert "takes no new keys online; start it with an admin token" in done.err
        assert sorted((folder / "keys").iterdir()) == before
