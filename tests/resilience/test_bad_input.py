"""Bad input into the live client: every call ends with a result or a typed error, and no client is left half dead.

A storm goes over as many connections as it takes: the line of a peer that breaks RFC 6455 is ended by the client, and
the next inputs go over the next one. What failed can be made again: the error says the seed, the number of the first
input of its batch, and the bytes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wsclient import ConnectionLostError, ConnectionStatus, Generation, GenerationResult, WSClient, WSClientError
from wsclient.core.frames import PING, TEXT, FrameParser, encode_frame
from wsclient.testing.scripted_server import Peer, PeerGone, ScriptedServer

from ..support.any_messages import IDS, json_values, messages
from ..support.calls import Call
from ..support.fast_clients import fast_client
from ..support.mutations import Mutator
from ..support.waiting import wait_until

RECORDINGS = ("1_auth", "2_requests", "2b_faults", "3_options", "4_signatures", "5_rest_and_cache")

# How many inputs each storm has: in every run, and with the slow tests, which have over 20,000 together.
LOGINS = (150, 2000)
FRAMES = (600, 12_000)
MESSAGES = (400, 8000)
assert LOGINS[1] + FRAMES[1] + MESSAGES[1] > 20_000
SEEDS = (20, 24)

# A batch goes to one set of open calls, each of which stands for one of IDS.
BATCH = 8
OPEN = ("generate", "generate 2", "models", "ping", "stop")
# Small, so that a frame whose header lies soon has all that it promised.
MAX_MESSAGE_SIZE = 16 * 1024
# Whatever takes longer hangs; a loaded machine does not come near it.
PATIENCE = 20.0
TIMES = {"request_timeout": 2 * PATIENCE, "ping_interval": 1.0, "pong_timeout": PATIENCE}

both_sizes = pytest.mark.parametrize("size", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["quick", "slow"])


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What must never be there: log records of unexpected errors, and errors that end a thread."""
    found: list[str] = []
    handler = logging.Handler(logging.ERROR)
    monkeypatch.setattr(handler, "emit", lambda record: found.append(logging.Formatter().format(record)))
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(f"{args.thread}: {args.exc_value!r}"))
    logging.getLogger("wsclient").addHandler(handler)
    yield found
    logging.getLogger("wsclient").removeHandler(handler)


@pytest.fixture
def recorded(transcript: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every message that the original server was seen to send."""
    lines = (line for name in RECORDINGS for line in transcript(name))
    return [json.loads(line["raw"]) for line in lines if line.get("dir") == "recv" and line.get("op") == "text"]


def rest_of_frame(parser: FrameParser) -> bytes:
    """Return what a frame that promised more than it had is owed: pings, the last of which is seen as one."""
    ping, pings = encode_frame(PING, b""), bytearray()
    parser.controls.clear()
    while not parser.controls and not parser.is_done:
        parser.feed(ping)
        pings += ping
    return bytes(pings)


@contextmanager
def located(where: Callable[[], str]) -> Iterator[None]:
    """Have whatever is raised say which input it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(where())
        raise


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except WSClientError as error:
        return error


# --- after the login --------------------------------------------------------------------------------------------------

ANSWERS: dict[str, dict[str, Any]] = {
    "generate": {"type": "stream_end"},
    "models": {"type": "models_result", "models": []},
    "ping": {"type": "pong"},
    "stop": {"type": "ack"},
}


class Holding:
    """A script that logs the client in, and holds its answers back while it is told to."""

    def __init__(self) -> None:
        # Guards both: a request is either held or answered.
        self._lock = threading.Lock()
        self._held: list[tuple[Peer, dict[str, Any]]] | None = None

    def __call__(self, peer: Peer) -> None:
        peer.login()
        while True:
            message = peer.receive(3600)
            with self._lock:
                if self._held is not None:
                    self._held.append((peer, message))
                    continue
            self._answer(peer, message)

    def _answer(self, peer: Peer, message: dict[str, Any]) -> None:
        peer.send({"id": message["id"], **ANSWERS[message["type"]]})

    def hold(self) -> None:
        self._held = []

    def held(self) -> dict[str, tuple[Peer, str]]:
        """Return who asked for what, and under which id; two generations are `generate` and `generate 2`."""
        names: dict[str, tuple[Peer, str]] = {}
        for peer, message in list(self._held or ()):
            name = message["type"]
            names[f"{name} 2" if name in names else name] = (peer, message["id"])
        return names

    def answer(self) -> None:
        """Answer what was held, as far as somebody is there to hear it, and everything from now on."""
        with self._lock:
            held, self._held = self._held or [], None
        for peer, message in held:
            with suppress(PeerGone):
                self._answer(peer, message)


class Calls:
    """One open call of each kind, on a client that is connected."""

    def __init__(self, client: WSClient) -> None:
        self._generations: list[Generation] = [client.stream("hi"), client.stream("ho")]
        self._calls: dict[type, Call] = {
            list: Call(client.list_models),
            float: Call(client.ping),
            bool: Call(client.stop_generation, "gen_unknown"),
        }

    def check(self) -> None:
        """Wait for the outcome of each: what it promises, or an error of ours."""
        for kind, call in self._calls.items():
            assert isinstance(call.end(PATIENCE), kind | WSClientError), call.end()
        for generation in self._generations:
            outcome = outcome_of(lambda generation=generation: generation.result(PATIENCE))
            assert generation.is_done, "the generation hangs"
            assert isinstance(outcome, GenerationResult | WSClientError)
            assert outcome.text == "".join(self._tokens(generation)) == generation.text

    def _tokens(self, generation: Generation) -> Iterator[str]:
        with suppress(WSClientError):
            yield from generation


class Storm:
    """Sends batches of inputs to a client with open calls, and looks at what came of it.

    Attributes:
        inputs: how many the client was given so far.
        survived: how many batches left the line as it was.
    """

    def __init__(self, client: WSClient, server: Holding, alarms: list[str], seed: int) -> None:
        self._client, self._server, self._alarms, self._seed = client, server, alarms, seed
        self.inputs = self.batches = self.survived = 0
        self._sent: list[bytes] = []

    def batch(self, make: Callable[[list[str]], Iterator[bytes]]) -> None:
        """Send one batch.

        Args:
            make: returns the inputs, given the ids of the open calls in the order of `IDS`.
        """
        with located(self._where):
            self._client.connect()
            connects = self._client.stats().connects
            self._server.hold()
            calls = Calls(self._client)
            # More than these: on a loaded machine the client probes the line meanwhile.
            held = wait_until(lambda: (names := self._server.held()).keys() >= set(OPEN) and names, PATIENCE)
            peer = held["ping"][0]
            rest = self._choose(make([held[name][1] for name in OPEN]))
            # Now one by one, now all in one read.
            for piece in self._sent if self.batches % 2 else [b"".join(self._sent)]:
                self._send(peer, piece)
            self._send(peer, rest)
            self._server.answer()
            calls.check()
            self._check_client()
            assert not self._alarms, self._alarms[0]
        self.batches += 1
        self.survived += self._client.stats().connects == connects and self._client.is_ready()
        self.inputs += len(self._sent)

    def _where(self) -> str:
        return f"seed {self._seed}, from input {self.inputs} on: {[data.hex() for data in self._sent]}"

    def _choose(self, inputs: Iterator[bytes]) -> bytes:
        """Take inputs until one ends the line, for nothing after it would be looked at; return what is owed then."""
        mirror = FrameParser(masked=False, max_message_size=MAX_MESSAGE_SIZE)
        self._sent = []
        for data in inputs:
            self._sent.append(data)
            mirror.feed(data)
            if mirror.is_done:
                return b""
        return rest_of_frame(mirror)

    def _send(self, peer: Peer, data: bytes) -> None:
        with suppress(PeerGone):
            peer.send_frame(data)

    def _check_client(self) -> None:
        """See that the line answers a ping, an old or a new one, or that the client does not say that it is there."""

        def is_sound() -> bool:
            if isinstance(outcome_of(self._client.ping), float):
                return True
            return self._client.status in (ConnectionStatus.AUTH_FAILED, ConnectionStatus.DISCONNECTED)

        wait_until(is_sound, PATIENCE)


@contextmanager
def storm(alarms: list[str], seed: int) -> Iterator[Storm]:
    script = Holding()
    with (
        ScriptedServer(script) as server,
        fast_client(
            server.url,
            max_message_size=MAX_MESSAGE_SIZE,
            reconnect_delay=0.001,
            max_reconnect_delay=0.001,
            max_reconnect_attempts=None,
            **TIMES,
        ) as client,
    ):
        for subscribe in (client.on_error, client.on_connection_change):
            subscribe(lambda event: None)
        yield Storm(client, script, alarms, seed)


def addressed(message: dict[str, Any], ids: list[str], dice: Random) -> bytes:
    """Return a recorded message as the text of one for an open call, mostly."""
    changed = {
        field: dice.choice(ids) if field in ("id", "requestId") and dice.random() < 0.9 else value
        for field, value in message.items()
    }
    return json.dumps(changed, ensure_ascii=False).encode()


@both_sizes
@pytest.mark.timeout(180)
def test_mutated_frames_end_calls_and_lines_as_they_should(
    alarms: list[str], recorded: list[dict[str, Any]], size: int
) -> None:
    mutator = Mutator(SEEDS[size], [json.dumps(message).encode() for message in recorded])
    dice = mutator.dice

    def inputs(ids: list[str]) -> Iterator[bytes]:
        while True:
            payload = addressed(dice.choice(recorded), ids, dice)
            # A frame that is none ends the line as a rule: most inputs are frames, and their text is wrong.
            yield mutator.frame(payload) if dice.random() < 0.05 else mutator.text(payload)

    with storm(alarms, SEEDS[size]) as bad:
        while bad.inputs < FRAMES[size]:
            bad.batch(lambda ids: islice(inputs(ids), BATCH))

    assert bad.inputs >= FRAMES[size]
    # Guards: a storm that ends no line is none, and one that ends every line does not look at what comes after.
    assert bad.batches / 20 < bad.survived < bad.batches


@both_sizes
@pytest.mark.timeout(180)
def test_any_json_in_any_field_ends_calls_as_it_should_and_no_line(alarms: list[str], size: int) -> None:
    # Not shrunk: the same values come in each run, and a batch that hangs would do so each time.
    rules = settings(
        max_examples=MESSAGES[size] // BATCH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    with storm(alarms, SEEDS[size]) as bad:

        @rules
        @given(batch=st.lists(messages | messages | messages | json_values, min_size=BATCH, max_size=BATCH))
        def play(batch: list[Any]) -> None:
            bad.batch(lambda ids: (as_frame(value, ids) for value in batch))

        play()

    assert bad.inputs >= MESSAGES[size]
    assert bad.survived == bad.batches


def as_frame(value: Any, ids: list[str]) -> bytes:
    """Return a message's frame, the ids that stand in it exchanged for those of open calls."""
    live = dict(zip(IDS, ids, strict=True))
    if isinstance(value, dict):
        value = {
            field: live.get(item, item) if field in ("id", "requestId") and isinstance(item, str) else item
            for field, item in value.items()
        }
    return encode_frame(TEXT, json.dumps(value).encode())


def test_a_frame_that_promises_more_than_ever_comes_does_not_leave_a_dead_client_authenticated() -> None:
    def lie(peer: Peer) -> None:
        peer.login()
        peer.send_frame(bytes((0x80 | TEXT, 126)) + (60_000).to_bytes(2, "big"))
        # It is alive and answers, but nothing of it is ever a message again.
        while True:
            peer.send({"id": peer.receive(3600)["id"], "type": "pong"})

    with (
        ScriptedServer(lie, Holding()) as server,
        fast_client(server.url, ping_interval=0.1, pong_timeout=0.5, reconnect_delay=0.01) as client,
    ):
        generation = client.stream("hi")
        with pytest.raises(ConnectionLostError, match="left a frame unfinished"):
            generation.result(PATIENCE)

        assert client.ping() > 0
        assert client.stats().reconnects == 1


# --- before the login -------------------------------------------------------------------------------------------------


class BadLogin:
    """A script that says something bad before the challenge, before the verdict or both, and then the right thing.

    Attributes:
        inputs: how many of those were said.
        sent: the ones of the last connection.
    """

    def __init__(self, seed: int, recorded: list[dict[str, Any]]) -> None:
        login = [message for message in recorded if message["type"] in ("challenge", "auth_result")]
        self._payloads = [json.dumps(message).encode() for message in login]
        self._mutator = Mutator(seed, self._payloads)
        self.inputs = 0
        self.sent: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        self.sent = []
        place = self._mutator.dice.randrange(3)
        if place != 1:
            self._say_something(peer)
        peer.challenge()
        peer.expect("authenticate")
        if place != 0:
            self._say_something(peer)
        peer.send({"type": "auth_result", "success": True})
        peer.send({"type": "pong", "id": peer.expect("ping")["id"]})

    def _say_something(self, peer: Peer) -> None:
        payload = self._mutator.dice.choice(self._payloads)
        make = self._mutator.frame if self._mutator.dice.random() < 0.4 else self._mutator.text
        data = make(payload)
        mirror = FrameParser(masked=False, max_message_size=MAX_MESSAGE_SIZE)
        mirror.feed(data)
        self.inputs += 1
        self.sent.append(data)
        peer.send_frame(data + rest_of_frame(mirror))


@both_sizes
@pytest.mark.timeout(180)
def test_a_login_that_is_mutated_succeeds_or_fails_with_an_error_of_ours(
    alarms: list[str], recorded: list[dict[str, Any]], size: int
) -> None:
    script = BadLogin(SEEDS[size], recorded)
    outcomes = {"in": 0, "refused": 0}
    with (
        ScriptedServer(script) as server,
        closing(fast_client(server.url, auto_reconnect=False, max_message_size=MAX_MESSAGE_SIZE, **TIMES)) as client,
        located(lambda: f"seed {SEEDS[size]}, input {script.inputs}: {[data.hex() for data in script.sent]}"),
    ):
        while script.inputs < LOGINS[size]:
            error = Call(client.connect).end(PATIENCE)
            assert error is None or isinstance(error, WSClientError), error
            outcomes["refused" if error else "in"] += 1
            if error is None:
                assert isinstance(outcome_of(client.ping), float | WSClientError)
            wait_until(lambda: client.status in (ConnectionStatus.AUTH_FAILED, ConnectionStatus.DISCONNECTED), PATIENCE)
            assert not alarms, alarms[0]

    assert script.inputs >= LOGINS[size]
    assert min(outcomes.values()) > LOGINS[size] / 30
