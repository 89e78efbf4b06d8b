"""Where a server of OpenAI's API is, and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsclient.gateway.openai_url import parse_openai_url, read_api_key


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        (" HTTP://gpu:8000/ ", "http://gpu:8000/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("http://[::1]:1/x", "http://[::1]:1/x"),
    ],
)
def test_a_url_without_a_path_is_version_one(given: str, url: str) -> None:
    assert parse_openai_url(given) == url


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("127.0.0.1:8080", "must be a URL like"),
        ("ftp://x", "must be a URL like"),
        ("http://", "must be a URL like"),
        ("", "must be a URL like"),
        ("http://x:port", "cannot be read"),
        ("http://user:s3cret@x", "must not have a user name"),
        ("user:s3cret@x", "must not have a user name"),
        ("http://x?key=s3cret", "must not have a query"),
    ],
)
def test_what_is_no_base_url_is_refused(given: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        parse_openai_url(given)
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(" s3cret\n")
    return path


def test_the_key_is_the_files_and_else_the_environments(key_file: Path) -> None:
    environ = {"OPENAI_API_KEY": "other "}
    assert read_api_key(key_file, environ) == "s3cret"
    assert read_api_key(None, environ) == "other"
    assert read_api_key(None, {"OPENAI_API_KEY": " "}) is None
    assert read_api_key(None, {}) is None


@pytest.mark.parametrize("text", ["", "two words", "tabs\there", "ключ", "x" * 5000])
def test_what_cannot_be_a_key_is_refused_without_showing_it(key_file: Path, text: str) -> None:
    key_file.write_text(text)
    with pytest.raises(ValueError, match="must be printable ASCII") as caught:
        read_api_key(key_file, {})
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_change_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(ValueError, match="is open to others"):
        read_api_key(key_file, {})


def test_a_file_that_others_can_read_is_refused_unless_it_is_roots(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file.chmod(0o644)
    owner = key_file.stat().st_uid
    if owner == 0:
        assert read_api_key(key_file, {}) == "s3cret"
    else:
        with pytest.raises(ValueError, match="is open to others"):
            read_api_key(key_file, {})
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner != 0:
        with pytest.raises(ValueError, match="belongs to user"):
            read_api_key(key_file, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing cannot be read: No such file"):
        read_api_key(tmp_path / "missing", {})
