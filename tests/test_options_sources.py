"""Options from the environment and from the file that `register-client` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wsclient import ClientOptions, WSClient

PEM = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
ENVIRONMENT = {"WSCLIENT_SERVER_URL": "wss://host", "WSCLIENT_CLIENT_ID": "id", "WSCLIENT_PRIVATE_KEY_PATH": "k.pem"}


def from_env(**more: str) -> ClientOptions:
    return ClientOptions.from_env(ENVIRONMENT | more)


def test_every_option_but_the_context_can_come_from_the_environment() -> None:
    made = ClientOptions.from_env(
        {
            "WSCLIENT_SERVER_URL": "ws://gateway.lan",
            "WSCLIENT_CLIENT_ID": "id",
            "WSCLIENT_PRIVATE_KEY": PEM,
            "WSCLIENT_PASSPHRASE": "secret",
            "WSCLIENT_SIGNATURE_ALGORITHM": "SHA512",
            "WSCLIENT_AUTO_RECONNECT": "no",
            "WSCLIENT_RECONNECT_DELAY": "2",
            "WSCLIENT_PING_INTERVAL": "5.5",
            "WSCLIENT_REQUEST_TIMEOUT": "6",
            "WSCLIENT_AUTO_CONNECT": "1",
            "WSCLIENT_MAX_RECONNECT_ATTEMPTS": "7",
            "WSCLIENT_MAX_RECONNECT_DELAY": "8",
            "WSCLIENT_PONG_TIMEOUT": "9",
            "WSCLIENT_CONNECT_TIMEOUT": "10",
            "WSCLIENT_AUTH_TIMEOUT": "11",
            "WSCLIENT_MAX_MESSAGE_SIZE": "2048",
            "WSCLIENT_MAX_UNREAD_BYTES": "4096",
            "WSCLIENT_HEADERS": "X-A: one\nX-B:two: three\n\n",
            "WSCLIENT_PROXY": "http://host:3128",
            "WSCLIENT_ALLOW_INSECURE": "TRUE",
            "WSCLIENT_ALLOW_READABLE_KEY": "on",
        }
    )
    assert made == ClientOptions(
        server_url="ws://gateway.lan",
        client_id="id",
        private_key=PEM,
        passphrase="secret",
        signature_algorithm="SHA512",
        auto_reconnect=False,
        reconnect_delay=2.0,
        ping_interval=5.5,
        request_timeout=6.0,
        auto_connect=True,
        max_reconnect_attempts=7,
        max_reconnect_delay=8.0,
        pong_timeout=9.0,
        connect_timeout=10.0,
        auth_timeout=11.0,
        max_message_size=2048,
        max_unread_bytes=4096,
        headers={"X-A": "one", "X-B": "two: three"},
        proxy="http://host:3128",
        allow_insecure=True,
        allow_readable_key=True,
    )


def test_what_is_not_set_or_empty_keeps_its_default() -> None:
    assert from_env(WSCLIENT_PING_INTERVAL="") == ClientOptions(
        server_url="wss://host", client_id="id", private_key_path="k.pem"
    )


def test_the_processs_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert ClientOptions.from_env() == from_env()
    assert repr(WSClient.from_env(client_id="other")) == "<WSClient wss://host/ client_id='other' disconnected>"


def test_an_option_that_is_passed_wins_over_the_environment() -> None:
    made = ClientOptions.from_env(ENVIRONMENT | {"WSCLIENT_PING_INTERVAL": "rubbish"}, ping_interval=5.0)
    assert made.ping_interval == 5.0


@pytest.mark.parametrize("key", [{"private_key": PEM}, {"private_key_path": "other.pem"}])
def test_a_key_that_is_passed_wins_over_the_environments_of_either_kind(key: dict[str, str]) -> None:
    for environment in (ENVIRONMENT, {**ENVIRONMENT, "WSCLIENT_PRIVATE_KEY_PATH": "", "WSCLIENT_PRIVATE_KEY": PEM}):
        made = ClientOptions.from_env(environment, **key)
        assert (made.private_key, made.private_key_path) == (key.get("private_key"), key.get("private_key_path"))


def test_attempts_for_ever_can_come_from_the_environment() -> None:
    assert from_env(WSCLIENT_MAX_RECONNECT_ATTEMPTS="None").max_reconnect_attempts is None


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PING_INTERVAL", "often", "WSCLIENT_PING_INTERVAL must be a number (got 'often')"),
        (
            "PING_INTERVAL",
            "-5",
            "ping_interval must be a number of seconds > 0 (got -5.0) [from WSCLIENT_PING_INTERVAL]",
        ),
        (
            "PING_INTERVAL",
            "30000",
            "ping_interval is in seconds: 30000.0 looks like milliseconds; did you mean 30? "
            "[from WSCLIENT_PING_INTERVAL]",
        ),
        ("MAX_MESSAGE_SIZE", "1.5", "WSCLIENT_MAX_MESSAGE_SIZE must be a number (got '1.5')"),
        (
            "AUTO_RECONNECT",
            "maybe",
            "WSCLIENT_AUTO_RECONNECT must be one of 1, true, yes, on, 0, false, no, off (got 'maybe')",
        ),
        ("SSL_CONTEXT", "x", "WSCLIENT_SSL_CONTEXT: ssl_context cannot be given as text; pass it to from_env()"),
        (
            "PRIVATE_KEY",
            PEM,
            "give either private_key_path or private_key (got both or neither) "
            "[from WSCLIENT_PRIVATE_KEY_PATH and WSCLIENT_PRIVATE_KEY]",
        ),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        from_env(**{f"WSCLIENT_{variable}": text})


def test_missing_variables_are_named() -> None:
    both = "WSCLIENT_SERVER_URL and WSCLIENT_CLIENT_ID must be set in the environment (or pass server_url, client_id)"
    with pytest.raises(ValueError, match=f"^{re.escape(both)}$"):
        ClientOptions.from_env({})
    with pytest.raises(ValueError, match=r"^WSCLIENT_CLIENT_ID must be set"):
        ClientOptions.from_env({}, server_url="wss://host")


# --- from a configuration file ----------------------------------------------------------------------------------------


def write(path: Path, config: Any) -> Path:
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.mark.parametrize("text", ["wss://a wss://b/x,y", "wss://a, wss://b/x,y", " wss://a,\nwss://b/x,y "])
def test_several_addresses_stand_in_one_variable(text: str) -> None:
    made = ClientOptions.from_env({"WSCLIENT_SERVER_URL": text}, client_id="id", private_key=PEM)
    assert made.server_urls == ("wss://a/", "wss://b/x,y")


def test_several_addresses_are_a_list_in_a_configuration(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {**CONFIG, "serverUrl": ["wss://a", "wss://b"]})
    assert ClientOptions.from_config(path).server_urls == ("wss://a/", "wss://b/")


CONFIG = {
    "clientId": "id",
    "name": "my-client",
    "privateKeyPath": "keys/my-client_key.pem",
    "serverUrl": "http://localhost:3000",
    "signatureAlgorithm": "SHA384",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path / "my-client_config.json", CONFIG)


def test_a_configuration_is_read_and_its_http_url_means_ws(config: Path) -> None:
    made = ClientOptions.from_config(config)
    assert (made.server_url, made.client_id, made.signature_algorithm) == ("ws://localhost:3000/", "id", "SHA384")
    assert made.private_key_path == "keys/my-client_key.pem"


def test_the_original_s_relative_key_is_looked_for_from_the_working_directory_first(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "my-client_key.pem").touch()
    assert ClientOptions.from_config(config).private_key_path == "keys/my-client_key.pem"


@pytest.mark.parametrize("place", ["keys/my-client_key.pem", "my-client_key.pem"])
def test_then_it_is_looked_for_from_the_configurations_own_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    assert ClientOptions.from_config(str(config)).private_key_path == str(tmp_path / place)


def test_an_absolute_key_is_taken_as_it_is(tmp_path: Path) -> None:
    config = write(tmp_path / "c.json", CONFIG | {"privateKeyPath": "/keys/k.pem"})
    assert ClientOptions.from_config(config).private_key_path == "/keys/k.pem"


def test_an_option_that_is_passed_wins_over_the_file(config: Path) -> None:
    made = ClientOptions.from_config(config, client_id="other", private_key=PEM, ping_interval=5.0)
    assert (made.client_id, made.private_key, made.private_key_path, made.ping_interval) == ("other", PEM, None, 5.0)
    assert ClientOptions.from_config(config, private_key_path="k.pem").private_key_path == "k.pem"
    assert repr(WSClient.from_config(config)) == "<WSClient ws://localhost:3000/ client_id='id' disconnected>"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON: "),
        ("[]", "must hold a JSON object (got list)"),
        ({"clientId": "id"}, "lacks serverUrl; write it again with: wsclient register-client"),
        ({}, "lacks serverUrl and clientId; write it again with: wsclient register-client"),
        ({**CONFIG, "serverUrl": None}, "server_url must be a URL like 'wss://host' (got None)"),
        ({**CONFIG, "privateKeyPath": 5}, "private_key_path must be the path of a file (got 5)"),
        ({**CONFIG, "privateKeyPath": None}, "give either private_key_path or private_key (got both or neither)"),
    ],
)
def test_a_file_that_is_no_configuration_says_so(tmp_path: Path, content: Any, expected: str) -> None:
    config = write(tmp_path / "c.json", content)
    with pytest.raises((ValueError, TypeError)) as caught:
        ClientOptions.from_config(config)
    assert expected in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ClientOptions.from_config(tmp_path / "none.json")
