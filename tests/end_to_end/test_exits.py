"""The interpreter's exit: in time, with the asked exit code and without a word, whatever goes on."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from wsclient.testing.scripted_server import Peer, ScriptedServer, polite

from .programs import expect_line, program, running, wait_for_line

# What an exit may take (issue 3).
EXIT = 3.0

WAYS = {
    "falls off its end": ("", 0),
    "calls sys.exit(7)": ("sys.exit(7)", 7),
    "calls os._exit(7)": ("os._exit(7)", 7),
}

MIDSTREAM = """
client.on_token(lambda event: None)
client.on_connection_change(lambda status: None)
client.on_error(lambda error: None)
client.generate("endless")
generation = client.stream("endless")
next(generation)
print("leaving", flush=True)
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_program_in_mid_stream_with_callbacks_ends_with_its_exit_code_when_it_(
    way: str, client_id: str, key_path: Path
) -> None:
    leave, code = WAYS[way]
    with ScriptedServer(polite) as server, program(MIDSTREAM + leave, server.url, client_id, key_path) as process:
        expect_line(process, "leaving")
        output, errors = process.communicate(timeout=EXIT)

    assert (output, errors, process.returncode) == ("", "", code)


STUCK = """
generation = client.stream("endless")
next(generation)
def fill():
    client.generate("x" * 30_000_000)
threading.Thread(target=fill, daemon=True).start()
def ask():
    client.list_models()
threading.Thread(target=ask, daemon=True).start()
while client.stats().open_requests + client.stats().open_generations < 3 or client.stats().bytes_sent < 100_000:
    time.sleep(0.001)
print("leaving", flush=True)
sys.exit(7)
"""


def test_a_program_ends_with_its_exit_code_while_a_stuck_server_takes_and_says_nothing(
    client_id: str, key_path: Path
) -> None:
    may_end = threading.Event()

    def get_stuck(peer: Peer) -> None:
        peer.login()
        id = peer.receive()["id"]
        peer.send_all([{"id": id, "type": "stream_start"}, {"id": id, "type": "stream_token", "token": "a"}])
        may_end.wait()

    with ScriptedServer(get_stuck) as server, program(STUCK, server.url, client_id, key_path) as process:
        expect_line(process, "leaving")
        output, errors = process.communicate(timeout=EXIT)
        may_end.set()

    assert (output, errors, process.returncode) == ("", "", 7)


GATEWAY = """
import os, sys
from pathlib import Path
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
gateway = GatewayThread(GatewaySettings(backend="builtin", port=0, data_dir=Path(sys.argv[1])))
gateway.start()
print(gateway.url, flush=True)
sys.stdin.readline()
os._exit(1)
"""

LOSING = """
import logging
from wsclient import ConnectionLostError
# Logs go on through the exit, by the threads that try to reconnect.
logging.basicConfig(stream=sys.stdout, level=logging.DEBUG)
is_lost = threading.Event()
client = WSClient(url, client_id=client_id, private_key_path=key, reconnect_delay=0.001, max_reconnect_delay=0.001)
client.on_token(lambda event: None)
client.on_error(lambda event: is_lost.set())
client.on_connection_change(lambda status: None)
client.generate("hi", max_tokens=10**9)
generation = client.stream("hi", max_tokens=10**9)
next(generation)
print("streaming", flush=True)
"""

LOSSES = {
    "in a loop": """
try:
    for token in generation:
        pass
except ConnectionLostError:
    sys.exit(7)
""",
    "in a callback's wake": "is_lost.wait(); sys.exit(7)",
    "in a backoff wait": """
while client.status != "reconnecting":
    pass
sys.exit(7)
""",
}


@pytest.mark.parametrize("where", LOSSES)
def test_a_program_whose_server_died_by_os_exit_ends_with_its_exit_code_(
    where: str, client_id: str, key_path: Path, tmp_path: Path
) -> None:
    with running([sys.executable, "-c", GATEWAY, str(tmp_path / "data")]) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with program(LOSING + LOSSES[where], url, client_id, key_path) as process:
            wait_for_line(process, "streaming")
            server.communicate("\n", timeout=10)
            _, errors = process.communicate(timeout=EXIT)

    assert (errors, process.returncode) == ("", 7)


OUTLIVED = """
seen = []
is_done = threading.Event()
def leave(event):
    sys.exit("not the program's end")
client.on_token(leave)
client.on_token(lambda event: seen.append(event.token))
client.on_generation_end(leave)
client.on_generation_end(lambda event: is_done.set())
client.generate("a b c")
assert is_done.wait(5)
print(seen, flush=True)
client.close()
"""


def test_sys_exit_in_a_callback_is_logged_and_the_dispatcher_lives_on(client_id: str, key_path: Path) -> None:
    with ScriptedServer(polite) as server, program(OUTLIVED, server.url, client_id, key_path) as process:
        output, errors = process.communicate(timeout=10)

    assert (output, process.returncode) == ("['a', ' b', ' c']\n", 0)
    assert errors.count("an on_token callback raised") == 3
    assert errors.count("an on_generation_end callback raised") == 1
    assert errors.count("SystemExit: not the program's end") == 4
