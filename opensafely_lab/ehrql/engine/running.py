"""Run a dataset on records, and count in what came out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.dataset

from ...expressions.nodes import BOOL, Column, Expr, ExpressionError, Leaf
from ...expressions.schema import DatasetSchema, ValueType
from ...expressions.sql import SQL_TYPES, literal, to_sql
from ...expressions.static import levels, nullable
from ..model import Dataset, dataset_schema
from .connection import EngineLimits, connect, lock
from .extracts import BATCH_ROWS, ExtractError, ExtractInfo, schema_of_arrow, sha256, write_arrow
from .plan import plan
from .sources import Source, quoted, text

if False:  # pragma: no cover
    from ...disclosure.cells import CellTable

DEFAULT_LIMITS = EngineLimits()


def run(dataset: Dataset, source: Source, output: Path, *, limits: EngineLimits = DEFAULT_LIMITS) -> ExtractInfo:
    """The dataset's rows, written as an Arrow file. Patient-level, therefore highly_sensitive."""
    if output.suffix != ".arrow":
        raise ExtractError(f"An extract is written as Arrow, and {output.name} is not called so.")
    statement = plan(dataset)
    schema = dataset_schema(dataset)
    with connect(limits) as connection:
        source.attach(connection, statement.tables)
        lock(connection, source.folders)
        try:
            batches = connection.execute(statement.sql).to_arrow_reader(BATCH_ROWS)
            rows = write_arrow(iter(batches), schema, output)
        except duckdb.Error as error:
            raise ExtractError(_what_failed(error)) from None
    return ExtractInfo(output, rows, schema, sha256(output))


def _what_failed(error: duckdb.Error) -> str:
    """The kind of failure: DuckDB's own words may hold values."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return "The extract needs more memory than the engine may use."
    if isinstance(error, duckdb.IOException):
        return "The records could not be read, or there is no room left on the disk."
    return "The records could not be turned into an extract."


def explain(dataset: Dataset, source: Source) -> str:
    """DuckDB's plan for the dataset: how many scans it takes."""
    statement = plan(dataset)
    with connect(DEFAULT_LIMITS) as connection:
        source.attach(connection, statement.tables)
        return "\n".join(str(row[1]) for row in connection.execute(f"EXPLAIN {statement.sql}").fetchall())


# --- counting ----------------------------------------------------------------------------------


class _Group(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def expr(self) -> Expr: ...


class CountRequest(Protocol):
    """The part of `disclosure.requests.TableRequest` that counting needs."""

    @property
    def where(self) -> Expr | None: ...
    @property
    def by(self) -> tuple[Any, ...]: ...


def aggregate(
    request: CountRequest, extract: Path, schema: DatasetSchema, *, limits: EngineLimits = DEFAULT_LIMITS
) -> CellTable:
    """The number of distinct patients for every combination of declared levels, zeros included. Confidential.

    A group that may be missing has a level for that, last. People for whom a group has a value that
    is not declared are in no cell: that a value occurs must not show, not even as a failure.
    """
    from ...disclosure.cells import CellTable, GroupLevels

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
    request: CountRequest, extract: Path, schema: DatasetSchema, limits: EngineLimits
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
    source = _reader(connection, extract)
    columns = []
    for column in schema.columns:
        name = quoted(column.name)
        if column.name == "patient_id":
            columns.append(f"{name} AS patient_id")
        else:
            columns.append(f"{_as_type(name, column.type, extract)} AS {name}")
    connection.execute(f"CREATE TEMP TABLE extract AS SELECT {', '.join(columns)} FROM {source}")


def _as_type(name: str, of: ValueType, extract: Path) -> str:
    if of is BOOL and _is_csv(extract):
        return f"CASE WHEN upper({name}) IN ('T', 'TRUE') THEN TRUE WHEN upper({name}) IN ('F', 'FALSE') THEN FALSE END"
    return f"TRY_CAST({name} AS {SQL_TYPES[of]})"


def _is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def _reader(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    if not path.is_file():
        raise ExtractError(f"There is no extract {path.name}.")
    if path.suffix == ".parquet":
        return f"read_parquet({text(str(path))})"
    if path.suffix == ".arrow":
        connection.register("arrow of extract", pyarrow.dataset.dataset(str(path), format="arrow"))
        return quoted("arrow of extract")
    if _is_csv(path):
        return f"read_csv({text(str(path))}, header=true, all_varchar=true, delim=',', quote='\"', nullstr='')"
    raise ExtractError(f"{path.name} is not an extract.", next_step="An extract is .arrow, .parquet or .csv.")


# --- an extract that came from elsewhere -------------------------------------------------------


def describe(path: Path) -> DatasetSchema:
    """The schema that an extract says it has; of CSV, types are found by reading it, and anything may be missing."""
    if path.suffix == ".arrow":
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                return schema_of_arrow(reader.schema, _dictionaries(reader))
        except pa.ArrowInvalid:
            raise ExtractError(f"{path.name} is not an Arrow file.") from None
    with connect(DEFAULT_LIMITS) as connection:
        source = _reader(connection, path)
        try:
            if path.suffix == ".parquet":
                table = connection.execute(f"SELECT * FROM {source} LIMIT 0").to_arrow_table()
                return _checked(schema_of_arrow(table.schema, {}))
            return _checked(_sniffed(connection, source))
        except duckdb.Error:
            raise ExtractError(f"{path.name} cannot be read.") from None


def _dictionaries(reader: pa.ipc.RecordBatchFileReader) -> dict[str, tuple[str, ...]]:
    found = {}
    for i, field in enumerate(reader.schema):
        if pa.types.is_dictionary(field.type) and pa.types.is_string(field.type.value_type):
            batch = reader.get_batch(0) if reader.num_record_batches else None
            found[field.name] = tuple(batch.column(i).dictionary.to_pylist()) if batch is not None else ()
    return found


def _sniffed(connection: duckdb.DuckDBPyConnection, source: str) -> DatasetSchema:
    from ...expressions.schema import ColumnClass, ColumnSchema

    columns = []
    for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall():
        value = quoted(name)
        is_id = name == "patient_id"
        tests = [
            (ValueType.BOOL, f"upper({value}) IN ('T', 'F', 'TRUE', 'FALSE')"),
            (ValueType.INT, f"regexp_full_match({value}, '-?[0-9]+') AND TRY_CAST({value} AS BIGINT) IS NOT NULL"),
            (ValueType.FLOAT, f"isfinite(TRY_CAST({value} AS DOUBLE))"),
            (ValueType.DATE, f"regexp_full_match({value}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"),
        ]
        checks = ", ".join(f"bool_and(coalesce({test}, FALSE)) FILTER (WHERE {value} IS NOT NULL)" for _, test in tests)
        answers = connection.execute(f"SELECT {checks} FROM {source}").fetchone() or ()
        found = next((kind for (kind, _), yes in zip(tests, answers, strict=True) if yes), ValueType.STR)
        identity = ColumnClass.IDENTIFIER if is_id else ColumnClass.ORDINARY
        columns.append(ColumnSchema(name, found, nullable=not is_id, column_class=identity))
    return DatasetSchema(columns)


def _checked(schema: DatasetSchema) -> DatasetSchema:
    if schema.column("patient_id") is None:
        raise ExtractError("The extract has no column patient_id.")
    return schema


__all__ = ["CountRequest", "aggregate", "describe", "explain", "literal", "run"]
