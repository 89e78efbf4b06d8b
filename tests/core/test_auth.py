"""Challenge to signature and back, alone, against the `cryptography` package, and against the original's recordings."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from Crypto.PublicKey import ECC, RSA
from Crypto.PublicKey.ECC import EccKey
from Crypto.PublicKey.RSA import RsaKey
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from wsclient.core.auth import (
    check_challenge,
    check_key,
    hash_for_algorithm,
    make_signer,
    sign_challenge,
    verify_signature,
)
from wsclient.errors import InvalidAuthError, InvalidKeyError, ProtocolError
from wsclient.keys import load_public_key

CHALLENGE = "326443b50f43f1d449abcf167fb40ea2d8140884d99d023db639c787d86f9285"
HASHES = {"SHA256": hashes.SHA256(), "SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}
WEAK_RSA = RSA.construct((2**1023 + 1155, 65537), consistency_check=False)


def foreign(key: RsaKey | EccKey) -> Any:
    """Return the same private key as an object of the `cryptography` package."""
    pem = key.export_key(format="PEM")
    return load_pem_private_key(pem if isinstance(pem, bytes) else pem.encode(), None)


# Algorithm names


@pytest.mark.parametrize("bits", [256, 384, 512])
@pytest.mark.parametrize(
    "pattern", ["SHA{}", "sha{}", "SHA-{}", "RSA-SHA{}", "rsa-sha{}", "sha{}WithRSAEncryption", "ecdsa-with-SHA{}"]
)
def test_all_of_nodes_names_of_a_hash_mean_that_hash(pattern: str, bits: int) -> None:
    assert hash_for_algorithm(pattern.format(bits)) == f"SHA{bits}"


@pytest.mark.parametrize(
    "name",
    ["SHA1", "sha-1", "RSA-SHA1", "RSA-SHA1-2", "sha1WithRSAEncryption", "ecdsa-with-SHA1", "SHA"]
    + ["MD5", "RSA-MD5", "md5WithRSAEncryption", "MD5-SHA1", "md4", "ssl3-sha1"],
)
def test_a_broken_hash_is_refused_as_broken(name: str) -> None:
    with pytest.raises(ValueError, match="broken") as caught:
        hash_for_algorithm(name)
    assert repr(name) in str(caught.value)
    assert "SHA256" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["RSA-PSS", "PS256", "RS256", "ES256", "NOPE", "SHA224", "SHA3-256", "SHA512-256", "RIPEMD160", "", " SHA256"],
)
def test_an_unknown_algorithm_is_refused_and_the_allowed_ones_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="is not supported; use SHA256, SHA384 or SHA512"):
        hash_for_algorithm(name)


@pytest.mark.parametrize("name", [None, 5, b"SHA256", ["SHA256"]])
def test_an_algorithm_that_is_not_text_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="not supported"):
        hash_for_algorithm(name)


# Challenges


@pytest.mark.parametrize("challenge", ["x" * 16, "~" * 512, CHALLENGE, "!#$%&'()*+,-./:;<"])
def test_printable_ascii_of_16_to_512_characters_is_a_challenge(challenge: str) -> None:
    check_challenge(challenge)


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "x" * 15,
        "x" * 513,
        "x" * 16 + "\n",
        "x x" * 8,
        "x" * 16 + "\x7f",
        "é" * 20,
        "\x00" * 20,
        "x" * 16 + "\ud800",
    ],
)
def test_anything_else_is_not_a_challenge(challenge: str) -> None:
    with pytest.raises(ProtocolError):
        check_challenge(challenge)


@pytest.mark.parametrize("challenge", [None, 5, b"x" * 20, ["x" * 20]])
def test_a_challenge_that_is_not_text_is_a_protocol_error(challenge: Any) -> None:
    with pytest.raises(ProtocolError, match="not text"):
        check_challenge(challenge)


def test_the_error_does_not_repeat_the_challenge() -> None:
    with pytest.raises(ProtocolError) as caught:
        check_challenge("pay 1000 to mallory")
    assert "mallory" not in str(caught.value)


def test_nothing_but_a_challenge_is_signed(ec_key: EccKey) -> None:
    asked: list[bytes] = []
    with pytest.raises(ProtocolError):
        sign_challenge(ec_key, "GET / HTTP/1.1 and more", "SHA256")
    with pytest.raises(ProtocolError):
        sign_challenge(lambda message: asked.append(message) or b"s", "too short", "SHA256")
    assert asked == []


# Interoperation with another implementation


@pytest.mark.parametrize("algorithm", HASHES)
def test_cryptography_accepts_our_rsa_signatures(rsa_key: RsaKey, algorithm: str) -> None:
    signature = base64.b64decode(sign_challenge(rsa_key, CHALLENGE, algorithm), validate=True)
    public = foreign(rsa_key).public_key()
    public.verify(signature, CHALLENGE.encode(), padding.PKCS1v15(), HASHES[algorithm])
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"another", padding.PKCS1v15(), HASHES[algorithm])


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("fixture", ["ec_key", "ec384_key"])
def test_cryptography_accepts_our_ec_signatures(request: pytest.FixtureRequest, fixture: str, algorithm: str) -> None:
    key = request.getfixturevalue(fixture)
    signature = base64.b64decode(sign_challenge(key, CHALLENGE, algorithm), validate=True)
    foreign(key).public_key().verify(signature, CHALLENGE.encode(), ec.ECDSA(HASHES[algorithm]))


@pytest.mark.parametrize("algorithm", HASHES)
def test_we_accept_cryptographys_rsa_signatures(rsa_key: RsaKey, algorithm: str) -> None:
    signature = foreign(rsa_key).sign(CHALLENGE.encode(), padding.PKCS1v15(), HASHES[algorithm])
    assert verify_signature(rsa_key.public_key(), CHALLENGE, base64.b64encode(signature).decode(), algorithm)


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("fixture", ["ec_key", "ec384_key"])
def test_we_accept_cryptographys_ec_signatures(request: pytest.FixtureRequest, fixture: str, algorithm: str) -> None:
    key = request.getfixturevalue(fixture)
    signature = foreign(key).sign(CHALLENGE.encode(), ec.ECDSA(HASHES[algorithm]))
    assert verify_signature(key.public_key(), CHALLENGE, base64.b64encode(signature).decode(), algorithm)


def test_rsa_pss_is_never_accepted(rsa_key: RsaKey) -> None:
    for salt in (0, 32):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        signature = foreign(rsa_key).sign(CHALLENGE.encode(), pss, hashes.SHA256())
        assert not verify_signature(rsa_key, CHALLENGE, base64.b64encode(signature).decode(), "SHA256")


def test_raw_ecdsa_is_never_accepted(ec_key: EccKey) -> None:
    der = foreign(ec_key).sign(CHALLENGE.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(der)
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert verify_signature(ec_key, CHALLENGE, base64.b64encode(der).decode(), "SHA256")
    assert not verify_signature(ec_key, CHALLENGE, base64.b64encode(raw).decode(), "SHA256")


@pytest.mark.parametrize("name", ["SHA1", "RSA-SHA1", "MD5"])
def test_a_signature_with_a_broken_hash_is_never_accepted(rsa_key: RsaKey, name: str) -> None:
    old = hashes.MD5() if "MD5" in name else hashes.SHA1()
    signature = foreign(rsa_key).sign(CHALLENGE.encode(), padding.PKCS1v15(), old)
    for algorithm in (name, "SHA256"):
        assert not verify_signature(rsa_key, CHALLENGE, base64.b64encode(signature).decode(), algorithm)


def test_a_right_signature_by_a_weak_key_is_not_accepted() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    signature = weak.sign(CHALLENGE.encode(), padding.PKCS1v15(), hashes.SHA256())
    public = RSA.construct((weak.public_key().public_numbers().n, 65537))
    assert not verify_signature(public, CHALLENGE, base64.b64encode(signature).decode(), "SHA256")


# Our own two ends


def test_a_signature_is_for_one_challenge_one_key_and_one_hash(rsa_key: RsaKey, other_rsa_key: RsaKey) -> None:
    signature = sign_challenge(rsa_key, CHALLENGE, "RSA-SHA256")
    assert verify_signature(rsa_key.public_key(), CHALLENGE, signature, "SHA256")
    assert not verify_signature(rsa_key.public_key(), CHALLENGE[:-1] + "0", signature, "SHA256")
    assert not verify_signature(other_rsa_key.public_key(), CHALLENGE, signature, "SHA256")
    assert not verify_signature(rsa_key.public_key(), CHALLENGE, signature, "SHA512")


def test_the_challenges_text_is_signed_not_the_bytes_its_hex_stands_for(rsa_key: RsaKey) -> None:
    signature = make_signer(rsa_key, "SHA256")(bytes.fromhex(CHALLENGE))
    assert not verify_signature(rsa_key, CHALLENGE, base64.b64encode(signature).decode(), "SHA256")


def test_signing_throws_no_dice(rsa_key: RsaKey, ec_key: EccKey) -> None:
    for key in (rsa_key, ec_key):
        assert sign_challenge(key, CHALLENGE, "SHA256") == sign_challenge(key, CHALLENGE, "SHA256")


@pytest.mark.parametrize("fixture", ["rsa_key", "ec_key"])
def test_base64_is_read_as_node_reads_it(request: pytest.FixtureRequest, fixture: str) -> None:
    key = request.getfixturevalue(fixture)
    # A signature whose base64 has both of the characters that the two alphabets write differently, and padding.
    plain = next(
        signature
        for number in range(1000)
        if {"+", "/", "="} <= set(signature := sign_challenge(key, f"{number:064x}", "SHA256"))
        if verify_signature(key, challenge := f"{number:064x}", signature, "SHA256")
    )
    spellings = {
        "url-safe": plain.replace("+", "-").replace("/", "_"),
        "without padding": plain.rstrip("="),
        "both": plain.replace("+", "-").replace("/", "_").rstrip("="),
        "with too much padding": plain + "=",
        "in lines": "\n".join(plain[i : i + 64] for i in range(0, len(plain), 64)) + "\n",
        "in CRLF lines": "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)),
        "with spaces and tabs": "  " + plain[:9] + " \t" + plain[9:],
    }
    assert {how for how, text in spellings.items() if not verify_signature(key, challenge, text, "SHA256")} == set()
    assert not verify_signature(key, challenge, base64.b64decode(plain).hex(), "SHA256")


def test_a_text_far_longer_than_any_signature_is_not_looked_at(ec_key: EccKey) -> None:
    signature = sign_challenge(ec_key, CHALLENGE, "SHA256")
    assert verify_signature(ec_key, CHALLENGE, signature + " " * 5000, "SHA256")
    assert not verify_signature(ec_key, CHALLENGE, signature + " " * 9000, "SHA256")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NEARLY_BASE64 = st.text("ABCabc019+/-_= \n") | st.binary().map(lambda raw: base64.b64encode(raw).decode())


@given(signature=JSON | NEARLY_BASE64, challenge=st.text(), algorithm=st.sampled_from([*HASHES, "MD5", "x", None, 5]))
def test_no_input_makes_verify_raise_or_say_yes(signature: Any, challenge: str, algorithm: Any) -> None:
    for key in (VERIFIER_RSA, VERIFIER_EC, WEAK_RSA):
        assert verify_signature(key, challenge, signature, algorithm) is False


VERIFIER_RSA = RSA.construct((2**2047 + 1155, 65537), consistency_check=False)
VERIFIER_EC = ECC.generate(curve="P-256").public_key()


@pytest.mark.parametrize("r", [0, 1, 2**256])
def test_degenerate_ecdsa_numbers_are_a_no(ec_key: EccKey, r: int) -> None:
    der = utils.encode_dss_signature(r, r)
    assert not verify_signature(ec_key, CHALLENGE, base64.b64encode(der).decode(), "SHA256")


def test_bytes_after_an_ecdsa_signature_are_a_no(ec_key: EccKey) -> None:
    der = base64.b64decode(sign_challenge(ec_key, CHALLENGE, "SHA256"))
    assert not verify_signature(ec_key, CHALLENGE, base64.b64encode(der + b"\0").decode(), "SHA256")


@pytest.mark.parametrize("key", [None, "text", object()])
def test_verifying_with_something_that_is_no_key_is_a_no(key: Any) -> None:
    assert verify_signature(key, CHALLENGE, "AAAA", "SHA256") is False


# Keys


def test_rsa_keys_below_2048_bits_are_refused() -> None:
    with pytest.raises(InvalidKeyError, match="has 1024 bits; at least 2048"):
        check_key(WEAK_RSA)


def test_rsa_keys_above_16384_bits_are_refused() -> None:
    with pytest.raises(InvalidKeyError, match="at most 16384"):
        check_key(RSA.RsaKey(n=RSA.Integer(2**16384 + 1), e=RSA.Integer(65537)))


@pytest.mark.parametrize("exponent", [1, 2, 65536])
def test_rsa_keys_with_a_useless_exponent_are_refused(exponent: int) -> None:
    with pytest.raises(InvalidKeyError, match="exponent"):
        check_key(RSA.RsaKey(n=RSA.Integer(2**2047 + 1), e=RSA.Integer(exponent)))


@pytest.mark.parametrize("curve", ["P-224", "P-521", "Ed25519"])
def test_other_curves_are_refused_by_their_name(curve: str) -> None:
    with pytest.raises(InvalidKeyError, match=f"P-256 or P-384; this one is on .*{curve}"):
        check_key(ECC.generate(curve=curve))


def test_a_public_key_cannot_sign(rsa_key: RsaKey, ec_key: EccKey) -> None:
    for key in (rsa_key, ec_key):
        with pytest.raises(InvalidKeyError, match="private key"):
            sign_challenge(key.public_key(), CHALLENGE, "SHA256")


def test_signing_with_an_unknown_algorithm_is_a_value_error(rsa_key: RsaKey) -> None:
    with pytest.raises(ValueError, match="broken"):
        sign_challenge(rsa_key, CHALLENGE, "SHA1")


# Functions that sign


def test_a_function_signs_in_the_keys_place(rsa_key: RsaKey) -> None:
    signer = make_signer(rsa_key, "SHA384")
    assert sign_challenge(signer, CHALLENGE, "SHA384") == sign_challenge(rsa_key, CHALLENGE, "SHA384")


def test_a_function_gets_the_challenges_bytes() -> None:
    assert base64.b64decode(sign_challenge(lambda message: b"<" + message + b">", CHALLENGE, "SHA256")) == (
        f"<{CHALLENGE}>".encode()
    )


@pytest.mark.parametrize(("returned", "named"), [("c2ln", "str"), (None, "NoneType"), (b"", "no bytes"), (5, "int")])
def test_a_function_that_returns_no_bytes_is_an_invalid_key(returned: Any, named: str) -> None:
    with pytest.raises(InvalidKeyError, match=f"returned {named}"):
        sign_challenge(lambda message: returned, CHALLENGE, "SHA256")


def test_a_function_that_fails_is_an_invalid_key_with_the_cause() -> None:
    def sign(message: bytes) -> bytes:
        raise OSError("the agent is gone")

    with pytest.raises(InvalidKeyError, match="raised OSError") as caught:
        sign_challenge(sign, CHALLENGE, "SHA256")
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_ours_comes_through_a_function_unchanged() -> None:
    error = InvalidAuthError("not today")

    def sign(message: bytes) -> bytes:
        raise error

    with pytest.raises(InvalidAuthError) as caught:
        sign_challenge(sign, CHALLENGE, "SHA256")
    assert caught.value is error


def test_a_signer_does_not_show_its_key(rsa_key: RsaKey) -> None:
    assert str(rsa_key.d)[:20] not in repr(make_signer(rsa_key, "SHA256"))


def test_importing_the_module_does_not_load_crypto() -> None:
    code = "import sys, wsclient.core.auth, wsclient.keys; sys.exit('Crypto' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The original's verdicts


def attempts(records: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, Any, bool]]:
    """Yield every login of a recording that the original judged: (registration, challenge, signature, verdict)."""
    registered: dict[str, dict[str, Any]] = {}
    challenges: dict[str, str] = {}
    sent: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.get("status") == 201 and "request" in record:
            registered[json.loads(record["response"])["clientId"]] = json.loads(record["request"])
        message = as_object(record.get("raw", ""))
        match message.get("type"):
            case "challenge":
                challenges[record["conn"]] = message["challenge"]
            case "authenticate":
                sent[record["conn"]] = message
            case "auth_result" if message["success"] or message["error"] == "Invalid signature":
                login = sent[record["conn"]]
                # In 1_auth one key was registered several times, and only the first time was recorded.
                only = next(iter(registered.values())) if len(registered) == 1 else None
                client = registered.get(str(login["clientId"]), only)
                if client is not None and login["clientId"] != UNKNOWN_CLIENT:
                    yield client, challenges[record["conn"]], login["signature"], message["success"]


UNKNOWN_CLIENT = "0" * 32


def as_object(raw: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def our_verdict(client: dict[str, Any], challenge: str, signature: Any) -> bool:
    try:
        key = load_public_key(client["publicKey"])
    except InvalidKeyError:
        return False
    return verify_signature(key, challenge, signature, client.get("signatureAlgorithm") or "SHA256")


def reason_to_differ(client: dict[str, Any]) -> str | None:
    if "SHA1" in (client.get("signatureAlgorithm") or ""):
        return "SHA-1"
    if "PRIVATE KEY" in client["publicKey"]:
        return "private key"
    return "RSA 1024" if len(client["publicKey"]) == 271 else None


@pytest.mark.parametrize(
    ("name", "yes", "no", "differing"),
    [
        ("1_auth", 14, 21, []),
        ("4_signatures", 22, 7, ["SHA-1", "SHA-1", "SHA-1", "private key", "RSA 1024"]),
        ("5_rest_and_cache", 4, 0, []),
    ],
)
def test_each_recorded_signature_gets_the_originals_verdict_but_for_what_we_refuse(
    transcript: Callable[[str], list[dict[str, Any]]], name: str, yes: int, no: int, differing: list[str | None]
) -> None:
    seen = list(attempts(transcript(name)))
    ours = [our_verdict(client, challenge, signature) for client, challenge, signature, _ in seen]
    verdicts = [verdict for _, _, _, verdict in seen]
    reasons = [reason_to_differ(seen[i][0]) for i in range(len(seen)) if ours[i] is not verdicts[i]]
    assert reasons == differing
    assert not any(mine and not original for mine, original in zip(ours, verdicts, strict=True))
    assert (ours.count(True), verdicts.count(False)) == (yes, no)
