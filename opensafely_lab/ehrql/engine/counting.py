"""Count people in an extract, for the gate alone."""

# ruff: noqa: S608 - sqlglot writes and quotes every name and constant

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import duckdb

from ...disclosure.cells import CellTable, GroupLevels
from ...disclosure.requests import TableRequest
from ...expressions.nodes import BOOL, Column, ExpressionError, Leaf
from ...expressions.schema import DatasetSchema, ValueType
from ...expressions.sql import SQL_TYPES, to_sql
from ...expressions.static import levels, nullable
from .connection import DEFAULT_LIMITS, EngineLimits, connect, lock
from .describing import is_csv, reader_of
from .sources import quoted


def aggregate(
    request: TableRequest, extract: Path, schema: DatasetSchema, *, limits: EngineLimits = DEFAULT_LIMITS
) -> CellTable:
    """The number of distinct patients for every combination of declared levels, zeros included. Confidential.

    A group that may be missing has a level for that, last. People for whom a group has a value that
    is not declared are in no cell: that a value occurs must not show, not even as a failure.
    """
    groups = []
    for group in request.by:
        declared = levels(group.expr, schema)
        if declared is None:
            raise ExpressionError(f"The values of {group.name} are not declared.")
        groups.append(GroupLevels(group.name, declared, nullable(group.expr, schema)))
    counted = dict(_counts(request, extract, schema, limits))
    keys = product(*(g.all_levels() for g in groups))
    return CellTable(tuple(groups), {key: counted.get(_told_apart(key), 0) for key in keys})


def _told_apart(key: Iterable[Any]) -> tuple[tuple[str, Any], ...]:
    """True is not 1 here."""
    return tuple((type(value).__name__, value) for value in key)


def _counts(
    request: TableRequest, extract: Path, schema: DatasetSchema, limits: EngineLimits
) -> Iterator[tuple[tuple[tuple[str, Any], ...], int]]:
    def leaf(node: Leaf) -> Any:
        if not isinstance(node, Column):
            raise ExpressionError("A request is about columns of an extract.")
        column = schema.column(node.name)
        if column is None or column.type is not node.type:
            raise ExpressionError(f"The extract has no column {node.name} of type {node.type.value}.")
        return to_sql_column(node.name)

    with connect(limits) as connection:
        _load(connection, extract, schema)
        lock(connection)
        columns = [f"CAST({to_sql(g.expr, leaf).sql('duckdb')} AS {SQL_TYPES[g.expr.type]})" for g in request.by]
        chosen = "" if request.where is None else f" WHERE {to_sql(request.where, leaf).sql('duckdb')}"
        numbers = ", ".join(str(i + 1) for i in range(len(columns)))
        grouped = f" GROUP BY {numbers}" if columns else ""
        listed = "".join(f"{column}, " for column in columns)
        rows = connection.execute(f"SELECT {listed}count(DISTINCT patient_id) FROM extract{chosen}{grouped}")
        for *key, count in rows.fetchall():
            yield _told_apart(key), count


def to_sql_column(name: str) -> Any:
    from sqlglot import exp

    return exp.Column(this=exp.to_identifier(name, quoted=True))


def _load(connection: duckdb.DuckDBPyConnection, extract: Path, schema: DatasetSchema) -> None:
    """The extract as a table called `extract`, in the types of its schema, read before the lock."""
    source = reader_of(connection, extract)
    columns = []
    for column in schema.columns:
        name = quoted(column.name)
        if column.name == "patient_id":
            columns.append(f"{name} AS patient_id")
        else:
            columns.append(f"{_as_type(name, column.type, extract)} AS {name}")
    connection.execute(f"CREATE TEMP TABLE extract AS SELECT {', '.join(columns)} FROM {source}")


def _as_type(name: str, of: ValueType, extract: Path) -> str:
    if of is BOOL and is_csv(extract):
        return f"CASE WHEN upper({name}) IN ('T', 'TRUE') THEN TRUE WHEN upper({name}) IN ('F', 'FALSE') THEN FALSE END"
    return f"TRY_CAST({name} AS {SQL_TYPES[of]})"
