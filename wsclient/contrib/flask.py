"""wsclient at home in Flask: a client for each application and process, and answers that stream.

    wsclient = FlaskWSClient()

    def create_app():
        app = Flask(__name__)
        app.config.from_prefixed_env()  # FLASK_WSCLIENT_SERVER_URL and so on
        wsclient.init_app(app)
        return app

    @blueprint.post("/chat")
    def chat():
        return stream_response(wsclient.stream(request.json["prompt"]))

What `app.config` can say: every option of `ClientOptions` as `WSCLIENT_` and its name in capitals; `WSCLIENT_CONFIG`,
the file that `wsclient register-client` writes, over which the others win; or, instead of all these, `WSCLIENT_CLIENT`:
a client, such as a `wsclient.testing.FakeClient`, or a function that makes one.

`flask wsclient check` connects and lists the models, or says in one line what is wrong.
"""

from __future__ import annotations

import atexit
import difflib
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import attrs
import click
from flask import Flask, Response, copy_current_request_context, current_app, has_request_context
from flask.cli import AppGroup

from ..cli.failures import describe
from ..client import WSClient
from ..errors import WSClientError
from ..events import GenerationResult, ModelInfo
from ..generation import Generation
from ..generation_options import GenerationKeywords
from ..options import ClientOptions, from_text
from .server_sent_events import HEADERS, HEARTBEAT, EventStream, error_facts

__all__ = ["FlaskWSClient", "error_facts", "stream_response"]

_NAME = "wsclient"
_PREFIX = "WSCLIENT_"


class FlaskWSClient:
    """The extension: one `WSClient` for each application and process, made when it is first used.

    Nothing is connected, and no thread started, before that. Servers that fork after the application was made, as
    gunicorn with `--preload` does, have a connection in each worker. Clients are closed when the process ends.

    Args:
        app: the application, if there is only one; else call `init_app`.

    Raises:
        see `init_app`.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set an application up; reads its configuration, and the file of `WSCLIENT_CONFIG` if there is one.

        Raises:
            RuntimeError: the application has this extension already.
            ValueError, TypeError: an option is wrong or missing; the text names it.
            OSError: the file cannot be read.
        """
        if _NAME in app.extensions:
            raise RuntimeError(
                f"{app.name!r} has this extension already; import that FlaskWSClient instead of a second"
            )
        app.extensions[_NAME] = _Client(_read_config(app.config))
        app.cli.add_command(_commands)

    @property
    def client(self) -> WSClient:
        """The client of the current application; the same one in all threads of a process. Does not block.

        Raises:
            RuntimeError: there is no current application, or `init_app` was not called with it.
            Exception: what the function that is `WSCLIENT_CLIENT` raises.
        """
        return _current().get()

    def connect(self, timeout: float | None = None) -> None:
        """Connect if there is no connection; see `WSClient.connect`.

        While the gateway is away other calls wait for it, up to `WSCLIENT_REQUEST_TIMEOUT`. This one dials at once and
        tells what is wrong: called first, it spares a visitor that wait.
        """
        self.client.connect(timeout)

    def stream(
        self,
        prompt: str,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        **option: Unpack[GenerationKeywords],
    ) -> Generation:
        """Start a generation and return it, for `stream_response` or to iterate its tokens; see `WSClient.stream`."""
        return self.client.stream(prompt, model, options, **option)

    def complete(
        self,
        prompt: str,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        **option: Unpack[GenerationKeywords],
    ) -> GenerationResult:
        """Generate and return the whole result; blocks until it is there; see `WSClient.complete`."""
        return self.client.complete(prompt, model, options, **option)

    def list_models(self) -> list[ModelInfo]:
        """Return the models that the gateway offers; see `WSClient.list_models`."""
        return self.client.list_models()


def stream_response(generation: Generation | Callable[[], Generation], *, heartbeat: float = HEARTBEAT) -> Response:
    """Answer with a generation as Server-Sent Events; `wsclient.contrib.server_sent_events` describes them.

    The generation is stopped on the gateway when the browser leaves: within two heartbeats, as soon as a write fails.

    Args:
        generation: the generation; or a function that begins it, called with the request's context when the answer is
            sent: what goes wrong then is an `error` event, as is what goes wrong later.
        heartbeat: seconds without an event after which a comment is sent.

    Returns:
        The response; its thread is busy until the generation ends.

    Raises:
        ValueError: `heartbeat` is not above 0.
    """
    if not isinstance(generation, Generation) and has_request_context():
        generation = copy_current_request_context(generation)
    return Response(EventStream(generation, heartbeat=heartbeat), headers=HEADERS)


class _Client:
    """The client of one application: what `app.extensions["wsclient"]` is.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], WSClient]) -> None:
        self._make = make
        self._made: dict[str, WSClient] = {}

    def get(self) -> WSClient:
        """Return the client, made at the first call in this process or one that it was forked from."""
        if not self._made:
            # Without a lock: one that was made before gunicorn's gevent worker patches would block all its greenlets.
            # Of two threads that are here at the same time the second throws its own away.
            made = self._make()
            if self._made.setdefault(_NAME, made) is not made:
                made.close()
            _clients.add(self._made[_NAME])
        return self._made[_NAME]


# Weakly: an application that is dropped drops its client, which then closes itself.
_clients: weakref.WeakSet[WSClient] = weakref.WeakSet()


@atexit.register
def _close_clients() -> None:
    for client in list(_clients):
        client.close()


def _current() -> _Client:
    client = current_app.extensions.get(_NAME)
    if not isinstance(client, _Client):
        raise RuntimeError(f"call init_app() of the FlaskWSClient with the application {current_app.name!r} first")
    return client


# --- configuration ----------------------------------------------------------------------------------------------------


def _read_config(config: Mapping[str, Any]) -> Callable[[], WSClient]:
    """Return what makes the client that `app.config` describes."""
    _refuse_misspelt(config)
    given = config.get(f"{_PREFIX}CLIENT")
    if isinstance(given, WSClient):
        return lambda: given
    if given is not None:
        if not callable(given):
            raise TypeError(
                f"{_PREFIX}CLIENT is a WSClient or a function that returns one (got {type(given).__name__})"
            )
        return given  # type: ignore[no-any-return]
    options = _read_options(config)
    return lambda: WSClient.from_options(options)


def _refuse_misspelt(config: Mapping[str, Any]) -> None:
    known = {_PREFIX + field.name.upper() for field in attrs.fields(ClientOptions)}
    known |= {f"{_PREFIX}CONFIG", f"{_PREFIX}CLIENT"}
    for key in config:
        # What resembles none of ours is somebody else's.
        if key.startswith(_PREFIX) and key not in known and (near := difflib.get_close_matches(key, known, 1, 0.85)):
            raise ValueError(f"app.config has no option {key}; did you mean {near[0]}?")


def _read_options(config: Mapping[str, Any]) -> ClientOptions:
    keys = {field.name: _PREFIX + field.name.upper() for field in attrs.fields(ClientOptions)}
    values = {name: _value(name, config[key], key) for name, key in keys.items() if key in config}
    path = config.get(f"{_PREFIX}CONFIG")
    missing = [keys[name] for name in ("server_url", "client_id") if name not in values]
    if missing and not path:
        raise ValueError(f"app.config lacks {' and '.join(missing)}, or {_PREFIX}CONFIG, what register-client wrote")
    try:
        return ClientOptions.from_config(path, **values) if path else ClientOptions(**values)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{error} [from app.config, {_PREFIX}...]") from None


def _value(name: str, value: Any, key: str) -> Any:
    if isinstance(value, str):
        return from_text(name, value, key)
    if isinstance(value, int) and not isinstance(value, bool) and name in ("client_id", "passphrase"):
        # `from_prefixed_env` reads what looks like a number as one.
        return str(value)
    return value


# --- command line -----------------------------------------------------------------------------------------------------

_commands = AppGroup(_NAME, help="Look after the application's WebSocket System client.")


@_commands.command()
def check() -> None:
    """Connect to the gateway and list its models."""
    client = _current().get()
    try:
        client.connect()
        models = ", ".join(model.name for model in client.list_models()) or "none"
    except WSClientError as error:
        raise click.ClickException(describe(error)) from None
    click.echo(f"{', '.join(client._options.server_urls)} knows this client; its models: {models}")
