"""`wss://`: certificates that are no good are named, a new one takes effect, and handshakes are bounded."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from wsclient import WSClient
from wsclient.core.auth import Key
from wsclient.gateway.errors import GatewayError
from wsclient.gateway.thread import GatewayThread
from wsclient.gateway.tls import Certificate as GatewayCertificate

from ..support.certificates import Certificate, make_certificate
from ..support.waiting import wait_until
from .conftest import StartGateway
from .test_lobby import dial, is_dropped


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A certificate of the gateway's, with its key in the same file."""
    return make_certificate(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Certificate:
    """Another one, for the same names."""
    folder = tmp_path / "other"
    folder.mkdir()
    return make_certificate(folder)


def split(certificate: Certificate, folder: Path) -> tuple[Path, Path]:
    """Write certificate and key to files of their own."""
    pem = certificate.file.read_text()
    place = pem.index("-----BEGIN CERTIFICATE")
    cert, key = folder / "cert.pem", folder / "key.pem"
    key.write_text(pem[:place])
    cert.write_text(pem[place:])
    return cert, key


def test_a_client_talks_through_tls(
    start_gateway: StartGateway, certificate: Certificate, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(tls_cert=certificate.file)
    assert gateway.url == f"wss://127.0.0.1:{gateway.port}"
    options = {"client_id": client_id, "private_key": ec_key, "ssl_context": certificate.client_context}
    with WSClient(gateway.url, **options) as client:  # type: ignore[arg-type]
        assert client.complete("tokens 3000", "tiny:1b").total_tokens == 3000
        assert [model.name for model in client.list_models()] == ["tiny:1b"]


def test_the_key_may_be_in_a_file_of_its_own(start_gateway: StartGateway, certificate: Certificate) -> None:
    cert, key = split(certificate, certificate.file.parent)
    gateway = start_gateway(tls_cert=cert, tls_key=key)
    assert shown(gateway, certificate) is not None


def shown(gateway: GatewayThread, trusted: Certificate) -> bytes | None:
    """Return the certificate that the gateway shows, `None` when it is not the trusted one."""
    try:
        with (
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw,
            trusted.client_context.wrap_socket(raw, server_hostname="localhost") as line,
        ):
            return line.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError:
        return None


@pytest.mark.parametrize(
    ("version", "is_accepted"), [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True), (None, False)]
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_2_and_newer_are_spoken(
    start_gateway: StartGateway, certificate: Certificate, version: ssl.TLSVersion | None, is_accepted: bool
) -> None:
    gateway = start_gateway(tls_cert=certificate.file)
    context = certificate.client_context
    context.minimum_version = context.maximum_version = version or ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw, ExitStack() as stack:
        if not is_accepted:
            stack.enter_context(pytest.raises(ssl.SSLError))
        context.wrap_socket(raw, server_hostname="localhost").close()


# --- what is wrong with the files -------------------------------------------------------------------------------------


def fault(cert: Path, key: Path | None = None) -> str:
    with pytest.raises(GatewayError) as caught:
        GatewayCertificate(cert, key)
    return str(caught.value)


def test_a_file_that_is_not_there_is_named(certificate: Certificate, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.pem"
    assert fault(nowhere) == f"the TLS certificate {nowhere} cannot be read: No such file or directory"
    assert fault(certificate.file, nowhere) == f"the TLS key {nowhere} cannot be read: No such file or directory"


def test_files_that_hold_something_else_are_named(certificate: Certificate, tmp_path: Path) -> None:
    cert, key = split(certificate, tmp_path)
    assert fault(key) == f"the TLS certificate {key} is not a certificate in PEM form"
    assert fault(cert) == f"the TLS key {cert} has no private key in PEM form; give its file with --tls-key"
    assert fault(cert, cert) == f"the TLS key {cert} has no private key in PEM form"
    cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert fault(cert, key).startswith(f"the TLS certificate {cert} and its key cannot be loaded: ")


def test_a_key_of_another_certificate_is_named(certificate: Certificate, other: Certificate, tmp_path: Path) -> None:
    cert, _ = split(certificate, tmp_path)
    assert fault(cert, other.file) == f"the TLS key {other.file} is not the one of the certificate {cert}"


def test_an_encrypted_key_is_named_and_nobody_is_asked_for_its_passphrase(
    certificate: Certificate, tmp_path: Path
) -> None:
    cert, key = split(certificate, tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    assert fault(cert, key) == f"the TLS key {key} is encrypted; the gateway needs it without a passphrase"


def test_a_certificate_that_has_expired_is_named(tmp_path: Path) -> None:
    expired = make_certificate(tmp_path, days=-1)
    assert fault(expired.file).startswith(f"the TLS certificate {expired.file} has expired on 20")


def test_a_certificate_of_the_future_is_named(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    assert fault(certificate.file).startswith(f"the TLS certificate {certificate.file} is not valid before 20")


def test_years_from_2050_on_are_read_too(tmp_path: Path) -> None:
    GatewayCertificate(make_certificate(tmp_path, days=365 * 100).file, None)


def test_a_gateway_does_not_start_with_files_that_are_no_good(start_gateway: StartGateway, tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"nowhere\.pem cannot be read"):
        start_gateway(tls_cert=tmp_path / "nowhere.pem")


# --- a new certificate ------------------------------------------------------------------------------------------------


def test_a_new_certificate_is_shown_soon_and_a_bad_one_never(
    start_gateway: StartGateway, certificate: Certificate, other: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start_gateway(tls_cert=certificate.file)
    first = shown(gateway, certificate)
    assert first is not None
    with caplog.at_level(logging.INFO):
        certificate.file.write_text("half a fi")
        wait_until(lambda: "is not a certificate in PEM form; the one before it stays in use" in caplog.text)
        assert shown(gateway, certificate) == first
        draft = certificate.file.with_suffix(".draft")
        shutil.copy(other.file, draft)
        os.replace(draft, certificate.file)
        wait_until(lambda: shown(gateway, other))
    assert shown(gateway, certificate) is None
    assert caplog.text.count("stays in use") == 1
    assert caplog.text.count("the TLS certificate was read again") == 1


# --- strangers --------------------------------------------------------------------------------------------------------


def test_who_does_not_shake_hands_is_dropped_in_time(start_gateway: StartGateway, certificate: Certificate) -> None:
    gateway = start_gateway(tls_cert=certificate.file, auth_timeout=0.2)
    began = time.monotonic()
    with dial(gateway) as silent, dial(gateway) as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert is_dropped(silent)
        assert is_dropped(slow)
    assert time.monotonic() - began < 3
    wait_until(lambda: len(gateway.gateway._lobby) == 0)


def test_who_is_shaking_hands_counts_for_his_address(start_gateway: StartGateway, certificate: Certificate) -> None:
    gateway = start_gateway(tls_cert=certificate.file, max_sockets_before_login_per_address=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(dial(gateway))
        assert is_dropped(stack.enter_context(dial(gateway)))
    # The last place is also that of one that has just shaken hands.
    wait_until(lambda: len(gateway.gateway._lobby) == 0)
    with dial(gateway), dial(gateway):
        wait_until(lambda: len(gateway.gateway._lobby) == 2)
        assert shown(gateway, certificate) is not None


def test_who_speaks_no_tls_gets_no_traceback_into_the_log(
    start_gateway: StartGateway, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        gateway = start_gateway(tls_cert=certificate.file)
        caplog.clear()
        with dial(gateway) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while not is_dropped(plain):
                pass
        with dial(gateway):
            pass
        wait_until(lambda: len(gateway.gateway._lobby) == 0)
    assert caplog.text == ""


def test_a_stop_does_not_wait_for_those_who_shake_hands(start_gateway: StartGateway, certificate: Certificate) -> None:
    gateway = start_gateway(tls_cert=certificate.file)
    with dial(gateway) as silent:
        wait_until(lambda: len(gateway.gateway._lobby) == 1)
        began = time.monotonic()
        gateway.stop()
        assert time.monotonic() - began < 3
        assert is_dropped(silent)


def test_a_port_that_calls_again_before_its_last_handshake_is_over_counts_once(
    start_gateway: StartGateway, certificate: Certificate
) -> None:
    gateway = start_gateway(tls_cert=certificate.file, max_sockets_before_login_per_address=4)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        source = probe.getsockname()
    for _ in range(100):
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            caller.bind(source)
            caller.connect(("127.0.0.1", gateway.port))
            # Reset at its close, so that the port is free at once.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: has_room_for_four(gateway, certificate))


def has_room_for_four(gateway: GatewayThread, trusted: Certificate) -> bool:
    """Return whether three silent sockets and a client that shakes hands are let in together."""
    with ExitStack() as stack:
        silent = [stack.enter_context(dial(gateway)) for _ in range(3)]
        try:
            is_admitted = shown(gateway, trusted) is not None
        except OSError:
            return False
        return is_admitted and not any(map(is_over, silent))


def is_over(connection: socket.socket) -> bool:
    """Return whether the other side has ended the line by now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
