"""Recorded sessions with the original server, played again against ours: the same answers, field by field.

`SKIPPED` names the recorded sections that only show a difference that is meant, each with its reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.auth import Key
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.fake_ollama import Answer, FakeOllama
from .replaying import Player, read, registered_ids, sections

SKIPPED = {
    "missing fields; then correct authenticate": "six messages before the login, four are allowed",
    "X-Forwarded-For gives another": "the header counts only from trusted proxies",
    "wait retryAfter on the SAME connection": "a blocked login is closed with 4002",
    "success resets the failure count": "begins with the wait of the section before",
    "after limit expiry a further failure doubles": "waits 16 seconds; see test_guard",
    "AUTH_TIMEOUT_MS=1200": "another setting; see test_login",
    "auth timeout after failed attempt": "a refused login is closed with 4000",
    "authenticated connection survives": "another setting; see test_login",
    "prompt not a string": "Ollama itself refuses those, the recording's stand-in did not",
    "binary frame": "messages are text frames; 1003",
    "fragmented text message": "its frames are not in the recording; see test_websocket",
    "duplicate id from another connection": "ids belong to their connection",
    "prompt 1 MiB": "shortened in the recording; see test_websocket",
    "prompt 20 MiB": "shortened in the recording",
    "server killed": "nothing to answer; see test_kills",
    "server SIGTERM mid-stream": "an orderly end closes with 1012; see end_to_end/test_drain",
}

# Each with how many answers are compared at least. Those of registrations are in test_replay_registrations.
RECORDINGS = {"1_auth": 40, "2_requests": 290, "2b_faults": 20, "3_options": 60}

# Generations that show such a difference in the middle of a section.
SKIPPED_IDS = {
    "o8": "stream: false in the options reaches the original's Ollama; ours always streams",
    "o10": "a prompt in the options wins with the original",
}


def id_of(line: dict[str, Any]) -> str:
    try:
        return str(json.loads(line["raw"])["id"])
    except (KeyError, ValueError, TypeError):
        return ""


@pytest.mark.parametrize(("recording", "at_least"), RECORDINGS.items())
def test_ours_answers_like_the_original(recording: str, at_least: int, tmp_path: Path, rsa_key: Key) -> None:
    lines = read(recording)
    clients = [{"id": id, "name": id, "publicKey": public_pem(rsa_key)} for id in sorted(registered_ids(lines))]
    (tmp_path / "authorized_clients.json").write_text(json.dumps(clients))
    # What the model said in this recording to a prompt that does not say what it wants to hear.
    default = Answer(tokens=2) if recording == "3_options" else Answer()
    with FakeOllama(default=default) as ollama:
        settings = GatewaySettings(port=0, data_dir=tmp_path, ollama_url=ollama.url, close_timeout=0.2)
        with GatewayThread(settings) as gateway:
            player = Player(gateway.url, rsa_key)
            try:
                for name, part in sections(lines):
                    if name == "models when Ollama answers 500":
                        ollama.fail("/api/tags", 500, "boom", times=1)
                    if not any(name.startswith(skipped) for skipped in SKIPPED):
                        player.play([line for line in part if id_of(line) not in SKIPPED_IDS])
                assert player.compared >= at_least
            finally:
                player.close()


def test_every_skipped_section_is_in_a_recording() -> None:
    names = [name for recording in RECORDINGS for name, _ in sections(read(recording))]
    for skipped in SKIPPED:
        assert any(name.startswith(skipped) for name in names), skipped
