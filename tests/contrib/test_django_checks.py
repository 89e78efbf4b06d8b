"""The system checks of Django projects: each mistake in WSCLIENT has its id and a hint.

Takes 3 s, of which 2 are `manage.py check` in a process of its own.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey.RSA import RsaKey

pytest.importorskip("django")

from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter

import wsclient.contrib.django.checks as checks
from wsclient.contrib.django import get_client
from wsclient.keys import save_key_pair
from wsclient.testing import FakeClient, Gateway

from ..end_to_end.programs import run_program
from .django_site import FAKE

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_chat.py"
SOUND = {"SERVER_URL": "wss://host", "CLIENT_ID": "me", "PRIVATE_KEY": lambda challenge: challenge}


def found(setting: Any, **kinds: Any) -> list[tuple[str, str, str]]:
    """Return the ids, texts and hints of what the checks find, for a setting."""
    with override_settings(WSCLIENT=setting):
        messages = [message for message in run_checks(**kinds) if message.id.startswith("wsclient.")]
    return [(message.id.removeprefix("wsclient."), message.msg, message.hint) for message in messages]


def only(entry: Any) -> tuple[str, str, str]:
    """Return the one thing that the checks find in an entry."""
    (fault,) = found({"default": entry})
    return fault


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "a_key.pem"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "entry",
    [SOUND, FAKE, {"CLIENT": FakeClient()}, SOUND | {"REQUEST_TIMEOUT": 5, "PRIVATE_KEY_PATH": None, "HEADERS": {}}],
)
def test_nothing_is_found_in_what_is_right(entry: dict[str, Any]) -> None:
    assert found({"default": entry, "other": SOUND}) == []


def test_a_project_without_the_setting_is_told_what_to_write() -> None:
    with override_settings():
        from django.conf import settings

        del settings.WSCLIENT
        (message,) = run_checks(tags=["wsclient"])
    assert message.id == "wsclient.E001"
    assert '"default": {"SERVER_URL"' in message.hint


@pytest.mark.parametrize(
    ("setting", "id", "text"),
    [
        (None, "E001", "The setting WSCLIENT is missing."),
        ([SOUND], "E001", "WSCLIENT must be a dict (got list)."),
        ({}, "E002", 'WSCLIENT has no "default".'),
        ({"spare": SOUND}, "E002", 'WSCLIENT has no "default".'),
        ({"default": "wss://host"}, "E003", 'WSCLIENT["default"] must be a dict (got str).'),
    ],
)
def test_a_setting_of_the_wrong_shape_is_found(setting: Any, id: str, text: str) -> None:
    assert [(fault[0], fault[1]) for fault in found(setting)] == [(id, text)]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("REQUEST_TIMOUT", "Did you mean REQUEST_TIMEOUT?"),
        ("server_url", "Did you mean SERVER_URL?"),
        ("xyz", "There are: ALLOW_INSECURE, "),
        (7, "There are: "),
    ],
)
def test_an_unknown_option_is_found_with_the_nearest_name(key: Any, hint: str) -> None:
    id, text, said = only(SOUND | {key: 1})
    assert (id, text) == ("E004", f'WSCLIENT["default"] has an unknown option {key!r}.')
    assert said.startswith(hint)


@pytest.mark.parametrize(
    ("options", "id", "text"),
    [
        ({"REQUEST_TIMEOUT": "5"}, "E005", "REQUEST_TIMEOUT must be a number of seconds > 0 (got '5')"),
        ({"RECONNECT_DELAY": 1000}, "E005", "RECONNECT_DELAY is in seconds: 1000 looks like milliseconds"),
        ({"AUTO_CONNECT": 1}, "E005", "AUTO_CONNECT must be True or False (got 1)"),
        ({"PROXY": "there"}, "E005", "PROXY must be a URL like"),
        ({"CLIENT_ID": ""}, "E005", "CLIENT_ID must be a text that is not empty (got '')"),
        ({"SERVER_URL": "host:3000"}, "E006", "SERVER_URL must start with ws:// or wss:// and name a host"),
        (
            {"SERVER_URL": "ws://host"},
            "E006",
            "SERVER_URL 'ws://host/' is not encrypted; use wss://, or ALLOW_INSECURE=True",
        ),
        ({"PRIVATE_KEY": "none"}, "E007", "PRIVATE_KEY must be PEM text"),
        ({"PRIVATE_KEY": None}, "E007", "give either PRIVATE_KEY_PATH or PRIVATE_KEY"),
        ({"PRIVATE_KEY_PATH": "k.pem"}, "E007", "give either PRIVATE_KEY_PATH or PRIVATE_KEY"),
    ],
)
def test_a_wrong_value_is_found_by_its_name_in_the_setting(options: dict[str, Any], id: str, text: str) -> None:
    told = only(SOUND | options)
    assert told[0] == id
    assert told[1].startswith(f'WSCLIENT["default"]: {text}')
    assert told[2]


def test_all_wrong_values_of_all_clients_are_found_at_once() -> None:
    wrong = {"PING_INTERVAL": 0, "SERVER_URL": "", "NAME": "x"}
    ids = [id for id, _, _ in found({"default": SOUND | wrong, "other": SOUND | wrong})]
    assert sorted(ids) == ["E004", "E004", "E005", "E005", "E006", "E006"]


def test_what_is_missing_is_found() -> None:
    assert only({"PRIVATE_KEY_PATH": "k.pem"})[1] == (
        'WSCLIENT["default"]: SERVER_URL and CLIENT_ID must be given, or CONFIG'
    )


def test_a_key_that_is_not_there_is_found(tmp_path: Path) -> None:
    entry = SOUND | {"PRIVATE_KEY": None, "PRIVATE_KEY_PATH": tmp_path / "my_key.pem"}
    id, text, hint = only(entry)
    assert (id, text) == ("E007", f'WSCLIENT["default"]: the private key {tmp_path / "my_key.pem"} does not exist.')
    assert "wsclient generate-keys" in hint


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_key_that_others_can_write_is_found(tmp_path: Path, rsa_key_pem: str, mode: int) -> None:
    id, text, hint = only(SOUND | {"PRIVATE_KEY": None, "PRIVATE_KEY_PATH": key_file(tmp_path, rsa_key_pem, mode)})
    assert id == "E008"
    assert f"can be written by others (mode {mode:04o})" in text
    assert "chmod 600" in hint


def test_a_key_that_others_can_read_is_found_unless_it_is_allowed(
    tmp_path: Path, rsa_key_pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = key_file(tmp_path, rsa_key_pem, 0o644)
    if os.geteuid() == 0:
        # Root's own files may be readable, so it belongs to somebody else, who runs the check.
        os.chown(path, 12345, 12345)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    entry = SOUND | {"PRIVATE_KEY": None, "PRIVATE_KEY_PATH": path}
    id, text, hint = only(entry)
    assert (id, "can be read by others (mode 0644)" in text) == ("E008", True)
    assert hint == f'Run: chmod 600 {path} (or set "ALLOW_READABLE_KEY": True).'
    assert found({"default": entry | {"ALLOW_READABLE_KEY": True}}) == []


def test_a_key_that_cannot_be_used_is_found(tmp_path: Path, rsa_public_pem: str) -> None:
    entry = SOUND | {"PRIVATE_KEY": None, "PRIVATE_KEY_PATH": key_file(tmp_path, rsa_public_pem)}
    id, text, hint = only(entry)
    assert (id, text.endswith(" is a public key.")) == ("E009", True)
    assert "private half" in hint
    assert only(entry | {"PRIVATE_KEY_PATH": tmp_path})[0] == "E009"
    assert only(SOUND | {"PRIVATE_KEY": rsa_public_pem})[0] == "E009"


def test_nobody_is_asked_for_a_passphrase(tmp_path: Path, rsa_key: RsaKey) -> None:
    path = save_key_pair(rsa_key, tmp_path, "my", "hush").private
    asked = []
    entry = SOUND | {"PRIVATE_KEY": None, "PRIVATE_KEY_PATH": path, "PASSPHRASE": lambda: asked.append(1) or "hush"}
    assert found({"default": entry}) == []
    assert asked == []
    assert only(entry | {"PASSPHRASE": "wrong"})[0] == "E009"


@pytest.mark.parametrize("client", ["wsclient.testing.NoClient", "nowhere.Client", "word", 7])
def test_a_client_that_cannot_be_made_is_found(client: Any) -> None:
    id, text, hint = only({"CLIENT": client})
    assert id == "E010"
    assert text.startswith('WSCLIENT["default"]: CLIENT cannot be used: ')
    assert "dotted path" in hint


def test_a_client_of_ones_own_may_take_options_of_its_own() -> None:
    assert found({"default": FAKE | {"ANSWERS": {"Hi": "Hello"}, "MODELS": ["llama2"]}}) == []
    assert only(FAKE | {"ANSWER": "Hello"})[2] == "Did you mean ANSWERS?"


def test_the_file_of_register_client_is_looked_into(wsclient_gateway: Gateway, tmp_path: Path) -> None:
    assert found({"default": {"CONFIG": wsclient_gateway.config_path}}) == []
    assert only({"CONFIG": tmp_path / "none.json"})[0] == "E011"
    assert only(FAKE | {"CONFIG": tmp_path / "none.json"})[0] == "E011"
    assert only({"CONFIG": None})[1] == 'WSCLIENT["default"]: CONFIG must be the path of a file (got None)'
    (tmp_path / "empty.json").write_text("{}")
    assert only({"CONFIG": tmp_path / "empty.json"})[:2] == (
        "E005",
        f'WSCLIENT["default"]: {tmp_path}/empty.json lacks serverUrl and clientId; '
        "write it again with: wsclient register-client",
    )


def test_what_does_not_belong_into_production_is_told_before_it_gets_there() -> None:
    entry = SOUND | {"SERVER_URL": "ws://host", "ALLOW_INSECURE": True, "ALLOW_READABLE_KEY": True}
    assert found({"default": entry, "other": SOUND}) == []
    told = found({"default": entry, "other": SOUND}, include_deployment_checks=True, tags=["security"])
    assert [id for id, _, _ in told] == ["W001", "W002"]


def test_every_id_is_listed_once() -> None:
    listed = re.findall(r"\b[EW]\d{3}\b", checks.__doc__ or "")
    source = "".join(path.read_text() for path in Path(checks.__file__).parent.glob("*.py"))
    assert sorted(listed) == sorted(set(re.findall(r'"(?:wsclient\.)?([EW]\d{3})"', source)))


def test_who_asks_for_a_client_is_told_the_same() -> None:
    for setting, text in (
        (None, "WSCLIENT is missing. Write WSCLIENT = "),
        ({"default": SOUND | {"PROXI": ""}}, "unknown option 'PROXI'. Did you mean PROXY?"),
    ):
        with override_settings(WSCLIENT=setting), pytest.raises(ImproperlyConfigured, match=re.escape(text)):
            get_client()


def test_djangos_debug_pages_show_no_key_and_no_passphrase() -> None:
    with override_settings(WSCLIENT={"default": SOUND | {"PRIVATE_KEY": "PEM!", "PASSPHRASE": "hush"}}):
        shown = repr(SafeExceptionReporterFilter().get_safe_settings()["WSCLIENT"])
    assert "wss://host" in shown
    assert "PEM!" not in shown
    assert "hush" not in shown


def test_manage_py_check_ends_with_the_mistake(tmp_path: Path, wsclient_gateway: Gateway) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE), "check"]
    env = {**os.environ, **wsclient_gateway.environment}
    finished = run_program(command, tmp_path, env)
    assert (finished.returncode, finished.stderr) == (0, "")

    finished = run_program(command, tmp_path, env | {"WSCLIENT_SERVER_URL": "ws://example.org"})
    assert finished.returncode == 1
    assert '(wsclient.E006) WSCLIENT["default"]: SERVER_URL' in finished.stderr
    assert "HINT: " in finished.stderr
    # Nothing was connected to.
    assert wsclient_gateway.connections == 0
