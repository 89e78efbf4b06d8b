"""Ctrl-C: a real SIGINT to a real process, in every call that blocks."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import attrs
import pytest

from wsclient.testing.scripted_server import Peer, Script, ScriptedServer, polite

from ..support.waiting import wait_until
from .programs import expect_line, program

# From the signal to the KeyboardInterrupt in the program's own code (issue 3).
AT_ONCE = 0.5

# Says when the main thread waits inside of the library, takes the signal, says when it came through, and goes on.
INTERRUPTED = """
# A run in the background of a shell would make it deaf.
signal.signal(signal.SIGINT, signal.default_int_handler)
SETUP
main = threading.main_thread().ident
def waits_in_the_library():
    frame = sys._current_frames()[main]
    if frame.f_code.co_name not in ("_wait", "next_batch"):
        return False
    while frame is not None and frame.f_globals["__name__"] not in ("wsclient.client", "wsclient.generation"):
        frame = frame.f_back
    return frame is not None
def watch():
    while not (CONDITION and waits_in_the_library()):
        time.sleep(0.001)
    print("blocked", flush=True)
threading.Thread(target=watch, daemon=True).start()
try:
    CALL
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
sys.stdin.readline()
AFTER
client.close()
"""


def say_nothing_then_be_polite(peer: Peer) -> None:
    if peer.number == 0:
        peer.accept_and_say_nothing()
    else:
        peer.upgrade()
        polite(peer)


def upgrade_then_say_nothing_then_be_polite(peer: Peer) -> None:
    peer.upgrade()
    if peer.number == 0:
        peer.accept_and_say_nothing()
    else:
        polite(peer)


def drop_then_be_polite(peer: Peer) -> None:
    peer.upgrade()
    if peer.number == 0:
        peer.login()
    else:
        polite(peer)


def answer_the_second_models_request(peer: Peer) -> None:
    peer.upgrade()
    peer.login()
    peer.expect("models")
    second = peer.expect("models")
    peer.send({"id": second["id"], "type": "models_result", "models": [{"name": "a b c"}]})
    peer.wait_until_gone()


def be_polite(peer: Peer) -> None:
    peer.upgrade()
    polite(peer)


COMPLETE = 'print(client.complete("a b c").text, flush=True)'
RECONNECTING = """
import logging
logging.getLogger("wsclient").addHandler(logging.NullHandler())
client = WSClient(url, client_id=client_id, private_key_path=key, reconnect_delay=20.0)
client.connect()
while client.status != "reconnecting":
    time.sleep(0.001)
"""


@attrs.frozen
class Case:
    """One call that is interrupted.

    Attributes:
        call: the call.
        script: what the server does.
        condition: what must be so before the signal, besides that the main thread waits.
        setup: what comes first.
        after: shows that the client is usable, and prints "a b c".
        connections: how many there were in the end.
    """

    call: str
    script: Script = be_polite
    condition: str = "client.is_ready()"
    setup: str = "client.connect()"
    after: str = COMPLETE
    connections: int = 1


CASES = {
    "connect, without an answer": Case(
        "client.connect()", say_nothing_then_be_polite, 'client.status == "connecting"', "", connections=2
    ),
    "connect, without a challenge": Case(
        "client.connect()", upgrade_then_say_nothing_then_be_polite, 'client.status == "connected"', "", connections=2
    ),
    "list_models": Case(
        "client.list_models()",
        answer_the_second_models_request,
        "client.stats().open_requests == 1",
        after="print(client.list_models()[0].name, flush=True)",
    ),
    "for token in stream": Case('for token in client.stream("endless"): pass', condition="client.stats().tokens > 2"),
    "complete": Case('client.complete("endless")', condition="client.stats().tokens > 2"),
    "result": Case('client.stream("endless").result()', condition="client.stats().tokens > 2"),
    "complete, silent": Case('client.complete("silence")', condition="client.stats().open_generations == 1"),
    "a request in a backoff wait": Case(
        "client.list_models()",
        drop_then_be_polite,
        'client.status == "reconnecting"',
        RECONNECTING,
        "client.connect(); " + COMPLETE,
        connections=2,
    ),
    "wait_ready in a backoff wait": Case(
        "client.wait_ready()",
        drop_then_be_polite,
        'client.status == "reconnecting"',
        RECONNECTING,
        "client.connect(); " + COMPLETE,
        connections=2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ctrl_c_comes_through_at_once_stops_the_generation_and_leaves_the_client_usable(
    name: str, client_id: str, key_path: Path
) -> None:
    case = CASES[name]
    text = INTERRUPTED.replace("SETUP", case.setup).replace("CONDITION", case.condition)
    text = text.replace("CALL", case.call).replace("AFTER", case.after)
    with (
        ScriptedServer(case.script, upgrade=False) as server,
        program(text, server.url, client_id, key_path) as process,
    ):
        expect_line(process, "blocked")
        wait_until(lambda: server.peers)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        # Both clocks are the machine's.
        assert float(line) - sent < AT_ONCE
        for message in [message for message in server.peers[0].received if message["type"] == "generate"]:
            wait_until(lambda: any(was["type"] == "stop" for was in server.peers[0].received))
            assert [was["requestId"] for was in server.peers[0].received if was["type"] == "stop"] == [message["id"]]
        output, errors = process.communicate("\n", timeout=10)

    assert (output, errors, process.returncode) == ("a b c\n", "", 0)
    assert len(server.peers) == case.connections


# A signal arrives the first time that the main thread holds a lock of the library at some place, for every such place.
SIGNALLED = """
import collections, faulthandler
faulthandler.dump_traceback_later(30, exit=True)
hit, closed = collections.Counter(), []

class Interrupting:
    def __init__(self, lock):
        self.lock = lock
    def acquire(self, *args, **kwargs):
        is_held = self.lock.acquire(*args, **kwargs)
        if is_held:
            self.interrupt(sys._getframe(1))
        return is_held
    def __enter__(self):
        self.lock.acquire()
        self.interrupt(sys._getframe(1))
    def __exit__(self, *_):
        self.lock.release()
    def interrupt(self, frame):
        name, place = frame.f_globals["__name__"], (frame.f_code.co_filename, frame.f_lineno)
        if is_on and name.startswith("wsclient.") and not hit[place] and threading.current_thread() is main:
            hit[place] += 1
            places.add(name)
            signal.raise_signal(signal.SIGUSR1)
    def __getattr__(self, name):
        return getattr(self.lock, name)

is_on, main, places = False, threading.main_thread(), set()
make_lock = threading.Lock
threading.Lock = lambda: Interrupting(make_lock())
client = WSClient(url, client_id=client_id, private_key_path=key)

def close(*_):
    started = time.monotonic()
    client.close()
    closed.append(time.monotonic() - started)

signal.signal(signal.SIGUSR1, close)

def use():
    client.connect()
    for read in (lambda: list(client.stream("a b c")), lambda: client.complete("a b c").text, client.list_models,
                 client.stats, lambda: client.on_token(print)(), lambda: client.generate("a b c"),
                 lambda: client.stream("a b c").result(5), lambda: client.wait_ready(5), client.close):
        try:
            read()
        except WSClientError:
            client.connect()

from wsclient import WSClientError
is_on = True
while True:
    before = len(closed)
    try:
        use()
    except WSClientError:
        continue
    if len(closed) == before:
        break
is_on = False
client.connect()
print(client.complete("a b c").text, len(closed) > 10, max(closed) < 2.5, sorted(places), flush=True)
client.close()
"""


def test_a_signal_handler_may_close_the_client_whatever_the_client_was_doing(client_id: str, key_path: Path) -> None:
    with ScriptedServer(polite) as server, program(SIGNALLED, server.url, client_id, key_path) as process:
        output, errors = process.communicate(timeout=50)

    names = ("connection", "dispatcher", "feed", "futures", "outbox")
    assert (output, errors) == (f"a b c True True {[f'wsclient.{name}' for name in names]}\n", "")
