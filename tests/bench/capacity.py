"""What one gateway process can carry, by the CPU time it takes: python -m tests.bench.capacity [--rounds N]

A login (with an RSA and with an EC key), a token to one client and to 200 at once, and a ping each take the gateway
some CPU time, and an idle client some memory. One process uses one core, so one second divided by them is what it can
do in a second, whatever the readers on the same machine are able to take.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from wsclient import WSClient
from wsclient.gateway.registry import ClientRegistry
from wsclient.keys import generate_key, load_private_key, public_pem

from . import gateway
from .gateway import Site, running_site
from .gateway_readers import log_in

__all__ = ["main", "measure"]

_TICK = os.sysconf("SC_CLK_TCK")
_LOGINS, _PINGS, _TOKENS = 300, 3000, 200_000
_STREAMS, _RATE, _EACH = 200, 50, 250


def _cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _spent(site: Site, work: Callable[[], object], amount: int) -> float:
    """Return the microseconds of CPU that the gateway takes for one of so many."""
    before = _cpu(site.pid)
    work()
    return (_cpu(site.pid) - before) / amount * 1e6


def _register_rsa(site: Site) -> tuple[str, str]:
    path = Path(site.key).with_name("rsa.pem")
    made = generate_key("rsa", 3072)
    path.touch(mode=0o600)
    path.write_text(str(made.export_key(format="PEM", pkcs=8).decode()))
    registry = ClientRegistry(path.with_name("authorized_clients.json"))
    return registry.register("bench-rsa", public_pem(made)).id, str(path)


def _log_in_often(site: Site, client_id: str, key: str) -> None:
    loaded = load_private_key(key)
    for _ in range(_LOGINS):
        log_in(site.url, client_id, loaded).close()


def _read_tokens(site: Site) -> None:
    with WSClient(site.url, client_id=site.client_id, private_key_path=site.key) as client:
        assert sum(1 for _ in client.stream("x", f"tokens:{_TOKENS}")) == _TOKENS


def _ping(site: Site) -> None:
    with WSClient(site.url, client_id=site.client_id, private_key_path=site.key) as client:
        for _ in range(_PINGS):
            client.ping()


def _stream(site: Site) -> None:
    gateway.read("delays_through", site.url, site.client_id, site.key, _STREAMS, f"paced:{_EACH}:{_RATE}")


def measure(rounds: int) -> dict[str, float]:
    """Return the median microseconds of the gateway's CPU for each thing that it does."""
    with running_site() as site:
        rsa_id, rsa_key = _register_rsa(site)
        works: dict[str, tuple[Callable[[], object], int]] = {
            "a login with an EC P-256 key": (lambda: _log_in_often(site, site.client_id, site.key), _LOGINS),
            "a login with an RSA key of 3072 bits": (lambda: _log_in_often(site, rsa_id, rsa_key), _LOGINS),
            "a ping of a client": (lambda: _ping(site), _PINGS),
            "a token, as fast as they come": (lambda: _read_tokens(site), _TOKENS),
            f"a token, {_STREAMS} streams of {_RATE} a second": (lambda: _stream(site), _STREAMS * _EACH),
        }
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, (work, amount) in works.items():
                found[name].append(_spent(site, work, amount))
    return {name: statistics.median(values) for name, values in found.items()}


def as_markdown(found: dict[str, float]) -> str:
    """Return the table."""
    lines = ["| what | CPU time of the gateway | that is, a second and core |", "|---|---|---|"]
    lines += [f"| {name} | {spent:,.1f} µs | {1e6 / spent:,.0f} |" for name, spent in found.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description="Measure what a gateway takes.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    options = parser.parse_args(arguments)
    print(as_markdown(measure(options.rounds)))
    with running_site() as site:
        (row,) = gateway.memory(site, 1)
    print(f"\n{row.words}: {row.values[0]:.1f} KiB, {row.detail}")


if __name__ == "__main__":
    main()
