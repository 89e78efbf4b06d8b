"""Fixtures for tests of `wsclient.testing`: nothing of it outlives a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from wsclient import WSClient
from wsclient.testing import FakeClient, Gateway

from ..end_to_end.conftest import holdings

__all__ = ["MakeClient", "MakeGateway", "holdings"]

MakeClient = Callable[..., WSClient]
MakeGateway = Callable[..., Gateway]


@pytest.fixture
def make_gateway() -> Iterator[MakeGateway]:
    """Starts gateways with the arguments given; they are closed after the test."""
    with ExitStack() as stack:
        yield lambda *answers, **options: stack.enter_context(Gateway(*answers, **options))


@pytest.fixture(params=["gateway", "fake"])
def make_client(request: pytest.FixtureRequest, make_gateway: MakeGateway) -> MakeClient:
    """Makes connected clients with a scripted model: once of a real gateway, once without a network."""

    def make(answers: Any, **options: Any) -> WSClient:
        client = make_gateway(answers, **options).client() if request.param == "gateway" else None
        client = client or FakeClient(answers, **options)
        client.connect()
        return client

    return make
