"""`register-client --online`: the same as offline, from another machine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsclient import ClientOptions, WSClient
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread

from ..support.asking import TOKEN
from .conftest import Run
from .programs import Finished, Program

KEY = "keys/my-client_key.pub"


@pytest.fixture
def url(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A gateway elsewhere that has an administrator; the token is in the environment, and a key pair is made."""
    assert run("generate-keys", "--name=my-client", "--type=ec").code == 0
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", TOKEN)
    settings = GatewaySettings(
        port=0, data_dir=folder / "elsewhere", backend="builtin", admin_token=TOKEN, close_timeout=0.2
    )
    with GatewayThread(settings) as gateway:
        yield gateway.url


def register(run: Run, url: str, *arguments: str) -> Finished:
    return run(
        "register-client", "--online", f"--server-url={url}", "--name=my-client", f"--key-path={KEY}", *arguments
    )


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_the_client_it_registers_connects_with_the_configuration_it_writes(
    run: Run, folder: Path, url: str, scheme: str
) -> None:
    done = register(run, url.replace("ws:", f"{scheme}:"), "--algorithm=RSA-SHA512")
    assert (done.code, done.err) == (0, "")
    config = folder / "keys" / "my-client_config.json"
    with WSClient(**vars_of(ClientOptions.from_config(config))) as client:
        assert client.list_models()
    written = json.loads(config.read_text())
    assert written["signatureAlgorithm"] == "SHA512"
    assert written["serverUrl"] == url.replace("ws:", f"{scheme}:")
    assert f"  id           {written['clientId']}\n" in done.out
    assert f"  gateway      {written['serverUrl']}\n" in done.out
    # The clients file is the gateway's; here there is none.
    assert not (folder / "data").exists()


def vars_of(options: ClientOptions) -> dict[str, object]:
    names = ("server_url", "client_id", "private_key_path", "signature_algorithm")
    return {name: getattr(options, name) for name in names}


def test_the_token_can_come_from_a_file(run: Run, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSCLIENT_ADMIN_TOKEN")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    assert register(run, url, "--admin-token-file=token").code == 0


def test_without_a_token_it_says_where_it_can_be(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSCLIENT_ADMIN_TOKEN")
    done = register(run, url)
    assert done.code == 1
    assert "needs the gateway's admin token: WSCLIENT_ADMIN_TOKEN, or --admin-token-file=FILE" in done.err


def test_a_token_file_that_is_missing_or_open_to_others_is_named(run: Run, folder: Path, url: str) -> None:
    assert "token: No such file or directory" in register(run, url, "--admin-token-file=token").err
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o666)
    done = register(run, url, "--admin-token-file=token")
    assert done.code == 2
    assert "token can be written by others (mode 0666)" in done.err


def test_a_wrong_token_is_told_and_never_shown(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", "a-wrong-token-of-mine")
    done = register(run, url)
    assert done.code == 1
    assert "does not accept this admin token" in done.err
    assert "a-wrong-token" not in done.err + done.out


def test_too_many_wrong_tokens_are_told_with_the_time_to_wait(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_ADMIN_TOKEN", "a-wrong-token-of-mine")
    for _ in range(5):
        done = register(run, url)
    assert "Please try again in 16 seconds. (HTTP 429)" in done.err


def test_a_name_or_key_that_is_taken_is_told_in_the_gateways_words(run: Run, url: str) -> None:
    register(run, url)
    done = register(run, url)
    assert done.code == 1
    assert "this name is registered already, to client 'my-client'" in done.err
    assert "(HTTP 409)" in done.err


def test_force_has_the_gateway_revoke_who_has_the_name_or_the_key(run: Run, folder: Path, url: str) -> None:
    old_id = json.loads(register_and_read(run, folder, url))["clientId"]
    done = register(run, url, "--yes")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Revoked the client {old_id}.\n")
    (record,) = (folder / "elsewhere" / "revoked").iterdir()
    assert record.name.startswith(old_id)
    config = ClientOptions.from_config(folder / "keys" / "my-client_config.json")
    with WSClient(**vars_of(config)) as client:
        assert client.list_models()


def register_and_read(run: Run, folder: Path, url: str) -> str:
    assert register(run, url).code == 0
    return (folder / "keys" / "my-client_config.json").read_text()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_at_a_terminal_it_asks_before_the_gateway_revokes(
    run: Run, folder: Path, url: str, answer: str, code: int
) -> None:
    old = register_and_read(run, folder, url)
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    arguments = ("register-client", "--online", f"--server-url={url}", "--name=my-client", f"--key-path={KEY}")
    with Program(*arguments, "--admin-token-file=token", cwd=folder, columns=200) as program:
        program.wait_for("Revoke the old one and register this one instead? [y/N] ")
        program.type(answer + "\n")
        assert program.wait() == code
    assert ((folder / "keys" / "my-client_config.json").read_text() == old) == (answer == "n")


def test_a_gateway_without_an_administrator_is_told_from_one_that_refuses(
    run: Run, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GatewaySettings(port=0, data_dir=folder / "x", backend="builtin")
    with GatewayThread(settings) as closed:
        assert "does not register clients online; start it with an admin token" in register(run, closed.url).err


def test_a_gateway_that_is_not_there_is_told(run: Run, url: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        done = register(run, nowhere)
    assert done.code == 1
    assert f"cannot reach http{nowhere[2:]}/api/auth/register: Connection refused; check --server-url" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "answered something else than a gateway would (HTTP 200)"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", "leads somewhere else"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n<html", "answers with HTTP 500"),
        (b'HTTP/1.1 400 No\r\nContent-Length: 17\r\n\r\n{"error":"a\x1bb\\n"}', "answers with HTTP 400"),
        (b'HTTP/1.1 400 No\r\nContent-Length: 22\r\n\r\n{"error":"a\\u001b[2J"}', "refuses: a[2J (HTTP 400)"),
        (b"rubbish\r\n\r\n", "cannot reach"),
        (b"", "cannot reach"),
    ],
)
def test_whatever_answers_there_it_ends_in_one_clean_line(run: Run, url: str, answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                while b"\r\n\r\n" not in peer.recv(65536):
                    pass
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        done = register(run, f"ws://127.0.0.1:{server.getsockname()[1]}")
        thread.join(10)
    assert done.code == 1
    assert says in done.err
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


def test_the_token_is_not_sent_unencrypted_to_another_machine(run: Run, url: str) -> None:
    done = register(run, "http://gateway.example")
    assert done.code == 2
    assert "is not encrypted" in done.err
    assert "--allow-insecure" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--online", "--clients-file=x"), "--clients-file cannot be given together with --online"),
        (("--admin-token-file=x",), "--admin-token-file only has a meaning with --online"),
        (("--allow-insecure",), "--allow-insecure only has a meaning with --online"),
    ],
)
def test_flags_of_the_other_mode_are_wrong_usage(run: Run, folder: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run("register-client", "--name=x", "--key-path=x.pub", *arguments)
    assert done.code == 2
    assert says in done.err
