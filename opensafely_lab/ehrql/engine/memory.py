"""Answers for tables in memory: for tests, and for trying things out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
from attrs import field, frozen

from ...expressions.nodes import Expr, call
from ...expressions.series import Series
from ..language.dataset import Dataset, dataset_model
from ..language.frames import BaseFrame
from ..model import DatasetError, DatasetModel, Exists, Frame, SelectPatientTable, SelectTable, Variable
from ..schemas import TableSchema
from ..tables import known_table
from .extracts import ARROW_TYPES
from .running import run
from .sources import SourceError, quoted

Rows = Iterable[Mapping[str, Any]]


@frozen
class MemorySource:
    """Rows in memory. A table that is not given has none."""

    tables: Mapping[TableSchema, list[Mapping[str, Any]]] = field(factory=dict)

    @property
    def folders(self) -> tuple[Path, ...]:
        return ()

    def attach(self, connection: duckdb.DuckDBPyConnection, tables: Iterable[TableSchema]) -> None:
        for table in tables:
            rows = self.tables.get(table, [])
            columns = {"patient_id": pa.array([row["patient_id"] for row in rows], pa.int64())}
            for column in table.columns:
                columns[column.name] = pa.array([row.get(column.name) for row in rows], ARROW_TYPES[column.type])
            name = f"rows of {table.reference}"
            connection.register(name, pa.table(columns))
            connection.execute(f"CREATE TEMP VIEW {quoted(table.reference)} AS SELECT * FROM {quoted(name)}")  # noqa: S608


def evaluate(
    thing: Series | Dataset, tables: Mapping[Any, Rows], *, population: Series | None = None
) -> dict[int, Any] | dict[str, dict[int, Any]]:
    """{patient: value} for a series, {column: {patient: value}} for a dataset.

    `tables` maps a table, or its name in `ehrql.tables.core`, to rows as dicts with `patient_id`. A
    series is answered for `population`, or for every patient in any of the tables.
    """
    source = MemorySource({_schema(table): _checked(rows) for table, rows in tables.items()})
    if isinstance(thing, Dataset):
        return _answers(dataset_model(thing), source)
    chosen = population._expr if population is not None else _anybody(source)
    return _answers(DatasetModel(chosen, (Variable("value", thing._expr),)), source)["value"]


def _schema(table: Any) -> TableSchema:
    if isinstance(table, BaseFrame):
        return table._node.table
    found = known_table(table if "." in str(table) else f"core.{table}")
    if found is None:
        raise SourceError("There is no such table.")
    return found


def _checked(rows: Rows) -> list[Mapping[str, Any]]:
    listed = list(rows)
    if any("patient_id" not in row for row in listed):
        raise SourceError("Every row has a patient_id.")
    return listed


def _anybody(source: MemorySource) -> Expr:
    if not source.tables:
        raise DatasetError("There are no tables, so there is nobody.")
    rows: list[Frame] = [
        SelectPatientTable(table) if table.one_row_per_patient else SelectTable(table) for table in source.tables
    ]
    present: list[Expr] = [Exists(frame) for frame in rows]
    return functools.reduce(lambda a, b: call("or", a, b), present)


def _answers(dataset: DatasetModel, source: MemorySource) -> dict[str, dict[int, Any]]:
    with TemporaryDirectory() as folder:
        info = run(dataset, source, Path(folder) / "answer.arrow")
        with pa.OSFile(str(info.path)) as file:
            columns = pa.ipc.open_file(file).read_all().to_pydict()
    patients = columns.pop("patient_id")
    return {name: dict(zip(patients, values, strict=True)) for name, values in columns.items()}
