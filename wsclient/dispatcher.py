"""The callback thread, and who subscribed to what.

Callbacks run in order on one thread, no library lock held. The thread holds nothing but its queue: callbacks often hold
the client, and a thread that held them would keep a dropped client alive for ever.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, TypeAlias

import attrs

from .errors import WSClientError
from .events import ErrorEvent, GenerationEndEvent, GenerationResult, GenerationStartEvent, TokenEvent
from .feed import GenerationFeed
from .forks import renewing
from .interruptions import take_ticket
from .logs import Logger

__all__ = ["Callbacks", "EventKind"]

_logger = Logger("wsclient.callbacks")

# What a `generate()` keeps for handlers that subscribe after it (design: "nothing is missed").
_KEPT_BYTES = 1024 * 1024
_KEPT_SECONDS = 60.0


class EventKind(StrEnum):
    """What can be subscribed to."""

    CONNECTION_CHANGE = "connection_change"
    TOKEN = "token"
    GENERATION_START = "generation_start"
    GENERATION_END = "generation_end"
    ERROR = "error"


@attrs.define(slots=True, eq=False)
class _Subscription:
    callback: Callable[[Any], object]
    is_active: bool = True


@attrs.frozen(eq=False, repr=False)
class _Event:
    """One event, or the tokens of one batch: their event objects are only built when somebody listens."""

    kind: EventKind
    payload: Any
    cost: int = 0

    def unfold(self) -> Iterator[Any]:
        if self.kind is not EventKind.TOKEN:
            yield self.payload
            return
        id, tokens, token_kind = self.payload
        for token in tokens:
            yield TokenEvent(id, token, token_kind)


@attrs.frozen(eq=False, repr=False)
class _Delivery:
    event: _Event
    subscriptions: tuple[_Subscription, ...]
    feed: GenerationFeed | None = None


@attrs.define(slots=True, eq=False)
class _Recording:
    """The events of one `generate()`, bounded; the oldest tokens go first."""

    events: collections.deque[_Event] = attrs.field(factory=collections.deque)
    size: int = 0
    dropped: int = 0
    ended_at: float | None = None

    def keep(self, event: _Event) -> None:
        self.events.append(event)
        self.size += event.cost
        while self.size > _KEPT_BYTES:
            oldest = next(event for event in self.events if event.cost)
            self.events.remove(oldest)
            self.size -= oldest.cost
            self.dropped += len(oldest.payload[1])

    def is_expired(self, now: float) -> bool:
        return self.ended_at is not None and now - self.ended_at > _KEPT_SECONDS


_Queue: TypeAlias = "queue.SimpleQueue[_Delivery | None]"


class Callbacks:
    """The subscriptions of one client. Owned by the client alone; everything else refers to it weakly."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._subscriptions: dict[EventKind, tuple[_Subscription, ...]] = dict.fromkeys(EventKind, ())
        self._renew()

    def use_process(self) -> None:
        """Make sure, on a user's thread, that nothing of a forking parent's is used; a generation may come first."""
        if self._process != os.getpid():
            with renewing():
                if self._process != os.getpid():
                    self._renew()

    def _renew(self) -> None:
        """Make what belongs to this process: at birth, and again in a forked child, where the thread is gone."""
        # Guards the subscriptions, the recordings and the order of the queue. Nothing is taken inside it, and no
        # user code runs under it.
        self._lock = threading.Lock()
        self._recordings: dict[str, _Recording] = {}
        self._latest: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
        self._queue: _Queue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # The one that was told to end last, and may still be at it: the next one waits for it, to keep the order.
        self._previous: threading.Thread | None = None
        # Last: other threads of a forked child go by it.
        self._process = os.getpid()

    # --- users' threads -----------------------------------------------------------------------------------------------

    def subscribe(self, kind: EventKind, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Subscribe to a kind of event, starting with those of this thread's latest `generate()`.

        Args:
            kind: what to hear of.
            callback: called with the event, on the dispatcher thread.

        Returns:
            A function that unsubscribes; idempotent, from any thread. A call that the dispatcher has begun by then is
            the last one.

        Raises:
            TypeError: the callback cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"on_{kind} takes a function (got {type(callback).__name__})")
        self.use_process()
        subscription = _Subscription(callback)
        dropped = 0
        with self._lock:
            self._ensure_thread()
            self._subscriptions[kind] = (*self._subscriptions[kind], subscription)
            recording = self._recordings.get(self._latest.get(threading.current_thread(), ""))
            if recording is not None and not recording.is_expired(time.monotonic()):
                dropped = recording.dropped if kind is EventKind.TOKEN else 0
                for event in recording.events:
                    if event.kind is kind:
                        self._queue.put(_Delivery(event, (subscription,)))
        if dropped:
            _logger.warning("%d early tokens are gone: subscribe before generate()", dropped)
        # Weakly: whoever keeps the function must not keep the callbacks of a dropped client, and their thread.
        owner = weakref.ref(self)

        def unsubscribe() -> None:
            subscription.is_active = False
            callbacks = owner()
            if callbacks is not None:
                callbacks._remove(kind, subscription)

        return unsubscribe

    def _remove(self, kind: EventKind, subscription: _Subscription) -> None:
        self.use_process()
        with self._lock:
            others = tuple(other for other in self._subscriptions[kind] if other is not subscription)
            self._subscriptions[kind] = others

    def record(self, id: str) -> None:
        """Keep the events of a generation that this thread begins."""
        self.use_process()
        with self._lock:
            self._recordings[id] = _Recording()
            self._latest[threading.current_thread()] = id
            self._expire(time.monotonic())

    def expire(self) -> None:
        """Forget recordings that are too old, or that no thread can ask for any more."""
        with self._lock:
            self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        latest = set(self._latest.values())
        for id, recording in list(self._recordings.items()):
            if recording.is_expired(now) or id not in latest:
                del self._recordings[id]

    def stop(self, timeout: float) -> None:
        """Let the thread end once it has delivered what is queued; waits, unless it is the one that calls."""
        with self._lock:
            if self._thread is not None:
                self._previous, self._thread = self._thread, None
                # The next thread gets a queue of its own, or it might take this one's note to end.
                deliveries, self._queue = self._queue, queue.SimpleQueue()
                deliveries.put(None)
            # One that was told to end from a callback may still be at it.
            thread = self._previous
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def __del__(self) -> None:
        # The client is gone: the thread ends. A put takes no lock of ours, so this is safe wherever the collector runs.
        if hasattr(self, "_queue") and getattr(self, "_thread", None) is not None:
            self._queue.put(None)

    # --- reader and watchdog threads ----------------------------------------------------------------------------------

    def publish(self, kind: EventKind, payload: Any) -> None:
        """Queue an event that belongs to no generation; never blocks."""
        with self._lock:
            self._queue_event(_Event(kind, payload), None)

    def publish_error(self, error: WSClientError) -> None:
        """Queue an error's facts for `on_error`."""
        self.publish(EventKind.ERROR, ErrorEvent.of(error))

    def started(self, feed: GenerationFeed) -> None:
        """Queue the start of a generation."""
        self._publish_of(feed, _Event(EventKind.GENERATION_START, GenerationStartEvent(feed.id, feed.model)))

    def received(self, feed: GenerationFeed, tokens: list[str], cost: int, is_thinking: bool) -> None:
        """Queue tokens."""
        kind = "thinking" if is_thinking else "answer"
        self._publish_of(feed, _Event(EventKind.TOKEN, (feed.id, tokens, kind), cost))

    def ended(self, feed: GenerationFeed, result: GenerationResult) -> None:
        """Queue the end of a generation."""
        event = GenerationEndEvent(
            id=feed.id,
            total_tokens=result.total_tokens,
            elapsed_time=result.elapsed_time,
            is_cancelled=result.is_cancelled,
            done_reason=result.done_reason,
            usage=result.usage,
        )
        self._publish_of(feed, _Event(EventKind.GENERATION_END, event), is_last=True)

    def failed(self, feed: GenerationFeed, error: WSClientError) -> None:
        """Queue the error that ended a generation."""
        self._publish_of(feed, _Event(EventKind.ERROR, ErrorEvent.of(error)), is_last=True)

    def _publish_of(self, feed: GenerationFeed, event: _Event, *, is_last: bool = False) -> None:
        # One lock for recording and queueing: a handler that subscribes meanwhile finds each event in exactly one.
        with self._lock:
            recording = self._recordings.get(feed.id)
            if recording is not None:
                recording.keep(event)
                if is_last:
                    recording.ended_at = time.monotonic()
            is_queued = self._queue_event(event, feed)
        if event.cost and not is_queued:
            feed.note_read(event.cost)

    def _queue_event(self, event: _Event, feed: GenerationFeed | None) -> bool:
        subscriptions = self._subscriptions[event.kind]
        if subscriptions:
            self._queue.put(_Delivery(event, subscriptions, feed))
            # Without room for a thread now (RuntimeError) the event waits for the next one that comes: this is the
            # reader's thread, and others wait for what it says.
            with contextlib.suppress(RuntimeError):
                self._ensure_thread()
        return bool(subscriptions)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            ticket = [True]
            # Daemon: a program must be able to end while a callback blocks.
            self._thread = threading.Thread(
                target=_run,
                args=(ticket, self._queue, self._previous),
                name=f"wsclient-dispatcher-{self._name}",
                daemon=True,
            )
            try:
                self._thread.start()
            except BaseException:
                # As in `Watchdog.ensure_started`.
                if take_ticket(ticket):
                    self._thread = None
                raise
            self._previous = None


def _run(ticket: list[bool], deliveries: _Queue, previous: threading.Thread | None) -> None:
    if not take_ticket(ticket):
        return
    if previous is not None:
        previous.join()
    while True:
        delivery = deliveries.get()
        if delivery is None:
            return
        _deliver(delivery)
        # While it waits the thread must hold no callback, see the module's docstring.
        del delivery


def _deliver(delivery: _Delivery) -> None:
    for event in delivery.event.unfold():
        for subscription in delivery.subscriptions:
            if subscription.is_active:
                try:
                    subscription.callback(event)
                except BaseException:
                    # SystemExit too: it would end this thread, and with it everybody's callbacks.
                    _logger.exception("an on_%s callback raised", delivery.event.kind)
    if delivery.feed is not None:
        delivery.feed.note_read(delivery.event.cost)
