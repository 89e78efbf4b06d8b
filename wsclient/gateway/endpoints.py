"""What the gateway answers over plain HTTP: health, status, figures, registration.

Two doors lead here. The main port is everybody's: health says nothing that a stranger could use, and the rest wants
the admin token, because behind a reverse proxy every request comes from this machine and an address proves nothing. The
metrics port, on 127.0.0.1 unless told otherwise, is the operator's own network and asks for no token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .admin_token import REGISTRATION_PATH, ROTATION_PATH, STATUS_PATH
from .handshake import answer_plain, answer_stopping
from .registration import AdminDesk, answer_json
from .status import Status

if TYPE_CHECKING:
    from .metrics import Metrics
    from .pooled_server import PooledServer

__all__ = ["Endpoints"]


class Endpoints:
    """The HTTP paths of one gateway.

    Args:
        not_ready: returns why nobody can be served now, nothing when everything is well.
        is_stopping: whether the gateway is about to end.
        desk: the administrator's; `None` when there is no admin token, and then its paths do not exist.
        metrics: the figures; `None` when nobody can ask for them.
        status: what the gateway is doing.
        servers: the model servers, when there are several.
    """

    def __init__(
        self,
        not_ready: Callable[[], Awaitable[list[str]]],
        is_stopping: Callable[[], bool],
        desk: AdminDesk | None,
        metrics: Metrics | None,
        status: Status,
        servers: Sequence[PooledServer] = (),
    ) -> None:
        self._not_ready = not_ready
        self._is_stopping = is_stopping
        self._desk = desk
        self._metrics = metrics
        self._status = status
        self._servers = servers

    async def answer(self, request: web.BaseRequest, address: str) -> web.Response:
        """Answer a request to the main port that asks for no WebSocket.

        Args:
            request: any.
            address: where it comes from.
        """
        if self._desk is not None:
            if request.method == "POST" and request.path in (REGISTRATION_PATH, ROTATION_PATH):
                change = self._desk.register if request.path == REGISTRATION_PATH else self._desk.rotate
                return answer_stopping() if self._is_stopping() else await change(request, address)
            if _asks_for(request, "/metrics") or _asks_for(request, STATUS_PATH):
                refusal = self._desk.refuse(request, address)
                # Not `or`: a response of an older aiohttp is an empty mapping, and false.
                return await self.answer_operator(request) if refusal is None else refusal
        return await self._answer_health(request, is_operator=False)

    async def answer_operator(self, request: web.BaseRequest) -> web.Response:
        """Answer a request to the metrics port, or one with the admin token."""
        if _asks_for(request, "/metrics"):
            return await self._show_metrics()
        if _asks_for(request, STATUS_PATH):
            return answer_json(200, await self._status.describe())
        return await self._answer_health(request, is_operator=True)

    async def _answer_health(self, request: web.BaseRequest, *, is_operator: bool) -> web.Response:
        if _asks_for(request, "/healthz"):
            return answer_json(200, {"status": "ok"})
        if _asks_for(request, "/readyz"):
            reasons = await self._not_ready()
            answer: dict[str, Any] = {"ready": not reasons, "reasons": reasons}
            if self._servers:
                answer["modelServers"] = self._states(with_urls=is_operator)
            return answer_json(503 if reasons else 200, answer)
        return answer_plain(request)

    def _states(self, *, with_urls: bool) -> list[dict[str, Any]]:
        """Return which model servers answer; where they are is not for strangers."""
        return [({"url": server.url} if with_urls else {}) | {"answers": server.is_up} for server in self._servers]

    async def _show_metrics(self) -> web.Response:
        assert self._metrics is not None
        headers = {"Content-Type": self._metrics.content_type}
        response = web.Response(body=await self._metrics.render(), headers=headers)
        response.force_close()
        return response


def _asks_for(request: web.BaseRequest, path: str) -> bool:
    return request.method in ("GET", "HEAD") and request.path == path
