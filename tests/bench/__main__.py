"""Measure the client against others: python -m tests.bench [NAMES...] [--rounds N]

    python -m tests.bench                         every row of the table, 7 rounds
    python -m tests.bench naive node --rounds 3   the rows whose names contain one of these
    python -m tests.bench gateway                 the gateway's rows (`gateway.py`), which come last otherwise
    python -m tests.bench --list                  the names
    python -m tests.bench --out FOLDER --picture tests/bench/speed.svg --readme README.md

It needs the extra `bench`; what else is there is used (a C compiler, OpenSSL's headers, Node with npm, strace), and
what is not is skipped with a line that says so.

**What is measured.** A source on loopback sends prepared `stream_token` frames in large writes (`source.c`: 15 times
faster than the fastest reader here; the table's last rows show it). Every variant reads it in a process of its own: it
logs in, reads a small generation to warm up, and is then timed over so many tokens that it takes 0.3 to 1 s: tokens a
second out of the loop that consumes them, and the CPU seconds of the reader's process. All WebSocket readers use ids of
one length, so they read the same bytes, 110 a message; the `ollama` client reads as many tokens as NDJSON lines in HTTP
chunks, as Ollama sends them.

**Why ratios.** Speed here varies by 40 % from one minute to the next: the machine is shared, its clock is not fixed. So
a round runs every variant once, one after the other (A B C A B C ...), each ratio is taken within one round, and what
counts is the median of these ratios; the lowest and the highest are printed beside it. Figures that are no ratios (CPU,
milliseconds, memory) are medians too, and only good for the machine that they were taken on. Nothing else should run
meanwhile: a client of two threads beside the source loses more to that than a client of one. The table has the load,
and beside each ratio of speeds the same ratio by CPU time, which other programs change less.

**What is where.** `source.py` starts the source; `variants.py` lists the variants, `ours.py` and `others.py` have one
function each, `timing.py` times them; `table.py` has the rows with their targets and the arithmetic; `picture.py` draws
the picture; `strace.py` counts system calls; `gateway.py` measures the gateway.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from . import gateway
from .picture import draw
from .readme import write_into
from .source import ROOT, Source, running_source
from .strace import count_calls, why_not
from .table import ROWS, Row, as_json, as_markdown, select
from .timing import Figures, Job
from .variants import VARIANTS

__all__ = ["OTHERS", "main", "measure"]

_NODE_SCRIPT = Path(__file__).parent / "node_stream.mjs"
_NODE_TOKENS = 300_000
_STRACE_TOKENS = 300_000
_PACKAGES = ("websocket-client", "pycryptodome", "attrs", "orjson", "websockets", "ollama", "httpx")
# The variants that are no Python function of `variants.py`.
OTHERS = ("node", "calls")
_GATEWAY = "gateway"

Measure = Callable[[], Figures]


def measure(
    rows: list[Row], rounds: int, source: Source, *, amount: int | None = None, say: Callable[[str], None] = print
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """Run the variants that the rows need, interleaved.

    Args:
        rows: what is wanted.
        rounds: how often each variant runs.
        source: what they read.
        amount: how many tokens each reads, instead of its own number.
        say: told how far it is.

    Returns:
        The figures of each variant, round by round, and why variants were skipped.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.variants))
    runs: dict[str, Measure] = {}
    skipped: dict[str, str] = {}
    for name in names:
        prepared = _prepare(name, source, amount)
        if isinstance(prepared, str):
            skipped[name] = prepared
            say(f"skipped {name}: {prepared}")
        else:
            runs[name] = prepared
    figures: dict[str, list[Figures]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
        say(f"round {number + 1} of {rounds}")
    return figures, skipped


def _prepare(name: str, source: Source, amount: int | None) -> Measure | str:
    """Return what measures a variant, or why it cannot be measured here."""
    if name == "node":
        return _prepare_node(source, amount or _NODE_TOKENS)
    if name == "calls":
        return why_not() or (lambda: _measure_calls(source, amount or _STRACE_TOKENS))
    variant = VARIANTS[name]
    if variant.needs == "tls":
        if not source.tls_url:
            return "the source has no TLS"
    elif variant.needs and importlib.util.find_spec(variant.needs) is None:
        return f"the package {variant.needs} is not installed (extra `bench`)"
    return lambda: _run(_command(name, source, amount or variant.amount))


def _command(name: str, source: Source, amount: int) -> list[str]:
    facts = attrs.asdict(source)
    del facts["what"]
    job = Job(variant=name, amount=amount, **facts)
    return [sys.executable, "-m", "tests.bench.variants", json.dumps(attrs.asdict(job))]


def _run(command: list[str]) -> Figures:
    # No proxy of the environment: all of this is on loopback.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if run.returncode:
        raise RuntimeError(f"{command[-1]} failed:\n{run.stderr}")
    figures: Figures = json.loads(run.stdout)
    return figures


def _measure_calls(source: Source, amount: int) -> Figures:
    # Twice: what starting, logging in and warming up cost is taken off.
    few, many = 2_000, amount
    calls = [count_calls(_command("stream", source, tokens), ROOT) for tokens in (few, many)]
    return {"calls": max(calls[1] - calls[0], 0) / (many - few)}


def _prepare_node(source: Source, amount: int) -> Measure | str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node and npm are not both installed"
    # Outside of the tree, and kept: the package is fetched once.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsclient-bench"
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "node_modules" / "ws").is_dir():
        install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(cache), "ws@8"]
        run = subprocess.run(install, cwd=cache, capture_output=True, text=True, timeout=300)
        if run.returncode:
            return f"npm could not install ws: {run.stderr.strip().splitlines()[-1:]}"
    script = shutil.copy(_NODE_SCRIPT, cache)
    return lambda: _run([node, script, source.url, str(amount)])


def _facts(source: Source, rounds: int) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(": ", 1)[1] for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    if (node := shutil.which("node")) is not None:
        versions.append(f"Node {subprocess.run([node, '--version'], capture_output=True, text=True).stdout.strip()}")
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(versions),
        "source": source.what,
        "rounds": rounds,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the tables and the picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the client against others.")
    parser.add_argument("names", nargs="*", help="only the rows whose names contain one of these (see --list)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each variant runs (7)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench-results", help="the folder of table.md and table.json"
    )
    parser.add_argument("--picture", type=Path, help="draw the ratios to the ollama client as SVG into this file")
    parser.add_argument("--readme", type=Path, help="put the table into this file, between its marks; needs all rows")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--python-source", action="store_true", help="do without the C source")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join([*(f"{row.key:16}{row.words}" for row in ROWS), f"{_GATEWAY:16}the rows of the gateway"]))
        return
    load = os.getloadavg()[0]
    names = [name for name in options.names if name != _GATEWAY]
    has_gateway = not options.names or _GATEWAY in options.names
    try:
        rows = select(names) if names or not options.names else []
    except ValueError as error:
        parser.error(str(error))
    with running_source(in_c=not options.python_source) as source:
        facts = _facts(source, options.rounds)
        figures, skipped = measure(rows, options.rounds, source) if rows else ({}, {})
    of_gateway = gateway.measure(list(gateway.ROWS), options.rounds) if has_gateway else []
    # What else ran meanwhile: a client of two threads loses more to it than one of a single thread.
    facts["load average before and after"] = f"{load:.1f}, {os.getloadavg()[0]:.1f}"
    options.out.mkdir(parents=True, exist_ok=True)
    table = as_markdown(rows, figures, facts, skipped)
    if of_gateway:
        table += f"\n{gateway.as_markdown(of_gateway)}\n"
    (options.out / "table.md").write_text(table, encoding="utf-8")
    summary = as_json(rows, figures, facts, skipped) | {"gateway": [attrs.asdict(row) for row in of_gateway]}
    (options.out / "table.json").write_text(json.dumps(summary, indent=1) + "\n")
    if options.readme is not None:
        write_into(options.readme, rows, figures, facts, of_gateway)
    if options.picture is not None:
        options.picture.write_text(draw(figures), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
