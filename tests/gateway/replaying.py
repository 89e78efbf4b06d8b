"""Recorded sessions with the original server, and who plays the client's side of them again against ours.

What may differ is protocol.md's own list: the additions of section 5 and the differences at the end of section 6.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key, sign_challenge

from ..support.gateway_peers import RawPeer

__all__ = ["Player", "read", "registered_ids", "sections"]

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"

# A stream that ends without Ollama's final line is an error of ours (protocol.md section 5).
INCOMPLETE = {"e8": "server_error", "e10": "generation_incomplete"}

# Ids that were used twice, or for a stop as well, so that two things are answered under them at the same time.
UNORDERED = ("dup", "dup2", "g7")

# The right column of protocol.md section 3, as far as a server sends it.
CODES = {
    "invalid_auth",
    "auth_timeout",
    "rate_limited",
    "model_not_found",
    "invalid_request",
    "server_busy",
    "server_error",
    "generation_incomplete",
}

REFUSALS = {"Invalid signature": 4000, "Too many authentication attempts. Please try again in 16 seconds.": 4002}

# Recorded delays, in milliseconds, are cut to a fifth.
DELAY = re.compile(r'(\\"(?:delay|firstDelay)\\":)(\d+)')

# How the client that sent the signature had spelled it.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "F-urlsafe": lambda text: text.replace("+", "-").replace("/", "_"),
    "F-nopad": lambda text: text.rstrip("="),
    "F-newline-wrapped": lambda text: "\n".join(re.findall(".{1,64}", text)),
    "F-hex": lambda text: base64.b64decode(text).hex(),
}


def read(recording: str) -> list[dict[str, Any]]:
    # Not splitlines(): a recorded token is U+2028.
    text = (TRANSCRIPTS / f"{recording}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def sections(lines: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Cut a recording into its sections; the first one has no name."""
    name, part = "", []
    for line in lines:
        if "section" in line:
            yield name, part
            name, part = line["section"], []
        else:
            part.append(line)
    yield name, part


def expected_of(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return what ours must say where the original said this."""
    expected = {key: value for key, value in recorded.items() if key not in ("timestamp", "elapsedTime", "code")}
    if str(expected.get("error")).startswith("Server error: "):
        expected["error"] = "Server error: "
    if "aborted" in str(expected.get("error")):
        expected = {"id": recorded["id"], "type": "stream_end", "isCancelled": True}
    if expected["type"] == "stream_end" and str(recorded.get("id")) in INCOMPLETE:
        expected = {"id": recorded["id"], "type": "error"}
    return expected


def is_same(ours: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare a message with what is expected; additions are only taken where section 5 has them."""
    ours = {key: value for key, value in ours.items() if key not in ("timestamp", "elapsedTime")}
    if ours["type"] == "auth_result":
        for addition in ("server", "maxMessageBytes", "code"):
            ours.pop(addition, None)
    elif ours["type"] == "stream_end":
        assert isinstance(ours["isCancelled"], bool)
        ours.pop("usage", None)
        if ours["isCancelled"]:
            assert isinstance(ours.pop("totalTokens"), int)
        else:
            del ours["isCancelled"]
    elif ours["type"] == "error":
        del ours["code"]
        if "id" not in expected:
            ours.pop("id", None)
        if ours["error"].startswith("Server error: "):
            ours["error"] = "Server error: "
        if "error" not in expected:
            del ours["error"]
    return ours == expected


class Player:
    """Plays the client's side of a recording on connections of its own.

    Attributes:
        compared: how many answers were the same.
    """

    def __init__(self, url: str, key: Key) -> None:
        self.url = url
        self.key = key
        self.peers: dict[str, RawPeer] = {}
        self.challenges: dict[str, str] = {}
        self.sent_before_login: dict[str, int] = {}
        # Came in, but is not expected yet: generations interleave.
        self.backlog: dict[str, list[dict[str, Any]]] = {}
        self.stopped: set[str] = set()
        self.compared = 0

    def close(self) -> None:
        for peer in self.peers.values():
            peer.socket.close()

    def play(self, part: list[dict[str, Any]]) -> None:
        """Play a section: send what the client sent, and find what the server said among what ours says."""
        for number, line in enumerate(part):
            name = line.get("conn", "")
            if line.get("ev") == "open":
                # Offered as Node's client does; the recordings' server refuses it, too.
                peer = RawPeer(self.url, ("Sec-WebSocket-Extensions: permessage-deflate",))
                assert "extensions" not in peer.response.lower()
                self.peers[name], self.backlog[name] = peer, []
            elif line.get("ev") in ("close_frame", "transport_lost"):
                self.leave(name)
            elif name in self.peers and line.get("dir") == "send":
                self.send(name, line["raw"], part[number + 1 :])
            elif name in self.peers and line.get("dir") == "recv":
                self.receive(name, json.loads(line["raw"]))
        for name in [name for name in self.peers if name not in self.sent_before_login]:
            self.check_silence(name)

    def leave(self, name: str) -> None:
        if name in self.peers:
            self.peers.pop(name).socket.close()
            self.sent_before_login.pop(name, None)

    def send(self, name: str, raw: str, rest: list[dict[str, Any]]) -> None:
        if name in self.sent_before_login:
            self.sent_before_login[name] += 1
            if self.sent_before_login[name] > 4:
                self.expect_close(name, 1008, raw)
                return
            raw = self.sign(name, raw, rest)
        elif raw.startswith('{"type":"stop"') and "requestId" in raw:
            self.stopped.add(json.dumps(json.loads(raw)["requestId"]))
        raw = DELAY.sub(lambda found: found[1] + str(int(found[2]) // 5), raw)
        self.peers[name].send_frame(0x1, raw.encode())

    def sign(self, name: str, raw: str, rest: list[dict[str, Any]]) -> str:
        """Put a signature of our own where the recorded one was right."""
        verdict = next(json.loads(line["raw"]) for line in rest if line.get("conn") == name and "raw" in line)
        if verdict["type"] != "auth_result" or not (verdict["success"] or name in SPELLINGS):
            return raw
        message = json.loads(raw)
        key, algorithm = self.key_of(message["clientId"])
        signature = sign_challenge(key, self.challenges[name], algorithm)
        message["signature"] = SPELLINGS.get(name, str)(signature)
        return json.dumps(message)

    def key_of(self, client_id: str) -> tuple[Key, str]:
        """Return what a client signs with, and the hash."""
        return self.key, "SHA256"

    def receive(self, name: str, recorded: dict[str, Any]) -> None:
        if recorded["type"] == "challenge":
            challenge = self.peers[name].receive()
            assert challenge.keys() == recorded.keys()
            self.challenges[name] = challenge["challenge"]
            self.sent_before_login[name] = 0
            return
        found = self.find(name, expected_of(recorded))
        if found["type"] == "error":
            assert found["code"] in CODES
            assert found["code"] == INCOMPLETE.get(str(recorded.get("id")), found["code"])
        self.compared += 1
        if recorded["type"] == "auth_result":
            self.after_login(name, recorded)

    def find(self, name: str, expected: dict[str, Any]) -> dict[str, Any]:
        """Take the expected message out of what has come, waiting for it if need be."""
        backlog = self.backlog[name]
        while not (found := [message for message in backlog if is_same(message, expected)]):
            try:
                backlog.append(self.peers[name].receive())
            except TimeoutError:
                pytest.fail(f"expected {expected}, got {backlog}")
        # Messages of one id keep their order, unless the generation was stopped.
        id = expected.get("id")
        before = backlog[: backlog.index(found[0])]
        if json.dumps(id) not in self.stopped and id not in UNORDERED:
            assert all(message.get("id") != id for message in before), (expected, before)
        backlog.remove(found[0])
        return found[0]

    def after_login(self, name: str, recorded: dict[str, Any]) -> None:
        if recorded["success"]:
            del self.sent_before_login[name]
        elif recorded["error"] in REFUSALS:
            self.expect_close(name, REFUSALS[recorded["error"]], None)

    def expect_close(self, name: str, code: int, raw: str | None) -> None:
        """Ours ends a connection here that the original left open; what was recorded after it cannot be played."""
        if raw is not None:
            self.peers[name].send_frame(0x1, raw.encode())
        assert self.peers[name].read_to_end() == code
        self.leave(name)

    def check_silence(self, name: str) -> None:
        """Make sure that nothing came beyond what was recorded, but more tokens of a stopped generation."""
        self.peers[name].send(type="ping", id="is that all")
        while (message := self.peers[name].receive()).get("id") != "is that all":
            self.backlog[name].append(message)
        for message in self.backlog[name]:
            assert message["type"] == "stream_token", message
            assert json.dumps(message["id"]) in self.stopped
        self.backlog[name].clear()


def registered_ids(lines: list[dict[str, Any]]) -> set[str]:
    """Return the clients that were registered over HTTP, or that logged in later."""
    ids = {json.loads(line["response"])["clientId"] for line in lines if line.get("status") == 201}
    asked: dict[str, str] = {}
    for line in lines:
        message = json.loads(line["raw"]) if line.get("raw", "").startswith('{"type":"auth') else {}
        if message.get("type") == "authenticate":
            asked[line["conn"]] = message.get("clientId", "")
        elif message.get("success"):
            ids.add(asked[line["conn"]])
    return ids
