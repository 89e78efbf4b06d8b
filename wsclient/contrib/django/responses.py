"""A generation as the answer to an HTTP request, token by token, under WSGI and ASGI alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from django.http import StreamingHttpResponse

from ...generation import Generation
from ..server_sent_events import HEADERS, HEARTBEAT, AsyncEventStream, EventStream

__all__ = ["EventStreamResponse", "stream_response"]

# Django's GZipMiddleware leaves alone what has an encoding; before Django 6 it holds text back until a block is full.
_HEADERS = HEADERS | {"Content-Encoding": "identity"}


class EventStreamResponse(StreamingHttpResponse):
    """Server-Sent Events of a generation; see `stream_response`.

    A view cannot know who will iterate its response: Django runs plain views under ASGI, and `async` ones under WSGI.
    An iterator of the wrong kind is read to its end before the first byte goes out, so there is one of each, and the
    handler chooses by the protocol it asks with. Middleware that wraps `streaming_content` finds the kind of the view.
    """

    def __init__(self, generation: Generation | Callable[[], Generation], *, heartbeat: float = HEARTBEAT) -> None:
        self._events = EventStream(generation, heartbeat=heartbeat)
        self._async_events = AsyncEventStream(generation, heartbeat=heartbeat)
        super().__init__(self._async_events if _is_in_event_loop() else self._events, headers=_HEADERS)
        # Django closes only the one that it knows of.
        self._resource_closers += [self._events.close, self._async_events.close]

    def _is_wrapped(self) -> bool:
        return self._iterator not in (self._events, self._async_events)

    def __iter__(self) -> Iterator[bytes]:
        return super().__iter__() if self._is_wrapped() else self._events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # A generator, because Django closes it when the browser leaves.
        try:
            async for chunk in super().__aiter__() if self._is_wrapped() else self._async_events:
                yield chunk
        finally:
            self._async_events.close()


def stream_response(
    generation: Generation | Callable[[], Generation], *, heartbeat: float = HEARTBEAT
) -> EventStreamResponse:
    """Return a response of Server-Sent Events that tells a generation as it is written.

    The events are `start`, `token`, `thinking`, `end` and `error`; see `wsclient.contrib.server_sent_events`. When the
    browser leaves, the generation is stopped on the server within two heartbeats. (Django 4.2 tells nobody under ASGI
    that a browser left, unless the server cancels the request; there it runs to its end.)

    Args:
        generation: the generation, or what begins one, such as `lambda: get_client().stream(prompt)`: what goes wrong
            at the beginning then is an `error` event too. It is called once, in a thread that may block, when the
            answer is sent; what needs the database belongs into the view.
        heartbeat: seconds without text after which a comment is sent.

    Raises:
        ValueError: `heartbeat` is not above 0.
    """
    return EventStreamResponse(generation, heartbeat=heartbeat)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
