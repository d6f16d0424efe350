"""The schema of an extract's file, read with pyarrow alone: a job has no database engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opensafely_lab.expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType
from opensafely_lab.safe.errors import NoExtract


def read_schema(root: Path, path: str) -> DatasetSchema:
    """What the columns of an extract are. Raises `NoExtract`: one sentence, and which action to run."""
    file = root / path
    if not file.is_file():
        action = _maker(root, path)
        raise NoExtract(
            f"There is no file {path} yet.",
            next_step=f"Run {action} first: opensafely-lab run {action}.",
        )
    try:
        return _described(file)
    except NoExtract:
        raise
    except Exception as error:
        raise NoExtract(
            f"{path} cannot be read as an extract.",
            next_step="Make it again; an extract is an .arrow, .parquet, .csv or .csv.gz file with a patient_id.",
        ) from error


def _described(file: Path) -> DatasetSchema:
    schema = _arrow_schema(file) if file.suffix in (".arrow", ".feather") else _other_schema(file)
    return DatasetSchema(tuple(_column(name, field, categories) for name, field, categories in schema))


_Fields = list[tuple[str, Any, tuple[str, ...] | None]]


def _arrow_schema(file: Path) -> _Fields:
    """Names and fields of an Arrow file; the categories of a dictionary stand in its first batch."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        first = reader.get_batch(0) if reader.num_record_batches else None
        found: _Fields = []
        for place, field in enumerate(reader.schema):
            categories = None
            if pa.types.is_dictionary(field.type) and first is not None:
                categories = tuple(first.column(place).dictionary.to_pylist())
            found.append((field.name, field, categories))
        return found


def _other_schema(file: Path) -> _Fields:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        schema = pq.read_schema(file)
    else:
        import pyarrow.csv as csv

        with csv.open_csv(file) as reader:
            schema = reader.schema
    return [(field.name, field, None) for field in schema]


def _column(name: str, field: Any, categories: tuple[str, ...] | None) -> ColumnSchema:
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    default = ColumnClass.IDENTIFIER if name == "patient_id" else ColumnClass.ORDINARY
    return ColumnSchema(
        name,
        _value_type(field.type),
        categories,
        metadata.get("osl.nullable", "true" if name != "patient_id" else "false") == "true",
        ColumnClass(metadata.get("osl.class", default.value)),
    )


def _value_type(arrow_type: Any) -> ValueType:
    import pyarrow.types as types

    for test, value_type in (
        (types.is_boolean, ValueType.BOOL),
        (types.is_integer, ValueType.INT),
        (types.is_floating, ValueType.FLOAT),
        (types.is_date, ValueType.DATE),
        (types.is_timestamp, ValueType.DATE),
    ):
        if test(arrow_type):
            return value_type
    return ValueType.STR


def _maker(root: Path, path: str) -> str:
    """The action whose output this is, as far as project.yaml can be read here (a job has no yaml)."""
    try:
        from fnmatch import fnmatchcase

        from opensafely_lab.study.project import parse_project

        project = parse_project((root / "project.yaml").read_text(encoding="utf-8"))
        for name, action in project.actions.items():
            if any(fnmatchcase(path, output.pattern) for output in action.outputs):
                return name
    except Exception:  # noqa: BLE001, S110 - it is only for a better sentence
        pass
    return "generate_dataset"
