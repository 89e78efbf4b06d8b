"""The connection with its threads but without sockets: connecting, and requests that need a connection."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable

import pytest

from wsclient import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionStatus,
    ConnectionTimeoutError,
    InvalidAuthError,
    InvalidKeyError,
    MessageTooBigError,
    RequestTimeoutError,
    WSClient,
    WSClientError,
)

from .support.calls import Call, connected
from .support.fake_transport import FakeNetwork
from .support.fast_clients import CLIENT_ID, fast_client
from .support.waiting import wait_until

MakeClient = Callable[..., WSClient]
REFUSED = ConnectionFailedError("refused")
SHORT = 0.05


# --- connecting -------------------------------------------------------------------------------------------------------


def test_connect_waits_for_the_verdict(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    call = Call(client.connect)
    line = fake_network.line()
    assert client.status is ConnectionStatus.CONNECTING
    line.accept()
    wait_until(lambda: client.status is ConnectionStatus.CONNECTED)
    line.say({"type": "challenge", "challenge": "c" * 64})
    answer = line.sent_message("authenticate")
    assert answer["clientId"] == CLIENT_ID
    assert base64.b64decode(answer["signature"]) == b"signed:" + b"c" * 64
    assert call.is_waiting()
    line.say({"type": "auth_result", "success": True})
    assert call.end() is None
    assert client.is_ready()
    assert client.connect() is None  # type: ignore[func-returns-value]
    assert len(fake_network.lines) == 1


def test_several_threads_share_one_attempt(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    calls = [Call(client.connect) for _ in range(5)]
    fake_network.line().log_in()
    assert [call.end() for call in calls] == [None] * 5
    assert len(fake_network.lines) == 1


def test_several_threads_get_the_failure_of_one_attempt_each_its_own_object(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    calls = [Call(client.connect) for _ in range(3)]
    line = fake_network.line()
    assert all(call.is_waiting() for call in calls)
    line.refuse(REFUSED)
    errors = [call.end() for call in calls]
    assert {type(error) for error in errors} == {ConnectionFailedError}
    assert len({id(error) for error in errors}) == 3
    assert client.status is ConnectionStatus.DISCONNECTED


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("dial", ConnectionTimeoutError), ("challenge", ChallengeTimeoutError), ("verdict", AuthTimeoutError)],
)
def test_each_step_of_a_login_has_its_own_deadline(
    fake_client: MakeClient, fake_network: FakeNetwork, stage: str, kind: type[WSClientError]
) -> None:
    slow = {"connect_timeout": 30.0, "auth_timeout": 30.0}
    slow["connect_timeout" if stage == "dial" else "auth_timeout"] = SHORT
    client = fake_client(**slow)
    started = time.monotonic()
    call = Call(client.connect)
    line = fake_network.line()
    if stage != "dial":
        line.accept()
    if stage == "verdict":
        line.say({"type": "challenge", "challenge": "c" * 64})
    error = call.end()
    assert type(error) is kind
    assert time.monotonic() - started < 2
    assert line.is_aborted


def test_a_connect_that_gives_up_takes_the_attempt_with_it(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    with pytest.raises(ConnectionTimeoutError, match=r"no login at ws://localhost/ within 0\.05 s"):
        client.connect(timeout=SHORT)
    assert fake_network.line().is_aborted
    assert client.status is ConnectionStatus.DISCONNECTED
    connected(client, fake_network, 1)


def test_a_connect_that_gives_up_leaves_the_attempt_to_others(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    patient = Call(client.connect)
    line = fake_network.line()
    with pytest.raises(ConnectionTimeoutError):
        client.connect(timeout=SHORT)
    assert not line.is_aborted
    line.log_in()
    assert patient.end() is None


def test_the_first_failure_of_a_connect_is_raised_and_not_retried(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    call = Call(client.connect)
    fake_network.line().refuse(REFUSED)
    assert isinstance(call.end(), ConnectionFailedError)
    assert client.status is ConnectionStatus.DISCONNECTED
    assert len(fake_network.lines) == 1


def test_auto_connect_connects_in_the_background_and_goes_on_after_a_failure(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(auto_connect=True)
    fake_network.line(0).refuse(REFUSED)
    fake_network.line(1).log_in()
    assert client.wait_ready(5)


def test_wait_ready_starts_nothing_and_says_whether_it_is(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    assert client.wait_ready(0.01) is False
    assert fake_network.lines == []
    waiting = Call(client.wait_ready)
    connected(client, fake_network)
    assert waiting.end() is True
    assert client.wait_ready() is True


def test_wait_ready_is_false_when_the_attempt_fails_or_the_client_is_closed(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    call, waiting = Call(client.connect), Call(client.wait_ready)
    line = fake_network.line()
    assert waiting.is_waiting()
    line.refuse(REFUSED)
    assert waiting.end() is False
    assert isinstance(call.end(), ConnectionFailedError)
    waiting = Call(client.wait_ready)
    assert waiting.is_waiting()
    client.close()
    assert waiting.end() is False


def test_a_signer_that_fails_is_an_invalid_key_and_final(fake_network: FakeNetwork) -> None:
    def fail(_: bytes) -> bytes:
        raise ZeroDivisionError

    client = fast_client("ws://localhost", private_key=fail)
    call = Call(client.connect)
    line = fake_network.line()
    line.accept()
    line.say({"type": "challenge", "challenge": "c" * 64})
    error = call.end()
    assert isinstance(error, InvalidKeyError)
    assert "the signing function raised ZeroDivisionError" in error.message
    assert client.status is ConnectionStatus.AUTH_FAILED
    client.close()


def test_a_slow_signer_holds_no_socket_and_never_signs_on_the_next_attempts_line(fake_network: FakeNetwork) -> None:
    signing, go_on = threading.Event(), threading.Event()

    def sign(challenge: bytes) -> bytes:
        if challenge.startswith(b"slow"):
            signing.set()
            go_on.wait(60)
        return b"signature of " + challenge

    client = fast_client("ws://localhost", private_key=sign, auth_timeout=SHORT)
    call = Call(client.connect)
    first = fake_network.line(0)
    first.accept()
    first.say({"type": "challenge", "challenge": "slow" * 16})
    assert signing.wait(5)
    assert isinstance(call.end(), AuthTimeoutError)
    # The first attempt's thread and socket are not kept until the signer comes back.
    wait_until(lambda: first.is_closed)
    wait_until(lambda: not any(thread.name.startswith("wsclient-reader") for thread in threading.enumerate()))
    again = Call(client.connect)
    second = fake_network.line(1)
    go_on.set()
    wait_until(lambda: not any(thread.name == "wsclient-signer" for thread in threading.enumerate()))
    assert not second.is_aborted
    assert second.sent == []
    second.log_in()
    assert again.end() is None
    # The second attempt's own: the first one's signature was never sent, nor counted.
    assert client.stats().messages_sent == 1
    client.close()


def test_an_attempt_whose_thread_cannot_start_is_not_waited_for(
    fake_client: MakeClient, fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client()
    start = threading.Thread.start

    def no_room(thread: threading.Thread) -> None:
        if thread.name.startswith("wsclient-reader"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        with pytest.raises(ConnectionFailedError, match="can't start new thread"):
            client.connect()
    assert client.status is ConnectionStatus.DISCONNECTED
    connected(client, fake_network, 1)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_connects_first(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    call = Call(client.list_models)
    line = fake_network.line()
    line.log_in()
    id = line.sent_message("models")["id"]
    line.say({"type": "models_result", "id": id, "models": [{"name": "llama2"}]})
    assert [model.name for model in call.end()] == ["llama2"]


def test_a_request_gets_the_failure_of_the_attempt_it_began(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    call = Call(client.list_models)
    fake_network.line().refuse(REFUSED)
    assert isinstance(call.end(), ConnectionFailedError)


def test_a_request_waits_out_a_reconnect(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    connected(client, fake_network).arrive(b"")
    wait_until(lambda: not client.is_ready())
    call = Call(client.ping)
    fake_network.line(1).refuse(REFUSED)
    fake_network.line(2).log_in()
    line = fake_network.line(2)
    line.say({"type": "pong", "id": line.sent_message("ping")["id"]})
    assert call.end() < 5


def test_a_request_during_a_reconnect_waits_no_longer_than_its_deadline(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(request_timeout=0.2, reconnect_delay=200.0, max_reconnect_delay=200.0)
    connected(client, fake_network).arrive(b"")
    wait_until(lambda: client.status is ConnectionStatus.RECONNECTING)
    call = Call(client.list_models)
    error = call.end(2)
    assert isinstance(error, ConnectionTimeoutError)
    assert client.status is ConnectionStatus.RECONNECTING


def test_connecting_counts_against_a_requests_deadline(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client(request_timeout=0.3)
    started = time.monotonic()
    call = Call(client.list_models)
    line = fake_network.line()
    threading.Timer(0.15, line.log_in).start()
    error = call.end()
    assert isinstance(error, RequestTimeoutError)
    assert 0.25 < time.monotonic() - started < 2


def test_connect_during_the_pause_of_a_reconnect_dials_at_once(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(reconnect_delay=200.0, max_reconnect_delay=200.0)
    connected(client, fake_network).arrive(b"")
    wait_until(lambda: client.status is ConnectionStatus.RECONNECTING)
    connected(client, fake_network, 1)


def test_after_auth_failed_requests_raise_it_and_only_connect_tries_again(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    call = Call(client.connect)
    fake_network.line().accept()
    fake_network.line().say({"type": "error", "error": "Not authenticated", "code": "unauthorized"})
    assert isinstance(call.end(), InvalidAuthError)
    for request in (client.list_models, client.ping, lambda: client.stream("x"), lambda: client.stop_generation("x")):
        with pytest.raises(InvalidAuthError):
            request()
    assert len(fake_network.lines) == 1
    connected(client, fake_network, 1)


def test_a_request_larger_than_the_server_takes_is_refused_before_it_is_sent(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network, maxMessageBytes=2000)
    with pytest.raises(MessageTooBigError, match="the server takes 2000"):
        client.stream("x" * 3000)
    assert [message["type"] for message in line.sent] == ["authenticate"]
    assert client.stats().open_generations == 0


def test_a_request_that_cannot_be_sent_is_not_open(fake_client: MakeClient, fake_network: FakeNetwork) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    line.may_send.clear()
    call = Call(client.stream, "x")
    assert call.is_waiting()
    assert client.stats().open_generations == 1
    line.arrive(b"")
    assert isinstance(call.end(), ConnectionLostError)
    assert client.stats().open_generations == 0


def test_a_token_timeout_shorter_than_the_ping_interval_is_noticed_in_time(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(ping_interval=60.0)
    line = connected(client, fake_network)
    stream = Call(client.stream, "x", token_timeout=0.1)
    id = line.sent_message("generate")["id"]
    generation = stream.end()
    line.say({"type": "stream_token", "id": id, "token": "so far"})
    wait_until(lambda: generation.text)
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no further token within 0\.1 s") as caught:
        generation.result()
    assert time.monotonic() - started < 2
    assert caught.value.text == "so far"
    assert line.sent_message("stop")["requestId"] == id


def test_a_batch_items_deadline_is_noticed_in_time_after_the_item_before_it(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client(ping_interval=60.0, request_timeout=0.1)
    line = connected(client, fake_network)
    batch = client.send_batch([{"type": "generate", "prompt": "x"}, {"type": "models"}])
    assert not batch[1].is_done
    line.say({"type": "stream_end", "id": batch[0].id})
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no answer to models within 0\.1 s"):
        batch[1].result()
    assert time.monotonic() - started < 2
