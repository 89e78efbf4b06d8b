"""The client on real sockets, against servers whose every word the test has written: events, losses and ends."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from typing import Any

import pytest

from wsclient import (
    ClientClosedError,
    ConnectionLostError,
    ConnectionStatus,
    GenerationEndEvent,
    GenerationStartEvent,
    InvalidAuthError,
    ModelNotFoundError,
    ServerError,
    TokenEvent,
    WSClient,
)
from wsclient.testing.scripted_server import Peer, ScriptedServer, polite

from .support.calls import Call
from .support.certificates import shared_certificate
from .support.client_fixtures import MakeClient, client, make_client, nothing_stays_open, server
from .support.fast_clients import fast_client
from .support.waiting import wait_until

__all__ = ["client", "make_client", "nothing_stays_open", "server"]

# --- events -----------------------------------------------------------------------------------------------------------


def test_the_seeds_order_misses_nothing_every_time(client: WSClient) -> None:
    for number in range(20):
        heard: list[Any] = []
        id = client.generate(f"round {number}")
        offs = [
            client.on_generation_start(heard.append),
            client.on_token(heard.append),
            client.on_generation_end(heard.append),
        ]
        wait_until(lambda heard=heard: any(isinstance(event, GenerationEndEvent) for event in heard))
        assert [event for event in heard if isinstance(event, GenerationStartEvent)] == [
            GenerationStartEvent(id, "llama2")
        ]
        assert [event for event in heard if isinstance(event, TokenEvent)] == [
            TokenEvent(id, "round"),
            TokenEvent(id, f" {number}"),
        ]
        for off in offs:
            off()


def test_streams_and_batches_feed_only_their_handles(client: WSClient) -> None:
    heard: list[Any] = []
    for subscribe in (client.on_token, client.on_generation_start, client.on_generation_end, client.on_error):
        subscribe(heard.append)
    client.complete("a b")
    list(client.stream("a b"))
    client.send_batch([{"type": "generate", "prompt": "a b"}]).results()
    with pytest.raises(ServerError):
        client.complete("fail")
    client.close()
    assert heard == []


def test_on_error_hears_of_failed_generates_losses_and_errors_of_nobody() -> None:
    def script(peer: Peer) -> None:
        peer.login()
        id = peer.expect("generate")["id"]
        peer.send({"type": "error", "id": id, "error": "model 'x' not found", "code": "generation_error"})
        peer.send({"type": "error", "error": "Unsupported message type: x"})
        peer.wait_until_gone() if peer.number else peer.drop()

    with ScriptedServer(script) as server:
        client = fast_client(server.url, auto_reconnect=False)
        heard: list[Any] = []
        client.on_error(heard.append)
        client.generate("x")
        wait_until(lambda: len(heard) == 3)
        assert [event.code for event in heard] == ["model_not_found", "invalid_request", "connection_lost"]
        assert heard[0].id is not None
        assert heard[1].id is None
        client.close()
        assert len(heard) == 3


def test_blocking_calls_work_inside_of_callbacks(client: WSClient) -> None:
    results: list[Any] = []

    def on_token(event: TokenEvent) -> None:
        results.append((client.ping() > 0, client.complete("in side").text, client.list_models()[0].name))

    client.on_token(on_token)
    client.generate("one")
    wait_until(lambda: results)
    assert results == [(True, "in side", "llama2:latest")]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_client_is_back_after_the_server_was(server: ScriptedServer, make_client: MakeClient) -> None:
    client = make_client()
    statuses: list[ConnectionStatus] = []
    client.on_connection_change(statuses.append)
    client.connect()
    generation = client.stream("endless")
    wait_until(lambda: generation.text)
    server.stop()
    with pytest.raises(ConnectionLostError) as caught:
        generation.result(5)
    assert caught.value.text.startswith("0 ")
    with ScriptedServer(polite, port=server.port):
        assert client.complete("back again").text == "back again"
        assert client.stats().reconnects == 1
        assert statuses[:5] == ["connecting", "connected", "authenticated", "disconnected", "reconnecting"]
        client.close()


def test_a_restart_that_is_announced_is_a_loss_like_any_other(make_client: MakeClient) -> None:
    def going_away(peer: Peer) -> None:
        peer.login()
        peer.expect("generate")
        peer.close(1012, "restart")

    with ScriptedServer(going_away, polite) as server:
        client = make_client(server.url)
        with pytest.raises(ConnectionLostError, match="the server restarts"):
            client.complete("x")
        assert client.complete("x").text == "x"
        client.close()


def test_a_revoked_client_is_not_dialled_again(make_client: MakeClient) -> None:
    def revoke(peer: Peer) -> None:
        peer.login()
        peer.close(4003, "revoked")

    with ScriptedServer(revoke) as server:
        client = make_client(server.url)
        client.connect()
        wait_until(lambda: client.status is ConnectionStatus.AUTH_FAILED)
        with pytest.raises(InvalidAuthError, match="revoked"):
            client.ping()
        assert len(server.peers) == 1


def test_a_line_that_fell_silent_is_noticed_and_replaced(make_client: MakeClient) -> None:
    def fall_silent(peer: Peer) -> None:
        peer.login()
        peer.accept_and_say_nothing()

    with ScriptedServer(fall_silent, polite) as server:
        client = make_client(server.url, ping_interval=0.1, pong_timeout=0.1)
        started = time.monotonic()
        with pytest.raises(ConnectionLostError, match="silent"):
            client.complete("x")
        assert time.monotonic() - started < 2
        assert client.complete("x").text == "x"
        client.close()


def test_a_close_says_goodbye(server: ScriptedServer, client: WSClient) -> None:
    client.close()
    peer = server.peers[0]
    wait_until(lambda: peer.closed)
    assert peer.closed is not None
    assert peer.closed.code == 1000


def test_the_context_manager_connects_and_closes(server: ScriptedServer) -> None:
    with fast_client(server.url) as client:
        assert client.is_ready()
        assert client.get_status() is ConnectionStatus.AUTHENTICATED
    assert client.get_status() is ConnectionStatus.DISCONNECTED
    with pytest.raises(ClientClosedError):
        client.ping()


def test_a_client_is_usable_again_after_connect(server: ScriptedServer, client: WSClient) -> None:
    for _ in range(3):
        client.disconnect()
        client.disconnect()
        client.connect()
        assert client.ping() > 0
    assert client.stats().reconnects == 0
    assert client.stats().connects == 4


def test_a_close_during_connect_tells_who_waits() -> None:
    with ScriptedServer(Peer.accept_and_say_nothing, upgrade=False) as server:
        client = fast_client(server.url)
        call = Call(client.connect)
        wait_until(lambda: server.peers)
        client.close()
        assert isinstance(call.end(), ClientClosedError)


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_client_that_is_only_dropped_is_collected_and_its_threads_end(
    server: ScriptedServer, is_connected: bool
) -> None:
    def use() -> weakref.ref[WSClient]:
        client = fast_client(server.url)
        client.on_token(lambda event: client.stats())
        client.on_connection_change(print)
        if is_connected:
            client.complete("x")
            client.generate("endless")
        return weakref.ref(client)

    gone = use()
    gc.collect()
    assert gone() is None
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("wsclient-")])


def test_a_stream_keeps_its_client_alive(server: ScriptedServer) -> None:
    generation = fast_client(server.url).stream("Rain falls")
    gc.collect()
    assert "".join(generation) == "Rain falls"


def test_a_dropped_client_with_a_stream_under_way_ends_with_the_stream(server: ScriptedServer) -> None:
    def read_a_little() -> None:
        next(iter(fast_client(server.url).stream("endless")))

    read_a_little()
    gc.collect()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("wsclient-")])


def test_bytes_and_messages_are_counted(server: ScriptedServer, client: WSClient) -> None:
    before = client.stats()
    client.complete("one two three")
    after = client.stats()
    assert after.tokens - before.tokens == 3
    assert after.messages_sent - before.messages_sent == 1
    assert after.messages_received - before.messages_received == 5
    assert after.bytes_received > before.bytes_received > 0
    assert after.bytes_sent > before.bytes_sent > 0
    client.close()
    assert client.stats().bytes_received >= after.bytes_received


def test_an_unknown_model_is_model_not_found() -> None:
    def script(peer: Peer) -> None:
        peer.login()
        id = peer.expect("generate")["id"]
        text = 'Generation failed: Ollama API error: 404 {"error":"model \'nope\' not found"}'
        peer.send({"id": id, "type": "error", "error": text, "code": "generation_error"})
        peer.wait_until_gone()

    with ScriptedServer(script) as server, fast_client(server.url) as client, pytest.raises(ModelNotFoundError):
        client.complete("x", "nope")


def test_everything_works_over_tls() -> None:
    certificate = shared_certificate()
    with (
        ScriptedServer(polite, tls=certificate.server_context) as server,
        fast_client(server.url, ssl_context=certificate.client_context) as client,
    ):
        assert client.complete("Rain falls").text == "Rain falls"
        generation = client.stream("endless")
        wait_until(lambda: generation.text)
        assert generation.stop()


def test_a_client_cannot_be_pickled_and_says_why(client: WSClient) -> None:
    with pytest.raises(TypeError, match="make one in each process instead"):
        pickle.dumps(client)
