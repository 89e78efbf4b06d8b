"""A client without a network: the real `WSClient`, whose connection leads to a script instead of a socket.

    client = FakeClient({"Hello": ["Hi", " there"]})
    assert my_code(client) == "Hi there"
    assert client.calls == [Call("complete", {"prompt": "Hello", "temperature": 0.7})]

Arguments are checked, errors are raised and statuses change as ever. What is different:

- No thread: the model writes when somebody reads. Each token is made when a loop, `result()` or `complete()` asks for
  it, so a generation that is stopped, left or dropped in the middle has exactly the text that was read. Whoever asks
  `is_done` again and again, without reading, has it write on.
- Callbacks run in the thread that makes them due: those of `generate()` before it returns, those of a `generate()`
  inside a callback after that one, and events that were missed when a handler subscribes. An answer that never ends
  needs a handler that stops it.
- No clock: deadlines do not pass. `RequestTimeoutError` can be an answer, as any error can.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import attrs

from ..client import WSClient
from ..errors import WSClientError
from ..generation import Generation
from ..options import ClientOptions
from ..outgoing import Outgoing
from .answers import Answers, Request, Script, echo
from .fake_callbacks import FakeCallbacks
from .fake_connection import FakeConnection, FakeFeed

__all__ = ["Call", "FakeClient"]

_RECORDED = (
    "connect",
    "disconnect",
    "close",
    "generate",
    "stream",
    "complete",
    "stop_generation",
    "list_models",
    "ping",
    "send_batch",
)


@attrs.frozen
class Call:
    """A call of a `FakeClient`'s method.

    Attributes:
        method: its name.
        arguments: those that were given, by name.
    """

    method: str
    arguments: dict[str, Any] = attrs.field(factory=dict)


class FakeClient(WSClient):
    """A `WSClient` without a network, a thread or a server; see the module's text for what is different.

    To have code use it that makes a client itself: `monkeypatch.setattr("my_code.WSClient", lambda *_, **__: fake)`.

    Args:
        answers: what the model says, by prompt; see `wsclient.testing.answers`. Left out, it says the prompt.
        models: what `list_models()` returns, names or Ollama's objects; others are refused with `model_not_found`. Left
            out, any name is taken.
        connect_error: see below.
        **options: see `ClientOptions`; none is needed.

    Raises:
        TypeError: an answer is none.
        ValueError, TypeError: an option is wrong.

    Attributes:
        calls: what was called, in order; questions about the status and subscriptions are left out.
        requests: the generations that were asked for, in order, items of batches too.
    """

    calls: list[Call]
    requests: list[Request]

    def __init__(
        self,
        answers: Answers | None = None,
        *,
        models: Iterable[str | Mapping[str, Any]] | None = None,
        connect_error: WSClientError | type[WSClientError] | None = None,
        **options: Any,
    ) -> None:
        given: dict[str, Any] = {"server_url": "ws://localhost", "client_id": "fake-client", **options}
        if "private_key_path" not in given:
            given.setdefault("private_key", _sign)
        self._open(ClientOptions(**given), Script(echo if answers is None else answers, models), connect_error)

    def _open(
        self,
        options: ClientOptions,
        script: Script | None = None,
        connect_error: WSClientError | type[WSClientError] | None = None,
    ) -> None:
        self._options = options
        callbacks = FakeCallbacks(options.client_id[:8])
        self._callbacks = callbacks
        self._fake = FakeConnection(options, callbacks, script or Script(echo))
        self._fake.connect_error = connect_error
        # The connection's public face is all that the real client uses of it.
        self._connection = cast(Any, self._fake)
        self.calls = []
        self.requests = self._fake.asked
        if options.auto_connect:
            self._fake.start_in_background()

    def _hand_out(self, outgoing: Outgoing) -> Generation:
        outgoing.request.sink = FakeFeed(outgoing.request.sink, self._options.max_unread_bytes)
        return super()._hand_out(outgoing)

    @property
    def connect_error(self) -> WSClientError | type[WSClientError] | None:
        """What connecting raises, in `connect()` and in requests without a connection; `None` when it succeeds."""
        return self._fake.connect_error

    @connect_error.setter
    def connect_error(self, error: WSClientError | type[WSClientError] | None) -> None:
        self._fake.connect_error = error

    def drop(self) -> None:
        """Lose the connection, as when the network goes away for a moment.

        What is under way raises `ConnectionLostError` with the text so far. With `auto_reconnect` the client is
        connected again when this returns, unless there is a `connect_error`.
        """
        self._fake.drop()

    def __repr__(self) -> str:
        return f"<FakeClient {self.status}, {len(self.requests)} generations asked for>"


def _sign(challenge: bytes) -> bytes:
    """Stand in for a private key."""
    raise AssertionError("a FakeClient signs nothing")


def _recorded(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: FakeClient, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        del arguments["self"]
        keywords = arguments.pop("option", {})
        self.calls.append(Call(method.__name__, {**arguments, **keywords}))
        return method(self, *args, **kwargs)

    return call


for _name in _RECORDED:
    setattr(FakeClient, _name, _recorded(getattr(WSClient, _name)))
