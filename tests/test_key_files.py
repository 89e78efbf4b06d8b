"""Key pairs on disk: their names, how they are saved, and whose files are refused."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey.ECC import EccKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from wsclient.errors import InvalidKeyError
from wsclient.keys import (
    check_key_file_mode,
    check_key_name,
    key_pair_paths,
    load_private_key,
    load_public_key,
    save_key_pair,
)

SECRET = "correct horse, grüße"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def key_file(tmp_path: Path, ec_key_pem: str) -> Path:
    path = tmp_path / "mine_key.pem"
    path.write_text(ec_key_pem)
    path.chmod(0o600)
    return path


def refusal(source: Any, **options: Any) -> InvalidKeyError:
    with pytest.raises(InvalidKeyError) as caught:
        load_private_key(source, **options)
    return caught.value


# Names


@pytest.mark.parametrize("name", ["a", "my-client", "My Client 2", "jürgen", "a.b_c", "x" * 64])
def test_an_ordinary_name_is_returned_as_it_is(name: str) -> None:
    assert check_key_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a/b",
        "../a",
        "a\\b",
        " a",
        "a ",
        "a\n",
        "a\x00b",
        "a\x1b[2J",
        "x" * 65,
        "€" * 67,
    ]
    + ["a\u202eb", "\ud800"],
)
def test_a_name_that_is_no_plain_file_name_is_a_value_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name of a key pair"):
        check_key_name(name)
    with pytest.raises(ValueError, match="name of a key pair"):
        key_pair_paths(tmp_path, name)


# Saving


def test_a_pair_is_saved_under_the_originals_names(tmp_path: Path, ec_key: EccKey) -> None:
    paths = save_key_pair(ec_key, tmp_path / "new" / "keys", "alice")
    assert paths == key_pair_paths(tmp_path / "new" / "keys", "alice")
    assert sorted(path.name for path in (tmp_path / "new" / "keys").iterdir()) == ["alice_key.pem", "alice_key.pub"]
    assert mode_of(paths.private.parent) == 0o700


@pytest.mark.parametrize("fixture", ["rsa_key", "ec_key", "ec384_key"])
def test_another_implementation_reads_a_saved_pair(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str
) -> None:
    paths = save_key_pair(request.getfixturevalue(fixture), tmp_path, "x")
    private = load_pem_private_key(paths.private.read_bytes(), None)
    public = load_pem_public_key(paths.public.read_bytes())
    assert private.public_key() == public
    assert paths.private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert paths.public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")
    assert paths.public.read_text().endswith("-----END PUBLIC KEY-----\n")


@pytest.mark.parametrize("fixture", ["rsa_key", "ec_key"])
@pytest.mark.parametrize("secret", [SECRET, SECRET.encode()], ids=["text", "bytes"])
def test_an_encrypted_pair_opens_with_its_passphrase_only(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, secret: str | bytes
) -> None:
    key = request.getfixturevalue(fixture)
    paths = save_key_pair(key, tmp_path, "x", passphrase=secret)
    assert paths.private.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert load_private_key(paths.private, secret) == key
    assert load_pem_private_key(paths.private.read_bytes(), SECRET.encode()) is not None
    with pytest.raises(InvalidKeyError, match="cannot be decrypted with this passphrase"):
        load_private_key(paths.private, "another")


def test_encryption_stays_within_the_memory_that_openssl_and_node_allow(tmp_path: Path, ec_key: EccKey) -> None:
    pem = save_key_pair(ec_key, tmp_path, "x", passphrase="p").private
    shown = subprocess.run(
        ["openssl", "pkey", "-in", str(pem), "-passin", "pass:p", "-noout"], capture_output=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_the_private_half_is_for_its_owner_from_its_first_moment(
    tmp_path: Path, ec_key: EccKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}
    real_open = os.open

    def watching_open(path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        if flags & os.O_CREAT:
            seen[Path(path).name] = stat.S_IMODE(os.fstat(descriptor).st_mode)
            assert flags & os.O_EXCL
        return descriptor

    old = os.umask(0)
    try:
        monkeypatch.setattr(os, "open", watching_open)
        save_key_pair(ec_key, tmp_path, "x")
    finally:
        os.umask(old)
    assert seen == {"x_key.pem": 0o600, "x_key.pub": 0o644}


@pytest.mark.parametrize("existing", ["x_key.pem", "x_key.pub"])
def test_nothing_is_overwritten_and_no_half_is_left_behind(tmp_path: Path, ec_key: EccKey, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=existing):
        save_key_pair(ec_key, tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_a_planted_link_is_not_followed(tmp_path: Path, ec_key: EccKey) -> None:
    (tmp_path / "x_key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        save_key_pair(ec_key, tmp_path, "x")
    assert not (tmp_path / "elsewhere").exists()


def test_overwriting_replaces_both_halves_and_leaves_nothing_else(
    tmp_path: Path, ec_key: EccKey, ec384_key: EccKey
) -> None:
    save_key_pair(ec_key, tmp_path, "x")
    (tmp_path / "x_key.pem").chmod(0o644)
    paths = save_key_pair(ec384_key, tmp_path, "x", overwrite=True)
    assert load_private_key(paths.private) == ec384_key
    assert load_public_key(paths.public) == ec384_key.public_key()
    assert mode_of(paths.private) == 0o600
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_no_half_of_a_pair(
    tmp_path: Path, ec_key: EccKey, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    written: list[int] = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_key_pair(ec_key, tmp_path, "x", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_passphrase_is_refused(tmp_path: Path, ec_key: EccKey) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        save_key_pair(ec_key, tmp_path, "x", passphrase="")
    assert list(tmp_path.iterdir()) == []


def test_a_public_key_cannot_be_saved_as_a_pair(tmp_path: Path, ec_key: EccKey) -> None:
    with pytest.raises(InvalidKeyError, match="public"):
        save_key_pair(ec_key.public_key(), tmp_path, "x")


# Loading private keys: who may see the file


OWNER, OTHER, ROOT = 1000, 1001, 0


@pytest.mark.parametrize(
    ("uid", "mode", "allow_readable", "words"),
    [
        (OWNER, 0o100600, False, None),
        (OWNER, 0o100400, False, None),
        (OWNER, 0o100700, False, None),
        (ROOT, 0o100600, False, None),
        (ROOT, 0o100444, False, None),
        (ROOT, 0o100640, False, None),
        (OWNER, 0o100644, True, None),
        (OWNER, 0o100640, False, "can be read by others (mode 0640)"),
        (OWNER, 0o100604, False, "can be read by others (mode 0604)"),
        (OWNER, 0o100620, True, "can be written by others (mode 0620)"),
        (OWNER, 0o100602, True, "can be written by others (mode 0602)"),
        (ROOT, 0o100666, True, "can be written by others (mode 0666)"),
        (OTHER, 0o100600, True, "belongs to user 1001, not to user 1000 or root"),
        (OTHER, 0o100666, False, "belongs to user 1001"),
    ],
)
def test_the_rule_for_owners_and_modes(uid: int, mode: int, allow_readable: bool, words: str | None) -> None:
    if words is None:
        check_key_file_mode("k.pem", uid, mode, OWNER, allow_readable)
        return
    with pytest.raises(InvalidKeyError) as caught:
        check_key_file_mode("k.pem", uid, mode, OWNER, allow_readable)
    assert f"the private key k.pem {words}" in caught.value.message
    assert "k.pem" in caught.value.description


def test_for_root_too_the_key_must_be_its_own() -> None:
    with pytest.raises(InvalidKeyError, match="belongs to user 1000"):
        check_key_file_mode("k.pem", OWNER, 0o100600, ROOT, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(key_file: Path) -> None:
    os.chown(key_file, OTHER, OTHER)
    assert f"{key_file} belongs to user {OTHER}" in refusal(key_file).message


def test_a_file_that_others_can_write_is_refused(key_file: Path) -> None:
    key_file.chmod(0o620)
    assert "can be written by others" in refusal(key_file, allow_readable=True).message


@pytest.fixture
def own_key_file(ec_key_pem: str) -> Iterator[Path]:
    """A key file of an ordinary user, who the process is meanwhile (as far as files are concerned)."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mine_key.pem"
        path.write_text(ec_key_pem)
        path.chmod(0o600)
        if os.geteuid() != 0:
            yield path
            return
        os.chmod(directory, 0o755)
        os.chown(path, OWNER, OWNER)
        os.seteuid(OWNER)
        try:
            yield path
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of root's")
def test_what_root_owns_may_be_readable(key_file: Path, ec_key: EccKey) -> None:
    key_file.chmod(0o644)
    assert load_private_key(key_file) == ec_key


def test_ones_own_file_must_not_be_readable_by_others_unless_allowed(own_key_file: Path, ec_key: EccKey) -> None:
    assert load_private_key(own_key_file) == ec_key
    own_key_file.chmod(0o640)
    error = refusal(own_key_file)
    assert "can be read by others (mode 0640)" in error.message
    assert f"chmod 600 {own_key_file}" in error.description
    assert load_private_key(own_key_file, allow_readable=True) == ec_key


def test_a_file_that_may_not_be_read_is_named_with_the_reason(own_key_file: Path) -> None:
    own_key_file.chmod(0o000)
    assert refusal(own_key_file).message == f"the private key {own_key_file} cannot be opened: Permission denied"


def test_the_open_file_is_judged_not_the_path(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever swaps the file after it was opened gains nothing: `os.stat` on the path is never asked."""

    def forbidden(*args: Any, **options: Any) -> Any:
        raise AssertionError("the path was looked at a second time")

    monkeypatch.setattr(os, "stat", forbidden)
    monkeypatch.setattr(os, "lstat", forbidden)
    load_private_key(str(key_file))
