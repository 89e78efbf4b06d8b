"""What a client asks of its line: connect, wait, send a request and get its answer. Callers' threads run this."""

from __future__ import annotations

import time
from typing import Any

from .core.requests import OpenRequest, RequestKind
from .delivery import LoginWaiter, Loss
from .errors import (
    ClientClosedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    MessageTooBigError,
    RequestTimeoutError,
    WSClientError,
)
from .events import ClientStats, ConnectionStatus
from .feed import wait_for
from .futures import Future
from .line import Line
from .reader import Reader

__all__ = ["Connection"]

# The original server dies of a message over 100 MiB (protocol.md section 2); a server that names its limit is believed.
_MAX_SENT_BYTES = 100 * 1024 * 1024


class Connection(Line):
    """A client behind its door. The threads hold this object and never the client itself."""

    @property
    def status(self) -> ConnectionStatus:
        """Where the connection stands."""
        self._use_process()
        return self._session.status

    @property
    def latency(self) -> float | None:
        """The last ping's round trip in seconds."""
        return self._session.latency

    # --- connecting ---------------------------------------------------------------------------------------------------

    def start_in_background(self) -> None:
        """Connect without waiting, and keep trying on the schedule (`auto_connect`)."""
        self._use()
        with self._lock:
            self._session.keep_trying()
            loss = self._dial()
        self._tell_loss(loss)

    def connect(self, timeout: float | None) -> None:
        """Connect and wait until the login is through; see `WSClient.connect`."""
        self._use()
        with self._lock:
            self._is_closed = False
            if self._session.is_ready:
                return
            waiter = self._waiters.add(is_patient=False)
            loss = self._dial() if self._reader is None else None
        self._tell_loss(loss)
        # Without a time-out too it ends: each step at each address has a deadline, which the watchdog keeps.
        self._wait(waiter, timeout)

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait for a login that others bring about; see `WSClient.wait_ready`."""
        self._use()
        with self._lock:
            if self._session.is_ready:
                return True
            if self._is_closed or self._session.has_given_up:
                # What those were told who waited when it ended.
                return False
            waiter = self._waiters.add(is_patient=True)
        try:
            wait_for(waiter.future, timeout, "connecting")
        except WSClientError:
            return self._session.is_ready
        finally:
            with self._lock:
                self._waiters.remove(waiter)
        return True

    def _wait(self, waiter: LoginWaiter, timeout: float | None) -> None:
        try:
            wait_for(waiter.future, timeout, "connecting")
        except RequestTimeoutError:
            if waiter.future.is_done:
                raise
            self._leave_attempt(waiter)
            url = self._session.addresses.current.url
            raise ConnectionTimeoutError(f"no login at {url} within {timeout:g} s") from None
        except BaseException:
            self._leave_attempt(waiter)
            raise
        finally:
            with self._lock:
                self._waiters.remove(waiter)

    def _leave_attempt(self, waiter: LoginWaiter) -> None:
        """Give an attempt up with its last waiter, unless the schedule wants it."""
        with self._lock:
            self._waiters.remove(waiter)
            reader = self._reader
            if self._waiters or reader is None or self._session.keeps_trying or self._session.is_ready:
                return
            # Under the same lock: a moment later it may have succeeded, and somebody may use it.
            loss = self._take_loss(reader, ConnectionTimeoutError("nobody waited for it any more"), ends_round=True)
            reader.transport.abort()
        self._tell_loss(loss)

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
        try:
            self.send([request], text, deadline)
            return wait_for(future, None, f"request {id}")
        except BaseException:
            # Ctrl-C, or what another signal handler raises: nobody waits any more.
            with self._lock:
                self._session.give_up(id, time.monotonic())
            raise

    def send(self, requests: list[OpenRequest], text: str, deadline: float) -> None:
        """File requests and send their frame; connects first when there is no connection.

        Blocks until the frame is sent, `deadline` at most.

        Raises:
            WSClientError: it could not be sent; the requests are not open then.
        """
        reader: Reader | None = None
        try:
            reader = self._open_when_ready(requests, text, deadline)
            reader.transport.send(text, deadline)
        except BaseException as error:
            with self._lock:
                opened = [self._session.give_up(request.id, time.monotonic()) for request in requests]
            # Ctrl-C may have left the frame for the next sender to finish: the server will see the request.
            for request in filter(None, opened):
                if request.is_generation:
                    self._stop_on_server(request.id)
            if reader is not None and isinstance(error, ConnectionLostError) and reader.end_error is not None:
                raise reader.end_error.again() from error
            raise

    def _open_when_ready(self, requests: list[OpenRequest], text: str, deadline: float) -> Reader:
        self._use()
        while True:
            with self._lock:
                if self._session.is_ready and self._reader is not None:
                    self._check_size(text)
                    now = time.monotonic()
                    self._session.requests.open(requests, now)
                    self._look_for_sleep(now)
                    self._wake_watchdog(requests[0].deadline())
                    self._messages_sent += 1
                    return self._reader
                waiter, loss = self._begin_connecting()
            self._tell_loss(loss)
            self._wait(waiter, max(0.0, deadline - time.monotonic()))

    def _begin_connecting(self) -> tuple[LoginWaiter, Loss | None]:
        """Make sure that an attempt is under way, for a request. The caller holds the lock."""
        if self._is_closed:
            raise ClientClosedError("the client is closed")
        if self._session.status is ConnectionStatus.AUTH_FAILED and self._session.last_error is not None:
            raise self._session.last_error.again()
        is_scheduled = self._session.keeps_trying
        waiter = self._waiters.add(is_patient=is_scheduled)
        return waiter, self._dial() if self._reader is None and not is_scheduled else None

    def _check_size(self, text: str) -> None:
        limit = self._session.max_message_bytes or _MAX_SENT_BYTES
        # Frames are ASCII (see `messages`), so characters are bytes.
        if len(text) > limit:
            raise MessageTooBigError(
                f"the request has {len(text)} bytes, the server takes {limit}", description="Send a shorter prompt"
            )

    # --- counters -----------------------------------------------------------------------------------------------------

    def stats(self) -> ClientStats:
        """Return a snapshot of the counters."""
        self._use_process()
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
