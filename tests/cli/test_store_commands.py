"""The commands on a store that gateways share: with a real Redis, as with a clients file. 6 s."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import fingerprint, load_public_key

from ..support.client_files import entries, entry, new_pem, put
from ..support.redis_server import RedisServer
from .conftest import Run
from .programs import Program, run_program
from .test_completion_command import completions

SECRET = "s3cr3t-of-the-store"


@pytest.fixture
def key(run: Run) -> str:
    """The path of a public key."""
    assert run("generate-keys", "--name=a", "--type=ec").code == 0
    return "keys/a_key.pub"


def register(run: Run, key: str, *arguments: str) -> str:
    done = run("register-client", "--name=a", f"--key-path={key}", *arguments)
    assert done.code == 0, done.err
    assert "  store" in done.out
    client_id: str = json.loads(Path("keys/a_config.json").read_text())["clientId"]
    return client_id


class TestClients:
    def test_registering_listing_and_revoking_work_on_a_store(
        self, run: Run, key: str, redis_server: RedisServer
    ) -> None:
        store = f"--store={redis_server.url}"
        client_id = register(run, key, store)
        assert [client["id"] for client in json.loads(run("list-clients", "--json", store).out)] == [client_id]
        done = run("revoke-client", "--client-id=a", "--force", store)
        assert (done.code, f"of wsclient:revoked in {redis_server.url}" in done.out) == (0, True)
        done = run("list-clients", store)
        assert done.err == f"No clients are registered in {redis_server.url}; see: wsclient register-client --help\n"
        assert not Path("data").exists()

    def test_the_environment_names_the_store_and_a_file_on_the_command_line_wins(
        self, run: Run, key: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSCLIENT_STORE", redis_server.url)
        client_id = register(run, key)
        assert client_id in run("list-clients").out
        assert client_id not in run("list-clients", "--clients-file=other.json").out

    def test_a_name_that_is_taken_needs_force(self, run: Run, key: str, redis_server: RedisServer) -> None:
        store = f"--store={redis_server.url}"
        old = register(run, key, store)
        done = run("register-client", "--name=a", f"--key-path={key}", store)
        assert (done.code, "is registered already" in done.err) == (1, True)
        assert register(run, key, store, "--force") != old

    def test_a_key_is_rotated_in_the_store(self, run: Run, key: str, redis_server: RedisServer) -> None:
        store = f"--store={redis_server.url}"
        client_id = register(run, key, store)
        done = run("rotate-key", "a", store)
        assert done.code == 0, done.err
        assert f"  store        {redis_server.url}\n" in done.out
        assert Path(json.loads(Path("keys/a_config.json").read_text())["privateKeyPath"]).name == "a-2_key.pem"
        (listed,) = json.loads(run("list-clients", "--json", store).out)
        assert listed["id"] == client_id
        assert listed["pendingFingerprint"] == fingerprint(load_public_key(Path("keys/a-2_key.pub")))
        assert "new key" in run("list-clients", "--detailed", store).out
        again = run("rotate-key", "a", store)
        assert (again.code, "which has not logged in yet" in again.err) == (1, True)
        assert run("rotate-key", "a", store, "--yes").code == 0
        assert not Path("data").exists()

    @pytest.mark.parametrize("command", ["register-client --name=a --key-path=keys/a_key.pub", "rotate-key a"])
    def test_a_store_means_nothing_to_who_asks_a_gateway(self, run: Run, key: str, command: str) -> None:
        done = run(*command.split(), "--online", "--store=redis://127.0.0.1:1")
        assert done.code == 2
        assert done.err.startswith("error: --store cannot be given together with --online")

    def test_clients_of_the_store_are_completed(
        self, run: Run, key: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client_id = register(run, key, f"--store={redis_server.url}", "--store-prefix=other:")
        store = ("--store", redis_server.url)
        assert completions("rotate-key", *store, "") == []
        assert completions("rotate-key", *store, "--store-prefix=other:", "") == ["plain,a", f"plain,{client_id}"]
        register(run, key, *store)
        monkeypatch.setenv("WSCLIENT_STORE", redis_server.url)
        assert completions("revoke-client", "a")[0] == "plain,a"

    @pytest.mark.parametrize("store", ["redis://127.0.0.1:1", "nonsense", "redis://h --clients-file=f"])
    def test_a_store_that_cannot_be_asked_offers_nobody(self, folder: Path, store: str) -> None:
        assert completions("revoke-client", "--store", *store.split(), "") == []

    def test_the_password_can_be_in_a_file_and_is_never_shown(self, run: Run, key: str) -> None:
        file = Path("password")
        file.touch(mode=0o600)
        file.write_text(SECRET)
        with RedisServer(password=SECRET) as server:
            store, password = f"--store=redis://127.0.0.1:{server.port}", f"--store-password-file={file}"
            register(run, key, store, password)
            listed = run("--debug", "list-clients", "--detailed", store, password)
            assert (listed.code, SECRET in listed.out + listed.err) == (0, False)
            done = run("--debug", "list-clients", f"--store=redis://:wrong{SECRET}@127.0.0.1:{server.port}")
            assert f"error: the store at redis://127.0.0.1:{server.port}/0 refuses the user or the pass" in done.err
            assert (done.code, SECRET in done.err) == (1, False)

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (["--store=redis://h", "--clients-file=a"], "--store cannot be given together with --clients-file"),
            (["--store-password-file=a"], "--store-password-file only has a meaning with --store"),
            ([f"--store=http://:{SECRET}@h"], "store must be a URL like redis://host:6379/0"),
            (["--store=redis://h", "--store-prefix="], "store must be 1 to 64 printable characters"),
        ],
    )
    def test_options_that_cannot_be_are_wrong_usage(self, run: Run, arguments: list[str], why: str) -> None:
        done = run("list-clients", *arguments)
        assert done.code == 2
        assert done.err.startswith(f"error: {why}")
        assert SECRET not in done.err

    def test_a_folder_for_records_means_nothing_in_a_store(self, run: Run) -> None:
        done = run("revoke-client", "--client-id=a", "--revoked-dir=x", "--store=redis://127.0.0.1:1")
        assert (done.code, "--revoked-dir has no meaning with a store" in done.err) == (2, True)

    def test_a_store_that_is_not_there_is_one_line(self, run: Run) -> None:
        done = run("list-clients", "--store=redis://127.0.0.1:1")
        text = "the store at redis://127.0.0.1:1/0 cannot be reached: Connection refused; check that a Redis runs there"
        assert (done.code, done.err) == (1, f"error: {text}\n")


class TestCopy:
    @pytest.fixture
    def file(self, folder: Path) -> Path:
        path = folder / "clients.json"
        put(path, [entry("a", new_pem(), color="red"), entry("b", new_pem())])
        return path

    def counts(self, out: str) -> dict[str, int]:
        return {words[0]: int(words[1]) for line in out.splitlines()[1:] if (words := line.split())}

    def test_it_goes_there_and_back_and_says_what_it_did(self, run: Run, file: Path, redis_server: RedisServer) -> None:
        first = run("store", "copy", str(file), redis_server.url)
        assert first.code == 0, first.err
        assert first.out.startswith(f"From {file} to {redis_server.url}:\n")
        assert self.counts(first.out) == {"copied": 2, "unchanged": 0, "differing": 0}
        again = run("store", "copy", str(file), redis_server.url)
        assert self.counts(again.out) == {"copied": 0, "unchanged": 2, "differing": 0}
        back = run("store", "copy", redis_server.url, "back.json")
        assert self.counts(back.out) == {"copied": 2, "unchanged": 0, "differing": 0}
        assert sorted(entries(Path("back.json")), key=str) == sorted(entries(file), key=str)

    def test_clients_that_differ_are_named_and_left_unless_overwritten(
        self, run: Run, file: Path, redis_server: RedisServer
    ) -> None:
        run("store", "copy", str(file), redis_server.url)
        changed = entries(file)
        changed[0]["publicKey"] = new_pem()
        put(file, changed)
        done = run("store", "copy", str(file), redis_server.url)
        assert (done.code, self.counts(done.out)) == (1, {"copied": 0, "unchanged": 1, "differing": 1})
        assert done.err == ("error: clients that differ were left as they are: 'a'; give --overwrite to replace them\n")
        done = run("store", "copy", str(file), redis_server.url, "--overwrite")
        assert (done.code, self.counts(done.out)["overwritten"]) == (0, 1)
        run("store", "copy", redis_server.url, "back.json")
        assert {item["publicKey"] for item in entries(Path("back.json"))} == {item["publicKey"] for item in changed}

    def test_what_is_no_client_is_warned_of_and_left_behind(
        self, run: Run, file: Path, redis_server: RedisServer
    ) -> None:
        put(file, [*entries(file), {"odd": True}])
        done = run("store", "copy", str(file), redis_server.url)
        assert (done.code, self.counts(done.out)["copied"]) == (0, 2)
        assert f"warning: {file}: entry 3 is skipped" in done.err

    def test_a_source_that_is_not_there_is_no_empty_one(self, run: Run) -> None:
        done = run("store", "copy", "typo.json", "redis://127.0.0.1:1")
        assert (done.code, done.err) == (1, "error: there is no typo.json\n")

    def test_a_target_that_is_the_source_is_wrong_usage(self, run: Run, file: Path) -> None:
        assert run("store", "copy", str(file), str(file)).code == 2


def test_serve_names_the_store_and_not_its_password(folder: Path) -> None:
    with RedisServer(password=SECRET) as server:
        environment: Any = {"WSCLIENT_STORE": server.url}
        arguments = ("--debug", "serve", "--backend=builtin", "--port=0")
        with Program(*arguments, cwd=folder, env=environment) as program:
            program.wait_for("stop it with")
            assert f"redis://127.0.0.1:{server.port}/0 (0 registered)" in program.out
            program.send_signal(signal.SIGTERM)
            assert program.wait() == 0
            assert SECRET not in program.out + program.err
    assert not (folder / "data").exists()
    assert "WSCLIENT_STORE" not in os.environ


def test_status_names_the_store_and_not_its_password(run: Run) -> None:
    with RedisServer(password=SECRET) as server:
        settings = GatewaySettings(port=0, metrics_port=0, store=server.url, backend="builtin")
        with GatewayThread(settings) as gateway:
            done = run("status", f"--server-url={gateway.gateway.metrics_url.removesuffix('/metrics')}")
    assert done.code == 0, done.err
    assert f"  store        redis://127.0.0.1:{server.port}/0\n" in done.out
    assert SECRET not in done.out


def test_serve_without_its_store_is_one_line(folder: Path) -> None:
    done = run_program(["serve", "--backend=builtin", "--port=0", f"--store=redis://:{SECRET}@127.0.0.1:1"], folder)
    text = "the store at redis://127.0.0.1:1/0 cannot be reached: Connection refused; check that a Redis runs there"
    assert (done.code, done.out, done.err) == (1, "", f"error: {text}\n")


def test_a_copied_client_is_known_to_a_registry_of_the_other_kind(
    run: Run, folder: Path, key: str, redis_server: RedisServer
) -> None:
    client_id = register(run, key, f"--store={redis_server.url}")
    assert run("store", "copy", redis_server.url, "data/authorized_clients.json").code == 0
    assert ClientRegistry(folder / "data" / "authorized_clients.json").get(client_id) is not None
