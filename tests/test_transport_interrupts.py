"""Ctrl-C in the middle of sending: the stream of frames stays whole, whatever the moment."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator

from wsclient.core.frames import FrameParser, Violation
from wsclient.errors import ConnectionLostError
from wsclient.testing.scripted_server import Peer, PeerGone

from .support.lines import MIB, Lines, in_thread

MESSAGE = "a" + "x" * MIB + "z"
LAST = "last"


class CtrlC:
    """Interrupts the main thread at random moments, but only inside of `with ctrl_c:`, which then ends early.

    Attributes:
        count: how often it struck.
    """

    def __init__(self) -> None:
        self.count = 0
        self._is_armed = False
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[CtrlC]:
        """Strike until the end of the block."""
        before = signal.signal(signal.SIGINT, self._strike)
        thread = in_thread(self._run, threading.get_ident())
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()
            signal.signal(signal.SIGINT, before)

    def _run(self, target: int) -> None:
        dice = random.Random(7)
        while not self._is_over.wait(dice.uniform(0.0001, 0.002)):
            signal.pthread_kill(target, signal.SIGINT)

    def _strike(self, *_: object) -> None:
        if self._is_armed:
            self._is_armed = False
            self.count += 1
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._is_armed = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._is_armed = False
        return kind is KeyboardInterrupt


class Listener:
    """Reads what the server gets.

    Attributes:
        shapes: length and ends of each message.
        violation: how a frame broke RFC 6455, if one did.
    """

    def __init__(self, peer: Peer) -> None:
        self.shapes: list[tuple[int, bytes, bytes]] = []
        self.violation: Violation | None = None
        self._peer = peer
        self.thread = in_thread(self._run)

    def _run(self) -> None:
        parser = FrameParser(masked=True, max_message_size=8 * MIB)
        with contextlib.suppress(PeerGone):
            while parser.violation is None and not (self.shapes and self.shapes[-1][0] == len(LAST)):
                for text in parser.feed(self._peer.receive_bytes(MIB)):
                    self.shapes.append((len(text), text[:1], text[-1:]))
        self.violation = parser.violation


def interrupt_sends(lines: Lines, ctrl_c: CtrlC, attempts: int) -> tuple[Listener, bool]:
    """Interrupt sends until there were enough or the line is gone; return who listened, and whether it is gone."""
    transport, peer = lines.connect()
    listener = Listener(peer)
    try:
        for _ in range(attempts):
            with ctrl_c:
                transport.send(MESSAGE, time.monotonic() + 20)
        transport.send(LAST, time.monotonic() + 20)
    except ConnectionLostError:
        transport.close()
        return listener, True
    finally:
        listener.thread.join(20)
    return listener, False


def test_ctrl_c_in_the_middle_of_sends_leaves_the_line_in_order() -> None:
    with Lines(is_tls=False) as lines, CtrlC().running() as ctrl_c:
        listener, is_gone = interrupt_sends(lines, ctrl_c, 200)
    assert not is_gone
    assert listener.violation is None
    assert listener.shapes[-1] == (len(LAST), b"l", b"t")
    assert set(listener.shapes[:-1]) == {(len(MESSAGE), b"a", b"z")}
    # One that was interrupted before its first byte is not sent at all.
    assert len(listener.shapes) <= 201
    assert ctrl_c.count >= 20


def test_ctrl_c_in_the_middle_of_sends_over_tls_leaves_the_line_in_order_or_ends_it() -> None:
    with Lines(is_tls=True) as lines, CtrlC().running() as ctrl_c:
        while ctrl_c.count < 100:
            struck_before = ctrl_c.count
            listener, is_gone = interrupt_sends(lines, ctrl_c, 5)
            assert listener.violation is None
            assert {shape for shape in listener.shapes if shape[0] > len(LAST)} <= {(len(MESSAGE), b"a", b"z")}
            assert not is_gone or ctrl_c.count > struck_before
