"""The outbox: whole frames, one at a time, whoever sends, stalls, gives up or is interrupted."""

from __future__ import annotations

import select
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from wsclient.core.frames import CLOSE, PONG, TEXT, FrameParser
from wsclient.errors import ConnectionLostError, RequestTimeoutError
from wsclient.outbox import Outbox

from .support.waiting import wait_until

SOON = 0.05


class Wire:
    """A socket that takes as many bytes as the test allows.

    Attributes:
        taken: what went out.
        room: how many bytes it takes before it blocks.
    """

    def __init__(self, room: int | None = None, *, keeps_tries: bool = False) -> None:
        self.taken = bytearray()
        self.room = room
        self.is_aborted = False
        self.writes = 0
        self.interrupts: Iterator[bool] = iter(())
        # What OpenSSL insists on getting again.
        self._pending: bytes | None = None
        self._keeps_tries = keeps_tries

    def write(self, data: memoryview, sizes: list[int]) -> bool:
        self.writes += 1
        if self.is_aborted:
            raise BrokenPipeError("ended")
        if self._pending is not None and bytes(data) != self._pending:
            raise ssl.SSLError("bad write retry")
        if self.room == 0:
            self._pending = bytes(data) if self._keeps_tries else None
            return False
        self._pending = None
        size = len(data) if self.room is None else min(len(data), self.room)
        self.taken += data[:size]
        sizes.append(size)
        if self.room is not None:
            self.room -= size
        if next(self.interrupts, False):
            raise KeyboardInterrupt
        return True

    def wait(self, event: int, timeout: float | None = None) -> bool:
        assert event == select.POLLOUT
        assert timeout is not None
        deadline = time.monotonic() + timeout
        while self.room == 0 and not self.is_aborted:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def abort(self) -> None:
        self.is_aborted = True

    @property
    def texts(self) -> list[bytes]:
        """The text messages that went out; a frame that is broken fails the test."""
        parser = FrameParser(masked=True, max_message_size=1 << 24)
        texts = parser.feed(bytes(self.taken))
        assert parser.violation is None, parser.violation
        return texts


def make_outbox(wire: Wire, stall_timeout: float = 5.0, *, keeps_tries: bool = False) -> Outbox:
    return Outbox(wire, stall_timeout, keeps_tries=keeps_tries)


def later(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def in_thread(target: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


def test_a_message_goes_out_masked_and_whole() -> None:
    wire = Wire()
    make_outbox(wire).send("grün", later())
    assert wire.texts == ["grün".encode()]
    assert "grün".encode() not in wire.taken


def test_what_is_posted_goes_out_in_order() -> None:
    wire = Wire()
    outbox = make_outbox(wire)
    for number in range(5):
        outbox.post(TEXT, str(number).encode())
    assert wire.texts == [b"0", b"1", b"2", b"3", b"4"]


def test_a_post_never_waits_for_room() -> None:
    wire = Wire(room=0)
    outbox = make_outbox(wire)
    outbox.post(TEXT, b"waits")
    assert wire.taken == b""
    wire.room = None
    outbox.flush()
    assert wire.texts == [b"waits"]


def test_a_sender_writes_what_was_posted_before_it_first() -> None:
    wire = Wire(room=0)
    outbox = make_outbox(wire)
    outbox.post(TEXT, b"first")
    wire.room = None
    outbox.send("second", later())
    assert wire.texts == [b"first", b"second"]


def test_a_post_during_a_send_goes_out_after_it() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire)
    sender = in_thread(outbox.send, "long message", later())
    wait_until(lambda: wire.room == 0)
    outbox.post(TEXT, b"posted")
    wire.room = None
    sender.join()
    assert wire.texts == [b"long message", b"posted"]


def test_senders_take_turns_and_no_frame_is_cut_by_another() -> None:
    wire = Wire()
    outbox = make_outbox(wire)

    def send(name: str) -> None:
        for number in range(200):
            outbox.send(f"{name}{number}", later())

    threads = [in_thread(send, name) for name in "abcd"]
    for thread in threads:
        thread.join()
    assert sorted(wire.texts) == sorted(f"{name}{number}".encode() for name in "abcd" for number in range(200))
    for name in "abcd":
        own = [text for text in wire.texts if text.startswith(name.encode())]
        assert own == [f"{name}{number}".encode() for number in range(200)]


def test_a_sender_whose_turn_does_not_come_in_time_leaves_no_frame_behind() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire)
    first = in_thread(outbox.send, "first", later())
    wait_until(lambda: wire.room == 0)
    with pytest.raises(RequestTimeoutError, match="other messages took the line"):
        outbox.send("too late", later(SOON))
    wire.room = None
    first.join()
    outbox.send("third", later())
    assert wire.texts == [b"first", b"third"]


def test_a_send_ends_at_its_deadline_although_there_is_progress() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire)
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="takes it too slowly"):
        outbox.send("half of it", later(SOON))
    assert time.monotonic() - started < 2
    assert not wire.is_aborted


def test_half_a_frame_is_finished_by_the_next_sender() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire)
    with pytest.raises(RequestTimeoutError):
        outbox.send("half of it", later(SOON))
    wire.room = None
    outbox.send("next", later())
    assert wire.texts == [b"half of it", b"next"]


def test_half_a_frame_is_finished_by_the_next_flush() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire)
    with pytest.raises(RequestTimeoutError):
        outbox.send("half of it", later(SOON))
    wire.room = None
    outbox.flush()
    assert wire.texts == [b"half of it"]


def test_a_frame_that_was_not_begun_is_withdrawn_at_its_deadline() -> None:
    wire = Wire(room=0)
    outbox = make_outbox(wire)
    with pytest.raises(RequestTimeoutError):
        outbox.send("never", later(SOON))
    wire.room = None
    outbox.send("next", later())
    assert wire.texts == [b"next"]


def test_a_frame_that_openssl_has_seen_cannot_be_withdrawn() -> None:
    wire = Wire(room=0, keeps_tries=True)
    outbox = make_outbox(wire, keeps_tries=True)
    with pytest.raises(RequestTimeoutError):
        outbox.send("OpenSSL holds a record of it", later(SOON))
    wire.room = None
    outbox.send("next", later())
    assert wire.texts == [b"OpenSSL holds a record of it", b"next"]


def test_a_stall_ends_the_connection() -> None:
    wire = Wire(room=3)
    outbox = make_outbox(wire, stall_timeout=SOON)
    with pytest.raises(ConnectionLostError, match=r"the server took nothing for 0\.05 s"):
        outbox.send("half of it", later())
    assert wire.is_aborted


def test_progress_puts_the_stall_off() -> None:
    wire = Wire(room=1)
    outbox = make_outbox(wire, stall_timeout=0.5)
    sender = in_thread(outbox.send, "0123456789", later())
    # 16 bytes in all, each long before the stall, together long after it.
    for _ in range(15):
        wait_until(lambda: wire.room == 0)
        time.sleep(0.05)
        wire.room = 1
    sender.join()
    assert not wire.is_aborted
    assert wire.texts == [b"0123456789"]


def test_a_broken_socket_ends_the_connection_and_the_send() -> None:
    wire = Wire()
    wire.abort()
    with pytest.raises(ConnectionLostError, match="broke while sending: ended"):
        make_outbox(wire).send("x", later())


def test_a_post_on_a_broken_socket_says_nothing() -> None:
    wire = Wire()
    wire.abort()
    make_outbox(wire).post(TEXT, b"x")
    assert wire.is_aborted


def test_ctrl_c_in_the_middle_of_a_frame_neither_loses_nor_repeats_a_byte() -> None:
    wire = Wire(room=4)
    wire.interrupts = iter([True])
    outbox = make_outbox(wire)
    with pytest.raises(KeyboardInterrupt):
        outbox.send("interrupted", later())
    wire.room = None
    outbox.send("next", later())
    assert wire.texts == [b"interrupted", b"next"]


def test_ctrl_c_right_after_the_last_byte_does_not_send_it_again() -> None:
    wire = Wire()
    wire.interrupts = iter([True])
    outbox = make_outbox(wire)
    with pytest.raises(KeyboardInterrupt):
        outbox.send("interrupted", later())
    outbox.send("next", later())
    assert wire.texts == [b"interrupted", b"next"]


def test_nothing_follows_a_close_frame() -> None:
    wire = Wire()
    outbox = make_outbox(wire)
    outbox.post(CLOSE, b"\x03\xe8")
    size = len(wire.taken)
    outbox.post(CLOSE, b"\x03\xe8")
    outbox.post(PONG, b"")
    outbox.post(TEXT, b"x")
    assert len(wire.taken) == size


def test_pongs_for_a_peer_that_never_reads_are_bounded() -> None:
    wire = Wire(room=0)
    outbox = make_outbox(wire)
    for _ in range(5000):
        outbox.post(PONG, b"x" * 125)
    wire.room = None
    outbox.flush()
    assert len(wire.taken) <= 1000 * (125 + 6)


def test_other_frames_than_pongs_are_never_dropped() -> None:
    wire = Wire(room=0)
    outbox = make_outbox(wire)
    for number in range(1500):
        outbox.post(TEXT, str(number).encode())
    wire.room = None
    outbox.flush()
    assert len(wire.texts) == 1500
