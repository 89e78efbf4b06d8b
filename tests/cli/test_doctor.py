"""`wsclient doctor`: what it says of settings, keys and the clients file, with a real gateway. Takes 2 s."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient.gateway.thread import GatewayThread
from wsclient.keys import fingerprint, generate_key, load_public_key, save_key_pair

from ..support.fake_ollama import FakeOllama
from .conftest import Run
from .doctor_reports import NAMES, TLS, Examine, examine, failed, skipped

__all__ = ["examine"]


def change(config: Path, **values: Any) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


# --- a system that works ----------------------------------------------------------------------------------------------


def test_a_system_that_works_passes_every_check_that_applies(examine: Examine) -> None:
    found = examine()
    assert found["code"] == 0
    assert failed(found) == []
    # The gateway of the test has no TLS.
    assert skipped(found) == TLS


def test_what_it_measured_is_among_the_facts(examine: Examine, ollama: FakeOllama) -> None:
    found = examine("--model=tiny:1b")
    assert found["generation"]["facts"]["model"] == "tiny:1b"
    assert 0 < found["latency"]["facts"]["latency"] < 5
    assert abs(found["clock"]["facts"]["difference"]) < 10
    assert found["versions"]["facts"]["server"].startswith("wsclient-gateway/")
    assert all(0 <= found[name]["seconds"] < 15 for name in NAMES)


def test_each_line_has_a_mark_and_the_last_one_sums_up(run: Run, config: Path) -> None:
    done = run("doctor", f"--config={config}")
    lines = done.out.splitlines()
    assert (done.code, done.err, len(lines)) == (0, "", len(NAMES) + 1)
    assert all(line.startswith((" \u2713 ", " - ")) for line in lines[:-1])
    assert lines[-1] == f"{len(NAMES) - len(TLS)} passed, 0 failed, {len(TLS)} skipped: all is well."


def test_a_check_that_failed_is_one_line_with_what_to_do(run: Run, config: Path) -> None:
    done = run("doctor", f"--config={config}", "--client-id=nobody")
    (line,) = [line for line in done.out.splitlines() if line.startswith(" \u2717 ")]
    assert "has no client nobody. Register it: wsclient register-client --name=NAME" in line


def test_neither_key_nor_challenge_nor_passphrase_nor_text_is_shown(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_PASSPHRASE", "sesame")
    key = Path(json.loads(config.read_text())["privateKeyPath"]).read_text()
    done = run("doctor", "--debug", "--json", f"--config={config}")
    assert not [secret for secret in ("sesame", "t001", *key.splitlines()) if secret in done.out + done.err]


# --- settings and URL -------------------------------------------------------------------------------------------------


def test_nothing_said_names_the_configuration_there_is(run: Run, config: Path) -> None:
    done = run("doctor")
    assert done.code == 1
    assert "nothing says how to connect. Give --config=keys/tester_config.json." in done.out


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read: No such file"), ("{", "is not JSON"), ("[]", "must hold")]
)
def test_a_configuration_that_is_none_fails_and_all_that_needs_it_is_skipped(
    run: Run, folder: Path, content: str | None, says: str
) -> None:
    if content is not None:
        (folder / "x.json").write_text(content)
    done = run("doctor", "--json", "--config=x.json")
    found = {check["check"]: check for check in json.loads(done.out)["checks"]}
    assert failed(found) == ["settings"]
    assert says in found["settings"]["text"]
    assert skipped(found) == [name for name in NAMES if name not in ("settings", "versions")]


def test_a_wrong_variable_is_named(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_PING_INTERVAL", "soon")
    assert "WSCLIENT_PING_INTERVAL must be a number" in examine()["settings"]["text"]


@pytest.mark.parametrize(
    ("url", "says", "fix"),
    [
        ("htp://x", "must start with ws:// or wss://", "Correct it"),
        ("wss://x:port", "invalid port", "Correct it"),
        ("ws://gateway.invalid:1", "is not encrypted", "Use wss://, or --allow-insecure"),
    ],
)
def test_a_url_that_is_none_fails_and_the_key_is_looked_at_all_the_same(
    examine: Examine, url: str, says: str, fix: str
) -> None:
    found = examine(f"--server-url={url}")
    assert failed(found) == ["url"]
    assert says in found["url"]["text"]
    assert fix in found["url"]["fix"]
    assert found["key"]["status"] == "ok"
    assert found["dns"]["text"] == "it needs: URL"


@pytest.mark.parametrize("is_by_flag", [True, False])
def test_of_several_gateways_the_first_is_examined_and_the_next_one_named(
    examine: Examine, config: Path, monkeypatch: pytest.MonkeyPatch, is_by_flag: bool
) -> None:
    values = json.loads(config.read_text())
    urls = (values.pop("serverUrl"), "ws://localhost:1")
    if is_by_flag:
        found = examine(*(f"--server-url={url}" for url in urls))
    else:
        monkeypatch.setenv("WSCLIENT_SERVER_URL", " ".join(urls))
        config.write_text(json.dumps(values))
        found = examine()
    assert found["code"] == 0
    assert found["url"]["facts"]["url"] == f"{urls[0]}/"
    assert found["url"]["text"].endswith("; to examine another one of 2: --server-url=ws://localhost:1/")


def test_a_template_says_to_register(examine: Examine, config: Path) -> None:
    change(config, clientId="")
    found = examine()
    assert failed(found) == ["client_id"]
    assert "register-client" in found["client_id"]["fix"]


# --- the key ----------------------------------------------------------------------------------------------------------


def key_of(config: Path) -> Path:
    return Path(json.loads(config.read_text())["privateKeyPath"])


def remove(key: Path) -> None:
    key.unlink()


def open_to_others(key: Path) -> None:
    key.chmod(0o666)


def make_a_folder(key: Path) -> None:
    key.unlink()
    key.mkdir()


def write_nonsense(key: Path) -> None:
    key.write_text("nonsense")


def put_the_public_half(key: Path) -> None:
    key.write_text(key.with_suffix(".pub").read_text())


def encrypt(key: Path) -> None:
    save_key_pair(generate_key("ec"), key.parent, key.name.removesuffix("_key.pem"), passphrase="x", overwrite=True)


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (remove, "key_file", "does not exist"),
        (open_to_others, "key_file", "can be written by others (mode 0666)"),
        (make_a_folder, "key_file", "is a directory"),
        (write_nonsense, "key", "is not in PEM format"),
        (put_the_public_half, "key", "is a public key"),
        (encrypt, "key", "is encrypted"),
    ],
)
def test_a_key_that_cannot_be_used_fails_and_only_the_login_is_not_tried(
    examine: Examine, config: Path, spoil: Callable[[Path], None], check: str, says: str
) -> None:
    spoil(key_of(config))
    found = examine()
    assert failed(found) == [check]
    assert says in found[check]["text"]
    assert found[check]["fix"]
    assert found["challenge"]["status"] == "ok"
    assert found["login"]["text"] == "it needs: key"


def test_the_key_can_be_in_the_environment(examine: Examine, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_PRIVATE_KEY", key_of(config).read_text())
    values = json.loads(config.read_text())
    values.pop("privateKeyPath")
    config.write_text(json.dumps(values))
    found = examine()
    assert (found["code"], found["key_file"]["status"], found["key"]["status"]) == (0, "skipped", "ok")


# --- the clients file -------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_the_registered_one_fails_with_its_fingerprint_and_no_login_is_wasted(
    examine: Examine, config: Path, gateway: GatewayThread
) -> None:
    registered = fingerprint(load_public_key(key_of(config).with_suffix(".pub")))
    save_key_pair(generate_key("ec"), key_of(config).parent, "tester", overwrite=True)
    found = examine()
    assert failed(found) == ["registration"]
    assert registered in found["registration"]["text"]
    assert found["login"]["status"] == "skipped"


def test_a_revoked_client_is_told_when_and_why(examine: Examine, run: Run) -> None:
    run("revoke-client", "--client-id=tester", "--force")
    found = examine()
    assert failed(found) == ["registration"]
    assert "was revoked at 20" in found["registration"]["text"]
    assert "(Manual revocation" in found["registration"]["text"]


def test_an_algorithm_that_is_not_the_registered_one_fails(examine: Examine, config: Path) -> None:
    change(config, signatureAlgorithm="SHA512")
    found = examine()
    assert failed(found) == ["algorithm"]
    assert "registered with SHA256" in found["algorithm"]["text"]


def test_an_algorithm_that_there_is_not_fails(examine: Examine, config: Path) -> None:
    change(config, signatureAlgorithm="SHA1")
    assert "Use SHA256, SHA384 or SHA512" in examine()["algorithm"]["fix"]


def test_a_clients_file_that_was_named_must_be_there_and_be_one(examine: Examine, folder: Path) -> None:
    assert "there is no nowhere.json" in examine("--clients-file=nowhere.json")["registration"]["text"]
    (folder / "broken.json").write_text("{")
    assert "broken.json" in examine("--clients-file=broken.json")["registration"]["text"]


def test_a_rotated_key_that_has_not_logged_in_yet_is_registered(examine: Examine, run: Run, config: Path) -> None:
    assert run("rotate-key", f"--config={config}").code == 0
    found = examine()
    assert failed(found) == []
    assert found["registration"]["status"] == "ok"


def test_a_clients_file_says_nothing_where_the_clients_are_in_a_store(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCLIENT_STORE", "redis://127.0.0.1:1")
    found = examine()
    assert found["registration"]["status"] == "skipped"
    assert "the store that WSCLIENT_STORE names" in found["registration"]["text"]


def test_without_a_clients_file_the_gateway_itself_refuses_a_wrong_key(
    examine: Examine, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_key_pair(generate_key("ec"), key_of(config).parent, "tester", overwrite=True)
    monkeypatch.chdir(tmp_path)
    found = examine()
    assert found["registration"]["status"] == "skipped"
    assert failed(found) == ["login"]
    assert found["login"]["facts"]["code"] == "invalid_auth"
    assert "wsclient list-clients --detailed" in found["login"]["fix"]
