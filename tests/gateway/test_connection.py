"""A client's connection on a real socket: requests, batches, stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from wsclient.core.auth import Key
from wsclient.core.frames import TEXT, encode_frame
from wsclient.errors import ErrorCode
from wsclient.gateway.backends import BackendError
from wsclient.gateway.thread import GatewayThread

from ..support.asking import ask
from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend


def say_types(messages: list[dict[str, Any]]) -> list[str]:
    return [f"{message['type']} {message.get('id')}" for message in messages]


def test_a_ping_is_answered_with_the_servers_own_time(peer: Peer) -> None:
    peer.send(type="ping", id="p", timestamp=1)
    answer = peer.receive()
    assert (answer["type"], answer["id"]) == ("pong", "p")
    assert answer["timestamp"] > 1_700_000_000_000


def test_models_are_the_backends_own_objects(peer: Peer, backend: ScriptedBackend) -> None:
    backend.models = [{"name": "x", "details": {"families": None}, "unknown": [1]}]
    peer.send(type="models", id={"a": 1})
    answer = peer.receive()
    assert (answer["type"], answer["id"], answer["models"]) == ("models_result", {"a": 1}, backend.models)


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (BackendError("Ollama API error: 500 {}"), "Failed to list models: Ollama API error: 500 {}", "server_error"),
        (BackendError("busy", ErrorCode.SERVER_BUSY), "Failed to list models: busy", "server_busy"),
        (RuntimeError("secret"), "Failed to list models: internal error", "server_error"),
    ],
)
def test_a_listing_that_fails_says_why(
    peer: Peer, backend: ScriptedBackend, error: Exception, text: str, code: str
) -> None:
    backend.models = error
    peer.send(type="models", id="m")
    answer = peer.receive()
    assert (answer["type"], answer["id"], answer["error"], answer["code"]) == ("error", "m", text, code)


def test_the_connection_is_good_after_every_kind_of_error(peer: Peer, backend: ScriptedBackend) -> None:
    for text in ("nonsense", "null", "[]", '{"type":"what"}', '{"type":"stop"}', '{"type":"generate"}', "[" * 6000):
        peer.send_text(text)
        assert peer.receive()["type"] == "error"
    for prompt in ("fail x", "crash x", "nofinal"):
        assert peer.generate(prompt)[-1]["type"] == "error"
    assert peer.generate("say still here")[-1]["type"] == "stream_end"


def test_an_id_too_deep_to_be_written_back_is_an_error_and_no_more(peer: Peer) -> None:
    # Where parsing ends and where writing ends differ, by interpreter and by parser: somewhere in between is the case.
    for depth in range(900, 1030, 2):
        peer.send_text(f'{{"type":"ping","id":{"[" * depth}{"]" * depth}}}')
        # Too deep for the test's own decoder, too.
        assert peer.socket.recv_data()[1].startswith((b'{"type":"error"', b'{"type":"pong"'))
    peer.send(type="ping", id=1)
    assert peer.receive()["id"] == 1


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_worked_through_strictly_one_after_the_other(peer: Peer) -> None:
    messages = [
        {"type": "generate", "id": "a", "prompt": "tokens 2"},
        {"type": "models", "id": "b"},
        {"type": "ping", "id": "c"},
        {"type": "generate", "id": "d", "prompt": "say x"},
    ]
    peer.send(type="batch", id="batch", messages=messages)
    received = [peer.receive() for _ in range(9)]
    assert say_types(received) == [
        "stream_start a",
        "stream_token a",
        "stream_token a",
        "stream_end a",
        "models_result b",
        "pong c",
        "stream_start d",
        "stream_token d",
        "stream_end d",
    ]


def test_an_error_of_an_item_does_not_stop_the_rest(peer: Peer) -> None:
    messages = [
        None,
        5,
        {"type": "generate", "id": "x"},
        {"type": "generate", "id": "y", "prompt": "fail y"},
        {"type": "generate", "id": "z", "prompt": "crash z"},
        {"type": "ping", "id": "after"},
    ]
    peer.send(type="batch", id="b", messages=messages)
    received = peer.receive_until("pong")
    errors = [message.get("id") for message in received if message["type"] == "error"]
    assert errors == [None, None, "x", "y", "z"]


def test_batches_nest_to_any_depth(peer: Peer) -> None:
    message: dict[str, Any] = {"type": "ping", "id": "inner"}
    for number in range(200):
        message = {"type": "batch", "messages": [{"type": "models", "id": number}, message]}
    peer.send(**message, id="outer")
    received = peer.receive_until("pong")
    assert [message["id"] for message in received] == [*reversed(range(200)), "inner"]


def test_other_messages_are_served_while_a_batch_runs(peer: Peer, backend: ScriptedBackend) -> None:
    batch = [{"type": "generate", "id": "g", "prompt": "hold 1"}, {"type": "models", "id": "m"}]
    peer.send(type="batch", id="b", messages=batch)
    peer.receive_until("stream_token")
    peer.send(type="ping", id="outside")
    assert say_types([peer.receive()]) == ["pong outside"]
    backend.release()
    assert say_types(peer.receive_until("models_result")) == ["stream_end g", "models_result m"]


def test_a_stop_from_outside_ends_one_item_and_the_batch_goes_on(peer: Peer) -> None:
    batch = [{"type": "generate", "id": "g", "prompt": "hang 1"}, {"type": "models", "id": "m"}]
    peer.send(type="batch", id="b", messages=batch)
    peer.receive_until("stream_token")
    peer.send(type="stop", id="s", requestId="g")
    received = peer.receive_until("models_result")
    assert say_types(received) == ["ack s", "stream_end g", "models_result m"]
    assert received[1]["isCancelled"] is True


def test_a_stop_inside_the_batch_comes_too_late(peer: Peer) -> None:
    batch = [{"type": "generate", "id": "g", "prompt": "say x"}, {"type": "stop", "id": "s", "requestId": "g"}]
    peer.send(type="batch", id="b", messages=batch)
    received = peer.receive_until("error")
    assert received[-1]["error"] == "No active generation with that ID"
    assert received[-2]["type"] == "stream_end"


def test_items_without_an_id_are_answered_without_one(peer: Peer) -> None:
    peer.send(type="batch", messages=[{"type": "models"}, {"type": "ping"}])
    assert all("id" not in message for message in peer.receive_until("pong"))


def test_batches_of_thousands_of_pings_take_turns(peer: Peer) -> None:
    for id in "ab":
        peer.send(type="batch", messages=[{"type": "ping", "id": id}] * 10_000)
    received = "".join(peer.receive()["id"] for _ in range(20_000))
    assert received.count("a") == received.count("b") == 10_000
    # Each of them is 0.1 s of work, and neither keeps the event loop for longer than a few milliseconds.
    assert received.index("b") < received.rindex("a")


# --- stops ------------------------------------------------------------------------------------------------------------


def test_a_stopped_generation_is_acknowledged_and_ends_cancelled_with_its_totals(
    peer: Peer, backend: ScriptedBackend
) -> None:
    peer.send(type="generate", id="g", prompt="hang 3")
    for _ in range(4):
        peer.receive()
    peer.send(type="stop", id="s", requestId="g")
    ack, end = peer.receive(), peer.receive()
    del ack["timestamp"], end["timestamp"]
    assert ack == {"type": "ack", "id": "s", "requestId": "g", "action": "stop"}
    assert isinstance(end.pop("elapsedTime"), int)
    assert end == {"type": "stream_end", "id": "g", "isCancelled": True, "totalTokens": 3}
    assert backend.cancelled.wait(5)


def test_a_generation_can_be_stopped_before_it_has_begun(
    connect_raw: Callable[..., RawPeer], backend: ScriptedBackend
) -> None:
    peer = connect_raw()
    # Both arrive in one read, before the generation's task has run for the first time.
    both = [{"type": "generate", "id": "g", "prompt": "hang 0"}, {"type": "stop", "id": "s", "requestId": "g"}]
    peer.socket.sendall(b"".join(masked(message) for message in both))
    received = [peer.receive() for _ in range(3)]
    assert say_types(received) == ["stream_start g", "ack s", "stream_end g"]
    assert (received[2]["isCancelled"], received[2]["totalTokens"]) == (True, 0)
    assert backend.requests == []


def masked(message: dict[str, Any]) -> bytes:
    return encode_frame(TEXT, json.dumps(message).encode(), b"mask")


def test_a_second_stop_finds_nothing_even_right_behind_the_first(connect_raw: Callable[..., RawPeer]) -> None:
    peer = connect_raw()
    peer.send(type="generate", id="g", prompt="hang 1")
    assert say_types([peer.receive(), peer.receive()]) == ["stream_start g", "stream_token g"]
    stops = [masked({"type": "stop", "id": id, "requestId": "g"}) for id in ("s1", "s2")]
    peer.socket.sendall(b"".join(stops))
    assert say_types([peer.receive() for _ in range(3)]) == ["ack s1", "error s2", "stream_end g"]


def test_a_generation_of_another_connection_cannot_be_stopped(connect: Callable[[], Peer]) -> None:
    mine, other = connect(), connect()
    other.send(type="generate", id="g", prompt="hang 1")
    other.receive_until("stream_token")
    mine.send(type="stop", id="s", requestId="g")
    assert mine.receive()["error"] == "Not authorized to stop this generation"
    other.send(type="stop", id="s", requestId="g")
    assert say_types(other.receive_until("stream_end")) == ["ack s", "stream_end g"]


def test_of_two_generations_under_one_id_the_younger_is_stopped_first(peer: Peer, backend: ScriptedBackend) -> None:
    peer.send(type="generate", id="g", prompt="hold 1")
    peer.receive_until("stream_token")
    peer.send(type="generate", id="g", prompt="hang 1")
    peer.receive_until("stream_token")
    peer.send(type="stop", id="s", requestId="g")
    assert peer.receive_until("stream_end")[-1]["isCancelled"] is True
    backend.release()
    assert peer.receive_until("stream_end")[-1]["isCancelled"] is False


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_takes_its_generations_with_it(
    gateway: GatewayThread, connect: Callable[[], Peer], backend: ScriptedBackend
) -> None:
    peer = connect()
    batch = [{"type": "generate", "id": f"b{number}", "prompt": "hang 1"} for number in range(2)]
    peer.send(type="batch", messages=batch)
    peer.send(type="generate", id="g", prompt="hang 1")
    wait_until(lambda: len(backend.requests) == 2)
    peer.close()
    assert backend.cancelled.wait(5)
    wait_until(lambda: gateway.gateway.stats().connections == 0)
    assert gateway.gateway.stats().generations == 0
    # The second item of the batch was never begun.
    assert len(backend.requests) == 2
    # And its ids are nobody's any more.
    other = connect()
    other.send(type="stop", id="s", requestId="g")
    assert other.receive()["error"] == "No active generation with that ID"


def test_a_connection_has_room_for_so_many_requests_and_no_more(
    start_gateway: StartGateway, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    gateway = start_gateway(max_open_requests=3)
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        for number in range(4):
            peer.send(type="generate", id=number + 1, prompt="hold 0")
        refused = peer.receive_until("error")[-1]
        assert (refused["id"], refused["code"]) == (4, "server_busy")
        backend.release()
        peer.receive_until("stream_end")
        assert peer.generate("say x")[-1]["type"] == "stream_end"


def test_the_open_requests_of_a_client_may_have_so_many_bytes_over_all_its_connections(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(max_open_bytes=8192, metrics_port=0)
    logins = [Peer(gateway.url).log_in(client_id, ec_key) for _ in range(2)]
    with logins[0] as one, logins[1] as two:
        one.send(type="generate", id="a", prompt="hang 1", pad="x" * 5000)
        one.receive_until("stream_token")

        refused = two.generate("say x", id="b", pad="x" * 5000)

        assert [(message["id"], message.get("code")) for message in refused] == [("b", "server_busy")]
        assert refused[0]["error"] == "The open requests of this client have more than 8192 bytes"
        two.send(type="batch", id="c", messages=[{"type": "ping", "id": "p", "pad": "x" * 5000}])
        assert two.receive()["code"] == "server_busy"
        # Small ones still have room, and none is needed to stop.
        assert two.generate("say x", id="d")[-1]["type"] == "stream_end"
        one.send(type="stop", id="s", requestId="a", pad="x" * 5000)
        one.receive_until("stream_end")
        wait_until(lambda: two.generate("say x", id="e", pad="x" * 5000)[-1]["type"] == "stream_end")
    body = ask(gateway.gateway.metrics_url, "/metrics").body
    assert b'requests_over_limit_total{limit="max_open_bytes"} ' in body


def test_a_request_alone_may_be_of_any_size_and_the_items_of_a_batch_count_once(
    start_gateway: StartGateway, client_id: str, ec_key: Key, backend: ScriptedBackend
) -> None:
    gateway = start_gateway(max_open_bytes=8192)
    items = [{"type": "generate", "id": id, "prompt": "say x", "pad": "x" * 7000} for id in "ab"]
    services = gateway.gateway._services
    assert services is not None
    with Peer(gateway.url).log_in(client_id, ec_key) as peer:
        for _ in range(2):
            peer.send(type="batch", messages=items)
            ends = [peer.receive_until("stream_end", "error")[-1] for _ in items]
            assert [(end["id"], end["type"]) for end in ends] == [("a", "stream_end"), ("b", "stream_end")]
            # The batch is over a moment after the last word of its last item.
            wait_until(lambda: not services.accounts.open_bytes)
