"""Login: a challenge becomes a signature, a signature becomes a verdict.

Pure like the rest of the core. Not even ECDSA throws dice: its nonce comes from the key and the message (RFC 6979), so
the same key and challenge always give the same signature. Crypto is imported where it is used: that takes 0.1 s, and
`import wsclient` must not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InvalidKeyError, ProtocolError, WSClientError

if TYPE_CHECKING:
    from Crypto.PublicKey.ECC import EccKey
    from Crypto.PublicKey.RSA import RsaKey

__all__ = [
    "CURVES",
    "MAX_RSA_BITS",
    "MIN_RSA_BITS",
    "Key",
    "Signer",
    "check_challenge",
    "check_key",
    "hash_for_algorithm",
    "make_signer",
    "sign_challenge",
    "verify_signature",
]

Key: TypeAlias = "RsaKey | EccKey"
"""A key of pycryptodome, private or public. Its `repr` shows private numbers: never let one be formatted."""

Signer: TypeAlias = Callable[[bytes], bytes]
"""Signs the challenge's bytes; returns the raw signature. For keys that live elsewhere (an agent, an HSM, a KMS)."""

MIN_RSA_BITS = 2048
# Each verification with a larger key costs the gateway milliseconds, before the login has proved anything.
MAX_RSA_BITS = 16384
CURVES = ("P-256", "P-384")

_CHALLENGE = re.compile(r"[!-~]{16,512}")
_BROKEN = re.compile(r"md[245]|sha-?1(?!\d)|sha0?$")
# The longest that is looked at: an RSA signature of MAX_RSA_BITS in base64 with a line break after every character.
_MAX_SIGNATURE_TEXT = 8192


def _spellings(bits: int) -> tuple[str, ...]:
    name = f"sha{bits}"
    return name, f"sha-{bits}", f"sha2-{bits}", f"rsa-{name}", f"{name}withrsaencryption", f"ecdsa-with-{name}"


_HASHES = {spelling: f"SHA{bits}" for bits in (256, 384, 512) for spelling in _spellings(bits)}


def hash_for_algorithm(name: str) -> str:
    """Return the hash that a signature algorithm's name stands for.

    The names are Node's (protocol.md section 1), in any case; RSA or EC is decided by the key alone.

    Args:
        name: `SHA256`, `SHA-256`, `RSA-SHA256`, `sha256WithRSAEncryption`, `ecdsa-with-SHA256`; likewise 384, 512.

    Returns:
        `"SHA256"`, `"SHA384"` or `"SHA512"`.

    Raises:
        ValueError: the name is not one of these.
    """
    found = _HASHES.get(name.lower()) if isinstance(name, str) else None
    if found is not None:
        return found
    why = "is not supported"
    if isinstance(name, str) and _BROKEN.search(name.lower()):
        why = "is refused: SHA-1, MD5 and older hashes are broken"
    allowed = "SHA256, SHA384 or SHA512 (also as RSA-SHA256, sha256WithRSAEncryption, ecdsa-with-SHA256)"
    raise ValueError(f"signature_algorithm {repr(name)[:80]} {why}; use {allowed}")


def check_challenge(challenge: str) -> None:
    """Refuse a challenge that does not look like one.

    Whatever we sign, the other side may show elsewhere as ours: so nothing with the shape of a document, a command
    or a line of a protocol is ever signed (design.md section 7).

    Args:
        challenge: what the server sent.

    Raises:
        ProtocolError: it is not 16 to 512 printable ASCII characters without spaces.
    """
    if not isinstance(challenge, str):
        raise ProtocolError(f"the server's challenge is not text but {type(challenge).__name__}")
    if _CHALLENGE.fullmatch(challenge) is None:
        wanted = "16 to 512 printable ASCII characters without spaces"
        raise ProtocolError(f"the server's challenge is not {wanted} (it has {len(challenge)} characters)")


def check_key(key: Key) -> None:
    """Refuse a key, private or public, that cannot be used for a login.

    Args:
        key: any object.

    Raises:
        InvalidKeyError: it is not an RSA key of 2048 to 16384 bits, nor an EC key on P-256 or P-384.
    """
    from Crypto.PublicKey import ECC, RSA

    if isinstance(key, RSA.RsaKey):
        bits = key.size_in_bits()
        if bits < MIN_RSA_BITS:
            raise InvalidKeyError(f"the RSA key has {bits} bits; at least {MIN_RSA_BITS} are needed")
        if bits > MAX_RSA_BITS:
            raise InvalidKeyError(f"the RSA key has {bits} bits; at most {MAX_RSA_BITS} are accepted")
        # With e = 1 every message is its own signature.
        if key.e < 3 or key.e % 2 == 0:
            raise InvalidKeyError("the RSA key's public exponent must be odd and at least 3")
    elif isinstance(key, ECC.EccKey):
        if key.curve.removeprefix("NIST ") not in CURVES:
            raise InvalidKeyError(f"EC keys must be on {' or '.join(CURVES)}; this one is on {key.curve}")
    else:
        raise InvalidKeyError(f"only RSA and EC keys are supported, not {type(key).__name__}")


def make_signer(key: Key, algorithm: str) -> Signer:
    """Return a function that signs with a key, as `sign_challenge` takes it.

    The function keeps the key out of every `repr`, and can be called from any thread.

    Args:
        key: a private key.
        algorithm: a name that `hash_for_algorithm` knows.

    Returns:
        A function from message to raw signature.

    Raises:
        InvalidKeyError: the key is public, or `check_key` refuses it.
        ValueError: the algorithm is not known.
    """
    check_key(key)
    if not key.has_private():
        raise InvalidKeyError("signing needs the private key, not the public one")
    hash_name = hash_for_algorithm(algorithm)

    def sign(message: bytes) -> bytes:
        signature: bytes = _scheme(key).sign(_digest(hash_name, message))
        return signature

    return sign


def sign_challenge(key: Key | Signer, challenge: str, algorithm: str) -> str:
    """Sign a challenge for the login (protocol.md section 1).

    RSA keys sign with PKCS#1 v1.5, EC keys with ECDSA in DER, over the UTF-8 bytes of the challenge's text.

    Args:
        key: a private key, or a function that signs; the function has its own idea of the algorithm.
        challenge: what the server sent.
        algorithm: a name that `hash_for_algorithm` knows.

    Returns:
        Standard base64 with padding.

    Raises:
        ProtocolError: this is no challenge (`check_challenge`).
        InvalidKeyError: the key is public or unsupported, or the function failed or returned no bytes.
        ValueError: the algorithm is not known.
    """
    check_challenge(challenge)
    message = challenge.encode()
    if not callable(key):
        return base64.b64encode(make_signer(key, algorithm)(message)).decode()
    try:
        signature = key(message)
    except WSClientError:
        raise
    except Exception as exc:
        advice = "See the error it was raised from"
        raise InvalidKeyError(f"the signing function raised {type(exc).__name__}", description=advice) from exc
    if not isinstance(signature, bytes | bytearray) or not signature:
        got = "no bytes" if isinstance(signature, bytes | bytearray) else type(signature).__name__
        advice = "It must return the raw signature as bytes, not base64 or hex"
        raise InvalidKeyError(f"the signing function returned {got}", description=advice)
    return base64.b64encode(signature).decode()


def verify_signature(public_key: Key, challenge: str, signature: object, algorithm: str) -> bool:
    """Tell whether a signature is the key's own over a challenge; never raise, whatever a stranger sent.

    RSA-PSS, raw (P1363) ECDSA, SHA-1, MD5, and keys that `check_key` refuses are never accepted.

    Args:
        public_key: the registered client's key (a private one does as well).
        challenge: the text that was to be signed.
        signature: the wire's value, of any type; base64 as Node reads it: standard or URL-safe, padded or not,
            white space anywhere.
        algorithm: the name registered for the client.

    Returns:
        Whether the signature is right.
    """
    # Outside of the net below: a broken installation must be heard of, not refuse every login without a word.
    from Crypto.Hash import SHA256, SHA384, SHA512  # noqa: F401
    from Crypto.PublicKey import ECC, RSA  # noqa: F401
    from Crypto.Signature import DSS, pkcs1_15  # noqa: F401

    try:
        check_key(public_key)
        raw = _decode_base64(signature)
        _scheme(public_key).verify(_digest(hash_for_algorithm(algorithm), challenge.encode()), raw)
    except Exception:
        return False
    return True


def _decode_base64(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > _MAX_SIGNATURE_TEXT:
        raise ValueError("not a signature")
    bare = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def _digest(hash_name: str, message: bytes) -> Any:
    from Crypto.Hash import SHA256, SHA384, SHA512

    return {"SHA256": SHA256, "SHA384": SHA384, "SHA512": SHA512}[hash_name].new(message)


def _scheme(key: Key) -> Any:
    from Crypto.PublicKey import RSA
    from Crypto.Signature import DSS, pkcs1_15

    if isinstance(key, RSA.RsaKey):
        return pkcs1_15.new(key)
    return DSS.new(key, "deterministic-rfc6979", encoding="der")
