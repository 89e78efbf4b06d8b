"""Generations on a real socket: what arrives, in which order, and how much waits for a slow reader."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from wsclient.core.auth import Key
from wsclient.core.frames import FrameParser
from wsclient.core.json_values import decode_values
from wsclient.gateway import websocket
from wsclient.gateway.backends import Final, GenerateRequest, Piece
from wsclient.gateway.generations import Generation
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread

from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .fake_transport import FakeTransport, make_socket
from .scripted_backend import ScriptedBackend


def test_a_generation_begins_streams_and_ends(peer: Peer) -> None:
    messages = peer.generate("say a b é😀")
    assert all(abs(message.pop("timestamp") / 1000 - time.time()) < 5 for message in messages)
    assert isinstance(messages[-1].pop("elapsedTime"), int)
    assert messages == [
        {"type": "stream_start", "id": "g1", "model": "llama2"},
        {"type": "stream_token", "id": "g1", "token": "a"},
        {"type": "stream_token", "id": "g1", "token": "b"},
        {"type": "stream_token", "id": "g1", "token": "é😀"},
        {
            "type": "stream_end",
            "id": "g1",
            "totalTokens": 3,
            "isCancelled": False,
            "usage": {"promptTokens": 3, "completionTokens": 7, "doneReason": "stop", "totalDuration": 12.5},
        },
    ]


def test_thinking_is_marked_and_keeps_its_place_and_nothing_is_not_sent(peer: Peer) -> None:
    *tokens, end = peer.generate("think")[1:]
    assert end["totalTokens"] == 3
    assert [(token["token"], token.get("kind")) for token in tokens] == [
        ("hm", "thinking"),
        ("so", "thinking"),
        ("yes", None),
    ]


def test_a_failing_model_server_is_quoted_after_what_it_said_before(peer: Peer) -> None:
    *_, token, error = peer.generate("fail Ollama API error: 503 {}")
    assert token["token"] == "some"
    del error["timestamp"]
    text = "Generation failed: Ollama API error: 503 {}"
    assert error == {"type": "error", "id": "g1", "error": text, "code": "server_busy", "retryAfter": 3}


def test_a_stream_without_a_last_word_is_an_error(peer: Peer) -> None:
    error = peer.generate("nofinal")[-1]
    assert (error["type"], error["code"]) == ("error", "generation_incomplete")


def test_an_unforeseen_error_tells_nobody_what_was_in_it(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        error = peer.generate("crash secret")[-1]
    assert (error["error"], error["code"]) == ("Generation failed: internal error", "server_error")
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_nothing_that_a_client_says_or_reads_is_logged(
    peer: Peer, caplog: pytest.LogCaptureFixture, backend: ScriptedBackend
) -> None:
    with caplog.at_level(logging.DEBUG):
        peer.generate("say confidential", options={"system": "hush"})
        peer.send(type="generate", id="g", prompt="hang 1")
        peer.receive_until("stream_token")
        peer.send(type="stop", id="s", requestId="g")
        peer.receive_until("stream_end")
        peer.send_text("nonsense")
        peer.receive()
    for word in ("confidential", "hush", "t000", "nonsense", peer.challenge):
        assert word not in caplog.text


def test_sixteen_generations_at_once_on_one_connection_each_get_their_own_tokens(peer: Peer) -> None:
    for number in range(16):
        peer.send(type="generate", id=number + 1, prompt=f"tokens {100 + number}")
    counts: dict[int, int] = {}
    ends: dict[int, int] = {}
    while len(ends) < 16:
        message = peer.receive()
        if message["type"] == "stream_token":
            assert message["token"] == f" t{counts.get(message['id'], 0):03}"
            counts[message["id"]] = counts.get(message["id"], 0) + 1
        elif message["type"] == "stream_end":
            ends[message["id"]] = message["totalTokens"]
    assert counts == ends == {number + 1: 100 + number for number in range(16)}


def test_sixteen_clients_at_once_each_get_their_own_tokens(connect: Callable[[], Peer]) -> None:
    peers = [connect() for _ in range(16)]
    texts: list[str] = [""] * 16

    def run(number: int) -> None:
        messages = peers[number].generate(f"tokens {200 + number}", id=number + 1)
        texts[number] = "".join(message["token"] for message in messages[1:-1])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["".join(f" t{i:03}" for i in range(200 + number)) for number in range(16)]


def test_two_hundred_thousand_tokens_arrive_whole(tmp_path: Path, client_id: str, ec_key: Key) -> None:
    settings = GatewaySettings(port=0, data_dir=tmp_path, backend="builtin")
    with GatewayThread(settings) as gateway, RawPeer(gateway.url).log_in(client_id, ec_key) as peer:
        hashes = []
        for number in (1, 2):
            options = {"max_tokens": 200_000, "seed": 7}
            peer.send(type="generate", id=number, prompt="Tell me everything", options=options)
            digest, count = hashlib.sha256(), 0
            while (message := peer.receive())["type"] != "stream_end":
                if message["type"] == "stream_token":
                    digest.update(message["token"].encode() + b"\0")
                    count += 1
            assert count == message["totalTokens"] == message["usage"]["completionTokens"] == 200_000
            hashes.append(digest.hexdigest())
    # The same seed gives the same text, so any token lost, doubled or out of place would show.
    assert hashes[0] == hashes[1]


# --- slow readers -----------------------------------------------------------------------------------------------------


def stalls(backend: ScriptedBackend) -> bool:
    """Return whether the backend has not been asked for more for a moment."""
    before = backend.floods
    time.sleep(0.1)
    return backend.floods == before > 0


def test_generations_rest_while_their_client_does_not_read(
    connect_raw: Callable[..., RawPeer], backend: ScriptedBackend
) -> None:
    peer = connect_raw(receive_buffer=4096)
    for number in range(8):
        peer.send(type="generate", id=number + 1, prompt="flood 1000")
    wait_until(lambda: stalls(backend), timeout=10)
    # A list is 10 kB; the kernel takes a few MB at most, the gateway 256 kB and one list a generation.
    assert backend.floods * 10_000 < 12_000_000


def test_generations_go_on_in_turn_when_their_client_reads_again(
    connect_raw: Callable[..., RawPeer], backend: ScriptedBackend
) -> None:
    peer = connect_raw(receive_buffer=4096)
    for number in range(4):
        peer.send(type="generate", id=number + 1, prompt="flood 1000")
    wait_until(lambda: stalls(backend), timeout=10)
    # What the kernel holds already came before there was anything to share.
    before = backend.floods
    while backend.floods < before + 400:
        peer.receive()
    counts = [0] * 4
    while sum(counts) < 4000:
        counts[peer.receive()["id"] - 1] += 1
    assert min(counts) > 800, counts


def test_generations_that_never_wait_take_turns_in_small_bites() -> None:
    async def scenario() -> list[int]:
        transport, backend = FakeTransport(), ScriptedBackend()
        socket = make_socket(transport)
        request = GenerateRequest(model="m", prompt="flood 1000")
        generations = [Generation(id, request, backend, socket, lambda _: None) for id in range(3)]
        await backend.start()
        tasks = [asyncio.create_task(generation.run()) for generation in generations]
        while len(transport.taken) < 1_000_000:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        texts = FrameParser(masked=False, max_message_size=1 << 20).feed(transport.taken)
        return [message["id"] for message in decode_values(texts)]

    bites = [len(list(bite)) for _, bite in itertools.groupby(asyncio.run(scenario()))]
    assert len(bites) > 30
    # Two lists of ten tokens: 20 kB.
    assert max(bites) == 20


def test_a_backend_that_computes_without_waiting_does_not_stop_everybody_else() -> None:
    class Hog(ScriptedBackend):
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
            for _ in range(150):
                time.sleep(0.002)
                yield [Piece("x")]
            yield [Final()]

    async def scenario() -> int:
        request = GenerateRequest(model="m", prompt="x")
        generation = Generation(1, request, Hog(), make_socket(FakeTransport()), lambda _: None)
        task = asyncio.create_task(generation.run())
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    # Others have a turn every 5 ms of the 300 that it takes. Turns, not times: a busy machine adds to those.
    assert asyncio.run(scenario()) > 30


def test_a_resting_generation_can_be_stopped(connect_raw: Callable[..., RawPeer], backend: ScriptedBackend) -> None:
    peer = connect_raw(receive_buffer=4096)
    peer.send(type="generate", id="g", prompt="flood 1000")
    wait_until(lambda: stalls(backend), timeout=10)
    peer.send(type="stop", id="s", requestId="g")
    assert backend.cancelled.wait(5)
    kinds = []
    while (message := peer.receive())["type"] != "stream_end":
        kinds.append(message["type"])
    assert message["isCancelled"] is True
    assert message["totalTokens"] == kinds.count("stream_token")


def test_who_reads_nothing_for_too_long_is_cut_off_and_nobody_else(
    start_gateway: StartGateway, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    gateway = start_gateway(write_timeout=0.3)
    with (
        RawPeer(gateway.url, receive_buffer=4096).log_in(client_id, ec_key) as slow,
        Peer(gateway.url).log_in(client_id, ec_key) as witness,
    ):
        slow.send(type="generate", id="g", prompt="flood 1000")
        assert backend.cancelled.wait(10)
        wait_until(lambda: gateway.gateway.stats().connections == 1)
        assert witness.generate("say fine")[-1]["type"] == "stream_end"


def test_who_reads_slowly_but_steadily_is_not_cut_off(
    start_gateway: StartGateway, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    gateway = start_gateway(write_timeout=0.3)
    with RawPeer(gateway.url, receive_buffer=4096).log_in(client_id, ec_key) as slow:
        slow.send(type="generate", id="g", prompt="flood 1000")
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            time.sleep(0.02)
            assert slow.read(20_000)
        assert not backend.cancelled.is_set()


def test_who_keeps_taking_a_little_is_cut_off_too(
    start_gateway: StartGateway,
    client_id: str,
    ec_key: Key,
    backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So high that what the kernels hand over in one piece, some kilobytes, is little.
    monkeypatch.setattr(websocket, "_LEAST_RATE", 10_000_000)
    gateway = start_gateway(write_timeout=0.3)
    with RawPeer(gateway.url, receive_buffer=4096).log_in(client_id, ec_key) as slow:
        slow.send(type="generate", id="g", prompt="flood 1000")
        deadline = time.monotonic() + 10
        while not backend.cancelled.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)
            slow.read(2000)
        assert backend.cancelled.is_set()
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_who_asks_and_asks_but_never_reads_is_cut_off(start_gateway: StartGateway, client_id: str, ec_key: Key) -> None:
    gateway = start_gateway(max_unsent_bytes=1 << 20)
    with RawPeer(gateway.url, receive_buffer=4096).log_in(client_id, ec_key) as peer:

        def ask_and_ask() -> None:
            for _ in range(2000):
                peer.send(type="ping", id="x" * 60_000)

        with pytest.raises(ConnectionError):
            ask_and_ask()
        wait_until(lambda: gateway.gateway.stats().connections == 0)
