"""The original server's own words, recorded, said to the real client: what its user sees is what the recording shows.

Each section of the recordings in which a client asked for what ours can ask for is played again: the client makes the
recorded requests in their order, a scripted server answers with the recorded frames, only their ids exchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from wsclient import (
    Generation,
    InvalidRequestError,
    ModelNotFoundError,
    ServerError,
    WSClient,
    WSClientError,
)
from wsclient.testing.scripted_server import Peer, ScriptedServer

from .support.calls import Call
from .support.fast_clients import fast_client
from .support.waiting import wait_until

FOLDER = Path(__file__).parent / "transcripts"
RECORDINGS = ("2_requests", "2b_faults", "3_options")


@attrs.frozen
class Section:
    """A part of a recording: the frames of one connection after its login, `send` and `recv` seen from the client."""

    name: str
    frames: list[tuple[str, str]]

    def messages(self, direction: str) -> list[dict[str, Any]]:
        return [json.loads(raw) for way, raw in self.frames if way == direction]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Every request, the items of batches one by one."""
        requests: list[dict[str, Any]] = []
        for message in self.messages("send"):
            requests += message["messages"] if message["type"] == "batch" else [message]
        return requests


def lines_of(recording: str) -> Iterator[dict[str, Any]]:
    # Not splitlines(): recorded texts hold U+2028.
    for line in (FOLDER / f"{recording}.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            yield json.loads(line)


def sections_of(recording: str) -> Iterator[Section]:
    name, frames = recording, {}  # type: str, dict[str, list[tuple[str, str]]]
    for line in [*lines_of(recording), {"section": None}]:
        if "section" in line:
            yield from (Section(name, found) for found in frames.values())
            name, frames = f"{recording}: {line['section']}", {}
        elif line.get("op") == "text" and not is_login(line["raw"]):
            frames.setdefault(line["conn"], []).append((line["dir"], line["raw"]))


def is_login(raw: str) -> bool:
    return any(f'"{kind}"' in raw[:30] for kind in ("challenge", "authenticate", "auth_result"))


def is_ours(message: Any, *, in_batch: bool = False) -> bool:
    """Whether our client says such a thing too."""
    if not isinstance(message, dict) or not isinstance(message.get("id"), str):
        return False
    kind = message.get("type")
    if kind == "generate":
        return isinstance(message.get("prompt"), str) and bool(message["prompt"])
    if kind == "stop":
        return not in_batch and isinstance(message.get("requestId"), str)
    if kind == "batch" and not in_batch:
        items = message.get("messages")
        return isinstance(items, list) and bool(items) and all(is_ours(item, in_batch=True) for item in items)
    return kind in ("models", "ping")


def can_be_played(section: Section) -> bool:
    """Whether all of it is ours, no id comes twice, and the recording shows how each request ended."""
    requests = [parsed(raw) for way, raw in section.frames if way == "send"]
    if not requests or not all(is_ours(request) for request in requests):
        return False
    ids = [request["id"] for request in section.asked]
    answered = [message.get("id") for message in section.messages("recv")]
    if len(set(ids)) < len(ids) or not all(id in answered for id in ids):
        return False
    generations = [request["id"] for request in section.asked if request["type"] == "generate"]
    return all(terminal(section, id)["type"] in ("stream_end", "error") for id in generations)


def parsed(raw: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def terminal(section: Section, id: str) -> dict[str, Any]:
    return [message for message in section.messages("recv") if message.get("id") == id][-1]


SECTIONS = {
    section.name: section for recording in RECORDINGS for section in sections_of(recording) if can_be_played(section)
}


def play(section: Section, ids: dict[str, str]) -> Any:
    """Return a script that answers with the recorded frames; `ids` is filled with what stands for a recorded id."""

    def note(recorded: dict[str, Any], message: dict[str, Any]) -> None:
        assert message["type"] == recorded["type"]
        ids[recorded["id"]] = message["id"]
        for recorded_item, item in zip(recorded.get("messages", ()), message.get("messages", ()), strict=True):
            note(recorded_item, item)

    def script(peer: Peer) -> None:
        peer.login()
        for way, raw in section.frames:
            if way == "send":
                note(json.loads(raw), peer.receive())
                continue
            for recorded, id in ids.items():
                for field in ("id", "requestId"):
                    raw = raw.replace(f'"{field}":{json.dumps(recorded)}', f'"{field}":{json.dumps(id)}')
            peer.send(raw)
        peer.wait_until_gone()

    return script


class User:
    """Makes the recorded requests.

    Attributes:
        outcomes: by recorded id, a generation or a call under way.
    """

    def __init__(self, client: WSClient) -> None:
        self.client = client
        self.outcomes: dict[str, Any] = {}

    def ask(self, request: dict[str, Any]) -> None:
        id = request["id"]
        if request["type"] == "generate":
            self.outcomes[id] = self.client.stream(request["prompt"], request.get("model") or None)
        elif request["type"] == "stop":
            target = self.outcomes.get(request["requestId"])
            # A generation that has ended is not asked about: its id is.
            self.outcomes[id] = Call(self.client.stop_generation, target.id if target else request["requestId"])
        elif request["type"] == "models":
            self.outcomes[id] = Call(self.client.list_models)
        elif request["type"] == "ping":
            self.outcomes[id] = Call(self.client.ping)
        else:
            items = [{"type": item["type"], "prompt": item.get("prompt")} for item in request["messages"]]
            for item, handle in zip(request["messages"], self.client.send_batch(items), strict=True):
                self.outcomes[item["id"]] = handle


def outcome_of(handle: Any) -> Any:
    """Wait for what came of a request; an error is a value."""
    if isinstance(handle, Call):
        return handle.end()
    try:
        return handle.result(10)
    except WSClientError as error:
        return error


@pytest.mark.parametrize("name", SECTIONS)
def test_the_user_sees_what_the_recording_shows(name: str) -> None:
    section = SECTIONS[name]
    ids: dict[str, str] = {}
    with ScriptedServer(play(section, ids)) as server, fast_client(server.url) as client:
        user = User(client)
        for request in section.messages("send"):
            user.ask(request)
            # The next recorded request may only make sense once this one is on its way.
            wait_until(lambda request=request: set(asked_by(request)) <= set(ids))
        for request in section.asked:
            check(section, request, user.outcomes[request["id"]])
        assert client.is_ready()
        assert client.stats().open_requests == client.stats().open_generations == 0


def asked_by(request: dict[str, Any]) -> list[str]:
    return [item["id"] for item in request.get("messages", [request])]


def check(section: Section, request: dict[str, Any], handle: Any) -> None:
    outcome = outcome_of(handle)
    answer = terminal(section, request["id"])
    if request["type"] == "generate":
        check_generation(section, request["id"], handle, outcome, answer)
    elif request["type"] == "stop":
        expected = True if answer["type"] == "ack" else False if "No active" in answer["error"] else ServerError
        assert outcome is expected or type(outcome) is expected
    elif answer["type"] == "error":
        assert type(outcome) is ServerError
        assert outcome.message == answer["error"]
    elif request["type"] == "models":
        assert [model.name for model in outcome] == [model["name"] for model in answer["models"]]
        assert [model.raw for model in outcome] == answer["models"]
    else:
        assert 0 < outcome < 10


def check_generation(section: Section, id: str, generation: Generation, outcome: Any, answer: dict[str, Any]) -> None:
    frames = [message for message in section.messages("recv") if message.get("id") == id]
    tokens = [message["token"] for message in frames if message["type"] == "stream_token"]
    model = next((message["model"] for message in frames if message["type"] == "stream_start"), None)
    assert generation.text == "".join(tokens)
    if answer["type"] == "error" and "aborted" not in answer["error"]:
        assert isinstance(outcome, WSClientError)
        assert type(outcome) is error_of(answer["error"])
        assert (outcome.message, outcome.id, outcome.text) == (answer["error"], generation.id, "".join(tokens))
        return
    assert list(generation) == tokens
    assert (outcome.text, outcome.model) == ("".join(tokens), model)
    assert outcome.is_cancelled is (answer["type"] == "error" or answer.get("isCancelled") is True)
    assert outcome.total_tokens == answer.get("totalTokens", len(tokens))
    elapsed = answer.get("elapsedTime")
    assert outcome.elapsed_time == (None if elapsed is None else elapsed / 1000)


def error_of(text: str) -> type[WSClientError]:
    if "404" in text:
        return ModelNotFoundError
    return InvalidRequestError if text.startswith("Missing") else ServerError


def test_the_sections_that_can_be_played_are_the_ones_of_interest() -> None:
    # A guard: a change of the rules above must not empty the test.
    names = " ".join(SECTIONS)
    for part in (
        "models when Ollama answers 500",
        "generate, model given",
        "zero tokens",
        "empty, unicode, newline, split tokens",
        "unknown model",
        "drops the connection mid-stream",
        "hangs after 2 tokens",
        "stop of an active generation",
        "stop before the first byte",
        "stop of unknown generation",
        "very fast stream",
        "batch generate+models+ping",
        "message outside of the batch",
        "stop from outside for a generate inside a batch",
        "two concurrent generates",
        "stays alive for open connections",
    ):
        assert part in names, part
    assert len(SECTIONS) >= 25


def test_every_frame_the_original_ever_sent_leaves_the_client_in_order() -> None:
    texts = [
        line["raw"]
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in lines_of(path.stem)
        if line.get("dir") == "recv" and line.get("op") == "text"
    ]
    heard: list[Any] = []

    def script(peer: Peer) -> None:
        peer.login()
        peer.expect("ping")
        peer.send_all(texts)
        peer.send({"type": "pong", "id": peer.received[-1]["id"]})
        peer.wait_until_gone()

    with ScriptedServer(script) as server, fast_client(server.url) as client:
        client.on_error(heard.append)
        assert client.ping() > 0
        assert client.is_ready()
        stats = client.stats()
        assert stats.messages_received == 2 + len(texts) + 1
        assert stats.open_requests == 0
        # All are for ids that this client never used; the errors without one are its on_error's.
        nobody = [text for text in texts if '"error"' in text and not json.loads(text).get("id")]
        stray = [text for text in nobody if json.loads(text)["type"] == "error"]
        assert stats.ignored_messages == len(texts) - len(stray)
    assert len(heard) == len(stray) > 10
