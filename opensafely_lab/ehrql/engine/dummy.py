"""Dummy rows made from a schema, never from rows.

For an extract that came ready, of which only the schema is known. Text without declared categories
is drawn from the words that the notebook itself uses beside the column's name, else from all of its
words, and invented ones.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ...expressions.schema import ColumnSchema, DatasetSchema, ValueType
from .extracts import ARROW_TYPES, ExtractError, write_arrow

WORDS = ("alder", "birch", "cedar", "elm", "hazel", "maple", "oak", "rowan")
MOST_WORDS = 200
LONGEST_WORD = 60
SHARE_MISSING = 0.1

NOTHING_BESIDE: Mapping[str, Collection[str]] = {}

Draw = Callable[[random.Random], Any]

EARLIEST, DAYS = dt.date(1930, 1, 1), 365 * 95

_DRAWS: dict[ValueType, Draw] = {
    ValueType.BOOL: lambda chance: chance.random() < 0.5,
    ValueType.INT: lambda chance: chance.randint(0, 100),
    ValueType.FLOAT: lambda chance: round(chance.gauss(100, 25), 1),
    ValueType.DATE: lambda chance: EARLIEST + dt.timedelta(days=chance.randrange(DAYS)),
    ValueType.CODE: lambda chance: str(chance.randrange(10**6, 10**8)),
}


def dummy_extract(
    schema: DatasetSchema,
    output: Path,
    *,
    seed: int,
    literals: Collection[str],
    beside: Mapping[str, Collection[str]] = NOTHING_BESIDE,
    rows: int = 500,
) -> None:
    """Write so many invented rows: the same for the same schema, seed and words.

    `beside` holds, for each column, the words that the notebook uses with it: two or more are taken for
    all that it can be.
    """
    chance = random.Random(seed)  # noqa: S311 - dummy data are no secret
    names = {column.name for column in schema.columns}
    general = [word for word in _words(literals) if word not in names]
    columns = []
    for column in schema.columns:
        own = _words(beside.get(column.name, ()))
        columns.append(_column(column, own if len(own) > 1 else (*own, *general, *WORDS), rows, chance))
    table = pa.table(columns, names=[column.name for column in schema.columns])
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".arrow":
        write_arrow(table.to_batches(), schema, output)
    elif output.suffix == ".parquet":
        pa.parquet.write_table(table, output)
    elif output.name.endswith(".csv"):
        pa.csv.write_csv(table, output)
    else:
        raise ExtractError(f"{output.name} is not an extract.", next_step="An extract is .arrow, .parquet or .csv.")


def _words(texts: Collection[str]) -> tuple[str, ...]:
    return tuple(t for t in sorted(set(texts)) if 0 < len(t) <= LONGEST_WORD and t.isprintable())[:MOST_WORDS]


def _column(column: ColumnSchema, words: tuple[str, ...], rows: int, chance: random.Random) -> pa.Array:
    if column.name == "patient_id":
        numbers = range(1, rows + 1)
        values: list[Any] = list(numbers) if column.type is ValueType.INT else [f"dummy-{n:06}" for n in numbers]
        return pa.array(values, ARROW_TYPES[column.type])
    if column.type is ValueType.STR:
        choices = column.categories or words
        draw: Draw = lambda chance: chance.choice(choices)  # noqa: E731
    else:
        draw = _DRAWS[column.type]
    missing = SHARE_MISSING if column.nullable else 0.0
    drawn = [None if chance.random() < missing else draw(chance) for _ in range(rows)]
    return pa.array(drawn, ARROW_TYPES[column.type])
