"""The garbage collector: it may run anywhere, also while this very thread holds one of the library's locks."""

from __future__ import annotations

from pathlib import Path

from wsclient.testing.scripted_server import ScriptedServer, polite

from .programs import program

# Every lock of the library collects garbage as soon as it is held: a cycle with a generation in it, sometimes one with
# a client, so that their finalizers run inside of the lock.
COLLECTING = """
import collections, faulthandler, gc
faulthandler.dump_traceback_later(20, exit=True)
gc.disable()
is_on = False
victims, places = [], collections.Counter()

class Cycle:
    def __init__(self, victim):
        self.me, self.victim = self, victim

class Collecting:
    def __init__(self, lock):
        self.lock = lock
    def acquire(self, *args, **kwargs):
        is_held = self.lock.acquire(*args, **kwargs)
        if is_on and is_held:
            self.collect(sys._getframe(1))
        return is_held
    def __enter__(self):
        self.lock.acquire()
        if is_on:
            self.collect(sys._getframe(1))
    def __exit__(self, *_):
        self.lock.release()
    def collect(self, frame):
        name = frame.f_globals["__name__"]
        # Forty for each module: a victim's end takes the lock of the line, where the next one is collected, and so on.
        # The last victims are for the locks that a close takes.
        if (len(victims) > 20 and places[name] < 40) or name == "wsclient.transport":
            try:
                cycle = Cycle(victims.pop())
            except IndexError:
                return
            places[name] += 1
            del cycle
            gc.collect(0)
    def __getattr__(self, name):
        return getattr(self.lock, name)

make_lock, make_rlock = threading.Lock, threading.RLock
threading.Lock = lambda: Collecting(make_lock())
threading.RLock = lambda: Collecting(make_rlock())

client = WSClient(url, client_id=client_id, private_key_path=key)
client.connect()
for number in range(300):
    # Of the client that is in use, whose locks are the ones that are held.
    victims.append(client.stream("silence"))
    if number % 50 == 0:
        victims.append(WSClient(url, client_id=client_id, private_key_path=key))
gc.freeze()
is_on = True
ended = threading.Event()
client.on_token(lambda event: client.stats())
client.on_generation_end(lambda event: ended.set())
while len(victims) > 20 and places["wsclient.connection"] < 40:
    ended.clear()
    client.generate("a b c")
    assert ended.wait(10)
    assert client.complete("a b c").text == "a b c"
    assert list(client.stream("a b c")) == ["a", " b", " c"]
    assert client.list_models()
    client.on_token(print)()
running = sum(type(victim).__name__ == "Generation" for victim in victims)
while client.stats().open_generations > running:
    time.sleep(0.001)
client.close()
is_on = False
print(*sorted(name for name in places if name.startswith("wsclient")), flush=True)
"""


def test_collecting_inside_every_lock_of_the_library_never_deadlocks(client_id: str, key_path: Path) -> None:
    with ScriptedServer(polite) as server, program(COLLECTING, server.url, client_id, key_path) as process:
        output, errors = process.communicate(timeout=40)

    assert errors == ""
    # An empty line would mean that nothing was tried.
    assert output.split() == [
        "wsclient.connection",
        "wsclient.dispatcher",
        "wsclient.feed",
        "wsclient.futures",
        "wsclient.line",
        "wsclient.outbox",
        "wsclient.transport",
    ]
