"""Keys: made, loaded, refused with a reason, and told apart by their fingerprints."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import DSA, ECC, RSA
from Crypto.PublicKey.ECC import EccKey
from Crypto.PublicKey.RSA import RsaKey
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from wsclient.core.auth import sign_challenge, verify_signature
from wsclient.errors import InvalidKeyError
from wsclient.keys import (
    fingerprint,
    generate_key,
    load_private_key,
    load_public_key,
    public_pem,
    save_key_pair,
)

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def foreign_private_pem(key: Any, format: PrivateFormat = PrivateFormat.PKCS8, passphrase: str | None = None) -> str:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, format, encryption).decode()


def foreign_public_pem(key: Any, format: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    return key.public_key().public_bytes(Encoding.PEM, format).decode()


@pytest.fixture(scope="session")
def foreign_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def key_file(tmp_path: Path, ec_key_pem: str) -> Path:
    path = tmp_path / "mine_key.pem"
    path.write_text(ec_key_pem)
    path.chmod(0o600)
    return path


# Making


def test_a_new_key_is_rsa_with_3072_bits() -> None:
    key = generate_key()
    assert isinstance(key, RsaKey)
    assert key.size_in_bits() == 3072
    assert key.has_private()


@pytest.mark.parametrize(("size", "curve"), [(None, "NIST P-256"), (256, "NIST P-256"), (384, "NIST P-384")])
def test_ec_keys_are_made_on_the_two_curves(size: int | None, curve: str) -> None:
    key = generate_key("ec", size)
    assert isinstance(key, EccKey)
    assert key.curve == curve


@pytest.mark.parametrize(
    ("type", "size", "words"),
    [
        ("rsa", 2047, "2048 to 8192"),
        ("rsa", 8193, "2048 to 8192"),
        ("ec", 521, "256 or 384"),
        ("dsa", None, "'rsa' or"),
    ],
)
def test_other_types_and_sizes_are_value_errors_that_name_what_is_allowed(
    type: str, size: int | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        generate_key(type, size)


# Loading private keys: where they come from


def test_a_path_may_be_text_or_a_path_object(key_file: Path, ec_key: EccKey) -> None:
    assert load_private_key(key_file) == ec_key
    assert load_private_key(str(key_file)) == ec_key


def test_a_tilde_means_home(key_file: Path, ec_key: EccKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(key_file.parent))
    assert load_private_key(f"~/{key_file.name}") == ec_key


def test_pem_may_be_text_or_bytes(ec_key_pem: str, ec_key: EccKey) -> None:
    assert load_private_key(ec_key_pem) == ec_key
    assert load_private_key(ec_key_pem.encode()) == ec_key


def test_pem_may_have_crlf_line_ends_and_text_around(ec_key_pem: str, ec_key: EccKey) -> None:
    assert load_private_key("Bag Attributes: none\r\n" + ec_key_pem.replace("\n", "\r\n") + "\r\n") == ec_key


def test_a_key_object_is_checked_and_returned(ec_key: EccKey) -> None:
    assert load_private_key(ec_key) is ec_key
    with pytest.raises(InvalidKeyError, match="P-256 or P-384"):
        load_private_key(ECC.generate(curve="P-521"))
    with pytest.raises(InvalidKeyError, match="is a public key"):
        load_private_key(ec_key.public_key())


@pytest.mark.parametrize("source", [None, 5, object(), DSA])
def test_anything_else_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="a path, PEM text or bytes"):
        load_private_key(source)


@pytest.mark.parametrize("format", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("secret", [None, "secret"])
def test_all_of_openssls_formats_of_rsa_and_ec_are_read(
    foreign_rsa: rsa.RSAPrivateKey, format: PrivateFormat, secret: str | None
) -> None:
    challenge = "0123456789abcdef"
    for key in (foreign_rsa, ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())):
        loaded = load_private_key(foreign_private_pem(key, format, secret), secret)
        public = load_public_key(foreign_public_pem(key))
        assert verify_signature(public, challenge, sign_challenge(loaded, challenge, "SHA256"), "SHA256")


def test_ec_parameters_before_the_key_do_not_matter(foreign_rsa: rsa.RSAPrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    assert load_private_key(parameters + foreign_private_pem(key, PrivateFormat.TraditionalOpenSSL)).has_private()


# Loading private keys: passphrases


def test_a_passphrase_can_be_asked_for_and_is_asked_once(ec_key: EccKey, tmp_path: Path) -> None:
    paths = save_key_pair(ec_key, tmp_path, "x", passphrase="secret")
    asked: list[str] = []

    def ask() -> str:
        asked.append("?")
        return "secret"

    assert load_private_key(paths.private, ask) == ec_key
    assert asked == ["?"]


def test_nobody_is_asked_for_the_passphrase_of_an_open_key(key_file: Path, ec_key: EccKey) -> None:
    def ask() -> str:
        raise AssertionError("asked")

    assert load_private_key(key_file, ask) == ec_key


def test_a_missing_passphrase_is_said_so(tmp_path: Path, ec_key: EccKey) -> None:
    paths = save_key_pair(ec_key, tmp_path, "x", passphrase="secret")
    for nothing in (None, "", b""):
        with pytest.raises(InvalidKeyError, match=re.escape(f"{paths.private} is encrypted")) as caught:
            load_private_key(paths.private, nothing)
        assert caught.value.description == "Give its passphrase"


def test_a_passphrase_of_another_type_is_a_type_error(tmp_path: Path, ec_key: EccKey) -> None:
    paths = save_key_pair(ec_key, tmp_path, "x", passphrase="secret")
    wrong: Any = 12345
    with pytest.raises(TypeError, match="got int"):
        load_private_key(paths.private, wrong)


# Loading private keys: what is refused


def refusal(source: Any, **options: Any) -> InvalidKeyError:
    with pytest.raises(InvalidKeyError) as caught:
        load_private_key(source, **options)
    return caught.value


def test_a_missing_file_is_named_with_the_way_to_make_one(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nope.pem")
    assert error.message == f"the private key {tmp_path}/nope.pem does not exist"
    assert "wsclient generate-keys" in error.description


def test_a_directory_is_named_as_one(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == f"the private key {tmp_path} is a directory"


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a regular file" in refusal(tmp_path / "pipe").message


def test_a_path_with_a_null_byte_is_no_crash() -> None:
    assert "cannot be opened" in refusal("a\0b").message


def test_a_file_that_is_not_pem_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_bytes(b"\x30\x82")
    (tmp_path / "x.pem").chmod(0o600)
    assert refusal(tmp_path / "x.pem").message == f"the private key {tmp_path}/x.pem is not in PEM format"


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "x.pem").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "x.pem").chmod(0o600)
    assert "too large" in refusal(tmp_path / "x.pem").message


def test_the_public_half_is_recognised(rsa_public_pem: str, foreign_rsa: rsa.RSAPrivateKey) -> None:
    for pem in (rsa_public_pem, foreign_public_pem(foreign_rsa, PublicFormat.PKCS1)):
        error = refusal(pem)
        assert error.message == "the private key is a public key"
        assert "NAME_key.pem" in error.description


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (x25519.X25519PrivateKey.generate(), "X25519"),
        (dsa.generate_private_key(1024), "DSA"),
        (ec.generate_private_key(ec.SECP521R1()), "P-521"),
    ],
    ids=["Ed25519", "X25519", "DSA", "P-521"],
)
def test_an_unsupported_type_is_called_by_its_name(key: Any, name: str) -> None:
    assert name in refusal(foreign_private_pem(key)).message


def test_an_encrypted_key_of_an_unsupported_type_is_refused() -> None:
    pem = foreign_private_pem(ed25519.Ed25519PrivateKey.generate(), passphrase="p")
    assert "Ed25519" in refusal(pem, passphrase="p").message


def test_short_rsa_is_refused_with_its_length() -> None:
    assert "the RSA key has 1024 bits" in refusal(RSA.generate(1024).export_key(pkcs=8)).message


def test_an_openssh_key_comes_with_the_way_to_convert_it(foreign_rsa: rsa.RSAPrivateKey) -> None:
    assert "ssh-keygen -p -m PKCS8" in refusal(foreign_private_pem(foreign_rsa, PrivateFormat.OpenSSH)).description


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "CERTIFICATE", "OTHER"])
@pytest.mark.parametrize("body", ["", "MIIB", "AAAA" * 20, "not base64!"])
def test_damaged_pem_is_an_invalid_key_and_nothing_else(label: str, body: str) -> None:
    pem = f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"
    assert "cannot be used" in refusal(pem).message
    with pytest.raises(InvalidKeyError):
        load_public_key(pem)


def test_no_cut_of_a_key_is_anything_but_an_invalid_key(ec_key_pem: str) -> None:
    lines = ec_key_pem.splitlines()
    body = "".join(lines[1:-1])
    for length in range(0, len(body), 4):
        refusal("\n".join([lines[0], body[:length], lines[-1]]))


def test_errors_never_show_the_key(tmp_path: Path, rsa_key: RsaKey, rsa_key_pem: str) -> None:
    path = tmp_path / "x_key.pem"
    path.write_text(rsa_key_pem)
    path.chmod(0o666)
    broken = rsa_key_pem.replace("M", "N")
    body = {line for line in (rsa_key_pem + broken).splitlines() if not line.startswith("-")}
    for source in (path, broken, RSA.generate(1024)):
        error = refusal(source)
        shown = repr(error) + str(error) + error.description
        assert not any(line in shown for line in body)
        assert not re.search(r"\d{20}", shown)


# Public keys


def test_spki_and_pkcs1_are_read_with_any_line_ends(foreign_rsa: rsa.RSAPrivateKey) -> None:
    spki = foreign_public_pem(foreign_rsa)
    pkcs1 = foreign_public_pem(foreign_rsa, PublicFormat.PKCS1)
    keys = [load_public_key(pem) for pem in (spki, pkcs1, spki.replace("\n", "\r\n"), pkcs1.rstrip().encode())]
    assert [public_pem(key) for key in keys] == [spki] * 4
    assert not any(key.has_private() for key in keys)


def test_of_several_keys_in_one_text_the_first_counts(ec_public_pem: str, rsa_public_pem: str) -> None:
    assert public_pem(load_public_key(ec_public_pem + rsa_public_pem)) == ec_public_pem
    assert public_pem(load_public_key(rsa_public_pem + ec_public_pem)) == rsa_public_pem


def test_a_public_key_file_is_read_through_a_path_object(tmp_path: Path, ec_public_pem: str) -> None:
    (tmp_path / "x_key.pub").write_text(ec_public_pem)
    assert public_pem(load_public_key(tmp_path / "x_key.pub")) == ec_public_pem
    with pytest.raises(InvalidKeyError, match=r"nope\.pub cannot be read: No such file"):
        load_public_key(tmp_path / "nope.pub")


def test_text_is_never_taken_for_a_path(tmp_path: Path, ec_public_pem: str) -> None:
    (tmp_path / "x_key.pub").write_text(ec_public_pem)
    with pytest.raises(InvalidKeyError, match="not in PEM format"):
        load_public_key(str(tmp_path / "x_key.pub"))


def test_a_private_key_in_the_public_ones_place_is_refused_without_showing_it(
    rsa_key_pem: str, ec_key_pem: str, foreign_rsa: rsa.RSAPrivateKey
) -> None:
    disguised = ec_key_pem.replace("PRIVATE KEY", "PUBLIC KEY")
    encrypted = foreign_private_pem(foreign_rsa, passphrase="p")
    openssh = foreign_private_pem(foreign_rsa, PrivateFormat.OpenSSH)
    for pem in (rsa_key_pem, ec_key_pem, disguised, encrypted, openssh):
        with pytest.raises(InvalidKeyError, match="the public key is a private key") as caught:
            load_public_key(pem)
        assert "Never hand it out" in caught.value.description


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519 keys are not supported"),
        (dsa.generate_private_key(1024), "DSA keys are not supported"),
        (ec.generate_private_key(ec.SECP521R1()), "P-256 or P-384"),
        (rsa.generate_private_key(65537, 1024), "has 1024 bits"),
    ],
    ids=["Ed25519", "DSA", "P-521", "RSA 1024"],
)
def test_a_public_key_that_cannot_log_in_is_refused(key: Any, words: str) -> None:
    with pytest.raises(InvalidKeyError, match=words):
        load_public_key(foreign_public_pem(key))


def test_an_rsa_key_that_is_meant_for_pss_is_refused(rsa_public_pem: str) -> None:
    der = RSA.import_key(rsa_public_pem).export_key("DER")
    pss = der.replace(bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01010a"))
    body = base64.encodebytes(pss).decode()
    with pytest.raises(InvalidKeyError, match="RSA-PSS keys are not supported"):
        load_public_key(f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n")


@pytest.mark.parametrize(
    "value", ["", "junk", "ssh-rsa AAAAB3NzaC1yc2E me", "\ud800", b"\xff\xfe", None, 123, ["-----"]]
)
def test_what_is_no_pem_is_an_invalid_key(value: Any) -> None:
    with pytest.raises(InvalidKeyError):
        load_public_key(value)


def test_a_flood_of_first_lines_is_refused_at_once() -> None:
    with pytest.raises(InvalidKeyError, match="too large"):
        load_public_key("-----BEGIN PUBLIC KEY-----" * 100_000)


# Fingerprints


def recorded_clients() -> dict[str, str]:
    """Return the public keys that cli.txt shows, by client name."""
    text = (TRANSCRIPTS / "cli.txt").read_text(encoding="utf-8")
    found = re.findall(r'"name": "(\w+)",\s+"publicKey": "(-----BEGIN PUBLIC KEY.*?\\n)"', text)
    return {name: pem.replace("\\n", "\n") for name, pem in found}


def test_the_fingerprint_is_the_one_that_the_original_shows() -> None:
    assert fingerprint(load_public_key(recorded_clients()["alice"])) == "6afe:0d9b:91d1:4ed1:8fc8:0742:1519:2afd"
    assert fingerprint(RSA.import_key(recorded_clients()["bob"])) == "801a:5e10:f52c:f3a1:a1e1:99b7:d9a0:633c"


@pytest.mark.parametrize("fixture", ["rsa_key", "ec_key"])
def test_both_halves_have_the_same_fingerprint(request: pytest.FixtureRequest, fixture: str) -> None:
    key = request.getfixturevalue(fixture)
    assert fingerprint(key) == fingerprint(key.public_key()) == fingerprint(load_public_key(public_pem(key)))


def test_the_public_pem_is_the_one_that_the_original_writes() -> None:
    alice = recorded_clients()["alice"]
    assert public_pem(load_public_key(alice)) == alice
