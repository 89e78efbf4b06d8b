"""Where a generation is shown that goes on, and when it is drawn again. Takes a moment."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator

import pytest

from wsclient import ServerBusyError
from wsclient.contrib.ipython import display
from wsclient.contrib.ipython.live import Pace
from wsclient.testing import FakeClient, Request, Thinking

# --- the pace ---------------------------------------------------------------------------------------------------------


def test_the_first_drawing_is_due_at_once() -> None:
    assert Pace().due(has_news=False) < 0


@pytest.mark.parametrize(
    ("took", "size", "pause"),
    [(0.001, 100, 0.1), (0.5, 100, 1.5), (0.01, 100_000, 0.5)],
    ids=["small", "slow to draw", "large to send"],
)
def test_news_are_drawn_as_soon_as_the_last_drawing_allows(took: float, size: int, pause: float) -> None:
    pace = Pace()
    pace.drew(10.0 - took, 10.0, size)

    assert pace.due(has_news=True) == pytest.approx(10.0 + pause)


def test_without_news_the_seconds_are_drawn() -> None:
    pace = Pace()
    pace.drew(10.0, 10.0, 100)

    assert pace.due(has_news=False) == pytest.approx(11.0)


# --- where there is no notebook ---------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_display_writes_the_text_and_returns_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient({"Hello": [Thinking("hm"), "Hi ", "there\x1b[2J"]})

    assert display(client.stream("Hello", "tiny:1b")).thinking == "hm"

    text, figures, end = capsys.readouterr().out.split("\n")
    assert text == "Hi there[2J"
    assert figures.startswith("[tiny:1b · 3 tokens")
    assert end == ""


def test_a_terminal_counts_the_seconds_until_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    def slow(request: Request) -> Iterator[str]:
        # It goes on once somebody was told that it has begun.
        yield from ["Hi"] if "waiting for the first token of tiny:1b … 0 s" in terminal.getvalue() else []

    display(FakeClient(slow).stream("Hello", "tiny:1b"))

    waiting, _, rest = terminal.getvalue().partition("\r\x1b[K")
    assert waiting == "[waiting for the first token of tiny:1b … 0 s]"
    assert rest.startswith("Hi\n[tiny:1b")


def test_what_came_before_an_error_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServerBusyError):
        display(FakeClient({"Hello": ["Hi", ServerBusyError("no room")]}).stream("Hello", "tiny:1b"))

    assert capsys.readouterr().out == "Hi\n[tiny:1b · broke off: server_busy]\n"


def test_what_was_there_before_anybody_looked_came_nobody_knows_when(capsys: pytest.CaptureFixture[str]) -> None:
    generation = FakeClient({"Hello": ["Hi", " there"]}).stream("Hello", "tiny:1b")
    next(generation)

    display(generation)

    assert "first token" not in capsys.readouterr().out


def test_everything_is_drawn_by_the_thread_that_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing: list[str] = []

    class Watched(Terminal):
        def write(self, text: str) -> int:
            drawing.append(threading.current_thread().name)
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Watched())
    generation = FakeClient({"Hello": ["Hi", " there"]}).stream("Hello")

    worker = threading.Thread(target=display, args=(generation,), name="worker")
    worker.start()
    worker.join()

    assert len(drawing) > 2
    assert set(drawing) == {"worker"}


def test_a_generation_that_cannot_be_shown_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient({"Hello": ["Hi", " there"]})
    generation = client.stream("Hello", "tiny:1b")
    stdout = io.StringIO()
    stdout.close()
    monkeypatch.setattr(sys, "stdout", stdout)

    with pytest.raises(ValueError, match="closed file"):
        display(generation)

    assert client.requests[0].outcome == "stopped"


def test_display_takes_nothing_but_a_generation() -> None:
    with pytest.raises(TypeError, match=r"display\(\) shows what client.stream\(\) returns \(got str\)"):
        display("text")  # type: ignore[arg-type]
