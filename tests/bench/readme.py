"""The README's table: the rows that have targets, and the gateway's, between two marks."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from . import gateway
from .table import Rounds, Row, line_of

__all__ = ["BEGIN", "END", "write_into"]

BEGIN, END = "<!-- speed table: begin -->\n", "<!-- speed table: end -->\n"


def write_into(
    readme: Path, rows: list[Row], rounds: Rounds, facts: dict[str, Any], of_gateway: list[gateway.Row]
) -> None:
    """Replace the table in a README.

    Args:
        readme: the file; it has the two marks.
        rows, rounds: what was measured.
        facts: where.
        of_gateway: the gateway's rows.
    """
    lines = ["| what | measured | lowest to highest | at least | moonshot | |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row.at_least is not None:
            what, measured, spread, _, at_least, moonshot, verdict = _cells(line_of(row, rounds))
            lines.append(f"| {what} | {measured} | {spread} | {at_least} | {moonshot} | {verdict} |")
    for one in of_gateway:
        what, measured, spread, at_least, moonshot, verdict, _ = _cells(one.line())
        unit = measured.split()[-1]
        lines.append(f"| gateway: {what} | {measured} | {spread} | {at_least} {unit} | {moonshot} {unit} | {verdict} |")
    names = ("machine", "python", "packages")
    where = "; ".join(str(facts[name]) for name in names)
    load = facts["load average before and after"]
    text = textwrap.fill(f"Taken on {where}; {facts['rounds']} rounds, load average {load}.", 120)
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}{chr(10).join(lines)}\n\n{text}\n{END}{after}", encoding="utf-8")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
