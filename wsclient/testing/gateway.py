"""A real gateway for a test, and everything that can go wrong with it, on command.

    with Gateway({"Hello": ["Hi", " there"]}) as gateway:
        client = gateway.client()
        assert client.complete("Hello").text == "Hi there"
        assert gateway.requests[0].prompt == "Hello"

        gateway.busy()
        with pytest.raises(ServerBusyError):
            client.complete("Hello")

Server, login, WebSocket and client are the real ones; only the model is scripted, or small and built in.
"""

from __future__ import annotations

import json
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ..client import WSClient
from ..gateway.backends import Backend
from ..gateway.backends.builtin import BuiltinBackend
from ..gateway.registry import ClientRegistry, RegisteredClient
from ..gateway.settings import GatewaySettings
from ..gateway.thread import GatewayThread
from ..keys import generate_key, public_pem, save_key_pair
from .answers import Answers, Request, Script
from .fault_proxy import FaultProxy
from .model import ScriptedModel, WatchedModel

__all__ = ["Gateway"]

# No first byte of a frame (all reserved bits are set) and no UTF-8: wrong wherever it is read.
_GARBAGE = b"\xff" * 64
_NAME = "test-client"
# How long a client may take to notice that its connection ended; a loaded machine needs a moment.
_NOTICED_WITHIN = 5.0
# Short, so that a client is back before anybody looks at a clock.
_CLIENT_DEFAULTS = {"reconnect_delay": 0.05}


class _Registry(ClientRegistry):
    """The clients file, which can be told to know nobody: who is logged in stays so."""

    knows_nobody = False

    def get(self, client_id: str) -> RegisteredClient | None:
        """Return the client with an id, unless nobody is known."""
        return None if self.knows_nobody else super().get(client_id)


class Gateway:
    """A gateway on a free port of this machine, with one registered client; a context manager, also usable once as
    `start()` and `close()`.

    It runs in threads of its own, in front of it a line that can fail. Nothing outside of a temporary folder is read
    or written. Faults last until `heal()` unless they are over at once; those that end connections return when the
    clients that `client()` made have noticed. Use it from any thread.

    Args:
        answers: what the model says, by prompt; see `wsclient.testing.answers`. Left out, the built-in model writes:
            other text with every `seed`, the same with the same, ending at `max_tokens`.
        models: the models that `answers` come from; others are refused. Left out, any name is taken.
        model: another model, instead of `answers`: a function that answers a `Request`, or a backend of
            `wsclient.gateway`.
        **settings: of the gateway, see `GatewaySettings`.

    Raises:
        TypeError: an answer is none, or these arguments do not go together.
        ValueError: a setting is wrong.

    Attributes:
        client_id: the registered client's id.
        private_key: its private key, PEM text (EC, P-256).
        private_key_path: the file that has it.
        config_path: a file for `WSClient.from_config`.
        requests: the generations that were asked for, in order.
    """

    def __init__(
        self,
        answers: Answers | None = None,
        *,
        models: Iterable[str | Mapping[str, Any]] | None = None,
        model: Backend | Callable[[Request], Any] | None = None,
        **settings: Any,
    ) -> None:
        if answers is not None and model is not None:
            raise TypeError("give answers or a model, not both")
        backend: Any = model
        if answers is not None or (callable(model) and not hasattr(model, "list_models")):
            script = Script(model if answers is None else answers, models)  # type: ignore[arg-type]
            settings.setdefault("default_model", script.default_model)
            backend = ScriptedModel(script)
        elif models is not None:
            raise TypeError("models go with answers, or with a function as the model")
        elif model is None:
            settings.setdefault("default_model", "builtin")
            backend = BuiltinBackend()
        self._backend = backend
        self._model = WatchedModel(backend)
        self.requests: list[Request] = self._model.requests
        self._folder = tempfile.TemporaryDirectory(prefix="wsclient-testing-")
        self._registry = _Registry(Path(self._folder.name) / "authorized_clients.json")
        try:
            # Wrong logins are counted as ever, but no test has to sit out a block of 16 seconds.
            given = {"port": 0, "data_dir": self._folder.name, "max_auth_attempts": 1000, "drain": 0.0, **settings}
            self._thread = GatewayThread(GatewaySettings(**given), self._model, self._registry)
            self._make_client_files()
        except BaseException:
            self._folder.cleanup()
            raise
        self._proxy: FaultProxy | None = None
        self._runs = False
        # Weakly: a client that the code under test drops closes itself, as ever.
        self._clients: weakref.WeakSet[WSClient] = weakref.WeakSet()

    def _make_client_files(self) -> None:
        key = generate_key("ec")
        paths = save_key_pair(key, self._folder.name, _NAME)
        self.private_key_path = str(paths.private)
        self.private_key = paths.private.read_text(encoding="ascii")
        self.client_id = self._registry.register(_NAME, public_pem(key)).id
        self.config_path = str(Path(self._folder.name) / f"{_NAME}_config.json")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        # A failing test says more than the function of its that failed before.
        faults = getattr(self._backend, "faults", [])
        if faults and kind is None:
            raise faults[0]

    def close(self) -> None:
        """Close the clients and end the gateway; nothing is left of it. Blocks for a moment; idempotent."""
        for client in list(self._clients):
            client.close()
        self._thread.stop()
        self._runs = False
        if self._proxy is not None:
            self._proxy.close()
        self._folder.cleanup()

    # --- for clients --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients connect; it stays the same when the gateway is stopped and started.

        Raises:
            RuntimeError: it was never started.
        """
        if self._proxy is None:
            raise RuntimeError("the gateway was not started; use it in a with statement")
        return f"ws://127.0.0.1:{self._proxy.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables for `WSClient.from_env`."""
        return {
            "WSCLIENT_SERVER_URL": self.url,
            "WSCLIENT_CLIENT_ID": self.client_id,
            "WSCLIENT_PRIVATE_KEY_PATH": self.private_key_path,
        }

    def client(self, **options: Any) -> WSClient:
        """Return a new client of this gateway, not connected yet; it is closed with the gateway.

        Args:
            **options: see `WSClient`; `reconnect_delay` is 0.05 s unless given.
        """
        given = {"client_id": self.client_id, "private_key_path": self.private_key_path, **_CLIENT_DEFAULTS, **options}
        client = WSClient(self.url, **given)
        self._clients.add(client)
        return client

    # --- what it does -------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many clients are connected and logged in now."""
        return self._thread.gateway.stats().clients if self._runs else 0

    @property
    def generations(self) -> int:
        """How many generations the model is writing now."""
        return sum(request.outcome is None for request in self.requests)

    def wait_idle(self, timeout: float = 5.0) -> None:
        """Wait until no generation runs: what was stopped or left ends a moment later on the server.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: generations still run then.
        """
        deadline = time.monotonic() + timeout
        while self.generations:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self.generations} generations still run after {timeout:g} s")
            time.sleep(0.005)

    # --- up and down --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and return when it takes connections; does nothing when it runs.

        Clients that lost it come back by themselves (`auto_reconnect`), on their own schedule.

        Raises:
            GatewayError: it cannot start.
        """
        if self._runs:
            return
        self._thread.start()
        self._runs = True
        if self._proxy is None:
            self._proxy = FaultProxy(self._thread.port)
            self._write_config()
        else:
            self._proxy.accept()

    def stop(self) -> None:
        """Take it down: connections end, and new ones are refused until `start()`.

        Clients: what is under way raises `ConnectionLostError`; `connect()`, and requests without `auto_reconnect`,
        raise `ConnectionFailedError`; with it requests wait for the server to come back, up to their deadline
        (`RequestTimeoutError`, `ConnectionTimeoutError`) or the last attempt (`ReconnectFailedError`).
        """
        with self._noticed():
            self._runs = False
            if self._proxy is not None:
                self._proxy.refuse()
            self._thread.stop()
            if self._proxy is not None:
                # What the gateway said last may be stalled or late.
                self._proxy.cut()

    def _write_config(self) -> None:
        config = {
            "clientId": self.client_id,
            "name": _NAME,
            "privateKeyPath": self.private_key_path,
            "serverUrl": self.url,
            "signatureAlgorithm": "SHA256",
        }
        Path(self.config_path).write_text(json.dumps(config), encoding="utf-8")

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Wait, after a fault that ends connections, until our clients know: a request must not meet a dead line."""
        before = [(client, client.stats()) for client in list(self._clients)]
        yield
        deadline = time.monotonic() + _NOTICED_WITHIN
        for client, stats in before:
            while client.is_ready() and client.stats().connects == stats.connects and time.monotonic() < deadline:
                time.sleep(0.002)

    # --- faults of the line -------------------------------------------------------------------------------------------

    def drop(self, *, reset: bool = False) -> None:
        """Cut all connections, once: the network goes away for a moment.

        Clients: what is under way raises `ConnectionLostError` with the text so far; they reconnect by themselves.

        Args:
            reset: cut with RST, as a router that forgot the connection does, instead of FIN.
        """
        with self._noticed():
            self._line.cut(reset=reset)

    def stall(self) -> None:
        """Let nothing through any more and tell nobody: a pulled cable. `resume()` or `heal()` ends it.

        Clients: after `ping_interval` + `pong_timeout` the line is given up, and what is under way raises
        `ConnectionLostError`; before that a request raises `RequestTimeoutError` at its deadline. New connections raise
        `ConnectionTimeoutError`.
        """
        self._line.stall()

    def resume(self) -> None:
        """End a stall: what was held back goes through, nothing is lost."""
        self._line.resume()

    def delay(self, seconds: float) -> None:
        """Let everything through later: a slow line. 0 ends it.

        Clients: an error only when it exceeds a deadline of theirs, as for `stall`.

        Args:
            seconds: for each direction; an answer takes twice as long.
        """
        self._line.delay(seconds)

    def garbage(self) -> None:
        """Send clients bytes that break the protocol, once: a broken proxy in between, or a bug of the server's.

        Clients: what is under way raises `ProtocolError` with the text so far; they reconnect by themselves.
        """
        with self._noticed():
            self._line.inject(_GARBAGE)

    # --- faults of the server -----------------------------------------------------------------------------------------

    def wrong_login(self) -> None:
        """Refuse the logins to come, as if the client were not registered; who is logged in stays so (see `drop`).

        Clients: `connect()` raises `InvalidAuthError`, the status is `auth_failed`, and until a `connect()` that
        succeeds so does each request; nothing is tried again by itself, not even after `heal()`.
        """
        self._registry.knows_nobody = True

    def busy(self) -> None:
        """Have the model server take no generations: each raises `ServerBusyError`, which is `retryable`."""
        self._model.is_busy = True

    def heal(self) -> None:
        """End all faults, and start it if it is stopped."""
        self._registry.knows_nobody = False
        self._model.is_busy = False
        self.start()
        self._line.heal()

    @property
    def _line(self) -> FaultProxy:
        if self._proxy is None:
            raise RuntimeError("the gateway was not started; use it in a with statement")
        return self._proxy
