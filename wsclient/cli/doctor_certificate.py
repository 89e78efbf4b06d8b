"""What a server's certificate says, and what OpenSSL's verdict on it means. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Certificate", "days_left", "issuer", "names"]

_DAY = 86_400
# OpenSSL's x509_vfy.h: not yet valid, expired; and the names of hosts, mail addresses and IP addresses.
_DATES = frozenset({9, 10, 11, 12, 13, 14})
_NAMES = frozenset({62, 63, 64})


@attrs.frozen
class Certificate:
    """A certificate as it was judged; of the three faults OpenSSL names the first that it meets.

    Attributes:
        chain_fault: why nobody vouches for it; then nothing is known about the rest.
        name_fault: why it is not for the host that was asked for.
        date_fault: why it is not valid now.
        fields: as `SSLSocket.getpeercert` gives them; empty for one that was refused.
    """

    chain_fault: str = ""
    name_fault: str = ""
    date_fault: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def refused(cls, code: int, message: str) -> Certificate:
        """Return what a verification that failed means.

        OpenSSL builds the chain, then compares the name, then looks at the dates: a fault says that what comes
        before it is in order.

        Args:
            code, message: the exception's `verify_code` and `verify_message`.
        """
        if code in _DATES:
            return cls(date_fault=message)
        return cls(name_fault=message) if code in _NAMES else cls(chain_fault=message)


def names(fields: Mapping[str, Any]) -> list[str]:
    """Return the hosts that a certificate is for."""
    return [str(value) for _, value in fields.get("subjectAltName", ())]


def issuer(fields: Mapping[str, Any]) -> str:
    """Return who issued a certificate, `""` when it does not say."""
    said = {key: str(value) for part in fields.get("issuer", ()) for key, value in part}
    return said.get("organizationName") or said.get("commonName") or ""


def days_left(fields: Mapping[str, Any], now: float) -> tuple[int, str]:
    """Return how many whole days a certificate is valid from now on, and the day of its end.

    Args:
        fields: of a certificate that was verified.
        now: seconds since the epoch.
    """
    end = ssl.cert_time_to_seconds(fields["notAfter"])
    month, day, _, year, *_ = fields["notAfter"].split()
    return int((end - now) // _DAY), f"{day} {month} {year}"
