"""TLS: the certificate's files, what is wrong with them in words, and the handshakes, bounded like everything else."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from Crypto.Util.asn1 import DerSequence

from .errors import GatewayError
from .listening import ACCEPTED_AT_ONCE
from .lobby import Lobby

__all__ = ["Certificate", "TlsListener"]

_log = logging.getLogger(__name__)

_FIRST_CERTIFICATE = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----")
# After an accept that failed, such as for want of file descriptors.
_ACCEPT_PAUSE = 0.5


class Certificate:
    """The certificate that the gateway shows, and the files that it comes from.

    Args:
        cert: a PEM file with the certificate and its chain.
        key: a PEM file with the private key; `None` when it is in the same file.

    Attributes:
        context: for every handshake; a new certificate takes effect with the next one.

    Raises:
        GatewayError: the files are missing, do not fit, or cannot be used; blocks for as long as the disk does.
    """

    def __init__(self, cert: Path, key: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._stamp = self._look()
        self.context = self._load()
        self.context.set_alpn_protocols(["http/1.1"])

    def check_files(self) -> bool:
        """Look at the files again; call it in a thread.

        Returns:
            Whether they changed and are good, so that `take_over` is to be called.

        Raises:
            GatewayError: they changed and are no good; once for each change.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._load()
        return True

    def take_over(self) -> None:
        """Show the files' certificate from now on; call it where the handshakes run.

        Raises:
            GatewayError: the files have changed again in the meantime.
        """
        try:
            self.context.load_cert_chain(self._cert, self._key, _refuse_passphrase)
        except (OSError, ValueError) as error:
            raise GatewayError(f"the TLS certificate {self._cert} cannot be loaded: {error}") from error

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key) if path is not None)

    def _load(self) -> ssl.SSLContext:
        pem = _read(self._cert, "certificate")
        key = self._key if self._key is not None else self._cert
        key_pem = _read(key, "key")
        if _FIRST_CERTIFICATE[0] not in pem:
            raise GatewayError(f"the TLS certificate {self._cert} is not a certificate in PEM form")
        if "PRIVATE KEY-----" not in key_pem:
            more = "" if self._key is not None else "; give its file with --tls-key"
            raise GatewayError(f"the TLS key {key} has no private key in PEM form{more}")
        # TLS 1.2 and newer, and ciphers without known weaknesses, are what Python itself chooses for a server.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._cert, self._key, _refuse_passphrase)
        except _EncryptedKeyError:
            raise GatewayError(f"the TLS key {key} is encrypted; the gateway needs it without a passphrase") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or "not valid"
            if reason == "KEY_VALUES_MISMATCH":
                raise GatewayError(f"the TLS key {key} is not the one of the certificate {self._cert}") from error
            reason = reason.replace("_", " ").lower()
            raise GatewayError(f"the TLS certificate {self._cert} and its key cannot be loaded: {reason}") from error
        _check_dates(self._cert, pem)
        return context


class _EncryptedKeyError(Exception):
    """The private key asks for a passphrase."""


def _refuse_passphrase() -> str:
    # Without this OpenSSL would ask at the terminal.
    raise _EncryptedKeyError


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise GatewayError(f"the TLS {what} {path} cannot be read: {error.strerror}") from error


def _check_dates(path: Path, pem: str) -> None:
    begin, end = _FIRST_CERTIFICATE
    start = pem.index(begin)
    try:
        first, last = _validity(ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)]))
    except (ValueError, IndexError, TypeError) as error:
        raise GatewayError(f"the dates of the TLS certificate {path} cannot be read") from error
    now = datetime.fromtimestamp(time.time(), UTC)
    if now > last:
        raise GatewayError(f"the TLS certificate {path} has expired on {last:%Y-%m-%d %H:%M} UTC; get a new one")
    if now < first:
        raise GatewayError(f"the TLS certificate {path} is not valid before {first:%Y-%m-%d %H:%M} UTC")


def _validity(der: bytes) -> tuple[datetime, datetime]:
    """Return the first and the last moment of a certificate (RFC 5280 section 4.1); `ssl` tells only of a peer's."""
    fields = DerSequence().decode(DerSequence().decode(der)[0])
    # The version, which is not there in the first one, is tagged [0].
    has_version = isinstance(fields[0], bytes) and fields[0][0] == 0xA0
    validity = DerSequence().decode(fields[4 if has_version else 3])
    return _parse_time(validity[0]), _parse_time(validity[1])


def _parse_time(field: bytes) -> datetime:
    text = field[2:].decode("ascii").removesuffix("Z")
    # A UTCTime (tag 23) has two digits for the year: 50 and above belong to the last century.
    if field[0] == 23:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


class TlsListener:
    """Accepts connections on one socket and shakes hands.

    asyncio's own server would count nobody until he has shaken hands, and give him a minute for it.

    Args:
        listening: the socket; it stays the caller's.
        certificate: what is shown.
        lobby: where connections begin.
        make_protocol: what talks to those that have shaken hands.
        timeout: seconds for a handshake.
    """

    def __init__(
        self,
        listening: socket.socket,
        certificate: Certificate,
        lobby: Lobby,
        make_protocol: Callable[[], asyncio.Protocol],
        timeout: float,
    ) -> None:
        self._listening = listening
        self._certificate = certificate
        self._lobby = lobby
        self._make_protocol = make_protocol
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._listen()

    async def stop(self) -> None:
        """Accept nobody any more, and drop who is still shaking hands."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        # One that has not begun would leave its socket open.
        await asyncio.sleep(0)
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _listen(self) -> None:
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("a connection could not be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._listen)
                return
            connection.setblocking(False)
            protocol = self._make_protocol()
            if not self._lobby.knock(protocol, peer[0]):
                connection.close()
                continue
            task = self._loop.create_task(self._shake_hands(connection, protocol))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        is_done = False
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._certificate.context,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=1.0,
            )
            is_done = True
        except OSError as error:
            # `ssl.SSLError`, time-outs and lost connections are all of this kind; asyncio closes the socket.
            _log.debug("a TLS handshake failed: %s", type(error).__name__)
        finally:
            # Who has shaken hands is in the lobby under the same key, and leaves when he logs in or goes.
            if not is_done:
                self._lobby.leave(protocol)
