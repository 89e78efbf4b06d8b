"""The command `bench`: how fast one's own gateway answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import click

from ..client import WSClient
from ..errors import WSClientError
from ..options import ClientOptions
from . import terminal
from .benchmark import Benchmark, Sample
from .command import Command
from .connecting import CONNECTION_SECTION, connection_flags
from .failures import FAILED, refusing_wrong_values
from .generation_flags import GENERATION_SECTION, generation_flags
from .ordered_work import OrderedWork
from .signals import ending_in_order
from .streaming import Figures
from .waiting import Waiting

__all__ = ["bench"]

_PROMPT = "Explain in a few sentences what a WebSocket is."
_MAX_TOKENS = 64
_PINGS = 20


@click.command(
    "bench",
    cls=Command,
    sections=GENERATION_SECTION | CONNECTION_SECTION,
    examples="""
        wsclient bench --config=keys/my-client_config.json
        wsclient bench --requests=100 --parallel=8 --model=llama3.2 --json
        """,
)
@click.option("--requests", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Answers to measure.")
@click.option("--parallel", type=click.IntRange(1, 64), default=2, show_default=True, help="Answers at the same time.")
@click.option("--model", metavar="NAME", help="The server's default when left out.")
@click.option("--prompt", default=_PROMPT, help="What to ask.  [default: what a WebSocket is]")
@click.option("--json", "as_json", is_flag=True, help="Write all figures as JSON, times in seconds.")
@generation_flags
@connection_flags
def bench(
    requests: int,
    parallel: int,
    model: str | None,
    prompt: str,
    as_json: bool,
    options: dict[str, Any],
    connection: ClientOptions,
) -> None:
    """Measure how fast a gateway and its model answer: latency and tokens a second.

    An answer that is not counted comes first, for the model may have to be loaded. Answers have 64 tokens at most
    unless --max-tokens says otherwise. Measure your own gateway: its other users wait meanwhile.
    """
    options = {"max_tokens": _MAX_TOKENS, **options}
    with ending_in_order(), WSClient.from_options(connection) as client, Waiting() as waiting:
        waiting.show("measuring pings")
        pings = [client.ping() for _ in range(_PINGS)]
        measure = _Measure(client, prompt, model, options)
        waiting.show("waiting for the first answer")
        with refusing_wrong_values():
            warm_up = measure.once()
        begun = time.monotonic()
        samples = _measure_all(measure, requests, parallel, waiting.show)
        elapsed = time.monotonic() - begun
    measured = Benchmark(pings=pings, warm_up=warm_up.total, samples=samples, elapsed=elapsed, parallel=parallel)
    _show(measured, as_json)
    click.get_current_context().exit(FAILED if any(sample.error for sample in samples) else 0)


def _measure_all(measure: _Measure, requests: int, parallel: int, show: Callable[[str], None]) -> list[Sample]:
    samples: list[Sample] = []

    def tick() -> None:
        show(f"{len(samples)} of {requests} answers")

    work = OrderedWork(lambda _: measure.once_or_error(), range(requests), parallel, tick)
    try:
        for sample in work.results():
            samples.append(sample)  # noqa: PERF402 - the line that is shown counts them
    except BaseException:
        measure.client.close()
        work.stop()
        raise
    return samples


def _show(measured: Benchmark, as_json: bool) -> None:
    if as_json:
        terminal.show_json(measured.to_json())
        return
    terminal.show_table(("", "Median", "95 %"), measured.rows())
    terminal.show_line()
    terminal.show_line(measured.summary())


@attrs.frozen
class _Measure:
    client: WSClient
    prompt: str
    model: str | None
    options: dict[str, Any]

    def once(self) -> Sample:
        """Generate once.

        Raises:
            ValueError, TypeError: an option is wrong.
            WSClientError: it failed.
        """
        begun = time.monotonic()
        generation = self.client.stream(self.prompt, self.model, self.options)
        first = None
        for _ in generation:
            first = first or time.monotonic()
        ended = time.monotonic()
        waited = None if first is None else first - begun
        figures = Figures.of(generation.result(), waited, ended - (first or ended))
        return Sample(figures=figures, total=ended - begun)

    def once_or_error(self) -> Sample:
        try:
            return self.once()
        except WSClientError as error:
            return Sample(error=str(error.code))
