"""Quotas: what the clients file may say of a client, what holds then, and what a client is told."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient import MessageTooBigError, ModelNotFoundError, RateLimitedError, ServerBusyError, WSClient
from wsclient.core.auth import Key, sign_challenge
from wsclient.core.frames import TEXT
from wsclient.gateway.clients_file import exclusive, write
from wsclient.gateway.guard import RequestGuard
from wsclient.gateway.quotas import ClientQuota, Limits
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.fake_ollama import FakeOllama
from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .scripted_backend import ScriptedBackend


def limits(settings: dict[str, Any] | None = None, **entry: Any) -> Limits:
    return Limits.of(GatewaySettings(**settings or {}), ClientQuota.from_json(entry))


# --- what the file says -----------------------------------------------------------------------------------------------


def test_nothing_is_limited_until_somebody_says_so_but_the_size_of_messages() -> None:
    assert limits() == Limits(max_message_size=32 << 20)
    assert limits(limits=None, models=None) == limits()


def test_the_flags_are_the_defaults_and_the_file_wins() -> None:
    flags = {"max_open_generations": 2, "requests_per_minute": 30, "max_prompt_size": 1000, "max_message_size": 65536}
    assert limits(flags) == Limits(**flags)
    said = {"maxOpenGenerations": 9, "requestsPerMinute": 0, "maxPromptBytes": 5, "maxMessageBytes": 8192}
    assert limits(flags, limits=said) == Limits(
        max_open_generations=9, requests_per_minute=0, max_prompt_size=5, max_message_size=8192
    )
    assert limits(flags, limits={"requestsPerMinute": None}).requests_per_minute == 30


@pytest.mark.parametrize("value", [-1, 1.5, "60", True, [], {}, 10**9], ids=repr)
def test_a_broken_limit_means_the_default_and_never_none(value: Any) -> None:
    quota = ClientQuota.from_json({"limits": {"requestsPerMinute": value, "maxOpenGenerations": 3}})
    assert quota.problems == (f"limits.requestsPerMinute must be a whole number from 0 to 100000 (got {value!r})",)
    assert Limits.of(GatewaySettings(requests_per_minute=7), quota).requests_per_minute == 7
    assert Limits.of(GatewaySettings(), quota).requests_per_minute == 60
    # The others hold.
    assert Limits.of(GatewaySettings(), quota).max_open_generations == 3


@pytest.mark.parametrize("given", [[], "none", 5, True])
def test_limits_that_are_no_object_break_all_of_them(given: Any) -> None:
    quota = ClientQuota.from_json({"limits": given})
    assert quota.problems == (f"limits must be an object (got {given!r})",)
    broken = Limits.of(GatewaySettings(), quota)
    assert (broken.max_open_generations, broken.requests_per_minute, broken.max_prompt_size) == (4, 60, 65536)
    assert broken.max_message_size == 32 << 20


def test_a_slip_of_the_pen_breaks_the_limit_that_it_resembles() -> None:
    quota = ClientQuota.from_json({"limits": {"requestPerMinute": 5, "colour": 1}})
    assert quota.problems == (
        "limits has no 'requestPerMinute'; did you mean requestsPerMinute?",
        "limits has no 'colour'",
    )
    assert Limits.of(GatewaySettings(), quota) == Limits(max_message_size=32 << 20, requests_per_minute=60)


@pytest.mark.parametrize(
    ("models", "allowed", "refused"),
    [
        (["llama2"], ["llama2", "llama2:latest"], ["llama2:7b", "llama", "LLAMA2", "x/llama2"]),
        (["llama2:latest"], ["llama2", "llama2:latest"], ["llama2:7b"]),
        (["llama*"], ["llama2", "llama3.2:1b"], ["tiny:1b", "codellama"]),
        (["*:1b", " tiny "], ["llama3.2:1b", "tiny"], ["llama2"]),
        (["host:5000/m"], ["host:5000/m", "host:5000/m:latest"], ["host:5000/other"]),
        (["*"], ["anything"], ["x" * 600, None, 5]),
        ([], [], ["llama2"]),
        ("llama2", [], ["llama2"]),
        ([5, "", "tiny"], ["tiny"], ["5", ""]),
    ],
)
def test_models_are_names_or_patterns_and_a_broken_list_opens_nothing(
    models: Any, allowed: list[str], refused: list[Any]
) -> None:
    mine = limits(models=models)
    assert [name for name in allowed if not mine.allows_model(name)] == []
    assert [name for name in refused if mine.allows_model(name)] == []


def test_a_broken_list_of_models_is_reported() -> None:
    assert ClientQuota.from_json({"models": "llama2"}).problems == (
        "models must be an array of names or patterns (got 'llama2'); it may use none",
    )
    assert ClientQuota.from_json({"models": [5, "a"]}).problems == ("models has an item that is no name (got 5)",)


# --- requests a minute, with a clock that the tests move ------------------------------------------------------------


def test_so_many_requests_within_any_minute_and_no_more() -> None:
    guard = RequestGuard()
    assert [guard.admit("me", 3, now) for now in (0.0, 10.0, 20.0, 20.0)] == [None, None, None, 40]
    assert guard.admit("me", 3, 59.5) == 1
    assert guard.admit("me", 3, 60.0) is None
    assert guard.admit("me", 3, 60.0) == 10


def test_one_that_is_turned_away_does_not_count() -> None:
    guard = RequestGuard()
    guard.admit("me", 1, 0.0)
    assert [guard.admit("me", 1, float(now)) for now in range(1, 60)] == list(range(59, 0, -1))
    assert guard.admit("me", 1, 60.0) is None


def test_clients_are_counted_apart_and_forgotten_after_a_minute() -> None:
    guard = RequestGuard()
    for number in range(100):
        assert guard.admit(f"client {number}", 1, 0.0) is None
    for number in range(100):
        assert guard.admit(f"other {number}", 1, 60.0) is None
    assert len(guard) == 100


def test_a_lower_limit_counts_at_once_and_so_does_none_at_all() -> None:
    guard = RequestGuard()
    for now in (0.0, 10.0, 20.0):
        guard.admit("me", 3, now)
    assert guard.admit("me", 1, 30.0) == 50
    assert guard.admit("me", 0, 30.0) == 60
    assert guard.admit("me", 4, 30.0) is None


# --- on the wire ------------------------------------------------------------------------------------------------------


def rewrite(path: Path, **fields: Any) -> None:
    """Write fields into the first client's entry."""
    with exclusive(path):
        first, *others = json.loads(path.read_text())
        write(path, [first | fields, *others])


@pytest.fixture
def describe(tmp_path: Path, gateway: GatewayThread, client_id: str) -> Callable[..., None]:
    """Writes fields into the client's entry, and waits until the gateway knows, for a second at most."""

    def is_known(fields: dict[str, Any]) -> bool:
        client = gateway.gateway.registry.get(client_id)
        return client is not None and fields.items() <= client.extra.items()

    def describe(**fields: Any) -> None:
        rewrite(tmp_path / "authorized_clients.json", **fields)
        wait_until(lambda: is_known(fields), 1)

    return describe


def errors(peer: Peer, prompt: str = "say x", **fields: Any) -> dict[str, Any]:
    answer = peer.generate(prompt, **fields)[-1]
    return {name: answer.get(name) for name in ("type", "id", "code", "error", "retryAfter") if name in answer}


def test_too_many_requests_a_minute_hear_when_to_come_back_on_every_connection(
    describe: Callable[..., None], connect: Callable[[], Peer], backend: ScriptedBackend
) -> None:
    describe(limits={"requestsPerMinute": 3})
    one, two = connect(), connect()
    one.send(type="models", id="m")
    assert one.receive()["type"] == "models_result"
    batch = [{"type": "generate", "id": id, "prompt": "say x"} for id in ("a", "b", "c")]
    two.send(type="batch", messages=batch)
    assert [message["id"] for message in two.receive_until("error")] == [*"aaabbb", "c"]
    answer = errors(one)
    retry_after = answer.pop("retryAfter")
    assert answer == {
        "type": "error",
        "id": "g1",
        "code": "rate_limited",
        "error": f"More than 3 requests a minute. Please try again in {retry_after} seconds.",
    }
    assert 50 <= retry_after <= 60
    assert len(backend.requests) == 2
    # What keeps a connection alive is not counted.
    for _ in range(5):
        one.send(type="ping", id="p")
        assert one.receive()["type"] == "pong"


def test_open_generations_are_counted_over_all_connections_of_a_client(
    describe: Callable[..., None], connect: Callable[[], Peer], backend: ScriptedBackend
) -> None:
    describe(limits={"maxOpenGenerations": 2})
    one, two = connect(), connect()
    for peer, id in ((one, "a"), (two, "b")):
        peer.send(type="generate", id=id, prompt="hang 1")
        peer.receive_until("stream_token")
    busy = {
        "type": "error",
        "id": "g1",
        "code": "server_busy",
        "error": "More than 2 generations are open for this client",
    }
    assert errors(one) == busy
    one.send(type="stop", id="s", requestId="a")
    one.receive_until("stream_end")
    assert errors(two)["type"] == "stream_end"
    # A connection that is lost lets go of its own.
    two.close()
    assert backend.cancelled.wait(5)
    wait_until(lambda: errors(one)["type"] == "stream_end")


def test_another_client_has_its_own_quota(
    tmp_path: Path, registry: ClientRegistry, start_gateway: StartGateway, client_id: str, ec_key: Key, rsa_key: Key
) -> None:
    other_id = registry.register("other", public_pem(rsa_key)).id
    rewrite(tmp_path / "authorized_clients.json", limits={"requestsPerMinute": 2})
    gateway = start_gateway(requests_per_minute=1)
    with Peer(gateway.url).log_in(client_id, ec_key) as mine, Peer(gateway.url).log_in(other_id, rsa_key) as others:
        for peer, counted in ((mine, 2), (others, 1)):
            for _ in range(counted):
                assert errors(peer)["type"] == "stream_end"
            assert errors(peer)["code"] == "rate_limited"


def test_a_prompt_over_the_limit_is_too_big_with_its_system_prompt_and_in_bytes(
    describe: Callable[..., None], peer: Peer
) -> None:
    describe(limits={"maxPromptBytes": 10})
    assert errors(peer, "say " + "x" * 7) == {
        "type": "error",
        "id": "g1",
        "code": "message_too_big",
        "error": "The prompt has more than 10 bytes",
    }
    assert errors(peer, "say " + "é" * 3)["type"] == "stream_end"
    assert errors(peer, "say " + "é" * 4)["code"] == "message_too_big"
    assert errors(peer, "say x", options={"system": "be kind"})["code"] == "message_too_big"


def test_a_client_hears_its_own_message_limit_and_a_change_holds_for_its_next_message(
    describe: Callable[..., None], gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    describe(limits={"maxMessageBytes": 10_000})
    with RawPeer(gateway.url) as peer, Peer(gateway.url) as other:
        peer.log_in(client_id, ec_key)
        result = other.try_login(client_id, sign_challenge(ec_key, other.challenge, "SHA256"))
        assert result["maxMessageBytes"] == 10_000
        peer.send_frame(TEXT, b" " * 9_999 + b"5")
        assert peer.receive()["code"] == "invalid_request"
        began = time.monotonic()
        describe(limits={"maxMessageBytes": 8192})
        while peer.parser.close is None:
            peer.send_frame(TEXT, b" " * 9_999 + b"5")
            assert peer.read()
        assert peer.parser.close.code == 1009
        assert time.monotonic() - began < 1
        # Nobody was thrown out for the change.
        other.send(type="ping", id="still here")
        assert other.receive()["id"] == "still here"


NO_SUCH = [
    ("scripted", "Generation failed: model 'secret:1b' not found"),
    ("ollama", """Generation failed: Ollama API error: 404 {"error":"model 'secret:1b' not found"}"""),
]


@pytest.mark.parametrize(("name", "text"), NO_SUCH)
def test_a_model_that_is_not_allowed_does_not_exist(
    describe: Callable[..., None],
    connect: Callable[[], Peer],
    backend: ScriptedBackend,
    name: str,
    text: str,
) -> None:
    backend.name = name
    peer = connect()
    backend.models = [{"name": "tiny:1b"}, {"name": "secret:1b"}, {"model": "tiny:2b"}, {}]
    describe(models=["tiny:*"])

    peer.send(type="models", id="m")
    assert peer.receive()["models"] == [{"name": "tiny:1b"}, {"model": "tiny:2b"}]
    start, end = peer.generate("say x", model="secret:1b")
    assert (start["type"], start["model"]) == ("stream_start", "secret:1b")
    assert (end["type"], end["code"], end["error"]) == ("error", "model_not_found", text)
    assert backend.requests == []
    assert peer.generate("say x", model="tiny:1b")[-1]["type"] == "stream_end"


def test_a_model_that_is_forbidden_while_a_generation_waits_is_not_there_when_its_turn_comes(
    describe: Callable[..., None], peer: Peer, backend: ScriptedBackend, gateway: GatewayThread
) -> None:
    for number in range(4):
        peer.send(type="generate", id=f"g{number}", prompt="hold 1")
        peer.receive_until("stream_token")
    peer.send(type="generate", id="late", prompt="say x")
    wait_until(lambda: gateway.gateway.backend.waiting == 1)
    describe(models=["tiny:*"])

    backend.release()

    answer = peer.receive_until("error")[-1]
    assert (answer["id"], answer["code"], answer["error"]) == (
        "late",
        "model_not_found",
        "Generation failed: model 'llama2' not found",
    )
    # Who runs already is not interrupted.
    assert len(backend.requests) == 4
    for _ in range(3):
        backend.release()
    assert [peer.receive_until("stream_end")[-1]["type"] for _ in range(3)] == ["stream_end"] * 3


def test_the_words_for_a_hidden_model_are_those_for_one_that_is_missing(
    tmp_path: Path, start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    answers = []
    with FakeOllama() as ollama:
        for models in (None, ["llama2"]):
            rewrite(tmp_path / "authorized_clients.json", models=models)
            gateway = start_gateway(backend="ollama", ollama_url=ollama.url)
            with Peer(gateway.url).log_in(client_id, ec_key) as peer:
                answers.append(peer.generate("x", id="g", model='no "such"\nmodel'))
        assert len([request for request in ollama.requests if request.path == "/api/generate"]) == 1
    for message in (*answers[0], *answers[1]):
        del message["timestamp"]
    assert answers[0] == answers[1]


def test_our_client_raises_what_each_limit_means(
    describe: Callable[..., None], gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    with WSClient(gateway.url, client_id=client_id, private_key=ec_key) as client:
        describe(limits={"maxPromptBytes": 10}, models=["tiny:*"])
        with pytest.raises(MessageTooBigError):
            client.complete("say " + "x" * 20, "tiny:1b")
        with pytest.raises(ModelNotFoundError):
            client.complete("say x", "other")
        describe(limits={"maxOpenGenerations": 0})
        with pytest.raises(ServerBusyError):
            client.complete("say x", "tiny:1b")
        describe(limits={"requestsPerMinute": 1})
        client.list_models()
        with pytest.raises(RateLimitedError) as caught:
            client.list_models()
        assert caught.value.retry_after is not None
        assert 30 < caught.value.retry_after <= 60


def test_what_is_wrong_with_quotas_is_logged_when_it_is_written_and_once(
    describe: Callable[..., None], peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        describe(limits={"maxPromptBytes": "1 MB"})
        what = "client 'test-client' (entry 1): limits.maxPromptBytes must be a whole number"
        wait_until(lambda: what in caplog.text, 1)
        # The next readings of the file find the same, and nobody is locked out.
        for number in (8, 9):
            describe(limits={"maxPromptBytes": "1 MB", "requestsPerMinute": number})
        assert errors(peer, "say " + "x" * 70_000)["code"] == "message_too_big"
        assert errors(peer)["type"] == "stream_end"
    assert caplog.text.count(what) == 1
