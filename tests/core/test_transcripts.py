"""The original server's and client's own words, recorded, are understood, every one."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from wsclient.core.decoding import decode_client_message, decode_server_message
from wsclient.core.frames import TEXT, FrameParser, encode_frame, encode_texts
from wsclient.core.json_values import decode_values
from wsclient.core.messages import (
    AuthResultMessage,
    ErrorMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
    UnknownMessage,
)
from wsclient.errors import ProtocolError

FOLDER = Path(__file__).parent.parent / "transcripts"
FILES = sorted(FOLDER.glob("*.jsonl"))
# Errors that quote what was sent: counted by how they begin.
SHORT = {"Unsupported ": len("Unsupported message type"), "Server error": len("Server error")}


def frames_of(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): recorded texts hold U+2028.
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
    # The original answers a binary frame like a text one; ours closes with 1003, as test_frames holds.
    return [line for line in lines if "dir" in line and line["op"] == "text"]


EVERYTHING = [frame for path in FILES for frame in frames_of(path)]
FROM_SERVER = [frame["raw"] for frame in EVERYTHING if frame["dir"] == "recv"]
FROM_CLIENT = [frame["raw"] for frame in EVERYTHING if frame["dir"] == "send"]


def server_messages() -> list[Any]:
    return [decode_server_message(value) for value in decode_values([text.encode() for text in FROM_SERVER])]


def client_messages() -> list[Any]:
    messages = []
    for value in decode_values([text.encode() for text in FROM_CLIENT]):
        try:
            messages.append(decode_client_message(value))
        except ProtocolError as error:
            messages.append(error)
    return messages


def test_there_are_six_recordings() -> None:
    assert [path.name for path in FILES] == [
        "1_auth.jsonl",
        "2_requests.jsonl",
        "2b_faults.jsonl",
        "3_options.jsonl",
        "4_signatures.jsonl",
        "5_rest_and_cache.jsonl",
    ]


def test_every_frame_of_the_original_server_is_a_known_message() -> None:
    assert Counter(message.type for message in server_messages()) == {
        "challenge": 98,
        "auth_result": 104,
        "models_result": 10,
        "stream_start": 76,
        "stream_token": 266,
        "stream_end": 55,
        "ack": 17,
        "pong": 18,
        "error": 68,
    }


def test_every_frame_of_the_original_client_is_a_known_message() -> None:
    known = [m for m in client_messages() if not isinstance(m, ProtocolError | UnknownMessage)]
    assert Counter(message.type for message in known) == {
        "authenticate": 104,
        "ping": 11,
        "models": 8,
        "generate": 75,
        "stop": 24,
        "batch": 14,
    }


def test_what_the_recordings_sent_to_provoke_the_server_is_told_apart() -> None:
    strange = [m for m in client_messages() if isinstance(m, ProtocolError | UnknownMessage)]
    said = Counter(m.message if isinstance(m, ProtocolError) else repr(m.type) for m in strange)
    assert said == {
        "'nonsense'": 1,
        "'frobnicate'": 1,
        "'challenge'": 1,
        "'GENERATE'": 1,
        "5": 1,
        "None": 1,
        "NOTHING": 2,
        "a message is not JSON: Expecting value at character 0": 4,
        "a message is not JSON: Expecting ',' delimiter at character 14": 1,
        "a message must be a JSON object (got list)": 3,
        "a message must be a JSON object (got int)": 2,
        "a message must be a JSON object (got str)": 2,
        "a message must be a JSON object (got NoneType)": 2,
        "a message must be a JSON object (got bool)": 1,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_field_of_a_servers_frame_is_lost_or_changed(path: Path) -> None:
    for frame in frames_of(path):
        if frame["dir"] == "send":
            continue
        wire = json.loads(frame["raw"])
        seen = decode_server_message(wire).to_wire(wire.get("timestamp"))  # type: ignore[union-attr]
        if not isinstance(wire.get("id"), str):
            # Echoes of ids that only the recordings' own client could make up.
            wire.pop("id", None)
        assert seen == {name: value for name, value in wire.items() if value is not None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_field_of_a_clients_frame_is_lost_or_changed(path: Path) -> None:
    checked = 0
    for value in decode_values([frame["raw"].encode() for frame in frames_of(path) if frame["dir"] == "send"]):
        if isinstance(value, dict) and not isinstance(message := decode_client_message(value), UnknownMessage):
            lost = value.keys() - message.to_wire().keys()
            # Beside timestamp, what the recordings added to see whether the server minds; it does not.
            assert lost <= {"timestamp", "foo", "stream", "system", *({"id"} if message.type == "authenticate" else ())}
            assert message.to_wire().items() <= value.items()
            checked += 1
    assert checked


def test_every_refused_login_maps_to_its_error() -> None:
    refused = [m for m in server_messages() if isinstance(m, AuthResultMessage) and not m.success]
    assert Counter((m.error.split(". ")[0], type(m.to_error()).__name__) for m in refused) == {
        ("Invalid signature", "InvalidAuthError"): 31,
        ("Invalid authentication data", "InvalidAuthError"): 5,
        ("Challenge expired or invalid", "AuthTimeoutError"): 4,
        ("Too many authentication attempts", "RateLimitedError"): 8,
    }


def test_every_error_maps_to_its_class() -> None:
    errors = [m for m in server_messages() if isinstance(m, ErrorMessage)]
    assert Counter((m.error[: SHORT.get(m.error[:12], 44)], type(m.to_error()).__name__) for m in errors) == {
        ("Authentication timeout", "AuthTimeoutError"): 2,
        ("Not authenticated", "InvalidAuthError"): 12,
        ("Failed to list models: Ollama API error: 500", "ServerError"): 1,
        ('Generation failed: Ollama API error: 404 {"e', "ModelNotFoundError"): 2,
        ('Generation failed: Ollama API error: 500 {"e', "ServerError"): 1,
        ("Generation failed: Premature close", "ServerError"): 1,
        ("Generation failed: The user aborted a reques", "ServerError"): 15,
        ("Missing requestId", "InvalidRequestError"): 2,
        ("Missing required fields", "InvalidRequestError"): 6,
        ("Unsupported message type", "InvalidRequestError"): 12,
        ("No active generation with that ID", "ServerError"): 3,
        ("Not authorized to stop this generation", "ServerError"): 2,
        ("Server error", "ServerError"): 9,
    }


def test_stopped_generations_end_in_the_two_ways_the_original_has() -> None:
    messages = server_messages()
    assert sum(isinstance(m, ErrorMessage) and m.is_abort() for m in messages) == 15
    assert sum(isinstance(m, StreamEndMessage) and m.is_cancelled is True for m in messages) == 2


def test_a_generations_frames_come_in_order_under_its_id() -> None:
    started = set()
    for message in server_messages():
        if isinstance(message, StreamStartMessage):
            started.add(message.id)
        elif isinstance(message, StreamTokenMessage):
            assert message.id in started


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("masked", [False, True], ids=["client", "server"])
def test_the_recordings_survive_framing_in_random_cuts(masked: bool, seed: int) -> None:
    dice = random.Random(seed)
    texts = FROM_CLIENT if masked else FROM_SERVER
    if masked:
        stream = b"".join(encode_frame(TEXT, text.encode(), dice.randbytes(4)) for text in texts)
    else:
        stream = encode_texts(texts)
    edges = [0, *sorted(dice.choices(range(len(stream)), k=10 ** dice.randint(1, 3))), len(stream)]
    parser = FrameParser(masked=masked, max_message_size=1 << 20)
    received = [text for a, b in itertools.pairwise(edges) for text in parser.feed(stream[a:b])]
    assert [text.decode() for text in received] == texts
    assert not parser.is_done
