"""The gateway for other people's tests: real, alone, and gone without a trace."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsclient import ConnectionLostError, ConnectionStatus, ServerError, WSClient
from wsclient.gateway.backends import Final, GenerateRequest, Piece
from wsclient.testing import Gateway, Request

from ..support.waiting import wait_until
from .conftest import MakeGateway


def test_the_built_in_model_writes_when_nothing_is_scripted(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    client = gateway.client()

    texts = {client.complete("rain", seed=7, max_tokens=12).text for _ in range(2)}

    assert len(texts) == 1
    assert client.complete("rain", seed=8, max_tokens=12).text not in texts
    assert [model.name for model in client.list_models()] == ["builtin:latest"]
    assert [request.options["seed"] for request in gateway.requests] == [7, 7, 8]


def test_a_function_can_be_the_model(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(model=lambda request: f"{request.prompt}! {request.options['temperature']}")

    assert gateway.client().complete("Hello", temperature=0.5).text == "Hello! 0.5"


def test_a_backend_can_be_the_model(make_gateway: MakeGateway) -> None:
    class Backend:
        name = "own"

        async def start(self) -> None: ...

        async def close(self) -> None: ...

        async def list_models(self) -> list[dict[str, Any]]:
            return [{"name": "own:1b"}]

        async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece | Final], None]:
            yield [Piece("own"), Piece(" text"), Final()]

    client = make_gateway(model=Backend()).client()

    assert client.complete("Hello", "own:1b").text == "own text"
    assert [model.name for model in client.list_models()] == ["own:1b"]


def test_answers_and_a_model_are_not_taken_together() -> None:
    with pytest.raises(TypeError, match="not both"):
        Gateway("Hi", model=lambda request: "Ho")


def test_the_built_in_models_list_is_its_own() -> None:
    with pytest.raises(TypeError, match="models go with answers"):
        Gateway(models=["llama2"])


def test_every_way_to_name_the_gateway_leads_to_it(make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = make_gateway("Hi")
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)

    clients = [
        WSClient(gateway.url, client_id=gateway.client_id, private_key=gateway.private_key),
        WSClient(gateway.url, client_id=gateway.client_id, private_key_path=gateway.private_key_path),
        WSClient.from_config(gateway.config_path),
        WSClient.from_env(),
        gateway.client(),
    ]

    for client in clients:
        with client:
            assert client.complete("Hello").text == "Hi"


def test_options_of_a_client_win(make_gateway: MakeGateway) -> None:
    client = make_gateway("Hi").client(request_timeout=7.0, reconnect_delay=3.0)

    assert (client._options.request_timeout, client._options.reconnect_delay) == (7.0, 3.0)


def test_settings_reach_the_gateway(make_gateway: MakeGateway) -> None:
    gateway = make_gateway("Hi", default_model="llama2", max_open_requests=1)

    assert gateway.client().complete("Hello").model == "llama2"


def test_its_clients_are_closed_with_it() -> None:
    with Gateway("Hi") as gateway:
        client = gateway.client()
        client.connect()

    assert client.status is ConnectionStatus.DISCONNECTED


def test_a_client_that_is_dropped_closes_itself_as_ever(make_gateway: MakeGateway) -> None:
    gateway = make_gateway("Hi")
    client = gateway.client()
    client.connect()
    assert gateway.connections == 1

    del client
    gc.collect()

    wait_until(lambda: gateway.connections == 0)


def test_nothing_is_left_of_it_on_the_disk() -> None:
    with Gateway() as gateway:
        folder = Path(gateway.private_key_path).parent
        assert folder.exists()

    assert not folder.exists()


def test_closing_it_twice_or_without_a_start_does_nothing() -> None:
    gateway = Gateway("Hi")
    folder = Path(gateway.private_key_path).parent
    gateway.close()
    gateway.close()

    assert not folder.exists()


def test_there_is_no_url_before_the_start() -> None:
    gateway = Gateway("Hi")
    for use in (lambda: gateway.url, gateway.drop):
        with pytest.raises(RuntimeError, match="with statement"):
            use()
    gateway.close()


def test_a_setting_that_is_wrong_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(ValueError, match="port"):
        Gateway("Hi", port=-1)

    assert list(tmp_path.iterdir()) == []


def test_two_at_once_know_nothing_of_each_other(make_gateway: MakeGateway) -> None:
    first, second = make_gateway("one"), make_gateway("two")
    stranger = first.client(client_id=second.client_id, private_key_path=second.private_key_path)

    assert [gateway.client().complete("Hello").text for gateway in (first, second)] == ["one", "two"]
    with pytest.raises(Exception, match="Invalid signature"):
        stranger.connect()
    assert [len(gateway.requests) for gateway in (first, second)] == [1, 1]


def test_it_tells_what_runs_now(make_gateway: MakeGateway) -> None:
    may_go_on = threading.Event()

    def answer(request: Request) -> Iterator[str]:
        yield "first"
        assert may_go_on.wait(20)
        yield "last"

    gateway = make_gateway(answer)
    client = gateway.client()
    generation = client.stream("Hello")
    assert next(generation) == "first"
    assert (gateway.generations, gateway.connections) == (1, 1)
    assert gateway.requests[0].outcome is None
    with pytest.raises(TimeoutError, match=r"1 generations still run after 0\.01 s"):
        gateway.wait_idle(0.01)

    may_go_on.set()
    assert generation.result(20).text == "firstlast"

    assert gateway.generations == 0
    client.close()
    wait_until(lambda: gateway.connections == 0)


def test_a_generation_that_is_left_ends_on_the_server(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    for _ in gateway.client().stream("Hello", max_tokens=1_000_000):
        break

    gateway.wait_idle(20)

    assert [request.outcome for request in gateway.requests] == ["stopped"]


def test_a_bug_in_a_function_of_the_test_is_raised_at_the_end() -> None:
    def answer(request: Request) -> str:
        assert request.model == "llama2", "the wrong model"
        return "Hi"

    def use() -> None:
        with Gateway(answer) as gateway:
            with pytest.raises(ServerError):
                gateway.client().complete("Hello", "llama3")
            assert gateway.client().complete("Hello", "llama2").text == "Hi"

    with pytest.raises(AssertionError, match="the wrong model"):
        use()


def test_the_failure_of_the_test_itself_is_not_replaced() -> None:
    def answer(request: Request) -> str:
        raise LookupError("the bug")

    with pytest.raises(ServerError), Gateway(answer) as gateway:
        gateway.client().complete("Hello")


def test_an_error_that_no_gateway_can_send_is_a_bug_of_the_tests() -> None:
    def use() -> None:
        with Gateway(ConnectionLostError("gone")) as gateway, pytest.raises(ServerError):
            gateway.client().complete("Hello")

    with pytest.raises(TypeError, match=r"cannot say ConnectionLostError; use .* drop\(\)"):
        use()


def test_a_function_that_never_comes_back_does_not_keep_it_from_ending() -> None:
    may_go_on = threading.Event()

    def answer(request: Request) -> str:
        may_go_on.wait(20)
        return "Hi"

    with Gateway(answer) as gateway:
        generation = gateway.client().stream("Hello")
        wait_until(lambda: gateway.generations == 1)

    assert generation.is_done
    assert gateway.generations == 0
    may_go_on.set()
