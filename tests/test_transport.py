"""The transport on real sockets: bulk receiving, sending beside it, ends; plain and over TLS."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from wsclient.core.frames import CLOSE, PONG, TEXT, FrameParser, encode_frame, encode_texts
from wsclient.errors import ConnectionLostError, RequestTimeoutError
from wsclient.testing.scripted_server import Peer, PeerGone
from wsclient.transport import Transport

from .support.holdings import Holdings
from .support.lines import MIB, Lines, in_thread, read_texts
from .support.waiting import wait_until

Connect = Callable[..., tuple[Transport, Peer]]


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = Holdings.now()
    yield
    before.wait_until_none_gained()


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with Lines(is_tls=request.param == "tls") as lines:
        yield lines.connect


def later(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def receive_texts(transport: Transport, count: int) -> list[bytes]:
    parser = FrameParser(masked=False, max_message_size=64 * MIB)
    texts: list[bytes] = []
    while len(texts) < count:
        data = transport.receive()
        assert data, f"the stream ended after {len(texts)} messages"
        texts += parser.feed(data)
    return texts


# --- receiving --------------------------------------------------------------------------------------------------------


def test_what_the_server_sent_is_received_whole_and_in_order(connect: Connect) -> None:
    transport, peer = connect()
    texts = [f"message {number}".encode() * (number % 50) for number in range(5000)]
    sender = in_thread(peer.send_frame, b"".join(encode_frame(TEXT, text) for text in texts))
    assert receive_texts(transport, len(texts)) == texts
    sender.join()


def test_many_messages_come_in_few_reads(connect: Connect) -> None:
    transport, peer = connect()
    stream = encode_texts(["x" * 90] * 10_000)
    peer_done = in_thread(peer.send_frame, stream)
    reads, size = 0, 0
    while size < len(stream):
        size += len(transport.receive())
        reads += 1
    peer_done.join()
    assert reads <= 10_000 / 20
    assert transport.bytes_received == len(stream)


def test_a_large_message_is_received_whole(connect: Connect) -> None:
    transport, peer = connect()
    payload = random.Random(1).randbytes(4 * MIB).hex().encode()
    sender = in_thread(peer.send_frame, encode_frame(TEXT, payload))
    assert receive_texts(transport, 1) == [payload]
    sender.join()


def test_receiving_blocks_until_something_comes(connect: Connect) -> None:
    transport, peer = connect()
    received: list[bytes] = []
    reader = in_thread(lambda: received.append(transport.receive()))
    reader.join(0.05)
    assert reader.is_alive()
    peer.send_frame(b"\x81\x01x")
    reader.join(5)
    assert received == [b"\x81\x01x"]


def test_the_servers_end_of_the_stream_is_empty_bytes(connect: Connect) -> None:
    transport, peer = connect()
    peer.send_frame(b"\x81\x01x")
    peer.drop()
    received = [transport.receive()]
    while received[-1]:
        received.append(transport.receive())
    assert b"".join(received) == b"\x81\x01x"


def test_a_reset_is_a_lost_connection_or_the_end(connect: Connect) -> None:
    transport, peer = connect()
    peer.drop(reset=True)
    with contextlib.suppress(ConnectionLostError):
        assert transport.receive() == b""


def test_an_abort_wakes_the_reader(connect: Connect) -> None:
    transport, _ = connect()
    received: list[bytes] = []
    reader = in_thread(lambda: received.append(transport.receive()))
    reader.join(0.05)
    assert reader.is_alive()
    transport.abort()
    reader.join(1)
    assert received == [b""]


def test_nothing_is_received_after_an_abort(connect: Connect) -> None:
    transport, peer = connect()
    peer.send_frame(b"\x81\x01x")
    transport.abort()
    assert transport.receive() == b""


def test_abort_and_close_can_be_called_again(connect: Connect) -> None:
    transport, _ = connect()
    for _ in range(2):
        transport.abort()
        transport.close()
    assert transport.receive() == b""


# --- sending ----------------------------------------------------------------------------------------------------------


def test_messages_arrive_in_the_order_they_were_sent_and_posted(connect: Connect) -> None:
    transport, peer = connect()
    for number in range(0, 100, 2):
        transport.send(str(number), later())
        transport.post(TEXT, str(number + 1).encode())
    assert read_texts(peer, 100) == [str(number).encode() for number in range(100)]
    assert transport.bytes_sent > 0


def fill(transport: Transport) -> None:
    """Send until the server, which does not read, takes nothing any more."""
    with pytest.raises(RequestTimeoutError):
        transport.send("x" * (16 * MIB), later(0.2))


def test_a_post_never_blocks_although_the_server_does_not_read(connect: Connect) -> None:
    transport, _ = connect()
    fill(transport)
    started = time.monotonic()
    for _ in range(100):
        transport.post(TEXT, b"x" * 1000)
    assert time.monotonic() - started < 1


def test_a_stalled_send_ends_the_connection_after_pong_timeout(connect: Connect) -> None:
    transport, _ = connect(pong_timeout=0.2)
    with pytest.raises(ConnectionLostError, match=r"took nothing for 0\.2 s"):
        transport.send("x" * (16 * MIB), later())
    assert transport.receive() == b""


def test_a_stalled_send_does_not_keep_the_reader_from_receiving(connect: Connect) -> None:
    transport, peer = connect()

    def send() -> None:
        with contextlib.suppress(ConnectionLostError):
            transport.send("x" * (16 * MIB), later())

    sender = in_thread(send)
    wait_until(lambda: transport.bytes_sent)
    texts = [f"token {number}".encode() for number in range(1000)]
    peer.send_frame(b"".join(encode_frame(TEXT, text) for text in texts))
    assert receive_texts(transport, 1000) == texts
    assert sender.is_alive()
    transport.abort()
    sender.join(5)
    assert not sender.is_alive()


def test_a_half_written_frame_is_finished_by_the_next_sender(connect: Connect) -> None:
    transport, peer = connect()
    fill(transport)
    texts: list[bytes] = []
    reader = in_thread(lambda: texts.extend(read_texts(peer, 2)))
    transport.send("next", later())
    reader.join()
    assert [len(text) for text in texts] == [16 * MIB, 4]


def test_a_post_that_had_to_wait_is_sent_when_the_reader_next_wakes(connect: Connect) -> None:
    transport, peer = connect()
    fill(transport)
    transport.post(TEXT, b"posted")
    received: list[bytes] = []
    server_reader = in_thread(lambda: received.extend(read_texts(peer, 2)))
    while not received:
        with contextlib.suppress(PeerGone):
            peer.send_frame(b"\x81\x01x")
        transport.receive()
    server_reader.join()
    assert received[1] == b"posted"


def test_a_sender_that_waits_is_woken_when_the_reader_closes(connect: Connect) -> None:
    transport, peer = connect(pong_timeout=30)
    errors: list[BaseException] = []

    def send() -> None:
        try:
            transport.send("x" * (16 * MIB), later(30))
        except ConnectionLostError as error:
            errors.append(error)

    sender = in_thread(send)
    wait_until(lambda: transport.bytes_sent)
    # The server closes its half and reads nothing: the reader ends, and closes.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(peer.socket, socket.SHUT_WR)
    assert transport.receive() == b""
    transport.close()
    sender.join(2)
    assert not sender.is_alive()
    assert len(errors) == 1


def test_sending_after_the_end_is_a_lost_connection(connect: Connect) -> None:
    transport, _ = connect()
    transport.abort()
    with pytest.raises(ConnectionLostError):
        transport.send("x", later())
    transport.close()
    with pytest.raises(ConnectionLostError):
        transport.send("x", later())
    transport.post(PONG, b"")


def test_control_frames_are_sent_with_their_payload(connect: Connect) -> None:
    transport, peer = connect()
    transport.post(PONG, b"payload")
    transport.post(CLOSE, b"\x03\xe8")
    with pytest.raises(PeerGone):
        peer.receive()
    assert [(control.opcode, control.payload) for control in peer.controls] == [(PONG, b"payload")]
    assert peer.closed is not None
    assert peer.closed.code == 1000


def test_both_directions_at_once_arrive_whole(connect: Connect) -> None:
    transport, peer = connect()
    size, count = 100_000, 150
    down = hashlib.sha256()
    up = hashlib.sha256()

    def server_sends() -> None:
        for number in range(count):
            peer.send_frame(encode_frame(TEXT, bytes([97 + number % 26]) * size))

    def server_reads() -> None:
        for text in read_texts(peer, count * 2):
            up.update(hashlib.sha256(text).digest() if len(text) == size else b"")

    def client_sends() -> None:
        for _ in range(count):
            transport.send("x" * size, later(30))

    threads = [in_thread(target) for target in (server_sends, server_reads, client_sends, client_sends)]
    for text in receive_texts(transport, count):
        down.update(text)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    expected_down = hashlib.sha256(b"".join(bytes([97 + number % 26]) * size for number in range(count)))
    expected_up = hashlib.sha256(hashlib.sha256(b"x" * size).digest() * (count * 2))
    assert down.digest() == expected_down.digest()
    assert up.digest() == expected_up.digest()
