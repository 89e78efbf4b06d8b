"""What `wsclient.testing` offers is listed, described, and loaded when it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from wsclient import testing

CLASSES = [name for name in testing.__all__ if inspect.isclass(getattr(testing, name))]


def test_the_list_names_what_is_there_and_dir_shows_it() -> None:
    assert dir(testing) == sorted(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Gatewey'"):
        testing.Gatewey  # noqa: B018


@pytest.mark.parametrize("name", CLASSES)
def test_everything_public_is_described(name: str) -> None:
    thing = getattr(testing, name)
    assert inspect.getdoc(thing), name
    for member, value in vars(thing).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{member}"


def run(program: str) -> str:
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return finished.stdout + finished.stderr


def test_without_the_extra_the_fake_client_works_and_the_gateway_says_what_is_missing() -> None:
    printed = run("""
import sys
sys.modules["aiohttp"] = None
from wsclient.testing import FakeClient, FaultProxy, ScriptedServer
print(FakeClient().complete("Hello").text)
try:
    from wsclient.testing import Gateway
except ImportError as error:
    print(error)
""")

    assert printed.startswith("Hello\n")
    assert "Gateway needs the extra `gateway`" in printed


def test_the_fake_client_loads_no_gateway_no_key_and_no_event_loop() -> None:
    printed = run("""
import sys
from wsclient.testing import FakeClient
FakeClient().complete("Hello")
print([name for name in ("aiohttp", "asyncio", "Crypto", "wsclient.gateway") if name in sys.modules])
""")

    assert printed == "[]\n"
