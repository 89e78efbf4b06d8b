"""Key pairs: make, save, load and check them; fingerprints.

    NAME_key.pem   the private key: PKCS#8, mode 0600, encrypted when there is a passphrase
    NAME_key.pub   the public key: SPKI

A key of pycryptodome shows its private numbers in its `repr`: nothing here formats one, errors name the file and never
its content, and whoever keeps a key keeps it out of every `repr` (`core.auth.make_signer` helps).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from .core.auth import CURVES, MIN_RSA_BITS, Key, check_key
from .errors import InvalidKeyError

__all__ = [
    "KeyPairPaths",
    "Passphrase",
    "PrivateKeySource",
    "check_key_file_mode",
    "check_key_name",
    "fingerprint",
    "generate_key",
    "key_pair_paths",
    "load_private_key",
    "load_public_key",
    "public_pem",
    "read_key_file",
    "save_key_pair",
]

Passphrase: TypeAlias = str | bytes | Callable[[], str | bytes]
"""A passphrase, or a function that asks for it: called once, and only when the key is encrypted."""

PrivateKeySource: TypeAlias = "str | bytes | os.PathLike[str] | Key"
"""A path, PEM text or bytes, or a key object."""

DEFAULT_RSA_BITS = 3072
# Larger ones take minutes to make, and each login with one takes the client a second.
_MAX_NEW_RSA_BITS = 8192
# More than twice what the largest key takes, and little enough for the search for its first line.
_MAX_PEM = 32 * 1024
# What OpenSSL and Node take without being told to (32 MiB); pycryptodome 4 would choose more, and they would refuse.
_SCRYPT_COST = 16384

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_PRIVATE_LABELS = frozenset({b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"})
_PUBLIC_LABELS = frozenset({b"PUBLIC KEY", b"RSA PUBLIC KEY"})
# Key types that people try and that the protocol does not know (protocol.md section 1), by object identifier.
_OTHER_TYPES = {
    "1.2.840.113549.1.1.10": "RSA-PSS",
    "1.2.840.10040.4.1": "DSA",
    "1.3.101.110": "X25519",
    "1.3.101.111": "X448",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
}
_MAKE_ONE = "Make a key pair with: wsclient generate-keys"
_GIVE_PRIVATE = "Give the private half of the pair, NAME_key.pem"
_GIVE_PUBLIC = "Give the public half of the pair, NAME_key.pub"
_CONVERT_SSH = "Convert a copy of it with: ssh-keygen -p -m PKCS8 -f COPY"


@attrs.frozen(slots=True)
class KeyPairPaths:
    """Where the two halves of a key pair are.

    Attributes:
        private: `NAME_key.pem`.
        public: `NAME_key.pub`.
    """

    private: Path
    public: Path


def generate_key(type: str = "rsa", size: int | None = None) -> Key:
    """Make a new private key.

    Args:
        type: `"rsa"` or `"ec"`.
        size: bits: 2048 to 8192 for RSA (3072 when left out), 256 or 384 for EC (256 when left out).

    Raises:
        ValueError: there is no such type or size.
    """
    from Crypto.PublicKey import ECC, RSA

    if type == "rsa":
        bits = DEFAULT_RSA_BITS if size is None else size
        if not MIN_RSA_BITS <= bits <= _MAX_NEW_RSA_BITS:
            raise ValueError(f"size of an RSA key must be {MIN_RSA_BITS} to {_MAX_NEW_RSA_BITS} bits (got {bits})")
        return RSA.generate(bits)
    if type == "ec":
        curve = f"P-{256 if size is None else size}"
        if curve not in CURVES:
            raise ValueError(f"size of an EC key must be 256 or 384 (got {size})")
        return ECC.generate(curve=curve)
    raise ValueError(f"type of a key must be 'rsa' or 'ec' (got {type!r})")


def check_key_name(name: str) -> str:
    """Return a key pair's name if its files can be called so.

    Args:
        name: what stands before `_key.pem`.

    Raises:
        ValueError: it is empty, longer than 64 characters, starts with a dot or a dash, or has a path separator,
            white space at an end, or characters that cannot be printed.
    """
    fits = 0 < len(name) <= 64 and len(os.fsencode(name)) <= 200 if name.isprintable() else False
    if not fits or name.strip() != name or name[0] in ".-" or any(sep in name for sep in "/\\"):
        allowed = "1 to 64 printable characters, no / or \\, no dot or dash first, no spaces at the ends"
        raise ValueError(f"name of a key pair must be {allowed} (got {repr(name)[:80]})")
    return name


def key_pair_paths(directory: str | os.PathLike[str], name: str) -> KeyPairPaths:
    """Return the paths of a key pair, whether it exists or not.

    Raises:
        ValueError: `check_key_name` refuses the name.
    """
    base = Path(directory)
    check_key_name(name)
    return KeyPairPaths(private=base / f"{name}_key.pem", public=base / f"{name}_key.pub")


def save_key_pair(
    key: Key,
    directory: str | os.PathLike[str],
    name: str,
    passphrase: Passphrase | None = None,
    overwrite: bool = False,
) -> KeyPairPaths:
    """Write both halves of a private key into a directory, which is made if need be.

    Args:
        key: the private key.
        directory: where to.
        name: what stands before `_key.pem` and `_key.pub`.
        passphrase: encrypts the private half, with scrypt and AES-256.
        overwrite: replace files of that name.

    Returns:
        Where the halves are.

    Raises:
        FileExistsError: one of the files is there already.
        InvalidKeyError: the key is public or unsupported.
        OSError: a file cannot be written.
        TypeError: the passphrase is neither text nor bytes.
        ValueError: `check_key_name` refuses the name, or the passphrase is empty.
    """
    paths = key_pair_paths(directory, name)
    check_key(key)
    if not key.has_private():
        raise InvalidKeyError("a key pair is saved from its private key; this one is public")
    contents = ((paths.private, _private_pem(key, passphrase), 0o600), (paths.public, public_pem(key), 0o644))
    paths.private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for path, text, mode in contents:
            target = path.with_name(f".{path.name}.{os.urandom(4).hex()}") if overwrite else path
            _write_new(target, text.encode(), mode)
            written.append(target)
        if overwrite:
            for draft, (path, _, _) in zip(written, contents, strict=True):
                os.replace(draft, path)
    except BaseException:
        # Half a pair would be in the way of the next try, and could be taken for a whole one.
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return paths


def _private_pem(key: Key, passphrase: Passphrase | None) -> str:
    from Crypto.PublicKey import RSA

    options: dict[str, Any] = {}
    if passphrase is not None:
        secret = _passphrase_bytes(passphrase)
        if not secret:
            raise ValueError("passphrase must not be empty; leave it out to save the key unencrypted")
        options = {"protection": "scryptAndAES256-CBC", "prot_params": {"iteration_count": _SCRYPT_COST}}
        options["passphrase"] = secret
    options |= {"pkcs": 8} if isinstance(key, RSA.RsaKey) else {"use_pkcs8": True}
    return _export_pem(key, **options)


def _export_pem(key: Key, **options: Any) -> str:
    # Any, because pycryptodome's annotations differ from version to version; RSA gives bytes and EC text.
    export: Any = key.export_key
    pem: str | bytes = export(format="PEM", **options)
    return (pem.decode() if isinstance(pem, bytes) else pem) + "\n"


def _write_new(path: Path, content: bytes, mode: int) -> None:
    # The mode is there before the first byte; O_EXCL neither follows a planted link nor joins an open file.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def load_private_key(
    source: PrivateKeySource, passphrase: Passphrase | None = None, allow_readable: bool = False
) -> Key:
    """Load and check a private key.

    Args:
        source: a path, PEM text (a `str` that contains `-----BEGIN`) or bytes, or a key object of pycryptodome.
        passphrase: for an encrypted key; not looked at for any other.
        allow_readable: accept a file that others can read.

    Returns:
        An RSA key of 2048 bits or more, or an EC key on P-256 or P-384.

    Raises:
        InvalidKeyError: there is no such key: the message says which file and why, the description what to do.
        TypeError: `source` is none of these, or the passphrase is neither text nor bytes.
    """
    if isinstance(source, bytes | bytearray) or (isinstance(source, str) and "-----BEGIN" in source):
        pem = source.encode() if isinstance(source, str) else bytes(source)
        return _parse_private(pem, passphrase, "the private key")
    if isinstance(source, str | os.PathLike):
        path = os.path.expanduser(source)
        return _parse_private(read_key_file(path, allow_readable), passphrase, f"the private key {path}")
    return _checked(_key_object(source), "the private key")


def _key_object(source: object) -> Key:
    from Crypto.PublicKey import ECC, RSA

    if not isinstance(source, RSA.RsaKey | ECC.EccKey):
        wanted = "a path, PEM text or bytes, or a key of pycryptodome"
        raise TypeError(f"the private key must be {wanted}, not {type(source).__module__}.{type(source).__name__}")
    if not source.has_private():
        raise InvalidKeyError("the private key is a public key", description=_GIVE_PRIVATE)
    return source


def _checked(key: Key, what: str) -> Key:
    try:
        check_key(key)
    except InvalidKeyError as exc:
        raise InvalidKeyError(f"{what} cannot be used: {exc.message}", description=_MAKE_ONE) from None
    return key


def read_key_file(path: str, allow_readable: bool = False) -> bytes:
    """Return what a private key's file holds; raise `InvalidKeyError` for one that is not there or not safe."""
    what = f"the private key {path}"
    try:
        # Non-blocking, because the path may be a named pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InvalidKeyError(f"{what} does not exist", description=f"Check the path. {_MAKE_ONE}") from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidKeyError(f"{what} cannot be opened: {reason}", description="Check who may read it") from None
    try:
        # The open file is judged, not the path: nobody can put another one there in between.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InvalidKeyError(f"{what} is {kind}", description=_GIVE_PRIVATE)
        check_key_file_mode(path, status.st_uid, status.st_mode, os.geteuid(), allow_readable)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_PEM + 1)
    finally:
        os.close(descriptor)


def check_key_file_mode(path: str, uid: int, mode: int, user_uid: int, allow_readable: bool) -> None:
    """Refuse a private key's file that others own, can change or can read (design.md section 7).

    Args:
        path: for the message.
        uid: the file's owner.
        mode: the file's mode, as `os.stat` gives it.
        user_uid: who uses the key.
        allow_readable: whether readable by others will do. A file of root's may be readable anyway: that is how
            containers are handed their secrets.

    Raises:
        InvalidKeyError: the message says what is wrong, the description how to set it right.
    """
    what, shown = f"the private key {path}", f"mode {stat.S_IMODE(mode):04o}"
    if uid not in (user_uid, 0):
        advice = f"Make it your own: chown {user_uid} {path}"
        raise InvalidKeyError(f"{what} belongs to user {uid}, not to user {user_uid} or root", description=advice)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = f"Whoever can write it may have replaced it; if it is still yours: chmod 600 {path}"
        raise InvalidKeyError(f"{what} can be written by others ({shown})", description=advice)
    if mode & (stat.S_IRGRP | stat.S_IROTH) and uid != 0 and not allow_readable:
        advice = f"Run: chmod 600 {path} (or set allow_readable_key=True)"
        raise InvalidKeyError(f"{what} can be read by others ({shown})", description=advice)


def _parse_private(pem: bytes, passphrase: Passphrase | None, what: str) -> Key:
    label, block = _pem_block(pem, _PRIVATE_LABELS, what)
    if label in _PUBLIC_LABELS:
        raise InvalidKeyError(f"{what} is a public key", description=_GIVE_PRIVATE)
    secret = None
    if label == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in block:
        secret = b"" if passphrase is None else _passphrase_bytes(passphrase)
        if not secret:
            raise InvalidKeyError(f"{what} is encrypted", description="Give its passphrase")
    key = _import(block, secret) if label in _PRIVATE_LABELS else None
    if key is not None and key.has_private():
        return _checked(key, what)
    if secret:
        advice = "Check the passphrase; the key must be RSA, or EC on P-256 or P-384"
        raise InvalidKeyError(f"{what} cannot be decrypted with this passphrase", description=advice)
    advice = _CONVERT_SSH if label.startswith(b"OPENSSH") else _MAKE_ONE
    raise InvalidKeyError(f"{what} cannot be used: {_why_not(label, block)}", description=advice)


def _passphrase_bytes(passphrase: Passphrase) -> bytes:
    given = passphrase() if callable(passphrase) else passphrase
    # pycryptodome would encode text as Latin-1; OpenSSL's tools give what the terminal sends, which is UTF-8.
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, bytes):
        return given
    raise TypeError(f"passphrase must be text or bytes, or a function that returns one (got {type(given).__name__})")


def load_public_key(pem: str | bytes | os.PathLike[str]) -> Key:
    """Load and check a public key.

    Args:
        pem: PEM text or bytes (SPKI or PKCS#1), or a `Path`. Text is never taken for a path, because a gateway gets
            it from strangers.

    Returns:
        An RSA key of 2048 bits or more, or an EC key on P-256 or P-384.

    Raises:
        InvalidKeyError: it is not such a key, or a private one; or the file cannot be read.
    """
    what = "the public key"
    if isinstance(pem, os.PathLike):
        what = f"the public key {os.fspath(pem)}"
        try:
            pem = Path(pem).expanduser().read_bytes()
        except (OSError, ValueError, RuntimeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            raise InvalidKeyError(f"{what} cannot be read: {reason}", description=_GIVE_PUBLIC) from None
    if not isinstance(pem, str | bytes):
        raise InvalidKeyError(f"{what} is not text", description=_GIVE_PUBLIC)
    data = pem.encode(errors="replace") if isinstance(pem, str) else pem
    label, block = _pem_block(data, _PUBLIC_LABELS, what)
    key = _import(block, None) if label in _PUBLIC_LABELS else None
    if b"PRIVATE" in label or (key is not None and key.has_private()):
        raise InvalidKeyError(f"{what} is a private key", description=f"Never hand it out. {_GIVE_PUBLIC}")
    if key is None:
        raise InvalidKeyError(f"{what} cannot be used: {_why_not(label, block)}", description=_MAKE_ONE)
    return _checked(key, what)


def _pem_block(data: bytes, wanted: frozenset[bytes], what: str) -> tuple[bytes, bytes]:
    # OpenSSL writes EC PARAMETERS or bag attributes before the key itself: the first wanted block counts.
    if len(data) > _MAX_PEM:
        raise InvalidKeyError(f"{what} is too large to be a key", description=_MAKE_ONE)
    blocks = [(found[1], found[0]) for found in _PEM.finditer(data)]
    for label, block in blocks:
        if label in wanted:
            return label, block
    if not blocks:
        raise InvalidKeyError(f"{what} is not in PEM format", description="It must begin with -----BEGIN ...")
    return blocks[0]


def _import(block: bytes, passphrase: bytes | None) -> Key | None:
    from Crypto.PublicKey import ECC, RSA

    if _type_name(block) in _OTHER_TYPES.values():
        return None
    load: Any
    for load in (RSA.import_key, ECC.import_key):
        with suppress(ValueError, IndexError, TypeError):
            key: Key = load(block, passphrase)
            return key
    return None


def _why_not(label: bytes, block: bytes) -> str:
    other = _type_name(block) or ("DSA" if label.startswith(b"DSA") else None)
    if other is not None:
        return f"{other} keys are not supported, only RSA and EC"
    if label not in _PRIVATE_LABELS | _PUBLIC_LABELS:
        return f"it is a PEM file of another kind ({label.decode()})"
    return "it is damaged, or neither RSA nor EC on a known curve"


def _type_name(block: bytes) -> str | None:
    """Return what kind of unsupported key a PKCS#8 or SPKI block holds, None for any other block."""
    from Crypto.IO import PEM
    from Crypto.Util import asn1

    with suppress(ValueError, IndexError, TypeError):
        fields: Any = asn1.DerSequence().decode(PEM.decode(block.decode("latin-1"))[0])
        # SPKI begins with the algorithm, PKCS#8 with a version number before it.
        algorithm: Any = asn1.DerSequence().decode(fields[1] if isinstance(fields[0], int) else fields[0])
        identifier: Any = asn1.DerObjectId()
        identifier.decode(algorithm[0])
        return _OTHER_TYPES.get(identifier.value)
    return None


def public_pem(key: Key) -> str:
    """Return a key's public half as SPKI PEM, with a newline at the end.

    Args:
        key: a public key, or a private one, whose public half is taken.
    """
    return _export_pem(key.public_key())


def fingerprint(key: Key) -> str:
    """Return what people compare keys by (protocol.md section 6).

    Args:
        key: a public key, or a private one, whose public half is taken.

    Returns:
        The first 32 hex digits of SHA-256 over the DER of the SPKI, in 8 groups of 4 with colons.
    """
    export: Any = key.public_key().export_key
    digits = hashlib.sha256(export(format="DER")).hexdigest()[:32]
    return ":".join(digits[i : i + 4] for i in range(0, 32, 4))
