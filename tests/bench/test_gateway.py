"""The gateway's bench measures: each row, with a little of everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import gateway
from .gateway import Row, Site, main, running_site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


def test_rates_are_taken_and_compared(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_OUR_TOKENS", 5000)
    monkeypatch.setattr(gateway, "_OFFICIAL_TOKENS", 3000)
    (row,) = gateway.rate(site, 1)
    assert row.values[0] > 0
    assert row.line().startswith("| tokens/s our client gets through the gateway")


def test_delays_are_those_of_every_token_after_the_first_second(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_STREAMS", 3)
    monkeypatch.setattr(gateway, "_STREAM_TOKENS", 60)
    median, high = gateway.delay(site, 1)
    assert (median.words.split(", ")[-1], high.words.split(", ")[-1]) == ("p50", "p99")
    assert -1000 < median.values[0] < 1000
    # The differences of two readings may fall either way, but not the readings themselves.
    for lower, higher in zip(readings(median), readings(high), strict=True):
        assert 0 < lower <= higher


def readings(row: Row) -> list[float]:
    return [float(text) for text in row.detail.removesuffix(" ms").split(" against ")]


def test_memory_is_that_of_the_gateways_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_IDLE", 50)
    (row,) = gateway.memory(site, 1)
    assert 0 <= row.values[0] < 1000


@pytest.mark.parametrize(("value", "verdict"), [(1.4, "missed"), (1.5, "reached"), (3.0, "moonshot")])
def test_a_row_says_which_target_it_reaches(value: float, verdict: str) -> None:
    assert f"| {verdict} |" in Row("x", "x", [value], 1.5, 3, True, "").line()
    assert f"| {verdict} |" in Row("x", "ms", [-value], -1.5, -3, False, "").line()


def test_a_row_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "no row is called speed; there are rate, delay, memory" in capsys.readouterr().err
