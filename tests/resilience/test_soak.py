"""A soak: 8 threads, 2,000 generations and 100 breaks of the line, and each generation is accounted for.

It is complete by its hash; or this user left or stopped it, or it failed with an error of a broken line, and then its
text is a beginning of what it was to say.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import count
from random import Random
from typing import Any

import attrs
import pytest

from wsclient import ErrorEvent, Generation, GenerationEndEvent, WSClient, WSClientError
from wsclient.gateway.ngram import Sampling, default_model

from ..support.holdings import Holdings
from ..support.waiting import wait_until
from .conftest import MakeClient, MakeProxy, StartProcess
from .weather import Weather

THREADS = 8
GENERATIONS = 2000
BREAKS = 100
SEED = 12
# What a generation on a broken line can fail with.
CODES = {"connection_lost", "protocol_error"}
PATIENCE = 60.0
# Tokens: some are over at once, some are broken off more often than not.
SIZES = (20, 100, 400, 1500)


@cache
def words(seed: int) -> list[str]:
    """Return what the built-in model writes with this seed, as far as anybody asks for it."""
    return default_model().walk(f"Chapter {seed}", Sampling(seed=seed)).take(max(SIZES))


@attrs.frozen
class Wanted:
    """A generation: its number says with which seed, and so it is known what it says."""

    number: int
    tokens: int

    @property
    def seed(self) -> int:
        # Those that run at the same time differ; a text for each of thousands would cost more than all the rest.
        return self.number % 200

    @property
    def prompt(self) -> str:
        return f"Chapter {self.seed}"

    @property
    def options(self) -> dict[str, Any]:
        return {"seed": self.seed, "max_tokens": self.tokens}

    @property
    def text(self) -> str:
        return "".join(words(self.seed)[: self.tokens])


@attrs.frozen
class Outcome:
    """What came of a generation, as its user saw it."""

    wanted: Wanted
    text: str
    is_cancelled: bool = False
    error_code: str | None = None

    def verdict(self) -> str:
        """Return how it ended, once its text is checked."""
        whole = self.wanted.text
        if self.error_code is not None:
            assert self.error_code in CODES, self
            assert whole.startswith(self.text), self
            return "failed"
        if self.is_cancelled:
            assert whole.startswith(self.text), self
            return "cancelled"
        assert sha256(self.text.encode()).digest() == sha256(whole.encode()).digest(), self
        return "complete"


def outcome_of(wanted: Wanted, generation: Generation) -> Outcome:
    try:
        result = generation.result(PATIENCE)
    except WSClientError as error:
        assert generation.is_done, "it hangs"
        outcome = Outcome(wanted, error.text, error_code=error.code)
    else:
        outcome = Outcome(wanted, result.text, result.is_cancelled)
    assert outcome.text == generation.text
    return outcome


class Heard:
    """What the callbacks of a client hear of each `generate()`."""

    def __init__(self, client: WSClient) -> None:
        self._tokens: defaultdict[str, list[str]] = defaultdict(list)
        self._ends: defaultdict[str, list[GenerationEndEvent | ErrorEvent]] = defaultdict(list)
        client.on_token(lambda event: self._tokens[event.id].append(event.token))
        client.on_generation_end(self._end)
        client.on_error(self._end)

    def _end(self, event: GenerationEndEvent | ErrorEvent) -> None:
        if event.id is not None:
            self._ends[event.id].append(event)

    def has_each_end_once(self) -> bool:
        return all(len(ends) == 1 for ends in self._ends.values())

    def outcome(self, wanted: Wanted, id: str) -> Outcome:
        (end,) = wait_until(lambda: self._ends.get(id), PATIENCE)
        text = "".join(self._tokens[id])
        if isinstance(end, ErrorEvent):
            assert end.text == text
            return Outcome(wanted, text, error_code=end.code)
        return Outcome(wanted, text, end.is_cancelled)


# --- the ways to use a client -----------------------------------------------------------------------------------------


class User:
    """One thread's doings."""

    def __init__(self, client: WSClient, heard: Heard, numbers: count[int], seed: int) -> None:
        self._client = client
        self._heard = heard
        self._numbers = numbers
        self._dice = Random(seed)
        self._ways: tuple[Callable[[], list[Outcome]], ...] = (
            self.read,
            self.complete,
            self.listen,
            self.batch,
            self.leave,
            self.stop,
        )

    def turn(self) -> list[Outcome]:
        way = self._dice.choice(self._ways)
        outcomes = way()
        # Nobody else stops anything.
        assert way in (self.leave, self.stop) or not any(outcome.is_cancelled for outcome in outcomes)
        return outcomes

    def _want(self) -> Wanted:
        return Wanted(next(self._numbers), self._dice.choice(SIZES))

    def _iterate(self, wanted: Wanted, at_most: int, then: Callable[[Generation], object]) -> Outcome:
        """Read some tokens and do something then; what was read is what the outcome's text begins with."""
        generation: Generation | None = None
        tokens: list[str] = []
        try:
            generation = self._client.stream(wanted.prompt, **wanted.options)
            for token in generation:
                tokens.append(token)
                if len(tokens) == at_most:
                    break
            then(generation)
        except WSClientError as error:
            if generation is None:
                return Outcome(wanted, error.text, error_code=error.code)
        outcome = outcome_of(wanted, generation)
        read = "".join(tokens)
        assert outcome.text.startswith(read) if len(tokens) == at_most else outcome.text == read
        return outcome

    def read(self) -> list[Outcome]:
        return [self._iterate(self._want(), -1, lambda _: None)]

    def leave(self) -> list[Outcome]:
        # Leaving the loop is all it takes.
        return [self._iterate(self._want(), self._dice.randint(1, 30), lambda _: None)]

    def stop(self) -> list[Outcome]:
        return [self._iterate(self._want(), self._dice.randint(1, 30), Generation.stop)]

    def complete(self) -> list[Outcome]:
        wanted = self._want()
        try:
            result = self._client.complete(wanted.prompt, **wanted.options)
        except WSClientError as error:
            return [Outcome(wanted, error.text, error_code=error.code)]
        assert result.total_tokens == wanted.tokens
        return [Outcome(wanted, result.text, result.is_cancelled)]

    def listen(self) -> list[Outcome]:
        wanted = self._want()
        try:
            id = self._client.generate(wanted.prompt, **wanted.options)
        except WSClientError as error:
            return [Outcome(wanted, error.text, error_code=error.code)]
        return [self._heard.outcome(wanted, id)]

    def batch(self) -> list[Outcome]:
        items = [self._want() for _ in range(3)]
        messages = [{"type": "generate", "prompt": item.prompt, "options": item.options} for item in items]
        try:
            handles = self._client.send_batch(messages)
        except WSClientError as error:
            return [Outcome(item, error.text, error_code=error.code) for item in items]
        return [outcome_of(item, handle) for item, handle in zip(items, handles, strict=True)]


# A line that breaks is noticed fast, and dialled again at once.
OPTIONS: dict[str, Any] = {
    "reconnect_delay": 0.01,
    "max_reconnect_delay": 0.1,
    "max_reconnect_attempts": None,
    "ping_interval": 0.3,
    "pong_timeout": 0.7,
    "connect_timeout": 0.7,
    "request_timeout": PATIENCE,
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_2000_generations_over_a_line_that_breaks_100_times_are_all_accounted_for(
    start_process: StartProcess, make_client: MakeClient, make_proxy: MakeProxy, holdings: Holdings
) -> None:
    # Nobody reads what it prints, and what it says of 100 losses would fill the pipe.
    server = start_process("--backend=builtin", "--log-level=error")
    proxy = make_proxy(server.port)
    client = make_client(f"ws://127.0.0.1:{proxy.port}", **OPTIONS)
    client.connect()
    heard, numbers = Heard(client), count()
    outcomes: list[Outcome] = []
    is_fair = threading.Event()

    def use(seed: int) -> None:
        user = User(client, heard, numbers, seed)
        while not is_fair.is_set() or len(outcomes) < GENERATIONS:
            outcomes.extend(user.turn())

    weather = Weather(proxy, client, SEED, lambda: len(outcomes))
    with ThreadPoolExecutor(THREADS) as pool:
        using = [pool.submit(use, seed) for seed in range(THREADS)]
        try:
            weather.storm(BREAKS)
        finally:
            is_fair.set()
            # Here, because a thread that failed says more than a storm that waits for it.
            for future in using:
                future.result()

    verdicts = Counter(outcome.verdict() for outcome in outcomes)
    assert sorted(outcome.wanted.number for outcome in outcomes) == list(range(len(outcomes)))
    assert heard.has_each_end_once()
    assert len(outcomes) >= GENERATIONS
    assert weather.breaks.total() == BREAKS <= client.stats().reconnects
    # Guards: a soak in which nothing ends in one of these ways is none.
    assert min(verdicts[verdict] for verdict in ("complete", "cancelled", "failed")) > 100, verdicts
    # Stops that nobody waits for may still be under way.
    wait_until(lambda: client.stats().open_generations == client.stats().open_requests == 0)
    wanted = Wanted(len(outcomes), 400)
    assert client.complete(wanted.prompt, **wanted.options).text == wanted.text

    client.close()
    proxy.close()
    server.kill()
    holdings.wait_until_none_gained()
