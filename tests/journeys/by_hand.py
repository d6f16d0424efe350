"""The template's tables as they may be shown: the hand-written query, redacted and rounded without our code."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from studies import gi_bleeding_counts

HIDDEN = "[REDACTED]"
SEXES = ("female", "male")
DEFAULTS = {"index_date": "2010-01-01", "age_bands": [40, 50, 60, 70, 80], "drug": "any"}
Table = Mapping[tuple[str, str], str]


def bands(edges: Sequence[int]) -> list[str]:
    inner = [f"{low}-{high - 1}" if high - 1 > low else str(low) for low, high in pairwise(edges)]
    return [f"under {edges[0]}", *inner, f"{edges[-1]} and over"]


def tables_by_hand(records: Path, asked: Mapping[str, Any]) -> dict[str, Table]:
    """{table: {(age, sex): what is shown}} with totals, for the parameters `asked` (defaults for the rest)."""
    given = {**DEFAULTS, **asked}
    counts = gi_bleeding_counts(records, given["index_date"], given["age_bands"], given["drug"])
    assert {band for _, band, _ in counts} <= set(bands(given["age_bands"]))
    return {
        name: _shown(
            {(band, sex): counts.get((name, band, sex), 0) for band in bands(given["age_bands"]) for sex in SEXES}
        )
        for name in ("people prescribed", "people who bled")
    }


def _shown(counts: Mapping[tuple[str, str], int]) -> Table:
    """0 to 7 hidden, the rest to the nearest 5; each total is the sum of what is shown in its line."""
    cells = {cell: None if count < 8 else (count + 2) // 5 * 5 for cell, count in counts.items()}
    ages = list(dict.fromkeys(age for age, _ in counts))
    every = {**cells}
    for age in [*ages, "All"]:
        for sex in [*SEXES, "All"]:
            if "All" in (age, sex):
                line = [n for (a, s), n in cells.items() if age in (a, "All") and sex in (s, "All") and n is not None]
                every[age, sex] = sum(line) if line else None
    return {cell: HIDDEN if number is None else str(number) for cell, number in every.items()}


def tables_in_result(notebook: str) -> dict[str, Table]:
    """The tables of a result notebook, by name, as the panel draws them."""
    found = {}
    for cell in json.loads(notebook)["cells"]:
        for output in cell.get("outputs", []):
            table = output.get("data", {}).get("application/vnd.opensafely.table+json")
            if table is not None:
                found[table["name"]] = _by_cell(table["rows"])
    return found


def table_in_csv(data: str) -> Table:
    return _by_cell(list(csv.reader(io.StringIO(data)))[1:])


def _by_cell(rows: Sequence[Sequence[str]]) -> Table:
    found = {(age, sex): count for age, sex, count in rows}
    assert len(found) == len(rows)
    return found
