"""What stands behind a `FakeClient`: the real session, fed by a script, one message when somebody asks for it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from ..core.actions import Action, StatusChanged
from ..core.addresses import Addresses
from ..core.backoff import Backoff
from ..core.decoding import decode_client_message
from ..core.messages import (
    AckMessage,
    AuthResultMessage,
    BatchMessage,
    ChallengeMessage,
    ErrorMessage,
    GenerateMessage,
    Message,
    ModelsMessage,
    ModelsResultMessage,
    PongMessage,
    StopMessage,
    StreamEndMessage,
    StreamStartMessage,
    StreamTokenMessage,
)
from ..core.requests import OpenRequest, RequestKind
from ..core.session import Session, SessionTimes
from ..delivery import deliver
from ..dispatcher import EventKind
from ..errors import ClientClosedError, ConnectionLostError, RequestTimeoutError, ServerError, WSClientError
from ..events import ClientStats, ConnectionStatus
from ..feed import GenerationFeed, wait_for
from ..futures import Future
from ..options import ClientOptions
from ..watchdog import Abandon
from .answers import Request, Script, Thinking, fresh
from .fake_callbacks import FakeCallbacks, take_in_turn

__all__ = ["FakeConnection", "FakeFeed"]

# Ollama's names of options that are given by ours besides (protocol.md section 4).
_DOUBLE_NAMES = frozenset({"temperature", "top_p", "top_k", "num_predict", "seed", "stop"})

# How often in a row somebody may ask whether a generation is done before that counts as waiting for it.
_PATIENCE = 3


class FakeFeed(GenerationFeed):
    """The receiving end of a generation that is written when somebody reads it.

    Args:
        planned: the one that a real client would have.
        max_unread_bytes: see `GenerationFeed`.

    Attributes:
        write: has the model write one token more, or the end; nothing before it was asked, nor after the end.
    """

    def __init__(self, planned: GenerationFeed, max_unread_bytes: int) -> None:
        super().__init__(planned.id, planned.model, max_unread_bytes, keeps_tokens=True)
        self.write: Callable[[], None] = lambda: None
        self._times_asked = 0
        self._lets_others_run = False

    @property
    def has_ended(self) -> bool:
        """Whether the result is there. Who asks again and again without reading waits for it: one token more."""
        self._times_asked += 1
        if self._times_asked > _PATIENCE:
            self.write()
        return super().has_ended

    def next_batch(self, timeout: float | None = None) -> list[str] | None:
        """Return the next token, `None` at the end; the model needs no time to write it.

        Raises:
            queue.Empty: no time to wait was given, and it is the event loop's turn; the waker has been called.
        """
        self._times_asked = 0
        if timeout == 0:
            # An event loop's other tasks, such as one that stops this one, have a turn between two tokens.
            self._lets_others_run = not self._lets_others_run
            if self._lets_others_run:
                self._wake()
                raise queue.Empty
        while True:
            try:
                return super().next_batch(timeout=0)
            except queue.Empty:
                self.write()

    def wait(self, timeout: float | None) -> Any:
        """Have the model write to the end; `timeout` is looked at between two tokens."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_done:
            if deadline is not None and time.monotonic() >= deadline:
                text = f"generation {self.id} did not end within {timeout:g} s"
                raise RequestTimeoutError(text, id=self.id, text=self.text)
            self.write()
        return super().wait(timeout)


@attrs.define(eq=False)
class _Writing:
    """A generation that the script writes."""

    request: Request
    sink: GenerationFeed
    tokens: Iterator[str]
    started: float = attrs.field(factory=time.monotonic)
    count: int = 0
    # Held while a token is made and handed over: of several readers' tokens none overtakes another.
    lock: threading.RLock = attrs.field(factory=threading.RLock)


class FakeConnection:
    """The connection of a `FakeClient`; its public methods are those of `Connection`.

    Args:
        options: the client's options.
        callbacks: its subscriptions.
        script: the answers.

    Attributes:
        asked: the generations that were asked for.
        connect_error: what connecting raises, if anything.
    """

    def __init__(self, options: ClientOptions, callbacks: FakeCallbacks, script: Script) -> None:
        self._callbacks = callbacks
        self._script = script
        self.asked: list[Request] = []
        self.connect_error: WSClientError | type[WSClientError] | None = None
        times = SessionTimes(
            connect_timeout=options.connect_timeout,
            auth_timeout=options.auth_timeout,
            ping_interval=options.ping_interval,
            pong_timeout=options.pong_timeout,
        )
        backoff = Backoff(options.reconnect_delay, options.max_reconnect_delay, None, lambda: 0.0)
        # Guards the session and the flags; taken inside of a writing's lock. No callback runs under either.
        self._lock = threading.RLock()
        addresses = Addresses(options.server_urls)
        self._session = Session(times, backoff, addresses, auto_reconnect=options.auto_reconnect)
        self._is_closed = False
        self._messages_sent = 0
        self._writings: dict[str, _Writing] = {}
        # What `generate()` began, written to the end by the thread whose turn it is.
        self._unattended: queue.SimpleQueue[_Writing] = queue.SimpleQueue()
        self._turn = threading.Lock()
        # The real one's takes notes from finalizers.
        self.watchdog = self

    # --- the line -----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> ConnectionStatus:
        """Where the connection stands."""
        return self._session.status

    @property
    def latency(self) -> float | None:
        """The last ping's round trip in seconds."""
        return self._session.latency

    def start_in_background(self) -> None:
        """Connect; there is no background."""
        with contextlib.suppress(WSClientError):
            self.connect(None)

    def connect(self, timeout: float | None) -> None:
        """Log in at once, or raise the `connect_error`."""
        try:
            with self._lock:
                self._is_closed = False
                if not self._session.is_ready:
                    self._log_in()
        finally:
            self._callbacks.deliver()

    def wait_ready(self, timeout: float | None) -> bool:
        """Return whether it is logged in; nobody would change that meanwhile."""
        return self._session.is_ready

    def drop(self) -> None:
        """Lose the connection, and come back if the options say so."""
        error = ConnectionLostError("the connection broke off (close code 1006)")
        with self._lock:
            if not self._session.is_ready:
                return
            self._end_all("failed")
            self._perform(self._session.lost(error, time.monotonic()))
            self._callbacks.publish_error(error)
            if self._session.keeps_trying:
                with contextlib.suppress(WSClientError):
                    self._log_in()
        self._callbacks.deliver()

    def close(self) -> None:
        """Fail what is under way with `client_closed`."""
        with self._lock:
            self._is_closed = True
            self._end_all("stopped")
            self._perform(self._session.close(time.monotonic()))
        self._callbacks.deliver()

    def note(self, note: object) -> None:
        """Note that nobody reads a generation any more; takes no lock, for finalizers call this."""
        writing = self._writings.get(note.id) if isinstance(note, Abandon) else None
        if writing is not None:
            writing.request.outcome = writing.request.outcome or "stopped"

    def _log_in(self) -> None:
        """Take the session through a login. The caller holds the lock."""
        session, now = self._session, time.monotonic()
        self._perform(session.dial(now))
        if self.connect_error is not None:
            error = fresh(self.connect_error)
            self._perform(session.lost(error, now))
            raise error
        self._perform(session.opened(now))
        session.receive([ChallengeMessage(challenge="0" * 64).to_wire()], now)
        session.signed(now)
        self._perform(session.receive([AuthResultMessage(success=True).to_wire()], now))

    def _end_all(self, outcome: Any) -> None:
        for writing in self._writings.values():
            writing.request.outcome = writing.request.outcome or outcome
        self._writings.clear()

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(self, kind: RequestKind, text: str, id: str, timeout: float) -> Any:
        """Send a request and return its answer."""
        future: Future[Any] = Future()
        self.send([OpenRequest(id=id, kind=kind, sink=future, answer_timeout=timeout)], text, 0.0)
        return wait_for(future, None, f"request {id}")

    def send(self, requests: list[OpenRequest], text: str, deadline: float) -> None:
        """Take a frame of the client's and answer it, connecting first when there is no connection."""
        message: Any = decode_client_message(json.loads(text))
        items = message.messages if isinstance(message, BatchMessage) else [json.loads(text)]
        try:
            with self._lock:
                self._be_ready()
                self._messages_sent += 1
                self._session.requests.open(requests, time.monotonic())
                for request, item in zip(requests, items, strict=True):
                    self._answer(decode_client_message(item), request)
        finally:
            self._callbacks.deliver()
        take_in_turn(self._unattended, self._turn, self._write_to_the_end)

    def _be_ready(self) -> None:
        if self._is_closed:
            raise ClientClosedError("the client is closed")
        if self._session.status is ConnectionStatus.AUTH_FAILED and self._session.last_error is not None:
            raise self._session.last_error.again()
        if not self._session.is_ready:
            self._log_in()

    def _answer(self, message: Any, request: OpenRequest) -> None:
        if isinstance(message, GenerateMessage):
            self._begin(message, request)
        elif isinstance(message, ModelsMessage):
            self._say(ModelsResultMessage(id=request.id, models=self._script.models))
        elif isinstance(message, StopMessage):
            self._stop(message)
        else:
            self._say(PongMessage(id=request.id))

    def _begin(self, message: GenerateMessage, request: OpenRequest) -> None:
        asked = Request(
            prompt=str(message.prompt),
            model=message.model if isinstance(message.model, str) else self._script.default_model,
            options=_read_options(message.options),
            id=request.id,
        )
        self.asked.append(asked)
        writing = _Writing(asked, request.sink, self._script.tokens(asked))
        self._writings[request.id] = writing
        if isinstance(request.sink, FakeFeed):
            request.sink.write = lambda: self._write(writing)
            self._start(writing)
        else:
            self._unattended.put(writing)

    def _stop(self, message: StopMessage) -> None:
        writing = self._writings.get(str(message.request_id))
        if writing is None or writing.request.outcome is not None:
            self._say(ErrorMessage(id=message.id, error="No active generation with that ID"))
            return
        writing.request.outcome = "stopped"
        self._say(AckMessage(id=message.id, request_id=message.request_id))
        self._end(writing, is_cancelled=True)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _start(self, writing: _Writing) -> None:
        self._say(StreamStartMessage(id=writing.request.id, model=writing.request.model))

    def _write_to_the_end(self, writing: _Writing) -> None:
        self._start(writing)
        while not writing.sink.is_done:
            self._write(writing)
            self._callbacks.deliver()

    def _write(self, writing: _Writing) -> None:
        """Have the script write one token more, or the end."""
        request = writing.request
        with writing.lock:
            if writing.sink.is_done:
                return
            if request.outcome is not None:
                self._end(writing, is_cancelled=True)
                return
            try:
                token = next(writing.tokens)
            except StopIteration:
                # It may have been stopped while the script was busy.
                request.outcome = request.outcome or "done"
                self._end(writing, is_cancelled=request.outcome != "done")
            except WSClientError as error:
                self._fail(writing, error)
            except BaseException as error:
                self._fail(writing, ServerError(f"the test's answer raised {type(error).__name__}"))
                raise
            else:
                writing.count += 1
                kind: dict[str, Any] = {"kind": "thinking"} if isinstance(token, Thinking) else {}
                self._say(StreamTokenMessage(id=request.id, token=str(token), **kind))

    def _end(self, writing: _Writing, *, is_cancelled: bool) -> None:
        usage = {} if is_cancelled else {"usage": {"completionTokens": writing.count, "doneReason": "stop"}}
        end = StreamEndMessage(
            id=writing.request.id,
            total_tokens=writing.count,
            elapsed_time=(time.monotonic() - writing.started) * 1000,
            is_cancelled=is_cancelled,
            **usage,
        )
        self._give_up(writing)
        writing.sink.finish(end)

    def _fail(self, writing: _Writing, error: WSClientError) -> None:
        writing.request.outcome = "failed"
        self._give_up(writing)
        writing.sink.fail(error.again(id=writing.request.id))

    def _give_up(self, writing: _Writing) -> None:
        with self._lock:
            self._writings.pop(writing.request.id, None)
            self._session.give_up(writing.request.id, time.monotonic())
        # Let go of, not closed: a function of the test's may be running in another thread, and ends after that.
        writing.tokens = iter(())

    def _say(self, message: Message) -> None:
        """Have the session take a message of the server's."""
        with self._lock:
            if self._session.is_ready:
                self._perform(self._session.receive([message.to_wire()], time.monotonic()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, StatusChanged):
                self._callbacks.publish(EventKind.CONNECTION_CHANGE, action.status)
            else:
                deliver(action)

    # --- counters -----------------------------------------------------------------------------------------------------

    def stats(self) -> ClientStats:
        """Return a snapshot of the counters; there are no bytes."""
        for writing in list(self._writings.values()):
            if writing.request.outcome is not None:
                self._write(writing)
        with self._lock:
            session = self._session
            return ClientStats(
                status=session.status,
                tokens=session.tokens,
                messages_received=session.messages_received,
                messages_sent=self._messages_sent,
                connects=session.connects,
                reconnects=session.reconnects,
                open_requests=session.requests.count(generations=False),
                open_generations=session.requests.count(generations=True),
                latency=session.latency,
            )


def _read_options(options: Any) -> dict[str, Any]:
    """Return a generation's options by wsclient's names, those that it does not know included."""
    given = dict(options) if isinstance(options, dict) else {}
    nested = given.pop("options", {})
    given |= {name: value for name, value in nested.items() if name not in _DOUBLE_NAMES}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    return given
