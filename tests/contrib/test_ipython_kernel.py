"""The extension in a real kernel, as a notebook uses it. Takes 10 s."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient.testing import Gateway, Request

from ..support.kernels import Kernel
from ..support.waiting import wait_until

# From an interrupt to the end of the generation on the server (issue 6).
STOPPED_WITHIN = 2.0
RUNS = 20

SETUP = """
import os, threading
os.environ.update({environment})
%reload_ext wsclient.contrib.ipython
from wsclient import WSClient
from wsclient.contrib.ipython import display
def threads():
    return sum(thread.name.startswith("wsclient-") for thread in threading.enumerate())
"""
CONNECTED = "%wsclient connect --into client"


def endless(request: Request) -> Iterator[str]:
    for number in range(1_000_000):
        time.sleep(0.01)
        yield f"{number} "


@pytest.fixture(scope="module")
def module_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("kernel")) as kernel:
        yield kernel


@pytest.fixture
def kernel(module_kernel: Kernel, wsclient_gateway: Gateway) -> Iterator[Kernel]:
    """A kernel where the extension is loaded, and the environment leads to the test's gateway."""
    environment = {"WSCLIENT_CONFIG": wsclient_gateway.config_path}
    assert module_kernel.run(SETUP.replace("{environment}", repr(environment))).status == "ok"
    yield module_kernel
    assert module_kernel.run("%unload_ext wsclient.contrib.ipython\n%reset -f").status == "ok"


class Dictated:
    """A model that says a token when it is told."""

    def __init__(self) -> None:
        self.turns = threading.Semaphore(0)

    def __call__(self, request: Request) -> Iterator[str]:
        for token in ("*one*", " two", " <b>three</b>"):
            if not self.turns.acquire(timeout=30):
                raise TimeoutError("nobody told the model to go on")
            yield token


DICTATED = Dictated()


@pytest.mark.wsclient_answers(answers=DICTATED)
def test_a_cell_shows_its_text_as_it_comes_in_one_place(kernel: Kernel) -> None:
    kernel.run(CONNECTED)
    begun = kernel.begin("%%generate\nCount")

    waiting = re.compile("waiting for the first token of scripted:latest … [1-9] s")
    kernel.finish(begun, lambda cell: bool(waiting.search(cell.html)))
    DICTATED.turns.release()
    kernel.finish(begun, lambda cell: "<em>one</em>" in cell.html)
    DICTATED.turns.release()
    kernel.finish(begun, lambda cell: "<em>one</em> two" in cell.html)
    DICTATED.turns.release()
    cell = kernel.finish(begun)

    assert cell.status == "ok"
    assert len(cell.outputs) == 1
    assert "<em>one</em> two &lt;b&gt;three&lt;/b&gt;" in cell.html
    assert "3 tokens" in cell.html
    assert "waiting" not in cell.html


@pytest.mark.wsclient_answers({"Hello": "Hi there"})
def test_the_result_of_a_cell_is_kept_and_not_shown_twice(kernel: Kernel) -> None:
    kernel.run(CONNECTED)

    assert len(kernel.run("%%generate --into result\nHello").outputs) == 1
    assert (
        kernel.run("print(_.text, '|', result.text, '|', Out[max(Out)].text)").text
        == "Hi there | Hi there | Hi there\n"
    )
    assert len(kernel.run("display(client.stream('Hello'))").outputs) == 1
    # Asked for again it is there.
    assert "Hi there" in kernel.run("_").html


@pytest.mark.wsclient_answers({"Hello": "Hi there"})
def test_a_generation_that_a_cell_ends_with_is_shown_live(kernel: Kernel) -> None:
    kernel.run(CONNECTED)

    cell = kernel.run("client.stream('Hello')")

    assert "Hi there" in cell.html
    assert len(cell.outputs) == 1


LEAKY = {
    "connects": "%wsclient connect\n%wsclient models",
    "with": "with WSClient.from_config(os.environ['WSCLIENT_CONFIG']) as client: client.list_models()",
    "dropped": "client = WSClient.from_config(os.environ['WSCLIENT_CONFIG'])\nclient.connect()",
    "ends with the client": "client = WSClient.from_config(os.environ['WSCLIENT_CONFIG'])\nclient.connect()\nclient",
    "drops a generation": "%wsclient connect --into client\ngeneration = client.stream('endless')\nnext(generation)",
    "ends with a result": "client = WSClient.from_config(os.environ['WSCLIENT_CONFIG'])\nclient.stream('Hello')",
}
# IPython itself keeps the last three values as `_`, `__` and `___`, and the last one once more.
KEPT = {"ends with the client": 4, "ends with a result": 4}


@pytest.mark.parametrize("name", LEAKY)
@pytest.mark.wsclient_answers({"Hello": "Hi there", "endless": endless})
def test_a_cell_that_is_run_again_and_again_leaves_nothing_behind(
    name: str, kernel: Kernel, wsclient_gateway: Gateway
) -> None:
    most = KEPT.get(name, 1)
    kernel.run(LEAKY[name])
    each = int(kernel.run("print(threads())").text) or 1

    for _ in range(RUNS):
        assert kernel.run(LEAKY[name]).status == "ok"

    wait_until(lambda: wsclient_gateway.connections <= most)
    wait_until(lambda: wsclient_gateway.generations <= 1)
    wait_until(lambda: int(kernel.run("print(threads())").text) <= most * each)


@pytest.mark.parametrize(
    "code", ["%%generate\nendless", "display(client.stream('endless'))", "client.complete('endless')"]
)
@pytest.mark.wsclient_answers({"Hello": "Hi there", "endless": endless})
def test_interrupting_the_kernel_stops_the_generation_and_leaves_the_client_usable(
    code: str, kernel: Kernel, wsclient_gateway: Gateway
) -> None:
    kernel.run(CONNECTED)
    begun = kernel.begin(code)
    wait_until(lambda: wsclient_gateway.generations)
    if "complete" not in code:
        kernel.finish(begun, lambda cell: "5 6 7" in cell.html)

    interrupted = time.monotonic()
    kernel.interrupt()
    wsclient_gateway.wait_idle(STOPPED_WITHIN)
    assert time.monotonic() - interrupted < STOPPED_WITHIN
    cell = kernel.finish(begun)

    assert cell.status == "error"
    assert "KeyboardInterrupt" in cell.error
    if code.startswith("%%"):
        assert cell.error.count("\n") == 0
        assert "· stopped" in cell.html
    assert wsclient_gateway.requests[0].outcome == "stopped"
    assert "Hi there" in kernel.run("%%generate\nHello").html
    assert wsclient_gateway.connections == 1


@pytest.mark.wsclient_answers({"Hello": "Hi there"})
def test_an_interrupted_connect_leaves_no_connection_behind(kernel: Kernel, wsclient_gateway: Gateway) -> None:
    wsclient_gateway.stall()
    begun = kernel.begin("print('connecting')\n%wsclient connect")
    kernel.finish(begun, lambda cell: "connecting" in cell.text)

    kernel.interrupt()
    assert "KeyboardInterrupt" in kernel.finish(begun).error
    wsclient_gateway.resume()

    wait_until(lambda: int(kernel.run("print(threads())").text) == 0)
    wait_until(lambda: wsclient_gateway.connections == 0)
    assert "connected" in kernel.run("%wsclient connect").html


@pytest.mark.wsclient_answers({"Hello": "Hi there"})
def test_it_works_while_an_event_loop_runs(kernel: Kernel) -> None:
    kernel.run(CONNECTED)

    cell = kernel.run(
        "import asyncio\nawait asyncio.sleep(0)\nasyncio.get_running_loop()\nresult = display(client.stream('Hello'))\n"
        "print(result.text, len([token async for token in client.stream('Hello')]))"
    )

    assert (cell.status, cell.text) == ("ok", "Hi there 2\n")


@pytest.mark.wsclient_answers(answers=lambda request: (f"{number} " for number in range(20_000)))
def test_a_flood_of_tokens_is_drawn_ten_times_a_second_at_most(kernel: Kernel) -> None:
    kernel.run(CONNECTED)

    begun = time.monotonic()
    cell = kernel.run("%%generate\nCount")
    seconds = time.monotonic() - begun

    assert "19999" in cell.html
    # And at the beginning and the end.
    assert cell.updates <= seconds * 10 + 2


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("%%generate nope\nHello", "ModelNotFoundError: Generation failed: model 'nope' not found [model_not_found]."),
        ("%wsclient connect ws://127.0.0.1:1", "ConnectionFailedError: cannot reach ws://127.0.0.1:1/: "),
    ],
)
@pytest.mark.wsclient_answers({"Hello": "Hi there"}, models=["tiny:1b"])
def test_what_goes_wrong_is_one_line(code: str, line: str, kernel: Kernel) -> None:
    kernel.run(CONNECTED)

    cell = kernel.run(code)

    assert cell.status == "error"
    assert cell.error.startswith(line)
    assert "\n" not in cell.error


def test_a_client_and_models_look_like_something(kernel: Kernel, wsclient_gateway: Gateway) -> None:
    connected: Any = kernel.run(CONNECTED)

    assert (
        f"●</span> <b>connected</b> · {wsclient_gateway.url}/ · client {wsclient_gateway.client_id}" in connected.html
    )
    assert connected.html == kernel.run("client").html
    assert "<table>" in kernel.run("%wsclient models").html
    assert "<td" in kernel.run("client.list_models()[0]").html
    assert "○ <b>not connected</b>" in kernel.run("%wsclient disconnect").html
    wait_until(lambda: wsclient_gateway.connections == 0)
