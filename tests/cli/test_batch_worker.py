"""A line of a batch: sent, tried again, and what becomes of it. Takes 1 s."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from wsclient import (
    ConnectionFailedError,
    ConnectionLostError,
    InvalidAuthError,
    ModelNotFoundError,
    RateLimitedError,
    ServerBusyError,
    WSClientError,
)
from wsclient.cli.batch_items import BatchItem
from wsclient.cli.batch_worker import BatchWorker
from wsclient.testing import FakeClient

ITEM = BatchItem(line=3, end=10, digest="aa", prompt="Hello", given={"id": 7})


class Pauses(threading.Event):
    """An event that nobody sets, and for which nobody waits: it notes for how long they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return self.is_set()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """What a worker waits with."""
    event = Pauses()
    monkeypatch.setattr("wsclient.cli.batch_worker.threading.Event", lambda: event)
    return event


def failing(*errors: WSClientError) -> Callable[[Any], Any]:
    """Return a model that fails so, one time after the other, and then answers."""
    left = list(errors)
    return lambda _: left.pop(0) if left else "Hi"


def run(answers: Any, retries: int = 5) -> dict[str, Any]:
    client = FakeClient(answers)
    return BatchWorker(client, retries, lambda: 0.5).run(ITEM)


def test_a_result_has_the_lines_number_its_id_and_the_text() -> None:
    result = run(lambda _: ["Hi", " there"])
    assert list(result)[:4] == ["line", "id", "input", "model"]
    assert (result["line"], result["id"], result["input"], result["text"]) == (3, 7, "aa", "Hi there")
    assert result["total_tokens"] == 2
    assert "error" not in result


def test_what_may_pass_is_tried_again_after_growing_pauses(pauses: Pauses) -> None:
    result = run(failing(ConnectionLostError("x"), ServerBusyError("x"), ServerBusyError("x")))
    assert result["text"] == "Hi"
    assert pauses.seconds == [1, 2, 4]


def test_after_the_last_attempt_it_is_a_failure_with_the_text_so_far(pauses: Pauses) -> None:
    def broken_off(_: object) -> Any:
        yield "half"
        raise ConnectionLostError("gone")

    assert run(broken_off, retries=2) == {
        "line": 3,
        "id": 7,
        "input": "aa",
        "error": {"code": "connection_lost", "message": "gone", "retryable": True},
        "text": "half",
    }
    assert len(pauses.seconds) == 2


def test_what_the_server_asks_to_wait_is_waited_and_no_attempt(pauses: Pauses) -> None:
    errors = [RateLimitedError("slow down", retry_after=10.0) for _ in range(20)]
    assert run(failing(*errors), retries=0)["text"] == "Hi"
    assert pauses.seconds == [11] * 20


def test_patience_with_a_server_that_always_asks_to_wait_has_an_end(pauses: Pauses) -> None:
    result = run(lambda _: RateLimitedError("slow down", retry_after=0.0), retries=0)
    assert result["error"]["code"] == "rate_limited"
    assert len(pauses.seconds) == 900


def test_what_cannot_pass_is_not_tried_again(pauses: Pauses) -> None:
    assert run(failing(ModelNotFoundError("no such model")))["error"]["code"] == "model_not_found"
    assert not pauses.seconds


@pytest.mark.parametrize("error", [InvalidAuthError("revoked"), ConnectionFailedError("refused", retryable=False)])
def test_what_every_line_would_meet_is_the_result_of_none(error: WSClientError) -> None:
    with pytest.raises(type(error)):
        run(lambda _: error)


def test_a_line_that_cannot_be_sent_is_a_failure_and_not_sent() -> None:
    client = FakeClient()
    item = BatchItem(line=1, end=2, digest="aa", problem="no prompt")
    assert BatchWorker(client, 5).run(item) == {
        "line": 1,
        "input": "aa",
        "error": {"code": "invalid_request", "message": "no prompt", "retryable": False},
    }
    assert not client.requests


def test_a_wrong_option_is_a_failure() -> None:
    item = BatchItem(line=1, end=2, digest="aa", prompt="Hello", options={"temperature": -1})
    result = BatchWorker(FakeClient(), 5).run(item)
    assert result["error"]["message"] == "temperature must be a number >= 0 (got -1)"


def test_a_stop_ends_the_waiting(pauses: Pauses) -> None:
    client = FakeClient(lambda _: ServerBusyError("x"))
    client.connect()
    worker = BatchWorker(client, 5)
    pauses.set()
    with pytest.raises(ServerBusyError):
        worker.run(ITEM)
    assert not pauses.seconds
