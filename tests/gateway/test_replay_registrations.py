"""The recordings that register over HTTP, played again: the answers to registrations, and to the logins after them.

The private keys of the recordings are not known: each registration gets a key of ours of the same kind.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from Crypto.IO import PEM
from Crypto.Util.asn1 import DerSequence

from wsclient.core.auth import Key
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import generate_key, public_pem

from ..support.asking import TOKEN, ask
from .conftest import StartGateway
from .replaying import Player, read, sections

# What ours refuses and the original takes, each with its reason.
REFUSED_ALGORITHMS = {
    **dict.fromkeys(("SHA1", "SHA-1", "RSA-SHA1", "MD5", "RSA-MD5"), "SHA-1 and MD5 are refused"),
    **dict.fromkeys(("SHA224", "SHA3-256", "RSA-SHA3-256", "RIPEMD160", "SHA512-256"), "only SHA-256, 384 and 512"),
}
REFUSED_KEYS = {
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GN": "RSA below 2048 bits",
    "MCowBQYDK2VwAyEA": "Ed25519 never logs in",
    "BEGIN PRIVATE KEY": "a private key that was sent is one no longer",
}

SKIPPED = {
    "cache: ": "the original does not notice what others write, and undoes it; see test_login and test_registry",
    "connection already authenticated survives": "ours is closed with 4003; see test_server",
    "online register with non-ASCII name": "a fault of the original's command",
    "server started with an EMPTY file": "registers on the file itself; see tests/cli",
    "corrupt clients file": "ours is not overwritten; see test_registration",
}

PEM_BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----.*-----END [A-Z ]+-----", re.DOTALL)


class RegisteringPlayer(Player):
    """Registers what the recording registers, and then logs in as that."""

    def __init__(self, url: str, rsa_key: Key, registry: ClientRegistry) -> None:
        super().__init__(url, rsa_key)
        self.registry = registry
        # By the recorded client id: ours, and what it signs with. `None` for who is not registered with ours.
        self.clients: dict[str, tuple[str, Key, str] | None] = {}

    def play(self, part: list[dict[str, Any]]) -> None:
        rest: list[dict[str, Any]] = []
        for line in part:
            if "http" in line or "--online" in line.get("manager", ""):
                super().play(rest)
                rest = []
                self.register(line) if "http" in line else self.register_as_the_command_does(line)
            else:
                rest.append(line)
        super().play(rest)

    def send(self, name: str, raw: str, rest: list[dict[str, Any]]) -> None:
        message = json.loads(raw)
        if message.get("clientId") in self.clients:
            client = self.clients[message["clientId"]]
            if client is None:
                self.leave(name)
                return
            raw = raw.replace(message["clientId"], client[0])
        super().send(name, raw, rest)

    def key_of(self, client_id: str) -> tuple[Key, str]:
        return next(client[1:] for client in self.clients.values() if client is not None and client[0] == client_id)

    def register(self, line: dict[str, Any]) -> None:
        method, path = line["http"].split()
        recorded_body = line["request"]
        body, key = self.with_our_key(recorded_body)
        # As long as it was: the recording shows it shortened.
        if found := re.search(r"\.\.\.<(\d+) chars total>\.\.\.", body):
            body = body.ljust(int(found[1]))
        headers = {"Content-Type": line["ct"] or ""}
        answer = ask(self.url, path, method=method, token=TOKEN, body=body.encode(), headers=headers)
        if answer.status == 400 and line["status"] == 201:
            assert is_refused_on_purpose(recorded_body), (line, answer)
            assert answer.json["code"] == "invalid_request"
            self.clients[json.loads(line["response"])["clientId"]] = None
            return
        assert answer.status == line["status"], (line, answer)
        self.compared += 1
        if "json" not in line["resp_ct"]:
            # Errors of the original's HTTP library are pages; ours have their code as all others.
            return
        assert answer.headers["content-type"] == line["resp_ct"]
        recorded = json.loads(line["response"])
        if answer.status == 201:
            assert answer.json.keys() == recorded.keys()
            assert len(bytes.fromhex(answer.json["clientId"])) == 16
            assert key is not None
            algorithm = json.loads(body).get("signatureAlgorithm") or "SHA256"
            self.clients[recorded["clientId"]] = (answer.json["clientId"], key, algorithm)
        else:
            assert answer.json == recorded

    def register_as_the_command_does(self, line: dict[str, Any]) -> None:
        name = re.search(r"--name=(\S+)", line["manager"])
        recorded_id = re.search(r"registered with ID: (\w+)", line["stdout"])
        assert name is not None
        assert recorded_id is not None
        key = generate_key("ec")
        body = json.dumps({"name": name[1], "publicKey": public_pem(key), "signatureAlgorithm": "SHA256"})
        answer = ask(self.url, "/api/auth/register", method="POST", token=TOKEN, body=body.encode())
        assert answer.status == 201
        self.clients[recorded_id[1]] = (answer.json["clientId"], key, "SHA256")

    def with_our_key(self, body: str) -> tuple[str, Key | None]:
        """Return the body with a key of ours, and that key."""
        try:
            fields = json.loads(body)
            pem = fields["publicKey"]
            if not PEM_BLOCK.search(pem) or is_refused_on_purpose(body):
                return body, None
        except (ValueError, TypeError, KeyError):
            return body, None
        key = self.key_like(pem)
        ours = public_pem(key)
        if "RSA PUBLIC" in pem:
            ours = pkcs1_pem(key)
        fields["publicKey"] = ours.replace("\n", "\r\n") if "\r\n" in pem else ours
        return json.dumps(fields), key

    def key_like(self, pem: str) -> Key:
        if "MHYwEAYHKoZIzj0CAQYFK4EEACID" in pem:
            return generate_key("ec", 384)
        if "MFkwEwYHKoZIzj0CAQYI" in pem:
            return generate_key("ec", 256)
        # One RSA key for all, because they take seconds to make: who had it before is removed.
        self.registry.reload_if_changed()
        for client in self.registry.list():
            if client.public_key == public_pem(self.key):
                self.registry.revoke(client.id)
        return self.key


def pkcs1_pem(key: Any) -> str:
    return PEM.encode(DerSequence([key.n, key.e]).encode(), "RSA PUBLIC KEY") + "\n"


def is_refused_on_purpose(body: str) -> bool:
    try:
        fields = json.loads(body)
    except ValueError:
        return False
    return fields.get("signatureAlgorithm") in REFUSED_ALGORITHMS or any(kind in body for kind in REFUSED_KEYS)


@pytest.mark.parametrize(("recording", "at_least"), [("4_signatures", 59), ("5_rest_and_cache", 28)])
def test_registrations_and_their_logins_are_answered_like_by_the_original(
    recording: str, at_least: int, start_gateway: StartGateway, registry: ClientRegistry, rsa_key: Key
) -> None:
    # As many attempts as the recorded server allowed.
    gateway = start_gateway(admin_token=TOKEN, max_auth_attempts=1000 if recording == "4_signatures" else 5)
    player = RegisteringPlayer(gateway.url, rsa_key, registry)
    try:
        for name, part in sections(read(recording)):
            if not any(name.startswith(skipped) for skipped in SKIPPED):
                player.play(part)
    finally:
        player.close()
    assert player.compared >= at_least


def test_every_skipped_section_is_in_the_recording() -> None:
    names = [name for name, _ in sections(read("5_rest_and_cache"))]
    for skipped in SKIPPED:
        assert any(name.startswith(skipped) for name in names), skipped
