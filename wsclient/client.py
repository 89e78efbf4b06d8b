"""WSClient: the door. It has no logic of its own: it checks arguments, and asks the connection."""

from __future__ import annotations

import os
import ssl
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from .connection import Connection
from .core.messages import BatchMessage, ModelsMessage, PingMessage, StopMessage
from .core.requests import RequestKind
from .dispatcher import Callbacks, EventKind
from .events import (
    ClientStats,
    ConnectionStatus,
    ErrorEvent,
    GenerationEndEvent,
    GenerationResult,
    GenerationStartEvent,
    ModelInfo,
    TokenEvent,
)
from .generation import Batch, Generation
from .generation_options import GenerationKeywords
from .ids import new_id, timestamp
from .models import read_models
from .options import ClientOptions
from .outgoing import Outgoing, RequestMessage, plan_batch, plan_generation
from .watchdog import Abandon, CloseDown

__all__ = ["WSClient"]

Unsubscribe = Callable[[], None]


class WSClient:
    """A client of a WebSocket System gateway; any number of threads may use one.

    It makes no connection before it is told to, by `connect()`, `with`, `auto_connect=True` or the first request.
    Dropping the last reference closes it.

    Args:
        server_url: the gateway, `wss://host` (`ws://` only to this machine unless `allow_insecure`), or several
            addresses of one system, tried in order.
        client_id: the id that registering the client gave.
        private_key_path: the PEM file of the registered key pair's private half.
        signature_algorithm, auto_reconnect, reconnect_delay, ping_interval, request_timeout, auto_connect,
        private_key, passphrase, max_reconnect_attempts, max_reconnect_delay, pong_timeout, connect_timeout,
        auth_timeout, max_message_size, max_unread_bytes, ssl_context, headers, proxy, allow_insecure,
        allow_readable_key: see `ClientOptions`; times are seconds, sizes are bytes.

    Raises:
        ValueError, TypeError: an option is wrong.
        InvalidKeyError: with `auto_connect`, the key cannot be used.
    """

    def __init__(
        self,
        server_url: str | Sequence[str],
        *,
        client_id: str,
        private_key_path: str | os.PathLike[str] | None = None,
        signature_algorithm: str = "RSA-SHA256",
        auto_reconnect: bool = True,
        reconnect_delay: float = 1.0,
        ping_interval: float = 30.0,
        request_timeout: float = 60.0,
        auto_connect: bool = False,
        private_key: Any = None,
        passphrase: str | bytes | Callable[[], str | bytes] | None = None,
        max_reconnect_attempts: int | None = 10,
        max_reconnect_delay: float = 30.0,
        pong_timeout: float = 10.0,
        connect_timeout: float = 10.0,
        auth_timeout: float = 10.0,
        max_message_size: int = 64 * 1024 * 1024,
        max_unread_bytes: int = 64 * 1024 * 1024,
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        allow_insecure: bool = False,
        allow_readable_key: bool = False,
    ) -> None:
        options = ClientOptions(
            server_url=server_url,
            client_id=client_id,
            private_key_path=private_key_path,
            signature_algorithm=signature_algorithm,
            auto_reconnect=auto_reconnect,
            reconnect_delay=reconnect_delay,
            ping_interval=ping_interval,
            request_timeout=request_timeout,
            auto_connect=auto_connect,
            private_key=private_key,
            passphrase=passphrase,
            max_reconnect_attempts=max_reconnect_attempts,
            max_reconnect_delay=max_reconnect_delay,
            pong_timeout=pong_timeout,
            connect_timeout=connect_timeout,
            auth_timeout=auth_timeout,
            max_message_size=max_message_size,
            max_unread_bytes=max_unread_bytes,
            ssl_context=ssl_context,
            headers={} if headers is None else headers,
            proxy=proxy,
            allow_insecure=allow_insecure,
            allow_readable_key=allow_readable_key,
        )
        self._open(options)

    def _open(self, options: ClientOptions) -> None:
        self._options = options
        self._callbacks = Callbacks(options.client_id[:8])
        self._connection = Connection(options, self._callbacks)
        if options.auto_connect:
            self._connection.start_in_background()

    @classmethod
    def from_options(cls, options: ClientOptions) -> WSClient:
        """Make a client from options that were made before.

        Raises:
            InvalidKeyError: with `auto_connect`, the key cannot be used.
        """
        client = cls.__new__(cls)
        client._open(options)
        return client

    @classmethod
    def from_env(cls, **options: Any) -> WSClient:
        """Make a client from `WSCLIENT_SERVER_URL`, `WSCLIENT_CLIENT_ID`, `WSCLIENT_PRIVATE_KEY_PATH` and so on.

        Args:
            **options: options that win over the environment.

        Raises:
            ValueError, TypeError: an option is wrong or missing; the text names the variable.
            InvalidKeyError: with `auto_connect`, the key cannot be used.
        """
        return cls.from_options(ClientOptions.from_env(**options))

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **options: Any) -> WSClient:
        """Make a client from the JSON file that `wsclient register-client` writes.

        Args:
            path: the file.
            **options: options that win over the file.

        Raises:
            OSError: the file cannot be read.
            ValueError, TypeError: it is not such a file, or an option is wrong.
            InvalidKeyError: with `auto_connect`, the key cannot be used.
        """
        return cls.from_options(ClientOptions.from_config(path, **options))

    # --- connection ---------------------------------------------------------------------------------------------------

    def connect(self, timeout: float | None = None) -> None:
        """Connect and log in; returns at once when that is so already.

        Blocks until the login is through or the attempt failed. A second caller waits for the first one's attempt;
        during a backoff pause it dials at once. It also opens a closed client again.

        Args:
            timeout: seconds in all; when left out, `connect_timeout` + 2 x `auth_timeout` at each address.

        Raises:
            ConnectionFailedError: refused, unknown host, TLS, or an HTTP answer other than 101.
            ConnectionTimeoutError, ChallengeTimeoutError, AuthTimeoutError: a step took too long.
            ConnectionLostError, ProtocolError: the server hung up, or is no WebSocket System gateway.
            InvalidAuthError, RateLimitedError: the server refuses the login.
            InvalidKeyError: the key cannot be used.
            ClientClosedError: the client was closed meanwhile.
        """
        self._connection.connect(timeout)

    def disconnect(self) -> None:
        """Close the connection and end all threads; the same as `close()`.

        From any thread, callbacks included; idempotent; returns within about 2 s. Events received before it are
        delivered, every waiting call gets `ClientClosedError`, and so do requests after it until `connect()`. What
        still runs is stopped on the server. In a signal handler or finalizer that interrupted a call of this library
        it returns at once, and the watchdog thread closes the client.
        """
        self._connection.close()

    def close(self) -> None:
        """Close the connection and end all threads; see `disconnect()`."""
        self._connection.close()

    def __enter__(self) -> WSClient:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A note is all a finalizer may leave; not there when __init__ itself failed.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.watchdog.note(CloseDown())

    @property
    def status(self) -> ConnectionStatus:
        """Where the connection stands, one of the seed's seven statuses."""
        return self._connection.status

    def get_status(self) -> ConnectionStatus:
        """Return where the connection stands; the same as `status`."""
        return self._connection.status

    def is_ready(self) -> bool:
        """Return whether the client is connected and logged in."""
        return self._connection.status is ConnectionStatus.AUTHENTICATED

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the client is logged in, without starting an attempt.

        Args:
            timeout: seconds; for ever when left out.

        Returns:
            Whether it is; `False` also when all attempts failed or the client was closed.
        """
        return self._connection.wait_ready(timeout)

    @property
    def latency(self) -> float | None:
        """The last ping's round trip in seconds, `None` before the first."""
        return self._connection.latency

    # --- generating ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        **option: Unpack[GenerationKeywords],
    ) -> str:
        """Start a generation whose events go to the `on_*` callbacks.

        Blocks until its frame is sent, connecting first when there is no connection; `request_timeout` at most. A
        handler that this thread subscribes right after it misses nothing.

        Args:
            prompt: the text to generate from.
            model: the model's name; the server's default when left out.
            options: options by name; unknown ones are passed on to the server.
            **option: options as keywords: `temperature`, `top_p`, `top_k`, `max_tokens`, `seed`, `stop`, `system`,
                `format`, `images`, `keep_alive`, `think`, and the deadlines in seconds `first_token_timeout`,
                `token_timeout`, `timeout`.

        Returns:
            The generation's id.

        Raises:
            TypeError, ValueError: an argument is wrong.
            WSClientError: it could not be sent; see `connect` for why there may be no connection.
        """
        listener: weakref.ref[Any] = weakref.ref(self._callbacks)
        outgoing = plan_generation(prompt, model, options, option, self._options, keeps_tokens=False, listener=listener)
        self._callbacks.record(outgoing.request.id)
        self._send([outgoing], outgoing.message)
        return outgoing.request.id

    def stream(
        self,
        prompt: str,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        **option: Unpack[GenerationKeywords],
    ) -> Generation:
        """Start a generation and return it, to iterate its tokens.

        Blocks until its frame is sent; arguments and errors as `generate`.

        Returns:
            The generation under way; leaving a loop over it stops it.
        """
        return self._generate(plan_generation(prompt, model, options, option, self._options, keeps_tokens=True))

    def complete(
        self,
        prompt: str,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        **option: Unpack[GenerationKeywords],
    ) -> GenerationResult:
        """Generate and return the whole result; blocks until it is there, bounded by the deadlines among the options.

        Ctrl-C stops the generation. Arguments as `generate`.

        Raises:
            TypeError, ValueError: an argument is wrong.
            WSClientError: it failed; `text` has what came before.
        """
        outgoing = plan_generation(prompt, model, options, option, self._options, keeps_tokens=False)
        return self._generate(outgoing).result()

    def _generate(self, outgoing: Outgoing) -> Generation:
        # Made before anything is sent: a Ctrl-C at any moment after that drops it, and that stops the generation.
        generation = self._hand_out(outgoing)
        self._send([outgoing], outgoing.message)
        return generation

    def _hand_out(self, outgoing: Outgoing) -> Generation:
        connection = self._connection
        return Generation(self, outgoing.request.sink, lambda id: connection.watchdog.note(Abandon(id)))

    def _send(self, outgoing: list[Outgoing], message: BatchMessage | RequestMessage) -> None:
        deadline = time.monotonic() + self._options.request_timeout
        self._connection.send([item.request for item in outgoing], message.encode(timestamp()), deadline)

    def stop_generation(self, generation: str | Generation) -> bool:
        """Stop a generation and wait for the server's acknowledgement, `request_timeout` at most.

        Args:
            generation: the generation, or its id.

        Returns:
            Whether it was still running; `False` for one that is unknown or finished.

        Raises:
            TypeError: the argument is neither.
            WSClientError: no connection, or no answer.
        """
        target = generation.id if isinstance(generation, Generation) else generation
        if isinstance(generation, Generation) and generation.is_done:
            # The server need not be asked, and there may not even be a connection any more.
            return False
        if not isinstance(target, str):
            raise TypeError(f"stop_generation takes a generation or its id (got {type(target).__name__})")
        id = new_id("stop")
        message = StopMessage(id=id, request_id=target)
        return bool(self._request(RequestKind.STOP, message.encode(timestamp()), id))

    # --- other requests -----------------------------------------------------------------------------------------------

    def list_models(self) -> list[ModelInfo]:
        """Return the models that the server offers; blocks for `request_timeout` at most.

        Raises:
            WSClientError: no connection, no answer in time, or the server's error.
        """
        id = new_id("models")
        return read_models(self._request(RequestKind.MODELS, ModelsMessage(id=id).encode(timestamp()), id))

    def ping(self) -> float:
        """Send a ping and return its round trip in seconds; blocks for `request_timeout` at most.

        Raises:
            WSClientError: no connection, or no answer in time.
        """
        id = new_id("ping")
        return float(self._request(RequestKind.PING, PingMessage(id=id).encode(timestamp()), id))

    def send_batch(self, messages: Sequence[Mapping[str, Any]]) -> Batch:
        """Send several requests in one frame; the server works through them one after the other.

        Blocks until the frame is sent. An item's clock starts when the one before it ended; an item's failure leaves
        the others alone.

        Args:
            messages: mappings with a `type`: `{"type": "generate", "prompt": ..., "model": ..., "options": {...}}`,
                `{"type": "models"}`, `{"type": "ping"}` or `{"type": "stop", "id": ...}`.

        Returns:
            One handle an item, in order: a `Generation`, or a `Reply` with `.result()`.

        Raises:
            TypeError, ValueError: an item is wrong; the text names its index.
            WSClientError: the frame could not be sent.
        """
        plan = plan_batch(messages, self._options)
        handles = [item.reply if item.reply is not None else self._hand_out(item) for item in plan]
        self._send(plan, BatchMessage(id=new_id("batch"), messages=[item.message.to_wire() for item in plan]))
        return Batch(handles)

    def _request(self, kind: RequestKind, text: str, id: str) -> Any:
        return self._connection.request(kind, text, id, self._options.request_timeout)

    # --- events -------------------------------------------------------------------------------------------------------

    def on_connection_change(self, callback: Callable[[ConnectionStatus], object]) -> Unsubscribe:
        """Call a function with every new status.

        Callbacks of all kinds run in order on one dispatcher thread, with no library lock held; an exception in one
        is logged. Calls of this client that block work inside them.

        Args:
            callback: called with the status.

        Returns:
            A function that unsubscribes.

        Raises:
            TypeError: the callback cannot be called.
        """
        return self._callbacks.subscribe(EventKind.CONNECTION_CHANGE, callback)

    def on_token(self, callback: Callable[[TokenEvent], object]) -> Unsubscribe:
        """Call a function with every token of `generate()`; see `on_connection_change` for how."""
        return self._callbacks.subscribe(EventKind.TOKEN, callback)

    def on_generation_start(self, callback: Callable[[GenerationStartEvent], object]) -> Unsubscribe:
        """Call a function when a `generate()` was accepted; see `on_connection_change` for how."""
        return self._callbacks.subscribe(EventKind.GENERATION_START, callback)

    def on_generation_end(self, callback: Callable[[GenerationEndEvent], object]) -> Unsubscribe:
        """Call a function when a `generate()` ended, complete or cancelled; see `on_connection_change` for how."""
        return self._callbacks.subscribe(EventKind.GENERATION_END, callback)

    def on_error(self, callback: Callable[[ErrorEvent], object]) -> Unsubscribe:
        """Call a function with the errors that no call raises; see `on_connection_change` for how.

        These are a `generate()` that failed, a lost connection, attempts that were given up, and errors that the
        server sent without saying which request they belong to.
        """
        return self._callbacks.subscribe(EventKind.ERROR, callback)

    def stats(self) -> ClientStats:
        """Return a frozen snapshot of the counters; does not block."""
        return self._connection.stats()

    def __repr__(self) -> str:
        return f"<WSClient {self._options.server_url} client_id={self._options.client_id!r} {self.status}>"

    def __reduce__(self) -> Any:
        raise TypeError("a WSClient cannot be pickled: it holds a live connection; make one in each process instead")
