"""The current line: the session, the transport under it, and the one lock.

Everything that happens goes the same way: under the lock the session decides and says what to do; after the lock is
released it is done (`_perform`), so that user code and socket calls never run under it. Only status events are queued
inside, because their order is the order of the decisions.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
import weakref
from concurrent.futures import Future
from typing import Any

from .core.actions import (
    Action,
    Dial,
    EndLine,
    Probe,
    Ready,
    Sign,
    StatusChanged,
    StopOnServer,
    StrayError,
)
from .core.auth import Signer, make_signer, sign_challenge
from .core.backoff import Backoff
from .core.messages import AuthenticateMessage, PingMessage, StopMessage, StreamEndMessage
from .core.requests import OpenRequest, RequestKind
from .core.session import Session, SessionTimes
from .delivery import LoginWaiter, LoginWaiters, deliver, tell
from .dispatcher import Callbacks, EventKind
from .errors import (
    ClientClosedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    MessageTooBigError,
    RequestTimeoutError,
    SlowConsumerError,
    WSClientError,
)
from .events import ClientStats, ConnectionStatus
from .generation import GenerationFeed, wait_for
from .keys import load_private_key
from .options import ClientOptions
from .reader import Reader
from .transport import CLOSE, TEXT, Transport
from .watchdog import Wake, Watchdog

__all__ = ["Connection", "new_id", "timestamp"]

_logger = logging.getLogger("wsclient.connection")

# The original server dies of a message over 100 MiB (protocol.md section 2); a server that names its limit is believed.
_MAX_SENT_BYTES = 100 * 1024 * 1024

# How long a close waits for the server's half of the close handshake, and for threads after that; within 2 s in all.
_CLOSE_HANDSHAKE = 0.5
_CLOSE_THREADS = 0.7


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed: the original keeps all clients' generation ids in one map."""
    return f"{prefix}_{secrets.token_hex(16)}"


def timestamp() -> int:
    """Return the wire's timestamp: epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Connection:
    """What a client is behind its door. The threads hold this object and never the client itself.

    Args:
        options: the client's options.
        callbacks: the client's subscriptions; held weakly.
    """

    def __init__(self, options: ClientOptions, callbacks: Callbacks) -> None:
        self._options = options
        self._callbacks = weakref.ref(callbacks)
        self._signer: Signer | None = None
        self._number = 0
        # The one lock: it guards the session, the current reader, the waiters and the watchdog's plan. Taken inside
        # it: the callbacks' lock (to queue status events), nothing else.
        self._lock = threading.Lock()
        times = SessionTimes(
            connect_timeout=options.connect_timeout,
            auth_timeout=options.auth_timeout,
            ping_interval=options.ping_interval,
            pong_timeout=options.pong_timeout,
        )
        backoff = Backoff(
            options.reconnect_delay, options.max_reconnect_delay, options.max_reconnect_attempts, random.random
        )
        self._session = Session(times, backoff, auto_reconnect=options.auto_reconnect)
        self.watchdog = Watchdog(options.client_id[:8])
        self._reader: Reader | None = None
        self._waiters = LoginWaiters()
        self._is_closed = False
        self._messages_sent = 0
        # Bytes of connections that ended; the current one counts for itself.
        self._past_bytes_received = 0
        self._past_bytes_sent = 0

    # --- connecting ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> ConnectionStatus:
        """Where the connection stands."""
        return self._session.status

    @property
    def latency(self) -> float | None:
        """The last ping's round trip in seconds."""
        return self._session.latency

    def start_in_background(self) -> None:
        """Connect without waiting, and keep trying on the schedule (`auto_connect`)."""
        self._load_key()
        with self._lock:
            self._session.keep_trying()
            self._dial()

    def connect(self, timeout: float | None) -> None:
        """Connect and wait until the login is through; see `WSClient.connect`."""
        self._load_key()
        limit = timeout if timeout is not None else self._options.connect_timeout + 2 * self._options.auth_timeout
        with self._lock:
            self._is_closed = False
            if self._session.is_ready:
                return
            if self._reader is None:
                self._dial()
            waiter = self._waiters.add(is_patient=False)
        self._wait(waiter, limit)

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait for a login that others bring about; see `WSClient.wait_ready`."""
        with self._lock:
            if self._session.is_ready:
                return True
            waiter = self._waiters.add(is_patient=True)
        try:
            waiter.future.result(timeout)
        except (WSClientError, TimeoutError):
            return self._session.is_ready
        finally:
            with self._lock:
                self._waiters.remove(waiter)
        return True

    def _load_key(self) -> None:
        """Load the key once; it costs 18 ms, and its faults belong to the caller, not to a thread."""
        if self._signer is None:
            options = self._options
            source: Any = options.private_key if options.private_key is not None else options.private_key_path
            if callable(source) and not hasattr(source, "export_key"):
                self._signer = source
            else:
                key = load_private_key(source, passphrase=options.passphrase, allow_readable=options.allow_readable_key)
                self._signer = make_signer(key, options.signature_algorithm)

    def _dial(self) -> None:
        """Begin an attempt. The caller holds the lock."""
        self._queue_status(self._session.dial(time.monotonic()))
        self._number += 1
        self._reader = Reader(self, Transport(self._options), self._number, self._options.max_message_size)
        self.watchdog.ensure_started(self)
        self._wake_watchdog(self._session.next_due())
        self._reader.thread.start()

    def _wait(self, waiter: LoginWaiter, timeout: float) -> None:
        try:
            wait_for(waiter.future, timeout, "connecting")
        except RequestTimeoutError:
            if waiter.future.done():
                raise
            self._leave_attempt(waiter, timeout)
            raise ConnectionTimeoutError(
                f"no login at {self._options.server_url} within {timeout:g} s"
            ) from self._session.last_error
        except BaseException:
            self._leave_attempt(waiter, timeout)
            raise
        finally:
            with self._lock:
                self._waiters.remove(waiter)

    def _leave_attempt(self, waiter: LoginWaiter, timeout: float) -> None:
        """Give an attempt up with its last waiter, unless the schedule wants it."""
        with self._lock:
            self._waiters.remove(waiter)
            reader = self._reader
            if self._waiters or reader is None or self._session.keeps_trying or self._session.is_ready:
                return
        self._end(reader, ConnectionTimeoutError(f"the attempt was given up after {timeout:g} s"))

    def _end(self, reader: Reader, error: WSClientError) -> None:
        """End a line; one that still dials is let go at once, because its thread may be stuck in DNS."""
        reader.end(error)
        if self._session.status is ConnectionStatus.CONNECTING:
            self.lost(reader, error)

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(self, kind: RequestKind, text: str, id: str, timeout: float) -> Any:
        """Send a request and wait for its answer.

        Args:
            kind: what is asked for.
            text: the frame.
            id: the request's id.
            timeout: seconds, connecting included.

        Returns:
            The answer's value.

        Raises:
            WSClientError: what went wrong.
        """
        deadline = time.monotonic() + timeout
        future: Future[Any] = Future()
        # Its clock runs already: connecting is part of it.
        request = OpenRequest(id=id, kind=kind, sink=future, answer_timeout=timeout, started_at=time.monotonic())
        self.send([request], text, deadline)
        try:
            return wait_for(future, None, f"request {id}")
        except KeyboardInterrupt:
            with self._lock:
                self._session.give_up(id, time.monotonic())
            raise

    def send(self, requests: list[OpenRequest], text: str, deadline: float) -> None:
        """File requests and send their frame; connects first when there is no connection.

        Blocks until the frame is sent, `deadline` at most.

        Raises:
            WSClientError: it could not be sent; the requests are not open then.
        """
        reader = self._open_when_ready(requests, text, deadline)
        try:
            reader.transport.send(text, deadline)
        except BaseException as error:
            with self._lock:
                opened = [self._session.give_up(request.id, time.monotonic()) for request in requests]
            # Ctrl-C may have left the frame for the next sender to finish: the server will see the request.
            for request in filter(None, opened):
                if request.is_generation:
                    self._stop_on_server(request.id)
            if isinstance(error, ConnectionLostError) and reader.end_error is not None:
                raise reader.end_error.again() from error
            raise

    def _open_when_ready(self, requests: list[OpenRequest], text: str, deadline: float) -> Reader:
        self._load_key()
        while True:
            with self._lock:
                if self._session.is_ready and self._reader is not None and self._reader.end_error is None:
                    self._check_size(text)
                    now = time.monotonic()
                    self._session.requests.open(requests, now)
                    self._wake_watchdog(requests[0].deadline())
                    self._messages_sent += 1
                    return self._reader
                waiter = self._begin_connecting()
            self._wait(waiter, max(0.0, deadline - time.monotonic()))

    def _begin_connecting(self) -> LoginWaiter:
        """Make sure that an attempt is under way, for a request. The caller holds the lock."""
        if self._is_closed:
            raise ClientClosedError("the client is closed")
        if self._session.status is ConnectionStatus.AUTH_FAILED and self._session.last_error is not None:
            raise self._session.last_error.again()
        is_scheduled = self._session.keeps_trying
        if self._reader is None and not is_scheduled:
            self._dial()
        return self._waiters.add(is_patient=is_scheduled)

    def _check_size(self, text: str) -> None:
        limit = self._session.max_message_bytes or _MAX_SENT_BYTES
        # Frames are ASCII (see `messages`), so characters are bytes.
        if len(text) > limit:
            raise MessageTooBigError(
                f"the request has {len(text)} bytes, the server takes {limit}", description="Send a shorter prompt"
            )

    def abandon(self, id: str) -> None:
        """Stop a generation that nobody reads any more, without waiting."""
        with self._lock:
            request = self._session.give_up(id, time.monotonic())
        if request is not None:
            request.sink.finish(StreamEndMessage(id=id, is_cancelled=True))
            self._stop_on_server(id)

    def _stop_on_server(self, id: str) -> None:
        self._post(StopMessage(id=new_id("stop"), request_id=id).encode(timestamp()))

    def _post(self, text: str) -> None:
        with self._lock:
            reader = self._reader if self._session.is_ready else None
            self._messages_sent += reader is not None
        if reader is not None:
            reader.transport.post(TEXT, text.encode())

    # --- reader thread ------------------------------------------------------------------------------------------------

    def opened(self, reader: Reader) -> None:
        """Note that the WebSocket stands. Reader thread.

        Raises:
            WSClientError: the attempt was given up meanwhile.
        """
        with self._lock:
            if reader is not self._reader or reader.end_error is not None:
                raise reader.end_error or ConnectionLostError("the attempt was given up")
            self._queue_status(self._session.opened(time.monotonic()))

    def receive(self, reader: Reader, values: list[Any]) -> None:
        """Route a batch of messages: one lock taking, one hand-over for each generation. Reader thread."""
        with self._lock:
            if reader is not self._reader:
                return
            now = time.monotonic()
            self._session.heard(now)
            actions = self._session.receive(values, now) if values else []
            self._queue_status(actions)
            is_login = any(isinstance(action, Ready) for action in actions)
            waiters = self._waiters.take() if is_login else []
        tell(waiters, None)
        self._perform(actions)

    def lost(self, reader: Reader, error: WSClientError) -> None:
        """Take a line's end: every open request and every waiter is told. Reader thread, or who lets a dial go."""
        with self._lock:
            if reader is not self._reader:
                return
            self._reader = None
            self._past_bytes_received += reader.transport.bytes_received
            self._past_bytes_sent += reader.transport.bytes_sent
            now = time.monotonic()
            was_ready, was_trying = self._session.is_ready, self._session.keeps_trying
            actions = self._session.close(now) if self._is_closed else self._session.lost(error, now)
            self._queue_status(actions)
            outcome = self._session.last_error or error
            is_over = not self._session.keeps_trying
            told = self._waiters.take(impatient_only=not is_over)
            self._wake_watchdog(self._session.next_due())
        if was_ready or (was_trying and is_over):
            self._report_loss(outcome, is_over)
        self._perform(actions)
        tell(told, outcome if is_over else error)

    def _report_loss(self, error: WSClientError, is_over: bool) -> None:
        # Once an outage: the first loss is news, the attempts after it are not, giving up is. What an explicit call
        # raises is not logged besides.
        if isinstance(error, ClientClosedError):
            return
        _logger.warning("%s; %s", error.message, "not trying again" if is_over else "trying again")
        callbacks = self._callbacks()
        if callbacks is not None:
            callbacks.publish_error(error)

    # --- watchdog thread ----------------------------------------------------------------------------------------------

    def plan_wake_up(self) -> float:
        """Return the seconds until something is due, and note when that is. Watchdog thread."""
        with self._lock:
            self.watchdog.wakes_at = self._session.next_due()
            return self.watchdog.wakes_at - time.monotonic()

    def tick(self, now: float) -> None:
        """Do what is due. Watchdog thread."""
        with self._lock:
            actions = self._session.tick(now)
            if any(isinstance(action, Dial) for action in actions):
                self._dial()
        self._perform(actions)
        callbacks = self._callbacks()
        if callbacks is not None:
            callbacks.expire()

    def _wake_watchdog(self, due: float) -> None:
        """Have the watchdog plan anew if it would come too late. The caller holds the lock."""
        if due < self.watchdog.wakes_at:
            self.watchdog.wakes_at = due
            self.watchdog.note(Wake())

    # --- actions ------------------------------------------------------------------------------------------------------

    def _queue_status(self, actions: list[Action]) -> None:
        callbacks = self._callbacks()
        for action in actions:
            if isinstance(action, StatusChanged):
                if action.status is ConnectionStatus.AUTHENTICATED:
                    is_again = self._session.reconnects > 0
                    _logger.log(logging.INFO if is_again else logging.DEBUG, "logged in")
                if callbacks is not None:
                    callbacks.publish(EventKind.CONNECTION_CHANGE, action.status)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            full = deliver(action)
            if full is not None:
                self._overflow(full)
            elif isinstance(action, Sign | StopOnServer | Probe | EndLine | StrayError):
                self._perform_on_line(action)

    def _perform_on_line(self, action: Action) -> None:
        if isinstance(action, Sign):
            self._sign(action.challenge)
        elif isinstance(action, StopOnServer):
            self._stop_on_server(action.id)
        elif isinstance(action, Probe):
            self._probe()
        elif isinstance(action, EndLine):
            with self._lock:
                reader = self._reader
            if reader is not None:
                self._end(reader, action.error)
        elif isinstance(action, StrayError):
            callbacks = self._callbacks()
            _logger.warning("the server reports: %s", action.error.message)
            if callbacks is not None:
                callbacks.publish_error(action.error)

    def _sign(self, challenge: str) -> None:
        """Answer the challenge. Reader thread: a signer that hangs is bounded by the login's deadline."""
        assert self._signer is not None
        signature = sign_challenge(self._signer, challenge, self._options.signature_algorithm)
        message = AuthenticateMessage(client_id=self._options.client_id, signature=signature)
        with self._lock:
            self._session.signed(time.monotonic())
            reader = self._reader
            self._messages_sent += 1
        if reader is not None:
            reader.transport.post(TEXT, message.encode(timestamp()).encode())

    def _probe(self) -> None:
        now = time.monotonic()
        request = OpenRequest(
            id=new_id("ping"), kind=RequestKind.PING, sink=Future(), answer_timeout=self._options.pong_timeout * 2
        )
        with self._lock:
            self._session.requests.open([request], now)
            self._session.probed(now)
        self._post(PingMessage(id=request.id).encode(timestamp()))

    def _overflow(self, feed: GenerationFeed) -> None:
        with self._lock:
            self._session.give_up(feed.id, time.monotonic())
        limit = self._options.max_unread_bytes
        feed.fail(SlowConsumerError(f"more than max_unread_bytes={limit} of generation {feed.id} came in unread"))
        self._stop_on_server(feed.id)

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection and end all threads, within about 2 s; see `WSClient.close`."""
        error = ClientClosedError("the client was closed")
        with self._lock:
            self._is_closed = True
            reader = self._reader
            told = self._waiters.take()
            actions: list[Action] = []
            is_open = self._session.status in (ConnectionStatus.CONNECTED, ConnectionStatus.AUTHENTICATED)
            if reader is not None and is_open:
                reader.end_error = reader.end_error or error
            else:
                # A dial is let go: its thread closes the socket when it comes back, however long DNS takes.
                self._reader = None
                actions = self._session.close(time.monotonic())
                self._queue_status(actions)
            watchdog = self.watchdog.detach()
        tell(told, error)
        self._perform(actions)
        if reader is not None:
            self._end_reader(reader, is_open)
        _join(watchdog, _CLOSE_THREADS)
        callbacks = self._callbacks()
        if callbacks is not None:
            callbacks.stop(_CLOSE_THREADS)

    def _end_reader(self, reader: Reader, is_open: bool) -> None:
        if not is_open:
            reader.transport.abort()
            return
        reader.transport.post(CLOSE, (1000).to_bytes(2, "big"))
        _join(reader.thread, _CLOSE_HANDSHAKE)
        reader.transport.abort()
        _join(reader.thread, _CLOSE_THREADS)
        # If even that did not wake it, its waiters are told all the same.
        self.lost(reader, ClientClosedError("the client was closed"))

    def stats(self) -> ClientStats:
        """Return a snapshot of the counters."""
        with self._lock:
            session, reader = self._session, self._reader
            received, sent = self._past_bytes_received, self._past_bytes_sent
            if reader is not None:
                received += reader.transport.bytes_received
                sent += reader.transport.bytes_sent
            return ClientStats(
                status=session.status,
                tokens=session.tokens,
                messages_received=session.messages_received,
                messages_sent=self._messages_sent,
                bytes_received=received,
                bytes_sent=sent,
                connects=session.connects,
                reconnects=session.reconnects,
                ignored_messages=session.ignored_messages,
                open_requests=session.requests.count(generations=False),
                open_generations=session.requests.count(generations=True),
                latency=session.latency,
            )


def _join(thread: threading.Thread | None, timeout: float) -> None:
    if thread is not None and thread is not threading.current_thread():
        thread.join(timeout)
