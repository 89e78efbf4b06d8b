"""`register-client`, `list-clients` and `revoke-client`, offline."""

from __future__ import annotations

import json
import signal
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wsclient import ClientOptions
from wsclient.cli.clients import time_ago
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import fingerprint, load_public_key

from .conftest import Run
from .programs import Program, run_program

CLIENTS_FILE = Path("data", "authorized_clients.json")


@pytest.fixture
def make_key(run: Run) -> Any:
    """Makes a key pair and returns the path of its public half."""

    def make(name: str) -> str:
        assert run("generate-keys", f"--name={name}", "--type=ec").code == 0
        return f"keys/{name}_key.pub"

    return make


@pytest.fixture
def key(make_key: Any) -> str:
    """The path of a public key."""
    path: str = make_key("my-client")
    return path


def entries(folder: Path) -> Any:
    return json.loads((folder / CLIENTS_FILE).read_text())


def register(run: Run, key: str, *arguments: str, name: str = "my-client") -> str:
    """Register a client, which must succeed, and return its id."""
    done = run("register-client", f"--name={name}", f"--key-path={key}", *arguments)
    assert done.code == 0, done.err
    return next(line.split()[1] for line in reversed(done.out.splitlines()) if line.startswith("  id "))


class TestRegister:
    def test_the_client_is_in_the_clients_file(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        (entry,) = entries(folder)
        assert (entry["id"], entry["name"], entry["signatureAlgorithm"]) == (client_id, "my-client", "SHA256")

    def test_the_configuration_has_all_that_a_client_needs(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key, "--server-url=wss://gateway.example", "--algorithm=RSA-SHA512")
        path = folder / "keys" / "my-client_config.json"
        assert json.loads(path.read_text()) == {
            "clientId": client_id,
            "name": "my-client",
            "privateKeyPath": str(folder / "keys" / "my-client_key.pem"),
            "serverUrl": "wss://gateway.example",
            "signatureAlgorithm": "SHA512",
        }
        assert ClientOptions.from_config(path).client_id == client_id

    def test_the_configuration_is_the_users_alone(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        assert stat.S_IMODE((folder / "keys" / "my-client_config.json").stat().st_mode) == 0o600

    def test_it_fills_in_the_template_of_generate_keys(self, run: Run, folder: Path) -> None:
        run("generate-keys", "--name=x", "--type=ec", "--create-config")
        done = run("register-client", "--name=x", "--key-path=keys/x_key.pub")
        config = json.loads((folder / "keys" / "x_config.json").read_text())
        assert config["clientId"] == entries(folder)[0]["id"]
        assert "warning" not in done.err

    def test_it_shows_the_id_the_fingerprint_and_the_next_command(self, run: Run, folder: Path, key: str) -> None:
        out = run("register-client", "--name=my-client", f"--key-path={key}").out
        assert f"  id            {entries(folder)[0]['id']}\n" in out
        assert f"  fingerprint   {fingerprint(load_public_key(folder / key))}\n" in out
        assert out.endswith("\n  wsclient generate Hello --config=keys/my-client_config.json\n")

    def test_a_clients_file_elsewhere_is_left_to_the_flag(self, run: Run, folder: Path, key: str) -> None:
        register(run, key, "--clients-file=other/clients.json")
        assert (folder / "other" / "clients.json").exists()
        assert not (folder / "data").exists()

    def test_the_folder_can_come_from_the_environment_as_the_gateways_does(
        self, run: Run, folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_DIR", "elsewhere")
        register(run, key)
        assert (folder / "elsewhere" / "authorized_clients.json").exists()

    def test_without_the_private_key_beside_it_it_says_what_to_change(self, run: Run, folder: Path, key: str) -> None:
        (folder / "keys" / "my-client_key.pem").unlink()
        done = run("register-client", "--name=my-client", f"--key-path={key}")
        assert done.code == 0
        assert "warning: there is no keys/my-client_key.pem; where the client runs, set privateKeyPath" in done.err

    def test_a_configuration_of_another_client_is_not_replaced_silently(self, run: Run, folder: Path, key: str) -> None:
        old_id = register(run, key, "--clients-file=one.json")
        done = run("register-client", "--name=my-client", f"--key-path={key}", "--clients-file=two.json")
        assert f"was the configuration of client {old_id}" in done.err

    def test_a_configuration_that_cannot_be_written_does_not_hide_the_id(
        self, run: Run, folder: Path, key: str
    ) -> None:
        (folder / "keys" / "my-client_config.json").mkdir()
        done = run("register-client", "--name=my-client", f"--key-path={key}")
        assert done.code == 1
        assert f"registered with the id {entries(folder)[0]['id']}, but keys/my-client_config.json" in done.err
        assert not [file for file in (folder / "keys").iterdir() if file.name.startswith(".")]

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (("--name=x", "--key-path=nope.pub"), 1, "nope.pub cannot be read"),
            (("--name=x", "--key-path=keys/my-client_key.pem"), 1, "is a private key"),
            (("--name=x", "--key-path=junk.pub"), 1, "junk.pub is not in PEM format"),
            (("--name=x", "--key-path=keys/my-client_key.pub", "--algorithm=SHA1"), 2, "'SHA1' is refused"),
            (("--name=x", "--key-path=keys/my-client_key.pub", "--server-url=here"), 2, "server_url must start with"),
            (("--name=a/b", "--key-path=keys/my-client_key.pub"), 2, "name of a key pair must be"),
            (("--key-path=keys/my-client_key.pub",), 2, "Missing option '--name'"),
            (("--name=x",), 2, "Missing option '--key-path'"),
        ],
    )
    def test_what_cannot_be_is_one_line_and_changes_nothing(
        self, run: Run, folder: Path, key: str, arguments: tuple[str, ...], code: int, says: str
    ) -> None:
        (folder / "junk.pub").write_text("junk")
        done = run("register-client", *arguments)
        assert (done.code, done.out) == (code, "")
        assert says in done.err
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert not (folder / "data").exists()
        assert not (folder / "keys" / "x_config.json").exists()


class TestDuplicates:
    def test_a_name_that_is_taken_is_refused_without_a_terminal(self, run: Run, folder: Path, make_key: Any) -> None:
        old_id = register(run, make_key("one"), name="one")
        done = run("register-client", "--name=ONE", f"--key-path={make_key('two')}")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(
            f"error: the name 'ONE' is registered already, to client {old_id}; give --yes to revoke"
        )
        assert [entry["id"] for entry in entries(folder)] == [old_id]

    def test_a_key_that_is_taken_is_refused_without_a_terminal(self, run: Run, folder: Path, key: str) -> None:
        old_id = register(run, key)
        done = run("register-client", "--name=other", f"--key-path={key}")
        assert done.code == 1
        assert f"this key is registered already, to client 'my-client' ({old_id})" in done.err
        assert [entry["id"] for entry in entries(folder)] == [old_id]

    def test_force_revokes_the_old_one_first(self, run: Run, folder: Path, key: str) -> None:
        old_id = register(run, key)
        new_id = register(run, key, "--force")
        assert [entry["id"] for entry in entries(folder)] == [new_id] != [old_id]
        (record,) = (folder / "data" / "revoked").iterdir()
        assert json.loads(record.read_text())["client"]["id"] == old_id

    def test_force_revokes_both_the_name_and_the_key(self, run: Run, folder: Path, make_key: Any) -> None:
        register(run, make_key("one"), name="one")
        register(run, make_key("two"), name="two")
        new_id = register(run, "keys/two_key.pub", "--force", name="one")
        assert [entry["id"] for entry in entries(folder)] == [new_id]
        assert len(list((folder / "data" / "revoked").iterdir())) == 2

    def test_force_without_a_duplicate_revokes_nobody(self, run: Run, folder: Path, key: str) -> None:
        register(run, key, "--force")
        assert not (folder / "data" / "revoked").exists()

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
    def test_at_a_terminal_it_asks(self, run: Run, folder: Path, key: str, answer: str, code: int) -> None:
        old_id = register(run, key)
        arguments = ("register-client", "--name=my-client", f"--key-path={key}")
        with Program(*arguments, cwd=folder, columns=120) as program:
            program.wait_for("Revoke the old one and register this one instead? [y/N] ")
            assert old_id in program.out
            program.type(answer + "\n")
            assert program.wait() == code
        assert (entries(folder)[0]["id"] == old_id) == (answer == "n")

    def test_ctrl_c_at_the_question_changes_nothing(self, run: Run, folder: Path, key: str) -> None:
        old_id = register(run, key)
        arguments = ("register-client", "--name=my-client", f"--key-path={key}")
        with Program(*arguments, cwd=folder, columns=120) as program:
            program.wait_for("[y/N] ")
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
            assert "Traceback" not in program.out
        assert entries(folder)[0]["id"] == old_id


class TestList:
    def test_each_client_is_a_line_that_grep_finds_by_its_id(self, run: Run, make_key: Any) -> None:
        ids = {name: register(run, make_key(name), name=name) for name in ("one", "two")}
        lines = run("list-clients").out.splitlines()
        for name, client_id in ids.items():
            (line,) = (line for line in lines if client_id in line)
            assert line.split()[:2] == [name, client_id]

    def test_at_a_narrow_terminal_the_ids_are_whole_too(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        assert client_id in run_program(["list-clients"], folder, columns=60).out

    def test_times_are_exact_in_a_pipe_and_readable_at_a_terminal(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        created = entries(folder)[0]["createdAt"]
        assert created in run("list-clients").out
        at_terminal = run_program(["list-clients"], folder, columns=80).out
        assert created not in at_terminal
        assert "just now" in at_terminal

    def test_at_a_terminal_colours_end_with_no_color(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        assert "\x1b[" in run_program(["list-clients"], folder, columns=80).out
        assert "\x1b" not in run_program(["list-clients"], folder, {"NO_COLOR": "1"}, columns=80).out

    def test_detailed_has_the_fingerprint_and_the_last_login(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        registry = ClientRegistry(folder / CLIENTS_FILE)
        registry.note_login(client_id, "192.0.2.7", 0.0)
        registry.flush_logins(0.0, force=True)
        out = run("list-clients", "--detailed").out
        assert f"  fingerprint  {fingerprint(load_public_key(folder / key))}\n" in out
        assert "  last login   1970-01-01T00:00:00.000Z from 192.0.2.7\n" in out

    def test_detailed_says_what_keeps_a_client_out(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        (entry,) = entries(folder)
        (folder / CLIENTS_FILE).write_text(json.dumps([entry | {"signatureAlgorithm": "MD5"}]))
        done = run("list-clients", "--detailed")
        assert "  cannot log in  " in done.out
        assert "MD5" in done.out

    def test_json_has_everything_but_the_key(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        (client,) = json.loads(run("list-clients", "--json").out)
        assert client == {
            "id": client_id,
            "name": "my-client",
            "fingerprint": fingerprint(load_public_key(folder / key)),
            "pendingFingerprint": None,
            "signatureAlgorithm": "SHA256",
            "createdAt": entries(folder)[0]["createdAt"],
            "lastConnected": None,
            "lastIP": None,
            "tags": [],
            "allowedIPs": [],
            "fault": None,
        }

    def test_a_name_cannot_talk_to_the_terminal(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        (entry,) = entries(folder)
        (folder / CLIENTS_FILE).write_text(json.dumps([entry | {"name": "a\x1b]0;owned\x07b", "lastIP": "\x1b[2J"}]))
        for arguments in ((), ("--detailed",), ("--json",)):
            done = run("list-clients", *arguments)
            assert "\x1b" not in done.out + done.err
            assert "owned" in done.out

    def test_entries_that_are_skipped_are_warnings(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        (folder / CLIENTS_FILE).write_text(json.dumps([*entries(folder), {"id": "half"}]))
        done = run("list-clients")
        assert done.code == 0
        assert done.err.startswith("warning: data/authorized_clients.json: entry 2 is skipped")
        assert "my-client" in done.out

    def test_a_broken_file_is_one_line(self, run: Run, folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / CLIENTS_FILE).write_text("[")
        done = run("list-clients")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("error: data/authorized_clients.json is not valid JSON")
        assert done.err.count("\n") == 1

    def test_no_clients_is_no_error_and_says_where_it_looked(self, run: Run) -> None:
        done = run("list-clients")
        assert (done.code, done.out) == (0, "")
        assert "there is no data/authorized_clients.json" in done.err

    @pytest.mark.parametrize(
        ("ago", "words"),
        [
            (timedelta(seconds=59), "just now"),
            (timedelta(seconds=-5), "just now"),
            (timedelta(minutes=59), "59 min ago"),
            (timedelta(hours=23), "23 h ago"),
            (timedelta(days=99), "99 d ago"),
            (timedelta(days=100), "2026-01-01"),
        ],
    )
    def test_times_are_told_in_words(self, ago: timedelta, words: str) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=100)
        assert time_ago((now - ago).isoformat(), now) == words

    @pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00"])
    def test_a_time_that_cannot_be_told_is_shown_as_it_is(self, text: str) -> None:
        assert time_ago(text, datetime.now(UTC)) == text


class TestRevoke:
    @pytest.mark.parametrize("by_name", [True, False])
    def test_the_client_is_gone_and_its_record_is_kept(self, run: Run, folder: Path, key: str, by_name: bool) -> None:
        client_id = register(run, key)
        done = run("revoke-client", f"--client-id={'MY-CLIENT' if by_name else client_id}", "--force")
        assert done.code == 0
        assert entries(folder) == []
        (record,) = (folder / "data" / "revoked").iterdir()
        assert json.loads(record.read_text())["client"]["id"] == client_id
        assert f"  record  data/revoked/{record.name}\n" in done.out

    def test_the_record_can_go_elsewhere(self, run: Run, folder: Path, key: str) -> None:
        register(run, key)
        run("revoke-client", "--client-id=my-client", "--force", "--revoked-dir=archive")
        assert len(list((folder / "archive").iterdir())) == 1

    def test_without_a_terminal_it_wants_force(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        done = run("revoke-client", "--client-id=my-client")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(
            f"error: give --yes to revoke client 'my-client' ({client_id}); there is no terminal"
        )
        assert len(entries(folder)) == 1

    @pytest.mark.parametrize(("answer", "code", "left"), [("yes", 0, 0), ("", 1, 1)])
    def test_at_a_terminal_it_asks(self, run: Run, folder: Path, key: str, answer: str, code: int, left: int) -> None:
        register(run, key)
        with Program("revoke-client", "--client-id=my-client", cwd=folder, columns=120) as program:
            program.wait_for("Revoke client 'my-client'")
            program.type(answer + "\n")
            assert program.wait() == code
        assert len(entries(folder)) == left

    @pytest.mark.parametrize("force", [(), ("--force",)])
    def test_an_unknown_client_is_one_line(self, run: Run, force: tuple[str, ...]) -> None:
        done = run("revoke-client", "--client-id=nobody", *force)
        assert (done.code, done.out) == (1, "")
        assert done.err == "error: no client has the id or name 'nobody'; see: wsclient list-clients\n"

    @pytest.mark.parametrize("yes", ["--yes", "-y", "--force"])
    def test_it_can_be_named_as_an_argument_by_the_beginning_of_its_id(
        self, run: Run, folder: Path, key: str, yes: str
    ) -> None:
        client_id = register(run, key)
        assert run("revoke-client", client_id[:6], yes).code == 0
        assert entries(folder) == []

    def test_a_beginning_that_is_too_short_or_not_its_own_names_nobody(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        (entry,) = entries(folder)
        twin = entry | {"id": client_id[:6] + "f" * 26, "name": "twin"}
        (folder / CLIENTS_FILE).write_text(json.dumps([entry, twin]))
        assert "no client has the id or name" in run("revoke-client", client_id[:5], "--yes").err
        done = run("revoke-client", client_id[:6], "--yes")
        assert f"2 clients have ids that begin with {client_id[:6]!r}; say which by its id: {client_id}" in done.err
        assert len(entries(folder)) == 2

    def test_a_name_wins_over_the_beginning_of_an_id(self, run: Run, folder: Path, key: str) -> None:
        client_id = register(run, key)
        (entry,) = entries(folder)
        (folder / CLIENTS_FILE).write_text(json.dumps([entry, entry | {"id": "x" * 32, "name": client_id[:6]}]))
        run("revoke-client", client_id[:6], "--yes")
        assert [entry["id"] for entry in entries(folder)] == [client_id]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [((), "which client? give its name or id"), (("x", "--client-id=x"), "CLIENT and --client-id mean the same")],
    )
    def test_none_and_two_are_wrong_usage(self, run: Run, arguments: tuple[str, ...], says: str) -> None:
        done = run("revoke-client", *arguments)
        assert done.code == 2
        assert says in done.err
