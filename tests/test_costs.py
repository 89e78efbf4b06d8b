"""What receiving costs, counted instead of timed: system calls, lock takings, hand-overs, memory, and life at rest."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsclient import WSClient
from wsclient.core.answers import Answers
from wsclient.core.frames import TEXT, FrameParser, encode_frame
from wsclient.core.json_values import decode_values
from wsclient.core.requests import OpenRequest, RequestKind
from wsclient.delivery import deliver
from wsclient.feed import GenerationFeed
from wsclient.testing.scripted_server import ScriptedServer, polite
from wsclient.transport import Transport

from .support.calls import connected
from .support.fake_transport import FakeNetwork
from .support.fast_clients import fast_client, fast_options
from .support.waiting import wait_until

MakeClient = Callable[..., WSClient]


def token_frames(id: str, count: int) -> bytes:
    """Return frames as a gateway sends them, about 100 bytes each."""
    text = '{"id":"%s","type":"stream_token","token":" t%05d","timestamp":1795372838239}'
    return b"".join(encode_frame(TEXT, (text % (id, number)).encode()) for number in range(count))


# --- system calls -----------------------------------------------------------------------------------------------------


class CountingSocket:
    """A socket whose data is all there; it counts who asks."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.calls = 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        piece, self._data = bytes(self._data[:size]), self._data[size:]
        return piece

    def fileno(self) -> int:
        raise AssertionError("it waits although data is there")

    def close(self) -> None:
        self.calls += 1


def test_a_blast_of_tokens_takes_one_system_call_for_more_than_a_thousand() -> None:
    transport = Transport(fast_options("ws://localhost"))
    data = token_frames("gen_" + "0" * 32, 100_000)
    transport._socket = counting = CountingSocket(data)
    received = 0
    while received < len(data):
        received += len(transport.receive())
    assert counting.calls <= 100_000 / 1000


# --- locks and hand-overs ---------------------------------------------------------------------------------------------


class Counted:
    """Stands before a lock or a queue, and counts the calls of the reader thread."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.takings = self.puts = 0

    def __enter__(self) -> None:
        self.takings += threading.current_thread().name.startswith("wsclient-reader")
        self._inner.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._inner.__exit__(*exception)

    def put(self, item: Any) -> None:
        self.puts += 1
        self._inner.put(item)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_batch_of_500_tokens_takes_one_lock_once_and_is_handed_over_at_once(
    fake_client: Callable[..., WSClient], fake_network: FakeNetwork
) -> None:
    client = fake_client()
    line = connected(client, fake_network)
    generations = [client.stream("x"), client.stream("y")]
    connection = client._connection
    connection._lock = lock = Counted(connection._lock)  # type: ignore[assignment]
    queues = []
    for generation in generations:
        generation._feed._batches = counted = Counted(generation._feed._batches)  # type: ignore[assignment]
        generation._feed._read_lock = Counted(generation._feed._read_lock)  # type: ignore[assignment]
        queues.append(counted)
    line.arrive(b"".join(token_frames(generation.id, 250) for generation in generations))
    wait_until(lambda: all(len(generation.text) == 250 * 7 for generation in generations))
    assert lock.takings == 1
    assert [counted.puts for counted in queues] == [1, 1]
    # Nothing is taken of a lock that readers take too.
    assert [generation._feed._read_lock.takings for generation in generations] == [0, 0]  # type: ignore[attr-defined]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_requests_whose_deadline_is_nearer_than_the_next_ping_wake_the_watchdog_once(
    fake_client: Callable[..., WSClient], fake_network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake_client(request_timeout=10.0, ping_interval=1000.0, connect_timeout=100.0, auth_timeout=100.0)
    line = connected(client, fake_network)

    def answer(text: str, deadline: float) -> None:
        line.say({"type": "pong", "id": json.loads(text)["id"]})

    monkeypatch.setattr(line, "send", answer)
    watchdog = client._connection.watchdog
    watchdog._notes = notes = Counted(watchdog._notes)  # type: ignore[assignment]
    for _ in range(20):
        client.ping()
        # The watchdog has its turn between two requests, and plans anew.
        client._connection.plan_wake_up()
    assert notes.puts == 1


def test_a_token_that_waits_to_be_read_is_one_object_and_little_more_than_its_text() -> None:
    feed = GenerationFeed("gen_1", None, 1 << 30, keeps_tokens=True)
    answers, parser = Answers(), FrameParser(masked=False, max_message_size=1 << 20)
    answers.requests.open([OpenRequest("gen_1", RequestKind.GENERATION, feed, answer_timeout=60.0)], 0.0)

    def take(count: int) -> None:
        for action in answers.receive(decode_values(parser.feed(token_frames("gen_1", count))), 0.0):
            deliver(action)

    take(1000)
    gc.collect()
    tracemalloc.start()
    blocks = sys.getallocatedblocks()
    before, _ = tracemalloc.get_traced_memory()
    take(10_000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    blocks = sys.getallocatedblocks() - blocks
    tracemalloc.stop()
    assert blocks / 10_000 < 1.05
    # 56 of the str object, 8 of its place in the list (grown in steps), 7 of the joined text; see `max_unread_bytes`.
    assert (after - before) / 10_000 < 56 + 9 + 7 + 2


# --- at rest ----------------------------------------------------------------------------------------------------------


def switches(thread: threading.Thread) -> int:
    """Return how often a thread of this process has gone to sleep."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads' wake-ups are read from Linux's /proc")
def test_a_client_at_rest_wakes_none_of_its_two_threads() -> None:
    with ScriptedServer(polite) as server:
        client = fast_client(server.url, ping_interval=30.0)
        client.connect()
        assert client.complete("a b c").text == "a b c"
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("wsclient-")]
        assert len(threads) == 2

        def is_at_rest() -> bool:
            before = [switches(thread) for thread in threads]
            # A wake-up that anything polls for would come within this second.
            threading.Event().wait(1.0)
            return [switches(thread) for thread in threads] == before

        # What the last answer set in motion may come to rest first.
        assert is_at_rest() or is_at_rest()
        client.close()


IDLE = """
import sys
from wsclient import WSClient
client = WSClient(sys.argv[1], client_id="c", private_key=lambda challenge: b"signed", ping_interval=2.0)
client.connect()
print("idle", flush=True)
sys.stdin.readline()
"""
# One send, poll and read, two reads of dice (id and mask), and 8 futex calls of the two threads were counted;
# interpreters differ in the last.
CALLS_A_PING = 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs the program strace")
def test_the_system_calls_of_an_idle_client_are_its_pings(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with (
        ScriptedServer(polite) as server,
        subprocess.Popen(
            [sys.executable, "-c", IDLE, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "idle\n"
            strace = subprocess.Popen(
                ["strace", "-f", "-qq", "-o", str(trace), "-p", str(process.pid)], stderr=subprocess.DEVNULL
            )
            started = time.monotonic()
            with pytest.raises(subprocess.TimeoutExpired):
                strace.wait(10)
            strace.send_signal(signal.SIGINT)
            strace.wait(10)
            elapsed = time.monotonic() - started
        finally:
            process.kill()
    lines = [line for line in trace.read_text().splitlines() if "resumed" not in line]
    pings = len([line for line in lines if "sendto(" in line])
    assert 3 <= pings <= elapsed / 2 + 1
    # Besides those, the calls that were under way when strace came and went.
    assert len(lines) <= CALLS_A_PING * pings + 10, "\n".join(lines)


def test_the_connection_of_a_client_needs_no_more_than_two_threads_and_callbacks_one_more(
    fake_client: MakeClient, fake_network: FakeNetwork
) -> None:
    client = fake_client()
    names = lambda: sorted(t.name for t in threading.enumerate() if t.name.startswith("wsclient-"))  # noqa: E731
    assert names() == []
    connected(client, fake_network)
    assert [name.split("-")[1] for name in names()] == ["reader", "watchdog"]
    client.on_token(print)
    assert [name.split("-")[1] for name in names()] == ["dispatcher", "reader", "watchdog"]
