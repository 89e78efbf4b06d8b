"""The reader thread: what it hands over, what it answers, and that whatever ends it is told once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient.core.addresses import Target
from wsclient.core.frames import CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, encode_frame
from wsclient.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    InvalidAuthError,
    MessageTooBigError,
    ProtocolError,
    WSClientError,
)
from wsclient.reader import Reader

from .support.fake_transport import FakeTransport
from .support.waiting import wait_until


class FakeConnection:
    """Stands in for what the reader reports to.

    Attributes:
        batches: every batch of values.
        wholes: for each of them, whether a message or control frame was complete.
        losses: every error that ended the line.
    """

    def __init__(self) -> None:
        self.is_opened = False
        self.batches: list[list[Any]] = []
        self.wholes: list[bool] = []
        self.losses: list[WSClientError] = []
        self.refuses: WSClientError | None = None
        self.fails: BaseException | None = None

    def resolved(self, reader: Reader, addresses: list[str]) -> Target:
        return Target("ws://localhost/")

    def opened(self, reader: Reader) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.is_opened = True

    def receive(self, reader: Reader, values: list[Any], is_whole: bool) -> None:
        if self.fails is not None:
            raise self.fails
        self.batches.append(values)
        self.wholes.append(is_whole)

    def lost(self, reader: Reader, error: WSClientError) -> None:
        assert reader.transport.is_closed
        self.losses.append(error)

    @property
    def values(self) -> list[Any]:
        return [value for batch in self.batches for value in batch]


class Line:
    """A reader at work between a fake transport and a fake connection."""

    def __init__(self, max_message_size: int = 1 << 20) -> None:
        self.transport = FakeTransport(None)
        self.connection = FakeConnection()
        self.reader = Reader(self.connection, self.transport, 7, max_message_size)  # type: ignore[arg-type]

    def start(self) -> None:
        self.reader.thread.start()

    def end(self) -> WSClientError:
        """Wait for the thread's end and return why it ended."""
        self.reader.thread.join(5)
        assert not self.reader.thread.is_alive()
        (error,) = self.connection.losses
        return error


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.transport.abort()
    if line.reader.thread.ident is not None:
        line.reader.thread.join(5)


@pytest.fixture
def open_line(line: Line) -> Line:
    line.start()
    line.transport.accept()
    wait_until(lambda: line.connection.is_opened)
    return line


def test_the_thread_is_named_after_its_connection_and_a_daemon(line: Line) -> None:
    assert line.reader.thread.name == "wsclient-reader-7"
    assert line.reader.thread.daemon


def test_all_messages_of_one_read_are_handed_over_at_once(open_line: Line) -> None:
    open_line.transport.say({"n": 1}, {"n": 2}, {"n": 3})
    wait_until(lambda: open_line.connection.batches)
    assert open_line.connection.batches == [[{"n": 1}, {"n": 2}, {"n": 3}]]


def test_a_long_read_is_parsed_in_pieces_and_loses_nothing(open_line: Line) -> None:
    messages = [{"n": n, "text": "x" * 100} for n in range(8000)]
    open_line.transport.say(*messages)
    wait_until(lambda: len(open_line.connection.values) == len(messages))
    assert open_line.connection.values == messages
    # 120 bytes each at the least: a piece is 64 KiB.
    assert max(map(len, open_line.connection.batches)) <= 64 * 1024 / 120


def test_nothing_is_taken_of_a_long_read_after_its_close_frame(open_line: Line) -> None:
    close = encode_frame(CLOSE, close_payload(1001))
    open_line.transport.arrive(close + encode_frame(TEXT, b'{"n": 1}') * 100_000)
    assert "1001" in str(open_line.end())
    assert open_line.connection.batches == [[]]


def test_bytes_that_make_no_message_are_a_sign_of_life(open_line: Line) -> None:
    frame = encode_frame(TEXT, b'{"n": 1}')
    open_line.transport.arrive(frame[:3])
    wait_until(lambda: open_line.connection.batches)
    open_line.transport.arrive(frame[3:])
    wait_until(lambda: open_line.connection.values)
    assert open_line.connection.batches == [[], [{"n": 1}]]
    assert open_line.connection.wholes == [False, True]


def test_what_is_not_json_is_handed_over_as_an_error_in_its_place(open_line: Line) -> None:
    open_line.transport.say({"n": 1}, "rubbish", {"n": 2})
    wait_until(lambda: open_line.connection.values)
    first, second, third = open_line.connection.values
    assert (first, third) == ({"n": 1}, {"n": 2})
    assert isinstance(second, ProtocolError)


def test_a_ping_is_answered_with_its_payload(open_line: Line) -> None:
    open_line.transport.arrive(encode_frame(PING, b"one") + encode_frame(TEXT, b"{}") + encode_frame(PING, b"two"))
    wait_until(lambda: len(open_line.transport.controls) == 2)
    assert open_line.transport.controls == [(PONG, b"one"), (PONG, b"two")]


def test_a_pong_is_a_sign_of_life_and_nothing_more(open_line: Line) -> None:
    open_line.transport.arrive(encode_frame(PONG, b""))
    wait_until(lambda: open_line.connection.batches)
    assert open_line.connection.batches == [[]]
    assert open_line.connection.wholes == [True]
    assert open_line.transport.controls == []


def test_a_close_frame_is_echoed_and_ends_the_line_after_the_messages_before_it(open_line: Line) -> None:
    open_line.transport.arrive(
        encode_frame(TEXT, b'{"n": 1}') + encode_frame(CLOSE, close_payload(1001, "restart")) + b"\x81\x02{}"
    )
    error = open_line.end()
    assert open_line.connection.values == [{"n": 1}]
    assert open_line.transport.controls == [(CLOSE, close_payload(1001))]
    assert type(error) is ConnectionLostError
    assert error.message == "the server is going away (close code 1001: restart)"


def test_a_close_frame_without_a_code_is_answered_with_1000(open_line: Line) -> None:
    open_line.transport.arrive(encode_frame(CLOSE, b""))
    assert "close code 1005" in open_line.end().message
    assert open_line.transport.controls == [(CLOSE, close_payload(1000))]


def test_a_close_code_of_the_protocol_has_its_error(open_line: Line) -> None:
    open_line.transport.arrive(encode_frame(CLOSE, close_payload(4003, "revoked")))
    assert isinstance(open_line.end(), InvalidAuthError)


def test_the_end_of_the_stream_is_a_lost_connection(open_line: Line) -> None:
    open_line.transport.arrive(b"")
    error = open_line.end()
    assert isinstance(error, ConnectionLostError)
    assert "1006" in error.message


@pytest.mark.parametrize(
    ("data", "code", "kind"),
    [
        (encode_frame(TEXT, b"x", b"mask"), 1002, ProtocolError),
        (b"\xc1\x00", 1002, ProtocolError),
        (encode_frame(TEXT, b"\xff"), 1007, ProtocolError),
        (b"\x82\x00", 1003, ProtocolError),
        (encode_frame(CONTINUATION, b""), 1002, ProtocolError),
        (b"\x81\x7f" + (1 << 40).to_bytes(8, "big"), 1009, MessageTooBigError),
    ],
)
def test_a_frame_that_breaks_rfc_6455_ends_the_line_after_the_messages_before_it(
    open_line: Line, data: bytes, code: int, kind: type[WSClientError]
) -> None:
    open_line.transport.arrive(encode_frame(TEXT, b'{"n": 1}') + data)
    assert type(open_line.end()) is kind
    assert open_line.connection.values == [{"n": 1}]
    ((opcode, payload),) = open_line.transport.controls
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)


def test_a_dial_that_fails_is_told_and_nothing_was_opened(line: Line) -> None:
    line.start()
    line.transport.refuse(ConnectionFailedError("refused"))
    assert line.end().message == "refused"
    assert not line.connection.is_opened


def test_an_attempt_that_was_given_up_meanwhile_ends_at_once(line: Line) -> None:
    line.connection.refuses = ConnectionLostError("given up")
    line.start()
    line.transport.accept()
    assert line.end().message == "given up"


def test_a_broken_socket_is_told(open_line: Line) -> None:
    open_line.transport.break_off(ConnectionLostError("cable"))
    assert open_line.end().message == "cable"


def test_the_reason_that_was_decided_elsewhere_counts(open_line: Line) -> None:
    open_line.reader.end_error = ProtocolError("decided elsewhere")
    open_line.transport.abort()
    assert open_line.end().message == "decided elsewhere"


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SystemExit(1), KeyboardInterrupt()])
def test_a_bug_ends_the_line_and_is_logged_but_nobody_waits_for_ever(
    open_line: Line, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    open_line.connection.fails = error
    open_line.transport.say({"n": 1})
    told = open_line.end()
    assert isinstance(told, ConnectionLostError)
    assert told.__cause__ is error
    assert "unexpected error" in caplog.text


def test_the_socket_is_closed_by_the_readers_own_thread(open_line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    closers: list[str] = []
    close = open_line.transport.close

    def note_and_close() -> None:
        closers.append(threading.current_thread().name)
        close()

    monkeypatch.setattr(open_line.transport, "close", note_and_close)
    open_line.transport.arrive(b"")
    open_line.end()
    assert closers == ["wsclient-reader-7"]
