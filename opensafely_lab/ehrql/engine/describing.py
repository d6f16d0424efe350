"""What an extract that came from elsewhere says it holds."""

# ruff: noqa: S608 - sqlglot writes and quotes every name and constant

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset

from ...expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType
from .connection import DEFAULT_LIMITS, connect
from .extracts import ExtractError, schema_of_arrow
from .sources import quoted, text


def is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def reader_of(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    if not path.is_file():
        raise ExtractError(f"There is no extract {path.name}.")
    if path.suffix == ".parquet":
        return f"read_parquet({text(str(path))})"
    if path.suffix == ".arrow":
        connection.register("arrow of extract", pyarrow.dataset.dataset(str(path), format="arrow"))
        return quoted("arrow of extract")
    if is_csv(path):
        return f"read_csv({text(str(path))}, header=true, all_varchar=true, delim=',', quote='\"', nullstr='')"
    raise ExtractError(f"{path.name} is not an extract.", next_step="An extract is .arrow, .parquet or .csv.")


def describe(path: Path) -> DatasetSchema:
    """The schema that an extract says it has; of CSV, types are found by reading it, and anything may be missing."""
    if path.suffix == ".arrow":
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                return schema_of_arrow(reader.schema, _dictionaries(reader))
        except pa.ArrowInvalid:
            raise ExtractError(f"{path.name} is not an Arrow file.") from None
    with connect(DEFAULT_LIMITS) as connection:
        source = reader_of(connection, path)
        try:
            if path.suffix == ".parquet":
                table: Any = connection.sql(f"SELECT * FROM {source} LIMIT 0").to_arrow_table()
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
