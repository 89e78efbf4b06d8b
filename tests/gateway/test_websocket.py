"""The WebSocket layer: broken rules of RFC 6455, control frames, the closing handshake, and waiting in turn."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import time
from collections.abc import Callable

import pytest

from wsclient.core.auth import Key
from wsclient.core.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, ControlFrame, encode_frame
from wsclient.gateway.thread import GatewayThread

from ..core.streams import frame
from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until
from .conftest import StartGateway
from .fake_transport import FakeTransport, make_socket
from .scripted_backend import ScriptedBackend


def masked(opcode: int, payload: bytes = b"", **wrong: object) -> bytes:
    return frame(opcode, payload, masked=True, **wrong)  # type: ignore[arg-type]


VIOLATIONS = {
    "not masked": (frame(TEXT, b"{}", masked=False), 1002),
    "reserved bits": (masked(TEXT, b"{}", reserved=4), 1002),
    "unknown opcode": (masked(3, b"x"), 1002),
    "continuation of nothing": (masked(CONTINUATION, b"x"), 1002),
    "fragmented ping": (masked(PING, fin=False), 1002),
    "ping of 126 bytes": (masked(PING, b"x" * 126), 1002),
    "close of one byte": (masked(CLOSE, b"\x03"), 1002),
    "close code 1005": (masked(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "close code 999": (masked(CLOSE, (999).to_bytes(2, "big")), 1002),
    "close reason not UTF-8": (masked(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (masked(TEXT, b"\xff"), 1007),
    "binary": (masked(BINARY, b"{}"), 1003),
    "negative length": (masked(TEXT, claimed=1 << 63), 1002),
    "length of a terabyte": (masked(TEXT, claimed=1 << 40), 1009),
    "noise": (bytes(range(256)), 1002),
}


@pytest.mark.parametrize("is_logged_in", [False, True])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_broken_rule_closes_that_connection_with_its_code(
    name: str, is_logged_in: bool, gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    stream, code = VIOLATIONS[name]
    with RawPeer(gateway.url) as peer:
        if is_logged_in:
            peer.log_in(client_id, ec_key)
        peer.socket.sendall(stream)
        assert peer.read_to_end() == code
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_a_witness_misses_nothing_while_others_break_every_rule(
    gateway: GatewayThread, peer: Peer, client_id: str, ec_key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        peer.send(type="generate", id="g", prompt="tokens 3000")
        for stream, code in VIOLATIONS.values():
            with RawPeer(gateway.url) as stranger:
                stranger.socket.sendall(stream)
                assert stranger.read_to_end() == code
        messages = peer.receive_until("stream_end")
    tokens = [message["token"] for message in messages if message["type"] == "stream_token"]
    assert tokens == [f" t{number:03}" for number in range(3000)]
    assert caplog.text == ""


def test_a_stranger_may_send_eight_kibibytes_at_once_and_a_client_more(
    gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    with RawPeer(gateway.url) as stranger:
        stranger.send_frame(TEXT, b" " * 8191 + b"5")
        assert stranger.receive()["type"] == "challenge"
        assert stranger.receive()["error"] == "Not authenticated"
        stranger.send_frame(TEXT, b" " * 8192 + b"5")
        assert stranger.read_to_end() == 1009
    with RawPeer(gateway.url).log_in(client_id, ec_key) as client:
        client.send(type="ping", id="p", filler="x" * 5_000_000)
        assert client.receive()["type"] == "pong"


def test_a_message_over_the_limit_of_the_settings_is_1009(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(max_message_size=10_000)
    with RawPeer(gateway.url).log_in(client_id, ec_key) as client:
        client.send_frame(TEXT, b" " * 9_999 + b"5")
        assert client.receive()["error"] == "Unsupported message type: undefined"
        # Fragments count together, and the limit holds before the last of them has come.
        client.socket.sendall(masked(TEXT, b" " * 6_000, fin=False) + masked(CONTINUATION, b" " * 6_000, fin=False))
        assert client.read_to_end() == 1009


def test_a_fragmented_message_with_a_ping_inside_is_served(connect_raw: Callable[..., RawPeer]) -> None:
    peer = connect_raw()
    first, second = masked(TEXT, b'{"type":"pi', fin=False), masked(CONTINUATION, b'ng","id":"f"}')
    peer.socket.sendall(first + masked(PING, b"now") + second)
    assert peer.receive()["id"] == "f"
    assert peer.receive_control() == ControlFrame(PONG, b"now")


def test_a_ping_is_answered_before_the_login_too(gateway: GatewayThread) -> None:
    with RawPeer(gateway.url) as peer:
        peer.send_frame(PING, b"hey")
        peer.send_frame(PONG, b"unasked")
        assert peer.receive_control() == ControlFrame(PONG, b"hey")


def test_of_several_pings_the_last_one_is_answered(connect_raw: Callable[..., RawPeer]) -> None:
    peer = connect_raw()
    peer.socket.sendall(masked(PING, b"first") + masked(PING, b"last"))
    assert peer.receive_control() == ControlFrame(PONG, b"last")


def test_who_comes_while_others_wait_waits_too() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        socket = make_socket(transport)
        transport.is_reading = False
        await socket.send_in_turn(["x" * 300_000])
        first = asyncio.create_task(socket.send_in_turn(["a" * 300_000]))
        await asyncio.sleep(0.01)
        # There is room again, but the first one's turn has not come yet.
        transport.buffer = b""
        second = asyncio.create_task(socket.send_in_turn(["b"]))
        await asyncio.sleep(0.01)
        assert not second.done()
        transport.is_reading = True
        transport.read_all()
        await asyncio.wait([first, second], timeout=5)
        await asyncio.sleep(0)
        assert transport.taken.endswith(b"a\x81\x01b")

    asyncio.run(scenario())


@pytest.mark.parametrize(("payload", "code"), [(b"", 1005), (b"\x03\xe8bye", 1000), (b"\x0f\xa0", 4000)])
def test_a_close_is_answered_with_its_own_code_and_the_line_ends(
    connect_raw: Callable[..., RawPeer], payload: bytes, code: int
) -> None:
    peer = connect_raw()
    peer.send_frame(CLOSE, payload)
    assert peer.read_to_end() == code


def test_a_connection_whose_close_frame_had_to_wait_for_the_client_to_read_is_not_kept(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(backend="builtin", close_timeout=10.0)
    with RawPeer(gateway.url, receive_buffer=4096) as peer:
        peer.log_in(client_id, ec_key)
        peer.send(type="generate", id="g1", prompt="hi", model="builtin", options={"max_tokens": 100_000_000})
        (connection,) = gateway.gateway._connections
        wait_until(lambda: connection.socket.unsent_bytes > 256 * 1024)
        peer.send_close()
        assert peer.read_to_end() == 1000
    wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_messages_before_a_close_are_answered_and_those_after_it_are_not(
    connect_raw: Callable[..., RawPeer],
) -> None:
    peer = connect_raw()
    ping = b'{"type":"ping","id":"%s"}'
    close = masked(CLOSE, b"\x03\xe8")
    peer.socket.sendall(masked(TEXT, ping % b"before") + close + masked(TEXT, ping % b"after"))
    assert peer.receive()["id"] == "before"
    assert peer.read_to_end() == 1000
    with pytest.raises(AssertionError, match="the line ended"):
        peer.receive()


def test_the_line_ends_with_the_close_frame_whoever_sent_it_first(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(close_timeout=20)
    for stream, code in (VIOLATIONS["not masked"], (masked(CLOSE, b"\x03\xe8"), 1000)):
        with RawPeer(gateway.url).log_in(client_id, ec_key) as peer:
            started = time.monotonic()
            peer.socket.sendall(stream)
            assert peer.read_to_end() == code
            assert time.monotonic() - started < 5


def test_who_does_not_answer_a_close_is_dropped_in_time(
    start_gateway: StartGateway, client_id: str, ec_key: Key
) -> None:
    gateway = start_gateway(close_timeout=0.1)
    with RawPeer(gateway.url).log_in(client_id, ec_key) as peer:
        peer.socket.sendall(VIOLATIONS["not masked"][0])
        wait_until(lambda: gateway.gateway.stats().connections == 0)


def test_a_half_closed_line_counts_as_gone(
    gateway: GatewayThread, connect_raw: Callable[..., RawPeer], backend: ScriptedBackend
) -> None:
    peer = connect_raw()
    peer.send(type="generate", id="g", prompt="hang 1")
    wait_until(lambda: backend.requests)
    peer.socket.shutdown(sockets.SHUT_WR)
    assert backend.cancelled.wait(5)
    wait_until(lambda: gateway.gateway.stats().connections == 0)


@pytest.mark.parametrize(
    "flood",
    [masked(PING) * 1000, masked(PONG, b"x") * 1000, masked(TEXT, fin=False) + masked(CONTINUATION, fin=False) * 1000],
    ids=["pings", "pongs", "fragments"],
)
@pytest.mark.parametrize("is_logged_in", [False, True])
def test_a_flood_of_frames_that_say_nothing_is_1008(
    flood: bytes, is_logged_in: bool, gateway: GatewayThread, client_id: str, ec_key: Key
) -> None:
    with RawPeer(gateway.url) as peer:
        if is_logged_in:
            peer.log_in(client_id, ec_key)
        peer.socket.sendall(flood)
        assert peer.read_to_end() == 1008


def test_pings_now_and_then_add_up_to_nothing(
    connect_raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsclient.gateway.websocket._SMALL_FRAMES", 3)
    monkeypatch.setattr("wsclient.gateway.websocket._SMALL_FRAMES_PER_SECOND", 200)
    peer = connect_raw()
    for _ in range(20):
        peer.send_frame(PING, b"x")
        assert peer.receive_control() == ControlFrame(PONG, b"x")
        # Longer than the 5 ms after which there may be another one.
        time.sleep(0.01)


def test_thousands_of_messages_in_one_read_leave_the_others_their_turn() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        taken: list[bytes] = []
        is_paused = []

        def take(texts: list[bytes]) -> None:
            # As long as answering them takes.
            end = time.perf_counter() + 0.00001 * len(texts)
            while time.perf_counter() < end:
                pass
            taken.extend(texts)

        transport.pause_reading = lambda: is_paused.append(True)  # type: ignore[method-assign]
        transport.resume_reading = lambda: is_paused.append(False)  # type: ignore[method-assign]
        socket = make_socket(transport, take)
        socket.feed_data(b"".join(masked(TEXT, b"%d" % number) for number in range(100_000, 120_000)))
        turns = 0
        while len(taken) < 20_000:
            before = len(taken)
            await asyncio.sleep(0)
            assert len(taken) > before
            turns += 1
        # 0.2 s of work in slices of 5 ms; fewer if the machine is busy with others.
        assert turns > 5
        assert taken == [b"%d" % number for number in range(100_000, 120_000)]
        assert is_paused == [True, False]
        socket.abort()

    asyncio.run(scenario())


def test_what_is_read_while_others_have_their_turn_comes_after_what_waits() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        taken: list[bytes] = []

        def take(texts: list[bytes]) -> None:
            taken.extend(texts)
            time.sleep(0.006)

        transport.pause_reading = transport.resume_reading = lambda: None  # type: ignore[method-assign]
        socket = make_socket(transport, take)
        stream = b"".join(masked(TEXT, b"%d" % number) for number in range(3000))
        socket.feed_data(stream[:20_000])
        socket.feed_data(stream[20_000:])
        assert len(taken) < 3000
        while len(taken) < 3000:
            await asyncio.sleep(0)
        assert taken == [b"%d" % number for number in range(3000)]
        socket.abort()

    asyncio.run(scenario())


def test_a_connection_that_is_lost_meanwhile_takes_nothing_more() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        taken: list[bytes] = []

        def take(texts: list[bytes]) -> None:
            taken.extend(texts)
            time.sleep(0.006)

        transport.pause_reading = transport.resume_reading = lambda: None  # type: ignore[method-assign]
        socket = make_socket(transport, take)
        socket.feed_data(masked(TEXT, b"5") * 10_000)
        count = len(taken)
        socket.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        assert 0 < count == len(taken)

    asyncio.run(scenario())


# --- waiting in turn, without a socket --------------------------------------------------------------------------------


def test_messages_of_one_turn_of_the_loop_leave_in_one_write() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        writes: list[int] = []
        transport.write = lambda data: writes.append(len(data))  # type: ignore[method-assign]
        socket = make_socket(transport)
        for _ in range(10):
            socket.send(["a"])
            await socket.send_in_turn(["b"])
        assert writes == []
        await asyncio.sleep(0)
        assert writes == [20 * 3]

    asyncio.run(scenario())


def test_who_waits_is_served_in_the_order_of_asking_when_the_client_reads_again() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        transport.is_reading = False
        socket = make_socket(transport)
        await socket.send_in_turn(["x" * 300_000])
        waiting = [asyncio.create_task(socket.send_in_turn([letter])) for letter in "abc"]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        # What is small and urgent does not wait.
        socket.send(["!"])
        await asyncio.sleep(0.01)
        transport.read_all()
        await asyncio.wait(waiting, timeout=5)
        await asyncio.sleep(0)
        transport.read_all()
        assert transport.taken[-12:] == b"\x81\x01!\x81\x01a\x81\x01b\x81\x01c"

    asyncio.run(scenario())


def test_who_is_cancelled_while_waiting_sends_nothing() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        transport.is_reading = False
        socket = make_socket(transport)
        await socket.send_in_turn(["x" * 300_000])
        waiting = [asyncio.create_task(socket.send_in_turn([letter])) for letter in "ab"]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        transport.read_all()
        await asyncio.wait(waiting, timeout=5)
        await asyncio.sleep(0)
        transport.read_all()
        assert transport.taken[-4:] != b"\x81\x01a\x81"
        assert transport.taken.endswith(b"x\x81\x01b")

    asyncio.run(scenario())


def test_who_is_cancelled_in_the_moment_of_sending_learns_that_it_was_sent() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        transport.is_reading = False
        socket = make_socket(transport)
        await socket.send_in_turn(["x" * 300_000])
        sent = []

        async def send() -> None:
            sent.append(await socket.send_in_turn(["a"]))
            await asyncio.sleep(60)

        task = asyncio.create_task(send())
        await asyncio.sleep(0.01)
        transport.is_reading = True
        transport.read_all()
        # The drainer's step, which grants the turn; the task itself is still to be woken.
        while not socket._unwritten:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert sent == [3]
        assert task.cancelled()
        assert transport.taken.endswith(b"\x81\x01a")

    asyncio.run(scenario())


def test_nothing_is_sent_after_the_close_frame() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        socket = make_socket(transport)
        transport.can_write_eof = lambda: False  # type: ignore[method-assign]
        socket.send(["last"])
        socket.close(1000)
        socket.send(["late"])
        assert await socket.send_in_turn(["late"]) == 0
        socket.close(1001)
        await asyncio.sleep(0)
        assert transport.taken == encode_frame(TEXT, b"last") + encode_frame(CLOSE, b"\x03\xe8")
        socket.abort()
        assert socket.closed.done()
        assert socket.close_code == 1000

    asyncio.run(scenario())


def test_what_waits_its_turn_does_not_slip_out_behind_the_close_frame() -> None:
    async def scenario() -> None:
        transport = FakeTransport()
        transport.can_write_eof = lambda: False  # type: ignore[method-assign]
        transport.is_reading = False
        socket = make_socket(transport)
        await socket.send_in_turn(["x" * 300_000])
        waiting = asyncio.create_task(socket.send_in_turn(["late"]))
        await asyncio.sleep(0.01)
        # There is room, but the turn has not been granted yet.
        transport.is_reading = True
        transport.taken, transport.buffer = transport.buffer, b""
        socket.close(1000)
        await asyncio.wait([waiting], timeout=5)
        await asyncio.sleep(0.01)
        assert waiting.cancelled()
        assert transport.taken.endswith(encode_frame(CLOSE, b"\x03\xe8"))
        socket.abort()

    asyncio.run(scenario())
