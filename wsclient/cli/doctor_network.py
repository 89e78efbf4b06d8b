"""The doctor's questions about the way to the server: DNS, TCP, TLS and its certificate."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..transport import proxy_of
from .doctor_certificate import Certificate, days_left, issuer, names
from .doctor_findings import NotNow, Trouble, found
from .doctor_settings import Patient
from .streaming import duration

__all__ = ["check_chain", "check_dns", "check_expiry", "check_name", "check_tcp", "check_tls", "within"]

_T = TypeVar("_T")
_Found = tuple[str, dict[str, Any]]

# Of a lookup, of all attempts to connect, and of each handshake.
_STEP = 5.0


def within(seconds: float, step: Callable[[], _T]) -> _T:
    """Do what may block for ever (a lookup, a server that drips) in a thread, and wait for it only so long.

    Raises:
        TimeoutError: it took longer; the thread is left to end by itself.
    """
    outcome: list[_T] = []
    failure: list[Exception] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            outcome.append(step())
        except Exception as error:
            failure.append(error)
        finally:
            is_over.set()

    threading.Thread(target=run, name="wsclient-doctor", daemon=True).start()
    if not is_over.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if failure:
        raise failure[0]
    return outcome[0]


def check_dns(patient: Patient) -> _Found:
    """Look the host up."""
    host, port = patient.host, patient.port
    _leave_to_proxy(patient)
    begun = time.monotonic()
    try:
        lookup = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        patient.addresses = list(within(patient.seconds(_STEP), lookup))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = f"Check the host in the URL, and this machine's DNS: getent hosts {host}"
        raise Trouble(f"the host {host!r} cannot be resolved: {reason}", advice) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in patient.addresses))
    if addresses == [host]:
        return found(f"{host} is an address", addresses=addresses)
    return found(f"{host} is {', '.join(addresses)} ({duration(time.monotonic() - begun)})", addresses=addresses)


def _leave_to_proxy(patient: Patient) -> None:
    proxy = proxy_of(patient.options(), patient.url)
    if proxy is not None:
        raise NotNow(f"the proxy {proxy} does this")


def check_tcp(patient: Patient) -> _Found:
    """Connect to the first address that lets us."""
    _leave_to_proxy(patient)
    failures: list[tuple[str, Exception]] = []
    end = time.monotonic() + patient.seconds(_STEP)
    for place, (family, kind, protocol, _, address) in enumerate(patient.addresses):
        begun = time.monotonic()
        # One that drops everything must leave time for the others.
        share = max(0.1, (end - begun) / (len(patient.addresses) - place))
        with contextlib.closing(socket.socket(family, kind, protocol)) as sock:
            sock.settimeout(share)
            try:
                sock.connect(address)
            except OSError as error:
                failures.append((address[0], error))
                continue
            took = time.monotonic() - begun
            text = f"{address[0]} port {patient.port} answers ({duration(took)})"
            return found(text, address=address[0], port=patient.port)
    raise _unreachable(failures, patient.port)


def _unreachable(failures: list[tuple[str, Exception]], port: int) -> Trouble:
    reasons = "; ".join(f"{address}: {getattr(error, 'strerror', None) or error}" for address, error in failures)
    text = f"no connection to port {port} ({reasons})"
    if any(isinstance(error, ConnectionRefusedError) for _, error in failures):
        return Trouble(text, "Start the gateway there (wsclient serve), or correct the port in the URL")
    if any(isinstance(error, TimeoutError) for _, error in failures):
        return Trouble(text, "Check that the machine is up, and that no firewall drops this port")
    return Trouble(text, "Check the network between here and there")


def check_tls(patient: Patient) -> _Found:
    """Make a handshake without judging the certificate."""
    if not patient.is_encrypted:
        raise NotNow("ws:// has none")
    _leave_to_proxy(patient)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        connection = _shake_hands(patient, context)
    except TimeoutError as error:
        raise Trouble(f"the TLS handshake gets no answer: {error}", "Check that the port is the gateway's") from error
    except OSError as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        advice = "Check that this port speaks TLS; one without it is ws://"
        raise Trouble(f"no TLS on port {patient.port}: {reason}", advice) from error
    version, cipher = connection
    return found(f"{version}, {cipher}", version=version, cipher=cipher)


def _shake_hands(patient: Patient, context: ssl.SSLContext) -> tuple[str, str]:
    with contextlib.closing(_connect_tls(patient, context)) as sock:
        cipher = sock.cipher()
        return sock.version() or "?", cipher[0] if cipher else "?"


def _connect_tls(patient: Patient, context: ssl.SSLContext) -> ssl.SSLSocket:
    seconds = patient.seconds(_STEP)

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection((patient.host, patient.port), seconds)
        try:
            return context.wrap_socket(plain, server_hostname=patient.host)
        except BaseException:
            plain.close()
            raise

    return within(seconds, connect)


# --- the certificate --------------------------------------------------------------------------------------------------


def check_chain(patient: Patient) -> _Found:
    """Check who vouches for the certificate, with the same rules as the library."""
    certificate = _certificate(patient)
    if certificate.chain_fault:
        advice = "Use a certificate that this machine trusts, or name its issuer's PEM file in SSL_CERT_FILE"
        raise Trouble(f"the certificate is not trusted: {certificate.chain_fault}", advice)
    by = issuer(certificate.fields)
    return found(f"trusted, issued by {by}" if by else "trusted", issuer=by)


def check_name(patient: Patient) -> _Found:
    """Check that the certificate is for this host."""
    certificate = _certificate(patient)
    listed = names(certificate.fields)
    if certificate.name_fault:
        text = f"the certificate is for {', '.join(listed) or 'nobody'}, not for {patient.host}"
        raise Trouble(text, "Correct the host in the URL, or have a certificate made for it", names=listed)
    return found(f"for {', '.join(listed)}" if listed else f"for {patient.host}", names=listed)


def check_expiry(patient: Patient) -> _Found:
    """Check the certificate's dates."""
    certificate = _certificate(patient)
    if certificate.date_fault:
        advice = "Renew it on the server, and check this machine's clock"
        raise Trouble(f"the certificate is out of date: {certificate.date_fault}", advice)
    days, until = days_left(certificate.fields, time.time())
    hint = "; renew it soon" if days < 14 else ""
    return found(f"{days} {'day' if days == 1 else 'days'} left, until {until}{hint}", days_left=days, until=until)


def _certificate(patient: Patient) -> Certificate:
    if not patient.is_encrypted:
        raise NotNow("ws:// has none")
    _leave_to_proxy(patient)
    if patient.certificate is None:
        patient.certificate = _examine_certificate(patient)
    certificate: Certificate = patient.certificate
    return certificate


def _examine_certificate(patient: Patient) -> Certificate:
    context = ssl.create_default_context()
    try:
        return Certificate(fields=_verified_fields(patient, context))
    except ssl.SSLCertVerificationError as error:
        certificate = Certificate.refused(error.verify_code, error.verify_message)
    if certificate.name_fault:
        # Again without the name, for what it says of itself and for what else may be wrong with it.
        context.check_hostname = False
        try:
            return Certificate(name_fault=certificate.name_fault, fields=_verified_fields(patient, context))
        except ssl.SSLCertVerificationError as error:
            other = Certificate.refused(error.verify_code, error.verify_message)
            return Certificate(other.chain_fault, certificate.name_fault, other.date_fault)
    return certificate


def _verified_fields(patient: Patient, context: ssl.SSLContext) -> dict[str, Any]:
    with contextlib.closing(_connect_tls(patient, context)) as sock:
        return dict(sock.getpeercert() or {})
