"""One client's connection: carries out what its conversation decides."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import attrs
from aiohttp.abc import AbstractStreamWriter

from ..core.json_values import decode_values
from ..core.messages import ErrorMessage, ModelsResultMessage
from ..errors import ErrorCode, ProtocolError
from .backends import Backend, BackendError
from .backends.allowed import AllowedModels
from .conversation import (
    Answer,
    Close,
    Conversation,
    Generate,
    ListModels,
    Phase,
    RunBatch,
    Send,
    Step,
    StopGeneration,
    Verify,
)
from .generations import Generation, now_ms
from .guard import CannotCountError, Refusal
from .json_limits import fault_of
from .login import LoginDesk
from .quotas import Accounts
from .settings import GatewaySettings
from .websocket import WebSocket

__all__ = ["Connection", "Services"]

_log = logging.getLogger(__name__)

# How many seconds the items of a batch may keep the event loop, as long as none of them has to be waited for.
_SLICE_TIME = 0.005


@attrs.define(kw_only=True, slots=True)
class Services:
    """What all connections of one gateway share.

    Attributes:
        accounts: what clients may use and use.
        open_generations: how many there are under each key (`Conversation`).
        counts: what happened since the start: `logins`, `refusals` and those of them that were `blocked`, logins that
            were `postponed` because nothing could be counted,
            `generations`, `tokens`, and of connections that have ended `received_bytes` and `sent_bytes`.
        on_generation_end: is told of each generation that has ended.
    """

    settings: GatewaySettings
    backend: Backend
    desk: LoginDesk
    accounts: Accounts = attrs.field()
    open_generations: Counter[str] = attrs.field(factory=Counter)
    counts: Counter[str] = attrs.field(factory=Counter)
    on_generation_end: Callable[[Generation], None] = lambda generation: None

    @accounts.default
    def _default_accounts(self) -> Accounts:
        return Accounts(self.settings)


class Connection:
    """A client, from the challenge to the end of the line.

    Args:
        services: the gateway's.
        transport, writer: see `WebSocket`.
        address: the client's.
        on_login: called once, when it has logged in.

    Attributes:
        socket: what its bytes go through.
    """

    def __init__(
        self,
        services: Services,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        address: str,
        on_login: Callable[[], None],
    ) -> None:
        self._services = services
        self._address = address
        self._on_login = on_login
        self._conversation = Conversation(
            services.settings, secrets.token_hex(32), services.open_generations, services.accounts
        )
        allowed = AllowedModels(services.backend, lambda model: self._conversation.limits.allows_model(model))
        self._backend = services.accounts.over(allowed, lambda: self.client_id)
        self._tasks: set[asyncio.Task[None]] = set()
        self._generations: dict[str, list[Generation]] = {}
        self.socket = WebSocket(transport, writer, services.settings, self._receive, self._let_go)
        loop = asyncio.get_running_loop()
        self._login_timer = loop.call_later(services.settings.auth_timeout, self._time_out_login)

    @property
    def client_id(self) -> str | None:
        """Who has logged in, `None` before."""
        return self._conversation.client_id

    @property
    def generations(self) -> list[Generation]:
        """The generations that are running."""
        return [generation for generations in list(self._generations.values()) for generation in generations]

    @property
    def is_busy(self) -> bool:
        """Whether a request is being carried out."""
        return bool(self._tasks)

    def open(self) -> None:
        """Say the first word."""
        self._perform(self._conversation.open())

    def apply_limits(self) -> None:
        """Let the size of messages be what it is now for the client that has logged in; others need no telling."""
        if self.client_id is not None:
            self.socket.max_message_size = self._conversation.limits.max_message_size

    def drain(self) -> None:
        """Begin no new generation any more."""
        self._conversation.is_draining = True

    def _receive(self, texts: list[bytes]) -> None:
        settings = self._services.settings
        for value, text in zip(_decode(texts), texts, strict=True):
            size = len(text)
            task = self._take(value, is_crowded=len(self._tasks) >= settings.max_open_requests, size=size)
            if task is not None and self.client_id is not None:
                self._services.accounts.hold_bytes(self.client_id, size)
                task.add_done_callback(partial(self._let_go_of_bytes, size))

    def _let_go_of_bytes(self, size: int, _: object) -> None:
        assert self.client_id is not None
        self._services.accounts.let_go_of_bytes(self.client_id, size)

    def _take(self, value: Any, *, is_crowded: bool = False, size: int = 0) -> asyncio.Task[None] | None:
        """Do what a message asks for; return the task that is still at it, if there is one."""
        try:
            steps = self._conversation.receive(value, time.monotonic(), is_crowded=is_crowded, size=size)
            return self._perform(steps)
        except Exception as error:
            # Such as an id nested so deeply that it cannot be written back. Only the kind: its text may be a prompt's.
            _log.error("a message could not be answered: %s", type(error).__name__)
            self._send(ErrorMessage(error="Server error: internal error", code=ErrorCode.SERVER_ERROR))
            return None

    def _perform(self, steps: list[Step]) -> asyncio.Task[None] | None:
        task = None
        for step in steps:
            match step:
                case Send(message):
                    self._send(message)
                case Verify():
                    self._spawn(self._log_in(step))
                case ListModels(id):
                    task = self._spawn(self._list_models(id))
                case Generate():
                    task = self._spawn(self._begin_generation(step).run())
                case StopGeneration(key):
                    self._stop_generation(key)
                case RunBatch(messages):
                    task = self._spawn(self._run_batch(messages))
                case Close(code, reason):
                    self.socket.close(code, reason)
        return task

    def _send(self, message: Answer) -> None:
        self.socket.send([message.encode(now_ms())])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # The loop itself only keeps a weak reference.
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request failed with %s", type(error).__name__)

    def _let_go(self) -> None:
        """Drop everything that is under way: nobody is there any more to hear of it."""
        self._login_timer.cancel()
        for task in self._tasks:
            task.cancel()
        for key, generations in self._generations.items():
            for _ in generations:
                self._conversation.end_generation(key)
        self._generations.clear()

    # --- login --------------------------------------------------------------------------------------------------------

    async def _log_in(self, attempt: Verify) -> None:
        try:
            verdict = await self._services.desk.check(attempt, self._address)
        except CannotCountError as error:
            self._services.counts["postponed"] += 1
            self._perform(self._conversation.postpone(error.retry_after))
            return
        except Exception as error:
            _log.error("a login could not be judged: %s", type(error).__name__)
            self.socket.close(1011, "internal error")
            return
        if isinstance(verdict, Refusal):
            self._services.counts["refusals"] += 1
            self._services.counts["blocked"] += verdict.retry_after is not None
            _log.info("a login from %s was refused", self._address)
            self._perform(self._conversation.refuse(verdict))
        elif self._conversation.phase is Phase.VERIFYING:
            self._services.counts["logins"] += 1
            self._on_login()
            _log.info("client %s logged in from %s", verdict, self._address)
            steps = self._conversation.accept(verdict, time.monotonic())
            self.apply_limits()
            self._perform(steps)

    def _time_out_login(self) -> None:
        self._perform(self._conversation.time_out_login())

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _list_models(self, id: Any) -> None:
        try:
            models = await self._backend.list_models()
        except BackendError as error:
            text, later = f"Failed to list models: {error.message}", error.retry_after
            message = ErrorMessage(id=id, error=text, code=error.code)
            self._send(message if later is None else attrs.evolve(message, retry_after=later))
        except Exception as error:
            _log.error("the backend failed to list models with %s", type(error).__name__)
            text = "Failed to list models: internal error"
            self._send(ErrorMessage(id=id, error=text, code=ErrorCode.SERVER_ERROR))
        else:
            await self.socket.send_in_turn([ModelsResultMessage(id=id, models=models).encode(now_ms())])

    async def _run_batch(self, messages: list[Any]) -> None:
        slice_end = time.monotonic() + _SLICE_TIME
        for message in messages:
            task = self._take(message)
            if task is not None:
                # Not awaited itself: an item that is stopped or fails is no reason to end the batch.
                await asyncio.wait([task])
            elif time.monotonic() > slice_end:
                # A hundred thousand pings fit into a batch.
                await asyncio.sleep(0)
                slice_end = time.monotonic() + _SLICE_TIME

    def _begin_generation(self, step: Generate) -> Generation:
        counts = self._services.counts
        counts["generations"] += 1

        def end() -> None:
            counts["tokens"] += generation.tokens
            self._services.on_generation_end(generation)
            self._forget_generation(step.key, generation)

        generation = Generation(step.id, step.request, self._backend, self.socket, end)
        self._generations.setdefault(step.key, []).append(generation)
        return generation

    def _stop_generation(self, key: str) -> None:
        # Forgotten at once: a second stop is told that there is no such generation, as by the original.
        generation = self._generations[key][-1]
        self._forget_generation(key, generation)
        generation.stop()

    def _forget_generation(self, key: str, generation: Generation) -> None:
        generations = self._generations.get(key, [])
        if generation in generations:
            generations.remove(generation)
            self._conversation.end_generation(key)
            self._services.accounts.let_go(generation.request)
            if not generations:
                del self._generations[key]


def _decode(texts: list[bytes]) -> list[Any]:
    """Return what messages say; a `ProtocolError` stands in the place of one that is too much or no JSON."""
    faults = {place: fault for place, text in enumerate(texts) if (fault := fault_of(text)) is not None}
    if not faults:
        return decode_values(texts)
    values = decode_values([b"0" if place in faults else text for place, text in enumerate(texts)])
    for place, fault in faults.items():
        values[place] = ProtocolError(f"a message has {fault}")
    return values
