"""Fixtures for tests of the store: registries in a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from wsclient.gateway.store.address import StoreAddress
from wsclient.gateway.store.registry import StoreRegistry

from ...support.redis_server import RedisServer

OpenRegistry = Callable[..., StoreRegistry]


@pytest.fixture
def open_registry(redis_server: RedisServer) -> Iterator[OpenRegistry]:
    """Makes registries in the same store, each as another process would have it; they are closed after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> StoreRegistry:
            registry = StoreRegistry(StoreAddress.parse(redis_server.url), **options)
            return stack.enter_context(closing(registry))

        yield make


@pytest.fixture
def registry(open_registry: OpenRegistry) -> StoreRegistry:
    """A registry in the store."""
    return open_registry()
