"""The line: the session, the transport under it, and the one lock. What happens to it, thread by thread.

Everything goes the same way: under the lock the session decides and says what to do; after the lock is released it is
done (`_perform`), so that user code and socket calls never run under it. Only status events are queued inside, because
their order is the order of the decisions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from typing import Any

from .clocks import SleepWatch
from .core.actions import Action, Dial, EndLine, Probe, Ready, Sign, StatusChanged, StopOnServer, StrayError
from .core.addresses import Addresses, Target
from .core.auth import Signer, make_signer, sign_challenge
from .core.backoff import Backoff
from .core.messages import AuthenticateMessage, PingMessage, StopMessage, StreamEndMessage
from .core.requests import OpenRequest, RequestKind
from .core.session import Session, SessionTimes
from .delivery import LoginWaiters, Loss, deliver, tell
from .dispatcher import Callbacks, EventKind
from .errors import ClientClosedError, ConnectionFailedError, ConnectionLostError, SlowConsumerError, WSClientError
from .events import ConnectionStatus
from .feed import GenerationFeed
from .forks import renewing, tell_after_fork
from .futures import Future
from .ids import dice, new_id, timestamp
from .interruptions import is_interruption, run_aside, run_whole
from .keys import load_private_key
from .logs import Logger
from .options import ClientOptions
from .reader import Reader, join
from .transport import TEXT, Transport
from .watchdog import CloseDown, Wake, Watchdog

__all__ = ["Line"]

_logger = Logger("wsclient.connection")

# How long a close takes at most, waits in it for the server's half of the close handshake, and leaves to callbacks.
_CLOSE_WITHIN = 1.5
_CLOSE_HANDSHAKE = 0.5
_CLOSE_CALLBACKS = 0.5


class Line:
    """A client's connection, over as many sockets as it takes.

    Args:
        options: the client's options.
        callbacks: the client's subscriptions; held weakly.
    """

    def __init__(self, options: ClientOptions, callbacks: Callbacks) -> None:
        self._options = options
        self._callbacks = weakref.ref(callbacks)
        self._signer: Signer | None = None
        self._number = 0
        self._renew()
        tell_after_fork(self)

    def _renew(self) -> None:
        """Make everything that belongs to this process: at birth, and again at the first use after a fork.

        Not in the fork's own hook, see `forks`.
        """
        options = self._options
        # The one lock: it guards the session, the current reader, the waiters and the watchdog's plan. Taken inside
        # it: the callbacks' lock (to queue status events) and a transport's (to abort it), nothing else.
        self._lock = threading.Lock()
        times = SessionTimes(
            connect_timeout=options.connect_timeout,
            auth_timeout=options.auth_timeout,
            ping_interval=options.ping_interval,
            pong_timeout=options.pong_timeout,
        )
        backoff = Backoff(options.reconnect_delay, options.max_reconnect_delay, options.max_reconnect_attempts, dice)
        addresses = Addresses(options.server_urls)
        self._session = Session(times, backoff, addresses, auto_reconnect=options.auto_reconnect)
        self.watchdog = Watchdog(options.client_id[:8])
        self._reader: Reader | None = None
        # Threads that a close told to end; a second close waits for them too.
        self._ending: list[threading.Thread] = []
        self._waiters = LoginWaiters()
        self._is_closed = False
        self._messages_sent = 0
        self._sleep_watch = SleepWatch()
        # Bytes of connections that ended; the current one counts for itself.
        self._past_bytes_received = 0
        self._past_bytes_sent = 0
        # Last: other threads of a forked child go by these two.
        self._process = os.getpid()
        self._is_stale = False

    def _use_process(self) -> None:
        # The check of the process besides: a fork by other means than os.fork runs no hooks.
        if self._is_stale or self._process != os.getpid():
            # First: a thread that finds the line made anew finds the callbacks so, too.
            callbacks = self._callbacks()
            if callbacks is not None:
                callbacks.use_process()
            with renewing():
                if self._is_stale or self._process != os.getpid():
                    self.forget_parent()
                    self._renew()

    def forget_parent(self) -> None:
        """Let go of the parent's line in a forked child, without a word on it: the parent streams on."""
        self._is_stale = True
        if self._reader is not None:
            self._reader.transport.forget()

    def _use(self) -> None:
        """Get ready for a caller's thread: the process's own locks and queues, and the key.

        The key is loaded once; it costs 18 ms, and its faults belong to the caller, not to a thread.

        Raises:
            InvalidKeyError: the key cannot be used.
        """
        self._use_process()
        if self._signer is None:
            options = self._options
            source: Any = options.private_key if options.private_key is not None else options.private_key_path
            if callable(source) and not hasattr(source, "export_key"):
                self._signer = source
            else:
                key = load_private_key(source, passphrase=options.passphrase, allow_readable=options.allow_readable_key)
                self._signer = make_signer(key, options.signature_algorithm)

    def _dial(self) -> Loss | None:
        """Begin an attempt. The caller holds the lock.

        Returns:
            The loss, for `_tell_loss`, if it could not begin.
        """
        reader: Reader | None = None
        try:
            self._queue_status(self._session.dial(time.monotonic()))
            self._number += 1
            transport = Transport(self._options, self._session.addresses.current)
            reader = Reader(self, transport, self._number, self._options.max_message_size)
            self._reader = reader
            self.watchdog.ensure_started(self)
            if self._is_closed:
                # By a signal handler, a moment ago, when there was no watchdog to tell.
                self.watchdog.note(CloseDown())
            self._wake_watchdog(self._session.next_due())
            reader.thread.start()
        except BaseException as error:
            # No room for a thread, or Ctrl-C: nobody may wait for an attempt that never began.
            reason = f"the attempt could not begin: {type(error).__name__}: {error}"
            loss = self._take_loss(reader, ConnectionFailedError(reason), ends_round=True)
            if reader is not None:
                reader.transport.abort()
            if isinstance(error, RuntimeError | MemoryError):
                return loss
            if loss is not None:
                # Under the lock for once: it settles futures, no more.
                tell(loss.told, loss.error)
            raise
        return None

    def _let_go(self, error: WSClientError, *, ends_round: bool) -> list[Action]:
        """Part with the current line; return what is to be done. The caller holds the lock."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end_error = reader.end_error or error
            # Its thread, and with it the socket, must not wait for a signer that hangs.
            reader.signature.set_exception(reader.end_error.again())
            self._past_bytes_received += reader.transport.bytes_received
            self._past_bytes_sent += reader.transport.bytes_sent
        now, session = time.monotonic(), self._session
        actions = session.close(now) if self._is_closed else session.lost(error, now, ends_round=ends_round)
        self._queue_status(actions)
        return actions

    def abandon(self, id: str) -> None:
        """Stop a generation that nobody reads any more, without waiting."""
        with self._lock:
            request = self._session.give_up(id, time.monotonic())
        if request is not None:
            # Whoever finds it ended may rely on that the server was told.
            self._stop_on_server(id)
            request.sink.finish(StreamEndMessage(id=id, is_cancelled=True))

    def _stop_on_server(self, id: str) -> None:
        self._post(_stop_message(id))

    def _post(self, payload: bytes) -> None:
        with self._lock:
            reader = self._reader if self._session.is_ready else None
            self._messages_sent += reader is not None
        if reader is not None:
            reader.transport.post(TEXT, payload)

    # --- reader thread ------------------------------------------------------------------------------------------------

    def resolved(self, reader: Reader, addresses: list[str]) -> Target:
        """Take the addresses of the host to dial; return the one that it is to be. Reader thread.

        Raises:
            WSClientError: the attempt was given up meanwhile.
        """
        with self._lock:
            if reader is not self._reader:
                raise reader.end_error or ConnectionLostError("the attempt was given up")
            return self._session.addresses.resolved(addresses)

    def opened(self, reader: Reader) -> None:
        """Note that the WebSocket stands. Reader thread.

        Raises:
            WSClientError: the attempt was given up meanwhile.
        """
        with self._lock:
            if reader is not self._reader:
                raise reader.end_error or ConnectionLostError("the attempt was given up")
            self._queue_status(self._session.opened(time.monotonic()))
            self._wake_watchdog(self._session.next_due())

    def receive(self, reader: Reader, values: list[Any], is_whole: bool) -> None:
        """Route a batch of messages: one lock taking, one hand-over for each generation. Reader thread."""
        with self._lock:
            if reader is not self._reader:
                return
            now, session = time.monotonic(), self._session
            session.heard(now, is_whole=is_whole)
            was_ready = session.is_ready
            actions = session.receive(values, now) if values else []
            waiters = []
            if not was_ready:
                self._queue_status(actions)
                waiters = self._waiters.take() if session.is_ready else []
            self._wake_watchdog(session.take_new_due())
        if not was_ready:
            tell(waiters, None)
            for action in actions:
                if isinstance(action, Sign):
                    self._sign(reader, action.challenge)
        self._perform(actions, reader)

    def lost(self, reader: Reader, error: WSClientError) -> None:
        """Take a line's end: every open request and every waiter is told. Reader thread, and the one that ends it."""
        with self._lock:
            loss = self._take_loss(reader, error)
        # Its thread may be stuck in DNS or a user's signer; it closes the socket when it can.
        reader.transport.abort()
        self._tell_loss(loss)

    def _take_loss(self, reader: Reader | None, error: WSClientError, *, ends_round: bool = False) -> Loss | None:
        """Decide what a line's end means, once; `_tell_loss` carries it out. The caller holds the lock."""
        if reader is not self._reader:
            return None
        was_ready, was_trying = self._session.is_ready, self._session.keeps_trying
        actions = self._let_go(error, ends_round=ends_round)
        if any(isinstance(action, Dial) for action in actions):
            return self._dial()
        outcome = self._session.last_error or error
        is_over = not self._session.keeps_trying
        told = self._waiters.take(impatient_only=not is_over)
        self._wake_watchdog(self._session.next_due())
        if is_over:
            # Nothing is left to watch: a client that could not connect holds no thread. The next dial starts one.
            self.watchdog.detach()
        is_news = was_ready or (was_trying and is_over)
        return Loss(actions, told, outcome if is_over else error, outcome if is_news else None, is_over)

    def _tell_loss(self, loss: Loss | None) -> None:
        if loss is not None:
            if loss.news is not None:
                self._report_loss(loss.news, loss.is_over)
            self._perform(loss.actions)
            tell(loss.told, loss.error)

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
            now, planned = time.monotonic(), self.watchdog.wakes_at
            # A plan that a request brought forward is kept though it may have its answer by now: the next one would
            # bring it forward again, and doubled the cost of each (measured, with deadlines nearer than the ping).
            due = self._session.next_due()
            self.watchdog.wakes_at = min(due, planned) if planned > now else due
            return self.watchdog.wakes_at - now

    def tick(self, now: float) -> None:
        """Do what is due. Watchdog thread."""
        with self._lock:
            if self._reader is not None and self._reader.transport.has_moved_on():
                self._session.sent(now)
            self._look_for_sleep(now)
            actions = self._session.tick(now)
            # The line that they are about: by the time they are performed there may be another.
            reader = self._reader
            loss = self._dial() if any(isinstance(action, Dial) for action in actions) else None
        self._perform(actions, reader)
        self._tell_loss(loss)
        callbacks = self._callbacks()
        if callbacks is not None:
            callbacks.expire()

    def _wake_watchdog(self, due: float) -> None:
        """Have the watchdog plan anew if it would come too late. The caller holds the lock."""
        if due < self.watchdog.wakes_at:
            self.watchdog.wakes_at = due
            self.watchdog.note(Wake())

    def _look_for_sleep(self, now: float) -> None:
        """Have the line probed if the machine slept. The caller holds the lock."""
        if self._sleep_watch.has_slept():
            self._session.mistrust(now)
            self._wake_watchdog(self._session.take_new_due())

    # --- actions ------------------------------------------------------------------------------------------------------

    def _queue_status(self, actions: list[Action]) -> None:
        callbacks = self._callbacks()
        for action in actions:
            if isinstance(action, StatusChanged) and callbacks is not None:
                callbacks.publish(EventKind.CONNECTION_CHANGE, action.status)

    def _perform(self, actions: list[Action], reader: Reader | None = None) -> None:
        for action in actions:
            try:
                full = deliver(action)
                if full is not None:
                    limit = self._options.max_unread_bytes
                    text = f"more than max_unread_bytes={limit} of generation {full.id} came in unread"
                    self._fail(full, SlowConsumerError(text))
                elif isinstance(action, StopOnServer | Probe | EndLine | StrayError | Ready):
                    self._perform_on_line(action, reader)
            except Exception as error:
                # A bug of ours: the others wait for what comes after it, and nobody must wait for ever.
                _logger.exception("the client met an unexpected error")
                sink = getattr(action, "sink", None)
                with contextlib.suppress(Exception):
                    self._fail(sink, ConnectionLostError(f"the client met an unexpected error: {type(error).__name__}"))

    def _perform_on_line(self, action: Action, reader: Reader | None) -> None:
        if isinstance(action, StopOnServer):
            self._stop_on_server(action.id)
        elif isinstance(action, Probe):
            self._probe()
        elif isinstance(action, EndLine):
            if reader is not None:
                self.lost(reader, action.error)
        elif isinstance(action, Ready):
            _logger.log(logging.INFO if action.is_recovery else logging.DEBUG, "logged in")
        elif isinstance(action, StrayError):
            callbacks = self._callbacks()
            _logger.warning("the server reports: %s", action.error.message)
            if callbacks is not None:
                callbacks.publish_error(action.error)

    def _sign(self, reader: Reader, challenge: str) -> None:
        """Answer the challenge. Reader thread: a signer that hangs is bounded by the login's deadline."""
        assert self._signer is not None
        signer, algorithm = self._signer, self._options.signature_algorithm
        signature = run_aside(lambda: sign_challenge(signer, challenge, algorithm), "wsclient-signer", reader.signature)
        message = AuthenticateMessage(client_id=self._options.client_id, signature=signature)
        with self._lock:
            if reader is not self._reader:
                return
            self._session.signed(time.monotonic())
            self._messages_sent += 1
        reader.transport.post(TEXT, message.encode(timestamp()).encode())

    def _probe(self) -> None:
        now = time.monotonic()
        request = OpenRequest(
            id=new_id("ping"), kind=RequestKind.PING, sink=Future(), answer_timeout=self._options.pong_timeout * 2
        )
        with self._lock:
            self._session.requests.open([request], now)
            self._session.probed(now)
        self._post(PingMessage(id=request.id).encode(timestamp()).encode())

    def _fail(self, sink: GenerationFeed | Future[Any] | None, error: WSClientError) -> None:
        """Give a request up on this side, and a generation on the server's too."""
        if isinstance(sink, GenerationFeed):
            with self._lock:
                self._session.give_up(sink.id, time.monotonic())
            self._stop_on_server(sink.id)
            sink.fail(error)
        elif sink is not None:
            sink.set_exception(error)

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection and end all threads, within about 2 s; see `WSClient.close`."""
        if is_interruption():
            # In a signal handler or a finalizer: one of our locks may be held by what it interrupted.
            # Said at once: there may be no watchdog yet, and what was interrupted may be about to dial.
            self._is_closed = True
            self.watchdog.note(CloseDown())
            return
        self._use_process()
        # A close that Ctrl-C cut in two would leave the socket open, and other threads without their answer.
        run_whole(self._close, "wsclient-close")

    def _close(self) -> None:
        deadline = time.monotonic() + _CLOSE_WITHIN
        error = ClientClosedError("the client was closed")
        with self._lock:
            self._is_closed = True
            reader = self._reader
            is_open = self._session.status in (ConnectionStatus.CONNECTED, ConnectionStatus.AUTHENTICATED)
            running = self._session.requests.generations() if is_open else []
            self._messages_sent += len(running)
            actions = self._let_go(error, ends_round=True)
            told = self._waiters.take()
            # A dial is not waited for: its thread closes the socket when it comes back, however long DNS takes.
            leaving = [reader.thread if reader is not None and is_open else None, self.watchdog.detach()]
            self._ending += [thread for thread in leaving if thread is not None]
        tell(told, error)
        self._perform(actions)
        if reader is not None:
            # Not every server stops a generation whose client hangs up.
            reader.end([_stop_message(id) for id in running], _CLOSE_HANDSHAKE if is_open else None)
        for thread in self._ending:
            join(thread, deadline - time.monotonic())
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        callbacks = self._callbacks()
        if callbacks is not None:
            callbacks.stop(max(_CLOSE_CALLBACKS, deadline - time.monotonic()))


def _stop_message(id: str) -> bytes:
    return StopMessage(id=new_id("stop"), request_id=id).encode(timestamp()).encode()
