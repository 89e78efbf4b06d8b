"""Clients of the store, and what its failures mean; imports `redis`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...core.wire_errors import bounded, reason_of
from ..clients_file import RegistryError
from .address import StoreAddress

__all__ = ["TIMEOUT", "check_store", "describe", "make_async_client", "make_client", "telling_failures"]

# Seconds for a connection, and for each answer.
TIMEOUT = 2.0

# What stands at the beginning of the server's own error, what it means, and what to do.
_SERVER_SAYS = (
    (("WRONGPASS", "invalid username-password", "invalid password"), "refuses the user or the password", "check both"),
    (("NOAUTH", "Authentication required"), "asks for a password", "see --store-password-file"),
    (("DB index is out of range", "invalid DB index"), "has no database {db}", "give another number in the URL"),
    (("OOM", "command not allowed when used memory"), "is full", "raise its maxmemory, or give it an instance alone"),
    (("MISCONF",), "cannot save to its disk and takes no changes", "see its log"),
    (("READONLY", "You can't write against a read only"), "is a read-only replica", "give the primary's URL"),
    (("LOADING", "Redis is loading"), "is still loading its data", "try again in a moment"),
    (("MASTERDOWN", "MOVED", "CROSSSLOT", "CLUSTERDOWN"), "is not one whole server", "give a Redis without Cluster"),
)


def _options(address: StoreAddress, timeout: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # RESP2: nothing here needs more, and servers of every age speak it.
        "protocol": 2,
    }
    if address.socket_path is not None:
        return {**options, "unix_socket_path": address.socket_path}
    options |= {"host": address.host, "port": address.port}
    if address.is_encrypted:
        # Said outright: older versions of the package check no names unless they are told.
        options |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, **address.tls_files}
    return options


def make_client(address: StoreAddress, timeout: float = TIMEOUT) -> redis.Redis:
    """Return a client for threads; it connects at its first command.

    A connection that turns out dead is made again once; time-outs are not repeated.
    """
    retry = Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,))
    return redis.Redis(**_options(address, timeout), retry=retry)


def make_async_client(address: StoreAddress, timeout: float = TIMEOUT) -> redis.asyncio.Redis:
    """Return a client for the event loop; it connects at its first command (`make_client`)."""
    retry = AsyncRetry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,))
    return redis.asyncio.Redis(**_options(address, timeout), retry=retry)


def describe(error: Exception, address: StoreAddress) -> str:
    """Return a failure of the store as one line with the next step; it never has the password.

    Args:
        error: of the package or of the system.
        address: which store.
    """
    store = f"the store at {address.shown}"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return f"{store} does not answer within {TIMEOUT:g} s; check that it runs and is a Redis"
    text = str(error).removeprefix("Error running script").lstrip()
    for beginnings, meaning, step in _SERVER_SAYS:
        if text.startswith(beginnings) or any(f"script: {beginning}" in text for beginning in beginnings):
            return f"{store} {meaning.format(db=address.db)}; {step}"
    if isinstance(error, exceptions.NoPermissionError):
        return f"{store} does not let this user do what a gateway does: {bounded(text, 200)}"
    if isinstance(error, exceptions.InvalidResponse) or text.startswith("Protocol Error"):
        return f"{store} is no Redis; check the host and the port"
    for name, path in address.tls_files.items():
        if not os.access(path, os.R_OK):
            # The system's own error does not name it.
            return f"{store} cannot be reached: {path} cannot be read; correct {name} in the URL"
    if isinstance(error, exceptions.ConnectionError | OSError):
        cause = error.__cause__ or error.__context__
        reason = reason_of(cause if isinstance(cause, OSError) else error)
        return f"{store} cannot be reached: {reason}; check that a Redis runs there"
    return f"{store} failed: {bounded(text, 200)}"


@contextmanager
def telling_failures(address: StoreAddress) -> Iterator[None]:
    """Turn failures of the store into `RegistryError`."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise RegistryError(describe(error, address)) from error


def check_store(client: redis.Redis, address: StoreAddress, prefix: str) -> str | None:
    """See that the store answers, and takes what a gateway writes. Blocks up to a few seconds.

    Args:
        client: of the store.
        address: which one it is.
        prefix: what names of keys begin with.

    Returns:
        What is dangerous about it, `None` when nothing is.

    Raises:
        RegistryError: it cannot be used; the text says why and what to do.
    """
    with telling_failures(address):
        client.eval("return redis.call('SET', KEYS[1], '1', 'PX', 1000)", 1, f"{prefix}probe")
        try:
            memory: Any = client.info("memory")
        except exceptions.RedisError:
            # Managed servers hide it from some users.
            return None
    if memory.get("maxmemory") and str(memory.get("maxmemory_policy")).startswith("allkeys-"):
        policy = f"maxmemory-policy {memory['maxmemory_policy']}"
        return f"the store at {address.shown} drops clients when it is full ({policy}); set it to noeviction"
    return None
