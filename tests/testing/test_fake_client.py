"""The client without a network has the real one's face, and what is different is what its docstring says."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient import (
    ClientClosedError,
    ClientOptions,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionStatus,
    InvalidAuthError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    WSClient,
)
from wsclient.testing import Call, FakeClient, Request

OWN = {"calls", "connect_error", "drop", "requests"}


def endless(request: Request) -> Iterator[str]:
    yield from map(str, itertools.count())


def public(thing: type) -> dict[str, Any]:
    members = {name: inspect.getattr_static(thing, name) for name in dir(thing)}
    spoken = {"__init__", "__iter__", "__enter__", "__exit__", "__del__", "__reduce__"}
    return {name: member for name, member in members.items() if not name.startswith("_") or name in spoken}


# --- the face ---------------------------------------------------------------------------------------------------------


def test_it_has_all_public_names_and_few_of_its_own() -> None:
    assert set(public(FakeClient)) - set(public(WSClient)) <= OWN
    assert set(public(WSClient)) <= set(public(FakeClient))


@pytest.mark.parametrize("name", sorted(set(public(WSClient)) - {"__init__"}))
def test_each_public_member_is_of_the_same_kind_and_signature(name: str) -> None:
    real, fake = public(WSClient)[name], public(FakeClient)[name]

    assert type(fake) is type(real)
    assert fake.__doc__ == real.__doc__
    if callable(real):
        assert inspect.signature(fake) == inspect.signature(real)


def test_it_is_a_client_for_type_checks_and_starts_no_thread() -> None:
    before = threading.active_count()

    with FakeClient() as client:
        client.on_token(print)
        client.generate("Hello")
        assert isinstance(client, WSClient)
        assert threading.active_count() == before


def test_without_answers_it_says_the_prompt() -> None:
    assert FakeClient().complete("Hello world").text == "Hello world"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda client: client.complete(""), ValueError),
        (lambda client: client.complete("Hello", temprature=1), TypeError),
        (lambda client: client.stream(5), TypeError),
        (lambda client: client.stop_generation(5), TypeError),
        (lambda client: client.send_batch([]), ValueError),
        (lambda client: client.send_batch([{"type": "nonsense"}]), ValueError),
        (lambda client: client.on_token(None), TypeError),
    ],
)
def test_arguments_are_checked_as_ever(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        wrong(FakeClient())


def test_the_other_ways_to_make_a_client_make_a_fake_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCLIENT_SERVER_URL", "wss://host")
    monkeypatch.setenv("WSCLIENT_CLIENT_ID", "id")
    monkeypatch.setenv("WSCLIENT_PRIVATE_KEY_PATH", "no/such/key.pem")
    options = ClientOptions(server_url="wss://host", client_id="id", private_key_path="no/such/key.pem")

    for client in (FakeClient.from_env(), FakeClient.from_options(options)):
        assert isinstance(client, FakeClient)
        assert client.complete("Hello").text == "Hello"


def test_code_that_makes_its_own_client_can_be_given_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeClient({"Hello": "Hi"})
    monkeypatch.setattr("wsclient.WSClient", lambda *_, **__: fake)
    import wsclient

    with wsclient.WSClient("wss://host", client_id="id", private_key_path="key.pem") as client:
        assert client.complete("Hello").text == "Hi"


def test_auto_connect_connects_at_birth() -> None:
    assert FakeClient(auto_connect=True).is_ready()


# --- calls ------------------------------------------------------------------------------------------------------------


def test_calls_are_noted_with_the_arguments_that_were_given() -> None:
    with FakeClient() as client:
        client.stream("a", "llama2", {"seed": 1}, temperature=0.5)
        client.complete(prompt="b")
        id = client.generate("c")
        client.stop_generation(id)
        client.list_models()
        client.ping()
        client.send_batch([{"type": "ping"}])
        client.stats()

    assert client.calls == [
        Call("connect"),
        Call("stream", {"prompt": "a", "model": "llama2", "options": {"seed": 1}, "temperature": 0.5}),
        Call("complete", {"prompt": "b"}),
        Call("generate", {"prompt": "c"}),
        Call("stop_generation", {"generation": id}),
        Call("list_models"),
        Call("ping"),
        Call("send_batch", {"messages": [{"type": "ping"}]}),
        Call("close"),
    ]
    assert [request.prompt for request in client.requests] == ["a", "b", "c"]


# --- statuses and errors ----------------------------------------------------------------------------------------------


def test_statuses_are_those_of_a_login_and_of_a_close() -> None:
    client = FakeClient()
    statuses: list[str] = []
    client.on_connection_change(statuses.append)
    assert (client.status, client.is_ready(), client.wait_ready(60)) == ("disconnected", False, False)

    client.connect()
    assert (client.get_status(), client.is_ready(), client.wait_ready()) == ("authenticated", True, True)
    client.connect()
    client.close()
    client.close()

    assert statuses == ["connecting", "connected", "authenticated", "disconnected"]


def test_a_request_connects_by_itself_but_not_after_a_close() -> None:
    client = FakeClient()
    client.ping()
    assert client.is_ready()
    assert client.latency is not None
    client.close()

    with pytest.raises(ClientClosedError):
        client.ping()

    client.connect()
    assert client.ping() >= 0


def test_connecting_can_fail_and_succeed_later() -> None:
    client = FakeClient(connect_error=ConnectionFailedError("refused"))
    for use in (client.connect, client.list_models, lambda: client.stream("Hello")):
        with pytest.raises(ConnectionFailedError, match="refused"):
            use()
    assert client.status is ConnectionStatus.DISCONNECTED

    client.connect_error = None

    assert client.complete("Hello").text == "Hello"


@pytest.mark.parametrize("error", [InvalidAuthError("Invalid signature"), InvalidAuthError], ids=["object", "class"])
def test_a_refused_login_is_final_until_connect(error: Any) -> None:
    client = FakeClient(connect_error=error)
    with pytest.raises(InvalidAuthError):
        client.connect()
    assert client.status is ConnectionStatus.AUTH_FAILED
    client.connect_error = None

    with pytest.raises(InvalidAuthError):
        client.complete("Hello")

    client.connect()
    assert client.complete("Hello").text == "Hello"


def test_a_drop_loses_what_is_under_way_and_comes_back() -> None:
    client = FakeClient(endless)
    statuses, errors = [], []
    generation = client.stream("Hello")
    assert next(generation) == "0"
    client.on_connection_change(statuses.append)
    client.on_error(errors.append)

    client.drop()

    with pytest.raises(ConnectionLostError) as caught:
        generation.result()
    assert caught.value.text == "0"
    assert [error.code for error in errors] == ["connection_lost"]
    assert statuses == ["disconnected", "reconnecting", "connecting", "connected", "authenticated"]
    assert client.stats().reconnects == 1
    assert [request.outcome for request in client.requests] == ["failed"]


def test_a_drop_without_auto_reconnect_stays() -> None:
    client = FakeClient(auto_reconnect=False)
    client.connect()

    client.drop()
    client.drop()

    assert client.status is ConnectionStatus.DISCONNECTED


def test_a_close_fails_what_is_under_way() -> None:
    client = FakeClient(endless)
    generation = client.stream("Hello")
    next(generation)

    client.close()

    with pytest.raises(ClientClosedError):
        next(generation)
    assert [request.outcome for request in client.requests] == ["stopped"]


def test_counters_count() -> None:
    client = FakeClient({"a": "one two three", "b": endless})
    client.complete("a")
    generation = client.stream("b")
    next(generation)

    stats = client.stats()

    assert (stats.status, stats.connects, stats.tokens) == ("authenticated", 1, 4)
    assert (stats.open_generations, stats.open_requests, stats.messages_sent) == (1, 0, 2)


# --- generations ------------------------------------------------------------------------------------------------------


def test_the_model_writes_when_somebody_reads() -> None:
    written = []

    def answer(request: Request) -> Iterator[str]:
        for token in ("a", "b", "c"):
            written.append(token)
            yield token

    generation = FakeClient(answer).stream("Hello")
    assert (written, generation.text, generation.is_done) == ([], "", False)

    assert next(generation) == "a"
    assert (written, generation.text) == (["a"], "a")

    assert generation.result().text == "abc"
    assert list(generation) == ["b", "c"]
    assert generation.is_done


def test_a_loop_that_waits_for_the_end_without_reading_sees_it() -> None:
    generation = FakeClient("some words to write").stream("Hello")

    for _ in range(100):
        if generation.is_done:
            break

    assert generation.text == "some words to write"


@pytest.mark.parametrize("leave", ["break", "close", "with", "stop", "stop by id", "drop"])
def test_a_generation_that_is_left_has_the_text_that_was_read(leave: str) -> None:
    client = FakeClient(endless)
    generation = client.stream("Hello")
    assert [next(generation) for _ in range(3)] == ["0", "1", "2"]

    if leave == "break":
        for _ in generation:
            break
    elif leave == "close":
        generation.close()
    elif leave == "with":
        with generation:
            pass
    elif leave == "stop":
        assert not generation.is_done
        assert generation.stop()
    elif leave == "stop by id":
        assert client.stop_generation(generation.id)
    else:
        del generation

    assert [request.outcome for request in client.requests] == ["stopped"]
    assert client.stats().open_generations == 0
    if leave != "drop":
        result = generation.result()
        assert (result.is_cancelled, result.text) == (True, "0123" if leave == "break" else "012")
        assert list(generation) == []
        assert not generation.stop()


def test_a_deadline_is_looked_at_between_two_tokens() -> None:
    generation = FakeClient(endless).stream("Hello")

    with pytest.raises(RequestTimeoutError, match=r"did not end within 0\.01 s") as caught:
        generation.result(0.01)

    assert caught.value.text.startswith("0123")
    assert not generation.is_done


def test_an_event_loop_runs_on_between_two_tokens() -> None:
    client = FakeClient(endless)

    async def read() -> list[str]:
        generation = client.stream("Hello")

        async def to_the_end() -> list[str]:
            return [token async for token in generation]

        reading = asyncio.create_task(to_the_end())
        while len(generation.text) < 5:
            await asyncio.sleep(0)
        generation.stop()
        return await reading

    tokens = asyncio.run(asyncio.wait_for(read(), 20))

    assert tokens == ["0", "1", "2", "3", "4"]
    assert [request.outcome for request in client.requests] == ["stopped"]


def test_several_threads_read_one_generation_in_order() -> None:
    generation = FakeClient([str(number) for number in range(500)]).stream("Hello")
    read: list[str] = []
    threads = [threading.Thread(target=lambda: read.extend(generation)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(map(int, read)) == list(range(500))
    assert generation.text == "".join(map(str, range(500)))


class Contested(queue.SimpleQueue[Any]):
    """A queue of which another thread always takes what one has just seen in it."""

    def empty(self) -> bool:
        return False


def test_a_reader_whose_token_another_one_took_has_the_next_one_written() -> None:
    generation = FakeClient(["a", "b"]).stream("Hello")
    generation._feed._batches = Contested()

    assert list(generation) == ["a", "b"]


def test_a_bug_in_a_function_of_the_test_comes_through_where_it_is_read() -> None:
    def answer(request: Request) -> str:
        raise LookupError("the bug")

    client = FakeClient(answer)
    generation = client.stream("Hello")

    with pytest.raises(LookupError, match="the bug"):
        next(generation)
    with pytest.raises(LookupError, match="the bug"):
        client.generate("Hello")
    with pytest.raises(ServerError, match="LookupError"):
        generation.result()
    assert [request.outcome for request in client.requests] == ["failed", "failed"]


def test_a_batch_has_a_handle_an_item_and_failures_stay_apart() -> None:
    client = FakeClient({"a": "A", "b": ServerBusyError("full")}, models=["llama2"])

    batch = client.send_batch(
        [
            {"type": "models"},
            {"type": "generate", "prompt": "a"},
            {"type": "generate", "prompt": "b"},
            {"type": "ping"},
            {"type": "stop", "id": "unknown"},
        ]
    )

    models, text, error, ping, stopped = batch.results(return_errors=True)
    assert ([model.name for model in models], text.text, error.code) == (["llama2"], "A", "server_busy")
    assert ping >= 0
    assert stopped is False
