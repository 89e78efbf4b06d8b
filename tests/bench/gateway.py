"""Measure the gateway: python -m tests.bench gateway, or its rows, python -m tests.bench.gateway [rate delay memory]

    rate    tokens/s that our client gets through the gateway from an Ollama that is never the bottleneck, against the
            official `ollama` client that reads this Ollama directly
    delay   200 streams of 50 tokens/s at once, each on a connection of its own: how much later a token arrives through
            the gateway than from the source itself, with the same reader
    memory  2,000 clients that have logged in and do nothing: how much larger each makes the gateway's process

Source, gateway and reader are processes of their own. Rounds are interleaved (A B A B ...), ratios and differences are
taken within a round, and what counts is their median: speed varies by 40 % from one minute to the next. The delays are
those of a machine with nothing else to do: where other work competes for the cores they are those of its scheduler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import generate_key, load_private_key, public_pem

from .gateway_readers import log_in

__all__ = ["ROWS", "Row", "Site", "as_markdown", "main", "measure", "running_site"]

_ROOT = Path(__file__).parents[2]
_OUR_TOKENS, _OFFICIAL_TOKENS = 200_000, 30_000
_STREAMS, _STREAM_RATE, _STREAM_TOKENS = 200, 50, 250
_IDLE = 2000


@attrs.frozen
class Site:
    """A gateway that runs in front of a source, and a client that it knows.

    Attributes:
        source_url: the Ollama.
        url: the gateway.
        pid: the gateway's process.
        client_id, key: the client; the key is a PEM file.
    """

    source_url: str
    url: str
    pid: int
    client_id: str
    key: str


@attrs.frozen
class Row:
    """A line of the table.

    Attributes:
        words: what it says.
        unit: of the values and targets.
        values: one a round.
        at_least, moonshot: the targets.
        more_is_better: whether they are to be exceeded.
        detail: what the value was made of, for the reader.
    """

    words: str
    unit: str
    values: list[float]
    at_least: float
    moonshot: float
    more_is_better: bool
    detail: str

    def line(self) -> str:
        """Return it in Markdown."""
        median = statistics.median(self.values)

        def reaches(target: float) -> bool:
            return median >= target if self.more_is_better else median <= target

        verdict = "moonshot" if reaches(self.moonshot) else "reached" if reaches(self.at_least) else "missed"
        spread = f"{min(self.values):.3g} to {max(self.values):.3g}"
        return (
            f"| {self.words} | {median:.3g} {self.unit} | {spread} | {self.at_least:g} | {self.moonshot:g} | {verdict}"
            f" | {self.detail} |"
        )


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    """Start source and gateway for as long as the context is open."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsclient-bench-")))
        made = generate_key("ec")
        key = folder / "key.pem"
        key.touch(mode=0o600)
        key.write_text(str(made.export_key(format="PEM", use_pkcs8=True)))
        client_id = ClientRegistry(folder / "authorized_clients.json").register("bench", public_pem(made)).id
        source = stack.enter_context(_process("-m", "tests.bench.gateway_source"))
        assert source.stdout is not None
        source_url = f"http://127.0.0.1:{int(source.stdout.readline())}"
        gateway = stack.enter_context(
            _process(
                "-m",
                "wsclient",
                "serve",
                "--port=0",
                f"--data-dir={folder}",
                f"--ollama-url={source_url}",
                "--max-running=1000",
                "--log-level=error",
                "--drain=0",
            )
        )
        assert gateway.stdout is not None
        url = next(line.split()[1] for line in gateway.stdout if line.startswith("  url"))
        yield Site(source_url, url, gateway.pid, client_id, str(key))


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=_ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    # No proxy of the environment: all of this is on loopback.
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def read(name: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.gateway_readers", name, *map(str, arguments)]
    run = subprocess.run(command, cwd=_ROOT, env=_environment(), capture_output=True, text=True, timeout=120)
    if run.returncode:
        raise RuntimeError(f"{name} failed:\n{run.stderr}")
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def rate(site: Site, rounds: int) -> list[Row]:
    """Measure tokens a second."""
    ours, official = [], []
    for _ in range(rounds):
        ours.append(read("ours", site.url, site.client_id, site.key, _OUR_TOKENS)["rate"])
        official.append(read("official", site.source_url, _OFFICIAL_TOKENS)["rate"])
    detail = f"{statistics.median(ours):,.0f} against {statistics.median(official):,.0f} tokens/s"
    ratios = [one / other for one, other in zip(ours, official, strict=True)]
    words = "tokens/s our client gets through the gateway, against the official `ollama` client without it"
    return [Row(words, "x", ratios, 1.5, 3, True, detail)]


def delay(site: Site, rounds: int) -> list[Row]:
    """Measure how much later tokens arrive."""
    model = f"paced:{_STREAM_TOKENS}:{_STREAM_RATE}"
    through, direct = [], []
    for _ in range(rounds):
        through.append(read("delays_through", site.url, site.client_id, site.key, _STREAMS, model))
        direct.append(read("delays_direct", site.source_url, _STREAMS, model))
    rows = []
    for figure, at_least, moonshot in (("p50", 5, 1), ("p99", 50, 10)):
        added = [one[figure] - other[figure] for one, other in zip(through, direct, strict=True)]
        medians = [statistics.median(round[figure] for round in found) for found in (through, direct)]
        detail = f"{medians[0]:.3g} against {medians[1]:.3g} ms"
        words = f"{_STREAMS} streams of {_STREAM_RATE} tokens/s at once: delay the gateway adds a token, {figure}"
        rows.append(Row(words, "ms", added, at_least, moonshot, False, detail))
    return rows


def memory(site: Site, rounds: int) -> list[Row]:
    """Measure what an idle client costs; a gateway of its own each round, since memory once used is kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * _IDLE)), hard))
    values, totals = [], []
    for _ in range(rounds):
        with running_site() as fresh:
            key = load_private_key(fresh.key)
            # What the first ones cost once and for all.
            for _ in range(20):
                log_in(fresh.url, fresh.client_id, key).close()
            time.sleep(0.5)
            before = _rss_kib(fresh.pid)
            peers = [log_in(fresh.url, fresh.client_id, key) for _ in range(_IDLE)]
            time.sleep(0.5)
            after = _rss_kib(fresh.pid)
            for peer in peers:
                peer.close()
        values.append((after - before) / _IDLE)
        totals.append(after / 1024)
    words = f"memory a logged-in idle connection ({_IDLE:,} of them)"
    detail = f"{statistics.median(totals):.0f} MiB in all"
    return [Row(words, "KiB", values, 64, 32, False, detail)]


def _rss_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


ROWS: dict[str, Callable[[Site, int], list[Row]]] = {"rate": rate, "delay": delay, "memory": memory}


def measure(names: Sequence[str], rounds: int) -> list[Row]:
    """Measure some of the rows."""
    with running_site() as site:
        return [row for name in names for row in ROWS[name](site, min(rounds, 3) if name == "memory" else rounds)]


def as_markdown(rows: list[Row]) -> str:
    """Return the table."""
    head = ["| what | measured | lowest to highest | at least | the moonshot | | made of |", "|" + "---|" * 7]
    return "\n".join([*head, *(row.line() for row in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description="Measure the gateway.")
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"only these: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7; memory at most 3)")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - ROWS.keys():
        parser.error(f"no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    print(as_markdown(measure(options.names or list(ROWS), options.rounds)))


if __name__ == "__main__":
    main()
