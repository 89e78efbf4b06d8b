"""The clients of a Django project: one for each alias and process, replaced by a test's settings, closed at the end.

Takes 3 s: most of it are processes that are looked at from outside.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings

from wsclient import ConnectionFailedError, InvalidKeyError, WSClient
from wsclient.contrib.django import ClientHandler, clients, get_client
from wsclient.testing import FakeClient, Gateway

from ..end_to_end.programs import run_program
from ..support.waiting import wait_until
from .django_site import FAKE

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_chat.py"


@pytest.fixture(autouse=True)
def nobody_finds_the_clients_of_another_test() -> Iterator[None]:
    yield
    clients.close_all()


def test_an_alias_has_one_client_and_another_alias_another() -> None:
    with override_settings(WSCLIENT={"default": FAKE, "other": FAKE}):
        assert get_client() is get_client("default") is clients["default"]
        assert get_client("other") is not get_client()
        assert list(clients) == ["default", "other"]
        assert clients.all() == [get_client(), get_client("other")]


def test_asking_for_one_makes_no_other_and_connects_none() -> None:
    with override_settings(WSCLIENT={"default": FAKE, "other": FAKE}):
        assert clients.all(initialized_only=True) == []
        client = get_client("other")
        assert clients.all(initialized_only=True) == [client]
        assert client.calls == []


def test_an_alias_that_there_is_not_is_told_apart() -> None:
    told = pytest.raises(ImproperlyConfigured, match='WSCLIENT has no "other"; it has: default, spare')
    with override_settings(WSCLIENT={"default": FAKE, "spare": FAKE}), told:
        get_client("other")


def test_options_reach_the_client_by_their_names_in_capitals(wsclient_gateway: Gateway) -> None:
    entry = {"CONFIG": wsclient_gateway.config_path, "REQUEST_TIMEOUT": 7.5, "HEADERS": {"X-A": "b"}}
    with override_settings(WSCLIENT={"default": entry}):
        client = get_client()
        assert client.list_models()
        assert wsclient_gateway.connections == 1
        assert (client._options.request_timeout, client._options.headers) == (7.5, {"X-A": "b"})


def test_a_subclass_is_given_the_options() -> None:
    class Mine(WSClient):
        pass

    entry = {"SERVER_URL": "wss://host", "CLIENT_ID": "me", "PRIVATE_KEY": lambda challenge: challenge}
    with override_settings(WSCLIENT={"default": entry | {"CLIENT": Mine}}):
        assert type(get_client()) is Mine
        assert get_client()._options.server_url == "wss://host/"


def test_a_subclass_is_given_what_is_in_the_file_too(wsclient_gateway: Gateway) -> None:
    class Mine(WSClient):
        pass

    entry = {"CONFIG": wsclient_gateway.config_path, "CLIENT": Mine, "REQUEST_TIMEOUT": 7.5}
    with override_settings(WSCLIENT={"default": entry}):
        assert get_client().list_models()
        assert type(get_client()) is Mine
        assert get_client()._options.request_timeout == 7.5


def test_options_that_a_client_of_ones_own_refuses_are_told_by_their_place() -> None:
    told = pytest.raises(ImproperlyConfigured, match=r'WSCLIENT\["default"\]: .*missing 1 required .*url')
    with override_settings(WSCLIENT={"default": {"CLIENT": lambda url: None}}), told:
        get_client()


def test_an_error_of_the_key_comes_as_it_is(tmp_path: Path) -> None:
    entry = {"SERVER_URL": "ws://localhost:9", "CLIENT_ID": "me", "PRIVATE_KEY_PATH": tmp_path / "none.pem"}
    told = pytest.raises(InvalidKeyError, match="does not exist")
    with override_settings(WSCLIENT={"default": entry | {"AUTO_CONNECT": True}}), told:
        get_client()


def test_threads_that_come_first_together_get_the_same_client_and_only_one_is_made() -> None:
    made, together, second = [], threading.Barrier(8), threading.Event()

    def make() -> WSClient:
        made.append(FakeClient())
        if len(made) > 1:
            second.set()
        # Time for a second one to be made, which there must not be.
        second.wait(0.2)
        return made[0]

    def get(_: int) -> WSClient:
        together.wait(10)
        return get_client()

    with override_settings(WSCLIENT={"default": {"CLIENT": make}}), ThreadPoolExecutor(8) as pool:
        assert set(pool.map(get, range(8))) == set(made)
    assert len(made) == 1


def test_a_fork_in_the_middle_of_making_a_client_blocks_no_child() -> None:
    handler = ClientHandler()
    begins, may_end = threading.Event(), threading.Event()

    def make() -> WSClient:
        begins.set()
        assert may_end.wait(10)
        return FakeClient()

    with override_settings(WSCLIENT={"default": {"CLIENT": make}, "other": FAKE}):
        maker = threading.Thread(target=handler.__getitem__, args=["default"])
        maker.start()
        assert begins.wait(10)
        child = os.fork()
        if child == 0:
            # Alone in its process, with a lock that nobody here will ever let go of.
            os._exit(0 if handler["other"].status == "disconnected" else 1)
        try:
            ended = wait_until(lambda: (state := os.waitpid(child, os.WNOHANG))[0] and state, 10)
            assert ended == (child, 0)
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            may_end.set()
            maker.join(10)


# --- tests of projects ------------------------------------------------------------------------------------------------


def test_settings_of_a_test_close_the_clients_and_put_others_in_place() -> None:
    before = get_client()
    with override_settings(WSCLIENT={"default": FAKE | {"ANSWERS": {"Hi": "Hello"}}}):
        assert [call.method for call in before.calls] == ["close"]
        inside = get_client()
        assert inside.complete("Hi").text == "Hello"
    assert inside.calls[-1].method == "close"
    assert get_client() not in (before, inside)


def test_other_settings_leave_the_clients_alone() -> None:
    before = get_client()
    with override_settings(DEBUG=True):
        assert get_client() is before


def test_a_test_can_hand_in_its_own_client() -> None:
    fake = FakeClient({"Hi": "Hello"})
    with override_settings(WSCLIENT={"default": {"CLIENT": fake, "SERVER_URL": "wss://not-asked"}}):
        assert get_client().complete("Hi").text == "Hello"
    assert fake.requests[0].prompt == "Hi"


def test_connections_end_with_the_settings_that_made_them(wsclient_gateway: Gateway) -> None:
    with override_settings(WSCLIENT={"default": {"CONFIG": wsclient_gateway.config_path}}):
        generation = get_client().stream("Go on", max_tokens=1_000_000)
        assert next(generation)
        assert wsclient_gateway.connections == 1
    wait_until(lambda: wsclient_gateway.connections == 0)
    assert wsclient_gateway.requests[0].outcome == "stopped"


# --- the command ------------------------------------------------------------------------------------------------------


def check(**options: Any) -> str:
    said = StringIO()
    call_command("wsclient_check", stdout=said, **options)
    return said.getvalue()


def test_the_command_says_what_it_found_in_a_line_for_each_client() -> None:
    entry = FAKE | {"MODELS": ["llama2", "tiny\x1b[31m:1b"]}
    with override_settings(WSCLIENT={"default": entry, "other": FAKE}):
        first, second = check().splitlines()
        # What the other side says controls no terminal.
        expected = r"default: logged in, and answered after \d+\.\d\d s; its models: llama2, tiny \[31m:1b"
        assert re.fullmatch(expected, first)
        assert second.startswith("other: ")
        (alone,) = check(alias="other").splitlines()
        assert alone.startswith("other: ")


def test_the_command_closes_its_client_and_leaves_the_sites_own_alone() -> None:
    made: list[FakeClient] = []

    def make() -> FakeClient:
        made.append(FakeClient())
        return made[-1]

    with override_settings(WSCLIENT={"default": {"CLIENT": make}}):
        get_client()
        check()
        sites, commands = made
        assert sites.calls == []
        assert commands.calls[-1].method == "close"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            {"default": FAKE | {"CONNECT_ERROR": ConnectionFailedError("nobody\nthere")}},
            "default: nobody there [connection_failed]. ",
        ),
        ({"default": FAKE | {"NO": 1}}, 'default: WSCLIENT["default"] has an unknown option'),
        (None, "default: The setting WSCLIENT is missing. "),
        ({}, 'default: WSCLIENT has no "default"'),
    ],
)
def test_the_command_fails_in_one_line(setting: Any, text: str) -> None:
    with override_settings(WSCLIENT=setting), pytest.raises(CommandError) as caught:
        check()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_the_command_connects_and_ends_with_an_exit_code(tmp_path: Path, wsclient_gateway: Gateway) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE), "wsclient_check", "--no-color"]
    env = {**os.environ, **wsclient_gateway.environment}
    finished = run_program(command, tmp_path, env)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.endswith("its models: builtin:latest\n")
    wait_until(lambda: wsclient_gateway.connections == 0)

    wsclient_gateway.wrong_login()
    finished = run_program(command, tmp_path, env)
    assert (finished.returncode, finished.stdout, finished.stderr.count("\n")) == (1, "", 1)
    assert "[invalid_auth]" in finished.stderr


# --- the end of a process ---------------------------------------------------------------------------------------------

PROGRAM = """
import atexit
# What is registered first is called last.
atexit.register(lambda: print("at the end", client.status))
from django.conf import settings
settings.configure(WSCLIENT={"default": {"CONFIG": CONFIG}})
from wsclient.contrib.django import get_client
client = get_client()
generation = client.stream("Go on", max_tokens=1_000_000)
print(bool(next(generation)), client.status)
"""


def test_at_the_end_of_a_process_its_clients_are_closed(tmp_path: Path, wsclient_gateway: Gateway) -> None:
    program = PROGRAM.replace("CONFIG}", f"{wsclient_gateway.config_path!r}}}")
    finished = run_program([sys.executable, "-W", "error", "-c", program], tmp_path)
    assert finished.stdout == "True authenticated\nat the end disconnected\n"
    assert (finished.stderr, finished.returncode) == ("", 0)
    wait_until(lambda: wsclient_gateway.connections == 0)


def test_installing_the_app_starts_no_thread_and_loads_no_gateway(tmp_path: Path) -> None:
    program = """
import sys, threading
from django.conf import settings
settings.configure(INSTALLED_APPS=["wsclient.contrib.django"], WSCLIENT={"default": {"CONFIG": "none.json"}})
import django
django.setup()
heavy = [name for name in sys.modules if name.startswith(("aiohttp", "click", "wsclient.cli.", "wsclient.gateway"))]
print(threading.active_count(), heavy)
"""
    finished = run_program([sys.executable, "-W", "error", "-c", program], tmp_path)
    assert (finished.stdout, finished.stderr) == ("1 []\n", "")
