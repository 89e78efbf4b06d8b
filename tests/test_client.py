"""The client on real sockets, against servers whose every word the test has written: connecting and requests."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    InvalidAuthError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    WSClient,
    WSClientError,
)
from wsclient.testing.scripted_server import Peer, Script, ScriptedServer, polite

from .support.calls import Call
from .support.client_fixtures import MakeClient, client, make_client, nothing_stays_open, server
from .support.fast_clients import CLIENT_ID, fast_client
from .support.waiting import wait_until

__all__ = ["client", "make_client", "nothing_stays_open", "server"]

# --- connecting -------------------------------------------------------------------------------------------------------


def test_a_login_with_a_real_key_is_accepted_and_with_another_one_refused(
    rsa_key: RsaKey, other_rsa_key: RsaKey
) -> None:
    with ScriptedServer(polite, key=rsa_key) as server:
        with fast_client(server.url, private_key=rsa_key) as client:
            assert client.ping() > 0
            assert server.peers[0].received[0]["clientId"] == CLIENT_ID
        with pytest.raises(InvalidAuthError), fast_client(server.url, private_key=other_rsa_key):
            pass


def test_several_threads_share_one_attempt(server: ScriptedServer, make_client: MakeClient) -> None:
    client = make_client()
    assert [call.end() for call in [Call(client.connect) for _ in range(8)]] == [None] * 8
    assert len(server.peers) == 1


def refuse(**verdict: Any) -> Script:
    def script(peer: Peer) -> None:
        peer.login(success=False, **verdict)
        peer.wait_until_gone()

    return script


def say(*messages: Any) -> Script:
    def script(peer: Peer) -> None:
        peer.send_all(messages)
        peer.wait_until_gone()

    return script


FAILURES: dict[str, tuple[Script, type[WSClientError], str]] = {
    "wrong key": (refuse(error="Invalid signature", remainingAttempts=4), InvalidAuthError, "invalid_auth"),
    "unknown id": (refuse(error="Client not found"), InvalidAuthError, "invalid_auth"),
    "used challenge": (refuse(error="Challenge expired or invalid"), AuthTimeoutError, "auth_timeout"),
    "rate limited": (refuse(error="Too many", retryAfter=16), RateLimitedError, "rate_limited"),
    "closes with 4002": (lambda peer: peer.close(4002, "slow down"), RateLimitedError, "rate_limited"),
    "no challenge": (Peer.accept_and_say_nothing, ChallengeTimeoutError, "auth_challenge_timeout"),
    "no verdict": (
        lambda peer: (peer.challenge(), peer.wait_until_gone())[0] and None,
        AuthTimeoutError,
        "auth_timeout",
    ),
    "login too slow": (
        say({"type": "error", "error": "Authentication timeout", "code": "auth_timeout"}),
        AuthTimeoutError,
        "auth_timeout",
    ),
    "not json": (say("hello"), ProtocolError, "protocol_error"),
    "no object": (say("[]"), ProtocolError, "protocol_error"),
    "a challenge to sign a contract": (
        say({"type": "challenge", "challenge": "I owe you one million"}),
        ProtocolError,
        "protocol_error",
    ),
    "no utf-8": (
        lambda peer: peer.send_frame(b"\x81\x01\xff") or peer.wait_until_gone(),
        ProtocolError,
        "protocol_error",
    ),
    "closes at once": (lambda peer: peer.close(1000), ConnectionLostError, "connection_lost"),
    "hangs up at once": (Peer.drop, ConnectionLostError, "connection_lost"),
    "resets at once": (lambda peer: peer.drop(reset=True), ConnectionLostError, "connection_lost"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_to_connect_is_an_error_of_its_own_in_time(name: str) -> None:
    script, kind, code = FAILURES[name]
    with ScriptedServer(script) as server:
        client = fast_client(server.url, auth_timeout=0.2)
        started = time.monotonic()
        with pytest.raises(WSClientError) as caught:
            client.connect()
        assert time.monotonic() - started < 2
        assert type(caught.value) is kind
        assert caught.value.code == code
        assert not client.is_ready()
        # Not closed: it holds no thread anyway.
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("wsclient-")])


def test_a_rate_limited_login_says_how_long_to_wait() -> None:
    with ScriptedServer(refuse(error="Too many", retryAfter=16)) as server:
        with pytest.raises(RateLimitedError) as caught:
            fast_client(server.url).connect()
        assert caught.value.retry_after == 16


def test_a_server_that_is_not_there_is_connection_failed(server: ScriptedServer) -> None:
    server.stop()
    with pytest.raises(ConnectionFailedError):
        fast_client(server.url).connect()


def test_every_request_connects_first(server: ScriptedServer, make_client: MakeClient) -> None:
    requests: list[Callable[[WSClient], Any]] = [
        WSClient.list_models,
        WSClient.ping,
        lambda client: client.complete("a b"),
        lambda client: client.stream("a b").result(),
        lambda client: client.generate("a b"),
        lambda client: client.send_batch([{"type": "ping"}]).results(),
        lambda client: client.stop_generation("unknown"),
    ]
    for request in requests:
        client = make_client()
        assert request(client) is not None
        assert client.is_ready()
    assert len(server.peers) == len(requests)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_generation_streams_its_tokens(client: WSClient) -> None:
    assert list(client.stream("Rain falls on leaves")) == ["Rain", " falls", " on", " leaves"]


def test_complete_returns_the_whole_result(client: WSClient) -> None:
    result = client.complete("Rain falls", "tiny", temperature=0.5)
    assert (result.text, result.model, result.total_tokens, result.elapsed_time) == ("Rain falls", "tiny", 2, 0.018)


def test_what_is_sent_is_what_the_protocol_says(server: ScriptedServer, client: WSClient) -> None:
    client.complete("hi", "llama2", {"num_ctx": 1}, temperature=0.7, max_tokens=5)
    message = server.peers[0].received[-1]
    assert message.pop("timestamp") == pytest.approx(time.time() * 1000, abs=60_000)
    assert re.fullmatch("gen_[0-9a-f]{32}", message.pop("id"))
    assert message == {
        "type": "generate",
        "prompt": "hi",
        "model": "llama2",
        "options": {
            "num_ctx": 1,
            "temperature": 0.7,
            "max_tokens": 5,
            "options": {"temperature": 0.7, "num_predict": 5},
        },
    }


def test_ids_of_generations_are_unguessable_and_never_repeated(client: WSClient) -> None:
    ids = {client.stream("x").id for _ in range(200)}
    assert len(ids) == 200
    # A UUID's worth of randomness: no position of the 32 digits is the same in all of them.
    digits = [id.removeprefix("gen_") for id in ids]
    assert all(len({id[position] for id in digits}) > 5 for position in range(32))


def test_a_failed_generation_raises_with_the_text_so_far(client: WSClient) -> None:
    with pytest.raises(ServerError, match="no luck") as caught:
        client.complete("fail")
    assert caught.value.text == "so far"
    assert client.is_ready()


def test_stopping_waits_for_the_servers_word(client: WSClient) -> None:
    generation = client.stream("endless")
    wait_until(lambda: generation.text)
    assert generation.stop() is True
    result = generation.result(5)
    assert result.is_cancelled
    assert result.text.startswith("0 ")
    assert generation.stop() is False
    assert client.stop_generation(generation.id) is False
    assert client.stop_generation("unknown") is False


def test_a_generation_can_be_stopped_from_another_thread(client: WSClient) -> None:
    generation = client.stream("endless")
    stopper = threading.Timer(0.05, generation.stop)
    stopper.start()
    assert len(list(generation)) > 0
    stopper.join()
    assert generation.result().is_cancelled


@pytest.mark.parametrize("leave", ["break", "drop", "close"])
def test_leaving_a_stream_stops_it_on_the_server(server: ScriptedServer, client: WSClient, leave: str) -> None:
    generation = client.stream("endless")
    id = generation.id
    for _ in generation:
        break
    if leave == "close":
        generation.close()
    del generation
    wait_until(lambda: {"type": "stop", "requestId": id}.items() <= server.peers[0].received[-1].items())
    wait_until(lambda: client.stats().open_generations == 0)


@pytest.mark.parametrize("wrong", [None, 5, b"id", ["id"]])
def test_only_generations_and_ids_can_be_stopped(client: WSClient, wrong: Any) -> None:
    with pytest.raises(TypeError, match="stop_generation takes a generation or its id"):
        client.stop_generation(wrong)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((5,), "prompt must be text"),
        (("",), "prompt must not be empty"),
        (("x", 5), "model must be a name or None"),
        (("x", None, "options"), "options must be a mapping"),
        (("x", None, {"temperature": "hot"}), "temperature must be"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    server: ScriptedServer, make_client: MakeClient, arguments: tuple[Any, ...], expected: str
) -> None:
    client = make_client()
    for method in (client.generate, client.stream, client.complete):
        with pytest.raises((TypeError, ValueError), match=expected):
            method(*arguments)
    assert server.peers == []


def test_models_are_listed_whatever_fields_are_missing() -> None:
    models = ["llama2", {"name": "tiny:1b", "size": 5, "details": {"family": "x"}}, {"model": "m"}, {}, 5, None]

    def script(peer: Peer) -> None:
        peer.login()
        peer.send({"type": "models_result", "id": peer.expect("models")["id"], "models": models})
        peer.send({"type": "models_result", "id": peer.expect("models")["id"]})
        peer.wait_until_gone()

    with ScriptedServer(script) as server, fast_client(server.url) as client:
        found = client.list_models()
        assert [model.name for model in found] == ["llama2", "tiny:1b", "m"]
        assert (found[1].size, found[1].family, found[1].digest) == (5, "x", None)
        assert client.list_models() == []


def test_a_ping_returns_the_round_trip_and_keeps_it(client: WSClient) -> None:
    assert client.latency is None
    assert 0 < client.ping() < 5
    assert client.latency is not None


def test_a_batch_is_one_frame_with_one_handle_an_item(server: ScriptedServer, client: WSClient) -> None:
    batch = client.send_batch(
        [
            {"type": "generate", "prompt": "Rain falls", "model": "tiny", "options": {"seed": 1}},
            {"type": "models"},
            {"type": "generate", "prompt": "fail"},
            {"type": "ping"},
            {"type": "stop", "id": "unknown"},
        ]
    )
    results = batch.results(return_errors=True)
    assert results[0].text == "Rain falls"
    assert [model.name for model in results[1]] == ["llama2:latest"]
    assert isinstance(results[2], ServerError)
    assert results[3] > 0
    assert results[4] is False
    message = server.peers[0].received[-1]
    assert [item["type"] for item in message["messages"]] == ["generate", "models", "generate", "ping", "stop"]
    assert [item["id"] for item in message["messages"]] == [handle.id for handle in batch]
    assert all("timestamp" not in item for item in message["messages"])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ([], "send_batch needs at least one message"),
        ("ping", "send_batch takes a list of mappings"),
        ({"type": "ping"}, "send_batch takes a list of mappings"),
        ([{"type": "ping"}, 5], "batch item 1 must be a mapping"),
        ([{"type": "frobnicate"}], "batch item 0: type must be one of generate, models, ping, stop"),
        ([{}], "batch item 0: type must be one of"),
        ([{"type": "generate"}], "batch item 0: prompt must be text"),
        ([{"type": "generate", "prompt": "x", "options": {"top_p": 5}}], "batch item 0: top_p must be"),
        ([{"type": "stop"}], "batch item 0: id must be the id of a generation"),
    ],
)
def test_a_wrong_batch_is_refused_before_anything_is_sent(client: WSClient, batch: Any, expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        client.send_batch(batch)
    assert client.stats().messages_sent == 1


def test_deadlines_of_a_generation_are_kept(client: WSClient) -> None:
    with pytest.raises(RequestTimeoutError, match=r"no first token within 0\.1 s"):
        client.complete("silence", first_token_timeout=0.1)
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"did not end within 0\.2 s") as caught:
        client.complete("endless", timeout=0.2)
    assert time.monotonic() - started < 2
    assert caught.value.text.startswith("0 ")
    wait_until(lambda: client.stats().open_generations == 0)


def test_an_answer_that_never_comes_is_a_request_timeout() -> None:
    def script(peer: Peer) -> None:
        peer.login()
        peer.wait_until_gone()

    with ScriptedServer(script) as server, fast_client(server.url, request_timeout=0.1) as client:
        for request in (client.list_models, client.ping, lambda: client.stop_generation("x")):
            with pytest.raises(RequestTimeoutError, match=r"no answer to \w+ within 0\.1 s"):
                request()


def test_ten_threads_use_one_client_at_once(server: ScriptedServer, make_client: MakeClient) -> None:
    client = make_client()
    wrong: list[Any] = []

    def work(number: int) -> None:
        for round in range(10):
            prompt = f"thread {number} round {round}"
            if client.complete(prompt).text != prompt or "".join(client.stream(prompt)) != prompt:
                wrong.append(prompt)
            if client.list_models()[0].name != "llama2:latest" or client.ping() <= 0:
                wrong.append(number)

    calls = [Call(work, number) for number in range(10)]
    assert [call.end(30) for call in calls] == [None] * 10
    assert wrong == []
    assert len(server.peers) == 1
    assert client.stats().open_requests == client.stats().open_generations == 0
