"""The administrator's token: what it may be, where it comes from, and what is compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsclient.gateway.admin_token import AdminToken, check_admin_token, read_admin_token
from wsclient.gateway.settings import GatewaySettings

TOKEN = "s3cret-" + "x" * 20


def put(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 15, "x" * 513, "with space in the middle", "ümläut-" * 5, "a\n" * 20]
)
def test_what_cannot_be_a_token_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="must be 16 to 512 printable ASCII") as caught:
        check_admin_token(text)
    assert not text.strip() or text not in str(caught.value)


def test_white_space_round_the_files_token_does_not_count(tmp_path: Path) -> None:
    assert read_admin_token(put(tmp_path / "token", f"  {TOKEN}\n\n")) == TOKEN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_root_may_be_readable_and_anybody_elses_not(tmp_path: Path) -> None:
    path = put(tmp_path / "token", TOKEN, 0o444)
    assert read_admin_token(path) == TOKEN
    os.chown(path, 12345, -1)
    with pytest.raises(ValueError, match="belongs to user 12345"):
        read_admin_token(path)


def test_a_users_file_must_not_be_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "token", TOKEN, 0o644)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ValueError, match="can be read by others"):
        read_admin_token(path)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can be written by others \(mode 0622\); run: chmod 600"):
        read_admin_token(put(tmp_path / "token", TOKEN, 0o622))


def test_a_file_without_a_token_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "token", "\n")
    with pytest.raises(ValueError, match=f"^{path}: the admin token must be"):
        read_admin_token(path)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
def test_the_right_header_is_known(header: str) -> None:
    assert AdminToken(TOKEN).is_in(header)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"]
)
def test_any_other_header_is_not(header: str) -> None:
    assert not AdminToken(TOKEN).is_in(header)


def test_the_settings_take_it_from_the_environment_and_a_file_wins(tmp_path: Path) -> None:
    environ = {"WSCLIENT_ADMIN_TOKEN": TOKEN}
    assert GatewaySettings.from_env(environ).read_admin_token() == TOKEN
    file = put(tmp_path / "token", "another-" + TOKEN)
    assert GatewaySettings.from_env(environ, admin_token_file=file).read_admin_token() == "another-" + TOKEN
    assert GatewaySettings().read_admin_token() is None


def test_the_settings_never_show_it() -> None:
    assert TOKEN not in repr(GatewaySettings(admin_token=TOKEN))
    with pytest.raises(ValueError, match="WSCLIENT_ADMIN_TOKEN: the admin token must be") as caught:
        GatewaySettings.from_env({"WSCLIENT_ADMIN_TOKEN": "too-short"})
    assert "too-short" not in str(caught.value)
