"""Certificates made here for servers on loopback, and the contexts of both ends."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
import tempfile
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Certificate", "make_certificate", "shared_certificate"]


@attrs.frozen
class Certificate:
    """A certificate that nobody else has signed.

    Attributes:
        file: private key and certificate in one PEM file.
        server_context: what a server with it needs.
        client_context: trusts it and nobody else.
    """

    file: Path
    server_context: ssl.SSLContext
    client_context: ssl.SSLContext


def make_certificate(folder: Path, *hosts: str, days: int = 1) -> Certificate:
    """Make a certificate and write it to a folder.

    Args:
        folder: where its file goes.
        *hosts: the names it is for; `localhost` and `127.0.0.1` when left out.
        days: when it expires, from now; negative for one that has.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wsclient test server")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts or ("localhost",)]
    if not hosts:
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file = folder / "server.pem"
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + pem
    )
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(file)
    return Certificate(file, server_context, ssl.create_default_context(cadata=pem.decode()))


@functools.cache
def shared_certificate() -> Certificate:
    """Return one certificate for all tests that need no file of it."""
    with tempfile.TemporaryDirectory() as folder:
        return make_certificate(Path(folder))
