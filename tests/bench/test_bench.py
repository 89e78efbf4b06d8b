"""The bench itself: that it runs and what it writes, never how fast anything is."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from . import __main__ as bench
from .picture import draw
from .readme import BEGIN, END, write_into
from .source import ROOT, running_source
from .table import ROWS, as_json, as_markdown, select
from .variants import VARIANTS

NAIVE = next(row for row in ROWS if row.key == "naive")


@pytest.mark.parametrize("in_c", [True, False], ids=["C", "Python"])
def test_a_tiny_round_gives_a_row_with_its_targets(in_c: bool) -> None:
    with running_source(in_c=in_c) as source:
        rounds, skipped = bench.measure([NAIVE], 1, source, amount=300, say=lambda line: None)
    assert skipped == {}
    assert {name: len(figures) for name, figures in rounds.items()} == {"stream": 1, "naive": 1}
    (row,) = as_json([NAIVE], rounds, {}, skipped)["rows"]
    assert row["values"] == [rounds["stream"][0]["rate"] / rounds["naive"][0]["rate"]]
    assert row["median"] > 0
    assert (row["at_least"], row["moonshot"]) == (25, 40)


def test_the_command_writes_markdown_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_run", lambda command: {"rate": 2.0, "cpu": 1.0})
    bench.main(["naive", "--rounds", "2", "--out", str(tmp_path / "out")])
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert written["facts"]["rounds"] == 2
    assert [row["key"] for row in written["rows"]] == [row.key for row in select(["naive"])]
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"| {NAIVE.words} | 1 x | 1 x to 1 x | 1 x | 25 x | 40 x | missed |" in table
    assert table in capsys.readouterr().out


def test_a_skipped_variant_leaves_its_row_and_the_reason() -> None:
    table = as_markdown(select(["node"]), {"stream": [{"rate": 1.0, "cpu": 1.0}]}, {}, {"node": "no node"})
    assert "| skipped | | | 1 x | 1.4 x | |" in table
    assert "no node" in table


def test_values_are_paired_within_their_round() -> None:
    rounds = {"stream": [{"rate": 30.0}, {"rate": 100.0}], "naive": [{"rate": 1.0}, {"rate": 2.0}]}
    assert NAIVE.values(rounds) == [30.0, 50.0]


def test_less_is_better_where_the_figure_is_a_cost() -> None:
    (memory,) = select(["memory"])
    assert (memory.reaches(64, 63.9), memory.reaches(64, 64.1)) == (True, False)
    assert (NAIVE.reaches(25, 24.9), NAIVE.reaches(25, 25.1)) == (False, True)


def test_every_row_names_variants_that_there_are() -> None:
    known = {*VARIANTS, *bench.OTHERS}
    assert {name for row in ROWS for name in row.variants} <= known
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_a_name_that_fits_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no row is called 'nonsense'"):
        select(["nonsense"])


def test_the_picture_has_a_bar_for_each_reader_that_was_measured() -> None:
    picture = draw({"ollama": [{"rate": 2.0}], "stream": [{"rate": 20.0}], "naive": [{"rate": 1.0}]})
    texts = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text and text.endswith(" x")] == ["10 x", "1 x", "0.5 x"]


def test_there_is_no_picture_without_the_client_to_compare_with() -> None:
    with pytest.raises(ValueError, match="was not measured"):
        draw({"stream": [{"rate": 1.0}]})


def test_the_readmes_table_has_every_row_that_has_a_target() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    found = {}
    for line in table.splitlines():
        if line.startswith("|") and "---" not in line:
            what, measured, _, at_least, moonshot, _ = (cell.strip() for cell in line.strip("|").split("|"))
            found[what] = (measured, at_least, moonshot)
    for row in ROWS:
        if row.at_least is not None:
            targets = found[row.words][1:]
            assert [float(text.split()[0]) for text in targets if text] == [
                target for target in (row.at_least, row.moonshot) if target is not None
            ]
            assert found[row.words][0]
    assert sum(words.startswith("gateway: ") for words in found) == 4


def test_the_table_is_written_between_the_readmes_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}old\n{END}after\n")
    rows = [row for row in ROWS if row.key == "cpu"]
    facts = {"machine": "m", "python": "p", "packages": "q", "rounds": 1, "load average before and after": "0, 0"}
    write_into(readme, rows, {"stream": [{"rate": 1.0, "cpu": 2.5}]}, facts, [])
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}| what |")
    assert "| CPU s per million tokens | 2.5 s | 2.5 s to 2.5 s | 3 s | 2 s | reached |" in text
    assert text.endswith(f"load average 0, 0.\n{END}after\n")
