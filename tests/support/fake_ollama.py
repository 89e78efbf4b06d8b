"""An Ollama that does as it is told: a real HTTP server for tests, in a thread of its own.

    with FakeOllama() as ollama:
        ollama.script(prompt="hello", tokens=3, delay=0.02)
        ...                         # talk to ollama.url
        assert ollama.requests[0].body["options"] == {"temperature": 0.7}

What a generation does is decided by, in this order: a prompt that begins with `@@{...}`, the newest `script` that
matches, the default answer. `Answer` lists what there is to decide.

Source: Ollama's HTTP API, in the words of ollama_api.md; its section 8 says what a faithful fake must do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import attrs
from aiohttp import web

from .ollama_answers import MODELS, Answer, FakeModel, encode_line
from .ollama_endpoints import Endpoints
from .ollama_streaming import RecordedRequest

__all__ = ["MODELS", "Answer", "FakeModel", "FakeOllama", "RecordedRequest"]

_FOREVER = 10**9


@attrs.frozen
class _Script:
    answer: Answer
    model: str | None
    prompt: str | None


@attrs.define
class _Failure:
    path: str
    status: int
    body: bytes
    headers: dict[str, str]
    times: int


class FakeOllama:
    """The server; a context manager.

    Args:
        models: what is installed.
        default: what a generation does that nothing else decides about.
        port: where to listen; 0 is any free one.

    Attributes:
        url: where it listens, while it does.
        requests: what came in, in order.
        models: what is installed; may be replaced at any time.
        is_busy: while true, generations are answered with 503.
    """

    endpoints: type[Endpoints] = Endpoints

    def __init__(self, models: Sequence[FakeModel] = MODELS, *, default: Answer | None = None, port: int = 0) -> None:
        self.models = models
        self.default = Answer() if default is None else default
        self.requests: list[RecordedRequest] = []
        self.is_busy = False
        self.url = ""
        self._port = port
        self._scripts: list[_Script] = []
        self._failures: list[_Failure] = []
        # Only for waiting for the next request: a list is appended to atomically.
        self._arrived = threading.Condition()
        self._is_started = threading.Event()
        self._start_error: BaseException | None = None
        # A daemon: a test that fails inside the context must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="fake-ollama", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_started.wait()
        if self._start_error is not None:
            raise self._start_error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def script(self, *, model: str | None = None, prompt: str | None = None, **behaviour: Any) -> None:
        """Decide what generations do; the newest matching script counts.

        Args:
            model: only with this model.
            prompt: only with this text in the prompt.
            behaviour: the attributes of `Answer` that differ from the default answer's.
        """
        self._scripts.insert(0, _Script(attrs.evolve(self.default, **behaviour), model, prompt))

    def fail(
        self,
        path: str,
        status: int = 500,
        error: str = "boom",
        *,
        times: int = _FOREVER,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer requests for a path with an error, whatever they ask.

        Args:
            path: such as `/api/tags`.
            status: the HTTP status.
            error: the text in Ollama's `{"error": ...}`, or what the server has instead.
            times: how often.
            body: these bytes instead of that.
            headers: further headers, or another `Content-Type`.
        """
        content = encode_line(self.endpoints.error_record(error, status)).rstrip() if body is None else body
        headers = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        self._failures.insert(0, _Failure(path, status, content, headers, times))

    def release(self, count: int = 1) -> None:
        """Let generations with the mode "hold" go on; doing so before they hold is fine, too."""
        for _ in range(count):
            self._loop.call_soon_threadsafe(self._permits.release)

    def wait_for_request(self, count: int = 1, timeout: float = 10.0, path: str | None = None) -> RecordedRequest:
        """Wait until there were `count` requests, only for a path if one is given, and return the last of these.

        Raises:
            TimeoutError: there were fewer.
        """

        def wanted() -> list[RecordedRequest]:
            return [request for request in self.requests if path in (None, request.path)]

        with self._arrived:
            if not self._arrived.wait_for(lambda: len(wanted()) >= count, timeout):
                raise TimeoutError(f"there were {len(wanted())} of {count} requests after {timeout} s")
        return wanted()[count - 1]

    def choose(self, model: str, prompt: str) -> Answer:
        """Return the answer to a prompt."""
        for script in self._scripts:
            if script.model in (None, model) and (script.prompt is None or script.prompt in prompt):
                return Answer.from_prompt(prompt, script.answer)
        return Answer.from_prompt(prompt, self.default)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._permits = asyncio.Semaphore(0)
        self._endpoints = self.endpoints(self, self._permits)
        # With handler_cancellation a handler is cancelled when its client goes away: that is how the fake notices.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        try:
            await runner.setup()
            listening = socket.create_server(("127.0.0.1", self._port))
            await web.SockSite(runner, listening).start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
        except BaseException as error:
            self._start_error = error
            await runner.cleanup()
            return
        finally:
            self._is_started.set()
        await self._stop.wait()
        # A connection accepted in the very step before asyncio's server is closed would never be (CPython gh-109564).
        self._loop.remove_reader(listening)
        for _ in range(3):
            await asyncio.sleep(0)
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.content.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        recorded = RecordedRequest(request.method, request.path, dict(request.headers), raw, body)
        with self._arrived:
            self.requests.append(recorded)
            self._arrived.notify_all()
        try:
            # Not `or`: a response of an older aiohttp is an empty mapping, and false.
            failure = self._planned_failure(request.path)
            return await self._endpoints.answer(request, recorded) if failure is None else failure
        except (asyncio.CancelledError, ConnectionResetError):
            if not recorded.is_dropped:
                recorded.disconnected.set()
            raise
        finally:
            recorded.finished.set()

    def _planned_failure(self, path: str) -> web.Response | None:
        for failure in self._failures:
            if failure.path == path and failure.times > 0:
                failure.times -= 1
                return web.Response(status=failure.status, body=failure.body, headers=failure.headers)
        return None
