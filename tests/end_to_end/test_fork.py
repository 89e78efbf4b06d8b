"""Forks: every child gets a connection of its own, and the parent's stream never notices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from wsclient.gateway.thread import GatewayThread

from ..support.certificates import make_certificate
from ..support.fake_ollama import FakeOllama
from ..support.tls_front import TlsFront
from .programs import expect_line, program, running

# Python 3.12 and newer warn about every fork beside threads.
QUIET = ("-W", "ignore::DeprecationWarning")


@pytest.fixture(params=["ws", "wss"])
def url(
    request: pytest.FixtureRequest, ollama_gateway: GatewayThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The gateway with the fake Ollama behind it, with TLS and without."""
    with ExitStack() as stack:
        if request.param == "ws":
            yield ollama_gateway.url
            return
        certificate = make_certificate(tmp_path)
        # What the default context of the programs trusts.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        yield stack.enter_context(TlsFront(ollama_gateway.gateway.port, certificate.server_context)).url


FIFTY = """
import faulthandler
texts = []
def read():
    texts.append("".join(client.stream("parent")))
reader = threading.Thread(target=read)
reader.start()
while client.stats().tokens < 10:
    time.sleep(0.001)
children = []
for number in range(50):
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(20, exit=True)
        code = 1
        try:
            # A connection of their own for some: a login costs the machine 20 ms.
            if number % 5:
                client.status, client.stats(), client.on_token(print)(), client.close()
            else:
                assert client.complete("child").text == " t000 t001"
            code = 0
        finally:
            os._exit(code)
    children.append(child)
codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
print("children ended with", codes, flush=True)
sys.stdin.readline()
reader.join()
print(texts == ["".join(f" t{number:03}" for number in range(2000))], client.stats().connects, flush=True)
client.close()
"""


@pytest.mark.slow
def test_fifty_forks_while_another_thread_streams_never_hang_and_never_touch_the_stream(
    url: str, ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="parent", tokens=2000, delay=0.0005)
    ollama.script(prompt="child", tokens=2)

    with program(FIFTY, url, client_id, key_path, *QUIET) as process:
        expect_line(process, "children ended with {0}")
        output, errors = process.communicate("\n", timeout=20)

    assert (output, errors, process.returncode) == ("True 1\n", "", 0)
    assert ollama_gateway.gateway.stats().total_logins == 11


INHERITED = """
from wsclient import ConnectionLostError
generation = client.stream("parent")
batch = client.send_batch([{"type": "generate", "prompt": "parent"}, {"type": "ping"}])
iterator = iter(generation)
next(iterator)
while generation.text != " t000 t001 t002":
    time.sleep(0.001)

def fails(read):
    try:
        read()
    except ConnectionLostError as error:
        return f"{type(error).__name__}: {error.message}".replace(generation.id, "ID"), error.text
    return "nothing"

child = os.fork()
if not child:
    rest = []
    print(fails(lambda: rest.extend(iterator)), rest)
    print(fails(generation.result), generation.text, generation.is_done, generation.stop())
    print(fails(batch[1].result)[0].replace(batch[1].id, "ID"))
    import asyncio
    async def read():
        [token async for token in generation]
    print(fails(lambda: asyncio.run(read()))[1], flush=True)
    os._exit(0)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
sys.stdin.readline()
print("".join(iterator), flush=True)
client.close()
"""


def test_a_generation_of_the_parent_fails_in_a_child_after_what_had_come_in_and_goes_on_in_the_parent(
    ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="parent", mode="hold", after=3, tokens=6)

    with program(INHERITED, ollama_gateway.url, client_id, key_path, *QUIET) as process:
        fault = "ConnectionLostError: generation ID belongs to the process that this one was forked from"
        expect_line(process, f"{(fault, ' t000 t001 t002')} [' t001', ' t002']")
        expect_line(process, f"{(fault, ' t000 t001 t002')}  t000 t001 t002 True False")
        expect_line(process, fault.replace("generation", "request"))
        expect_line(process, " t000 t001 t002")
        expect_line(process, "child ended with 0")
        ollama.release(2)
        output, errors = process.communicate("\n", timeout=10)

    assert (output, errors, process.returncode) == (" t001 t002 t003 t004 t005\n", "", 0)


FINISHED = """
generation = client.stream("parent")
generation.result()
child = os.fork()
if not child:
    print("".join(generation), generation.result().total_tokens, flush=True)
    os._exit(0)
os.waitpid(child, 0)
client.close()
"""


def test_a_generation_that_ended_before_the_fork_can_be_read_in_the_child(
    ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="parent", tokens=3)

    with program(FINISHED, ollama_gateway.url, client_id, key_path, *QUIET) as process:
        output, errors = process.communicate(timeout=10)

    assert (output, errors) == (" t000 t001 t002 3\n", "")


THREADS = """
client.connect()
child = os.fork()
if not child:
    start = threading.Barrier(16)
    tokens = []
    def ask(number):
        start.wait()
        # Half of them subscribe first, the other half after: both may be what meets the parent's leftovers first.
        if number % 2:
            ended = threading.Event()
            client.generate("child")
            client.on_generation_end(lambda event: ended.set())
            assert ended.wait(5)
        else:
            assert client.complete("child").text == " t000 t001"
        tokens.append(number)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join(8) for thread in threads]
    print(sorted(tokens) == list(range(16)), client.stats().connects, flush=True)
    os._exit(0)
os.waitpid(child, 0)
client.close()
"""


def test_many_threads_may_be_the_first_to_use_the_client_in_a_child(
    ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="child", tokens=2)

    with program(THREADS, ollama_gateway.url, client_id, key_path, *QUIET) as process:
        output, errors = process.communicate(timeout=20)

    assert (output, errors) == ("True 1\n", "")


HELD = """
# Every lock that the parent's client has is held by another thread in the very moment of the fork.
client.connect()
client.on_token(lambda event: None)
connection, callbacks = client._connection, client._callbacks
transport = connection._reader.transport
locks = [connection._lock, callbacks._lock, transport._close_lock, transport._outbox._lock]
held = threading.Event()
def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    done.wait()
    for lock in locks:
        lock.release()
done = threading.Event()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    import faulthandler
    faulthandler.dump_traceback_later(5, exit=True)
    is_ended = threading.Event()
    print(client.status, flush=True)
    client.generate("child")
    client.on_generation_end(lambda event: is_ended.set())
    assert is_ended.wait(5)
    client.close()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
done.set()
client.close()
"""


def test_locks_that_were_held_at_the_fork_do_not_stop_the_child(
    ollama: FakeOllama, ollama_gateway: GatewayThread, client_id: str, key_path: Path
) -> None:
    ollama.script(prompt="child", tokens=2)

    with program(HELD, ollama_gateway.url, client_id, key_path, *QUIET) as process:
        output, errors = process.communicate(timeout=20)

    assert (output, errors) == ("disconnected\n0\n", "")


MULTIPROCESSING = """
import multiprocessing
from wsclient import WSClient

if __name__ == "__main__" or METHOD == "fork":
    import sys
    URL, CLIENT_ID, KEY = sys.argv[1:4]
    client = WSClient(URL, client_id=CLIENT_ID, private_key_path=KEY)

def ask(results, *arguments):
    mine = client if METHOD == "fork" else WSClient(arguments[0], client_id=arguments[1], private_key_path=arguments[2])
    results.put((mine.complete("child").text, mine.stats().connects))

if __name__ == "__main__":
    context = multiprocessing.get_context(METHOD)
    generation = client.stream("parent")
    tokens = [next(generation)]
    results = context.Queue()
    children = [context.Process(target=ask, args=(results, *sys.argv[1:4])) for _ in range(3)]
    [child.start() for child in children]
    print([results.get(timeout=20) for _ in children])
    [child.join(20) for child in children]
    print([child.exitcode for child in children], flush=True)
    sys.stdin.readline()
    print("".join(tokens + list(generation)), client.stats().connects, flush=True)
    client.close()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_connect_for_themselves_while_the_parent_streams(
    method: str, url: str, ollama: FakeOllama, client_id: str, key_path: Path, tmp_path: Path
) -> None:
    ollama.script(prompt="parent", mode="hold", after=1, tokens=3)
    ollama.script(prompt="child", tokens=2)
    script = tmp_path / "family.py"
    script.write_text(f"METHOD = {method!r}\n{MULTIPROCESSING}")

    with running([sys.executable, *QUIET, str(script), url, client_id, str(key_path)]) as process:
        expect_line(process, f"{[(' t000 t001', 1)] * 3}")
        expect_line(process, "[0, 0, 0]")
        ollama.release()
        output, errors = process.communicate("\n", timeout=10)

    assert (output, errors, process.returncode) == (" t000 t001 t002 1\n", "", 0)
