"""Run a dataset on records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ..model import DatasetModel, dataset_schema
from .connection import DEFAULT_LIMITS, EngineLimits, connect, lock
from .extracts import BATCH_ROWS, ExtractError, ExtractInfo, each_once, sha256, write_arrow
from .plan import Plan, plan
from .sources import Source


def run(dataset: DatasetModel, source: Source, output: Path, *, limits: EngineLimits = DEFAULT_LIMITS) -> ExtractInfo:
    """The dataset's rows, written as an Arrow file. Patient-level, therefore highly_sensitive."""
    if output.suffix != ".arrow":
        raise ExtractError(f"An extract is written as Arrow, and {output.name} is not called so.")
    statement = plan(dataset)
    schema = dataset_schema(dataset)
    with connect(limits) as connection:
        _attach(connection, statement, source)
        lock(connection, source.folders)
        try:
            reader: Any = connection.sql(statement.sql).to_arrow_reader(BATCH_ROWS)
            rows = write_arrow(each_once(reader), schema, output)
        except duckdb.Error as error:
            raise ExtractError(_what_failed(error)) from None
    return ExtractInfo(output, rows, schema, sha256(output))


def _attach(connection: duckdb.DuckDBPyConnection, statement: Plan, source: Source) -> None:
    source.attach(connection, statement.tables)
    for lookup in statement.lookups:
        connection.register(lookup.name, pa.table(lookup.table()))


def _what_failed(error: duckdb.Error) -> str:
    """The kind of failure: DuckDB's own words may hold values."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return "The extract needs more memory than the engine may use."
    if isinstance(error, duckdb.IOException):
        return "The records could not be read, or there is no room left on the disk."
    return "The records could not be turned into an extract."


def explain(dataset: DatasetModel, source: Source) -> str:
    """DuckDB's plan for the dataset: how many scans it takes."""
    statement = plan(dataset)
    with connect(DEFAULT_LIMITS) as connection:
        _attach(connection, statement, source)
        return "\n".join(str(row[1]) for row in connection.execute(f"EXPLAIN {statement.sql}").fetchall())
