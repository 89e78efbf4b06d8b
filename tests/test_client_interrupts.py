"""Ctrl-C anywhere in the library's code: the client stays usable, the server is told, nothing is left behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest

from wsclient import Generation, WSClient
from wsclient.testing.scripted_server import ScriptedServer, polite

from .support.fast_clients import fast_client
from .support.strikes import Strike, strikes
from .support.waiting import wait_until

# From CPython 3.12 on opcodes are traced late (`connect` has no place there) and inside of a generator's end, where
# CPython itself swallows what is raised.
pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="strikes fall where signals do on CPython 3.11 only"
)


def read_one(client: WSClient) -> None:
    for _ in client.stream("endless"):
        break


def reconnect(client: WSClient) -> None:
    client.close()
    client.connect()


CALLS: dict[str, Callable[[WSClient], object]] = {
    "connect": reconnect,
    "list_models": WSClient.list_models,
    "stream": read_one,
    "complete": lambda client: client.complete("a b c"),
    "generate": lambda client: client.generate("a b c"),
    "subscribe": lambda client: client.on_token(print)(),
    "close": WSClient.close,
}
OF_A_GENERATION: dict[str, Callable[[Generation], object]] = {
    "next": Generation.__next__,
    "stop": Generation.stop,
}


def check_usable(client: WSClient, strike: Strike) -> None:
    client.connect()
    assert client.complete("a b").text == "a b", strike.place
    wait_until(lambda: client.stats().open_generations == 0)
    client.close()


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_anywhere_in_a_call_leaves_the_client_usable(name: str) -> None:
    with ScriptedServer(polite) as server:
        for strike in strikes(1000):
            client = fast_client(server.url, request_timeout=5)
            client.connect()
            strike(partial(CALLS[name], client))
            check_usable(client, strike)


@pytest.mark.parametrize("name", OF_A_GENERATION)
def test_ctrl_c_anywhere_in_a_call_of_a_generation_stops_it(name: str) -> None:
    with ScriptedServer(polite) as server:
        for strike in strikes(1000):
            client = fast_client(server.url, request_timeout=5)
            generation = client.stream("endless")
            strike(partial(OF_A_GENERATION[name], generation))
            if strike.place:
                assert generation.result(5).is_cancelled, strike.place
            generation.close()
            check_usable(client, strike)
