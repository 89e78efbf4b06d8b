"""Fixtures for pytest, there wherever wsclient is installed; nothing is loaded until a test uses one.

    @pytest.mark.wsclient_answers({"Hello": "Hi there"})
    def test_greeting(ws_client):
        assert greet(ws_client) == "Hi there"

- `wsclient_gateway`: a `Gateway` of the test's own, with the built-in model unless answers are given.
- `ws_client`: a client that is connected to it.
- `wsclient_env`: the same gateway, and `WSCLIENT_*` set, for code that calls `WSClient.from_env()`.
- `fake_ws_client`: a `FakeClient`.
- `wsclient_answers`: what the model says, for all of these. Override it for a module or a folder; the marker of the
  same name wins for one test, and takes `models=[...]` as well. A function is written `wsclient_answers(answers=say)`:
  pytest takes one that stands alone for the test.

`pytest -p no:wsclient` does without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..client import WSClient
    from .fake_client import FakeClient
    from .gateway import Gateway

_MARKER = "wsclient_answers"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    text = "what the model of wsclient's fixtures says, see wsclient.testing.pytest_plugin"
    config.addinivalue_line("markers", f"{_MARKER}(answers, models=None): {text}")


@pytest.fixture
def wsclient_answers() -> Any:
    """What the model says, by prompt (see `wsclient.testing.answers`); override it to script the model."""
    return None


@pytest.fixture
def wsclient_gateway(request: pytest.FixtureRequest, wsclient_answers: Any) -> Iterator[Gateway]:
    """A real WebSocket System gateway that runs for this test, with faults on command."""
    from . import Gateway

    arguments, keywords = _script(request, wsclient_answers)
    with Gateway(*arguments, **keywords) as gateway:
        yield gateway


@pytest.fixture
def ws_client(wsclient_gateway: Gateway) -> WSClient:
    """A WSClient that is connected to `wsclient_gateway`; closed after the test."""
    client = wsclient_gateway.client()
    client.connect()
    return client


@pytest.fixture
def wsclient_env(wsclient_gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """`wsclient_gateway`, to which `WSClient.from_env()` leads during this test."""
    for name, value in wsclient_gateway.environment.items():
        monkeypatch.setenv(name, value)
    return wsclient_gateway


@pytest.fixture
def fake_ws_client(request: pytest.FixtureRequest, wsclient_answers: Any) -> FakeClient:
    """A WSClient without a network, connected; it says the prompt unless answers are given."""
    from . import FakeClient

    arguments, keywords = _script(request, wsclient_answers)
    client = FakeClient(*arguments, **keywords)
    client.connect()
    client.calls.clear()
    return client


def _script(request: pytest.FixtureRequest, answers: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    marker = request.node.get_closest_marker(_MARKER)
    return ((answers,), {}) if marker is None else (marker.args, dict(marker.kwargs))
