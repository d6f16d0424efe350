"""The schema of an extract's file, read with pyarrow alone: a job has no database engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from opensafely_lab.expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType
from opensafely_lab.safe.errors import NoExtract


def read_schema(root: Path, path: str) -> DatasetSchema:
    """What the columns of an extract are. Raises `NoExtract`: one sentence, and which action to run."""
    file = require_file(root, path)
    try:
        return _described(file)
    except NoExtract:
        raise
    except Exception as error:
        raise NoExtract(
            f"{path} cannot be read as an extract.",
            next_step="Make it again; an extract is an .arrow, .parquet, .csv or .csv.gz file with a patient_id.",
        ) from error


def require_file(root: Path, path: str) -> Path:
    """The file of an extract. Raises `NoExtract` if it has not been made."""
    file = root / path
    if not file.is_file():
        action = _maker(root, path)
        raise NoExtract(
            f"There is no file {path} yet.",
            next_step=f"Run {action} first: opensafely-lab run {action}.",
        )
    return file


def _described(file: Path) -> DatasetSchema:
    if file.suffix == ".arrow":
        columns = _of_arrow(file)
    elif file.suffix == ".parquet":
        columns = _of_parquet(file)
    else:
        columns = _of_csv(file)
    if not any(column.name == "patient_id" for column in columns):
        raise ValueError("an extract has a patient_id")
    return DatasetSchema(columns)


def _of_arrow(file: Path) -> list[ColumnSchema]:
    """What the engine wrote beside each column; declared categories stand in the first batch."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        first = reader.get_batch(0) if reader.num_record_batches else None
        columns = []
        for place, field in enumerate(reader.schema):
            told = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            categories = None
            if pa.types.is_dictionary(field.type):
                categories = () if first is None else tuple(first.column(place).dictionary.to_pylist())
            of = ValueType(told["osl.type"]) if "osl.type" in told else _value_type(field.type)
            nullable = told.get("osl.nullable", "true" if field.nullable else "false") == "true"
            columns.append(_column(field.name, of, nullable, told.get("osl.class", "ordinary"), categories))
        return columns


def _of_parquet(file: Path) -> list[ColumnSchema]:
    import pyarrow.parquet as pq

    return [_column(field.name, _value_type(field.type), True) for field in pq.read_schema(file)]


def _of_csv(file: Path) -> list[ColumnSchema]:
    """Types by what every value of a column looks like, as `engine.describe` finds them."""
    import pyarrow as pa
    import pyarrow.csv as csv

    with csv.open_csv(file) as header:
        names = header.schema.names
    as_text = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    possible: dict[str, list[ValueType]] = {name: list(_LOOKS) for name in names}
    seen: set[str] = set()
    with csv.open_csv(file, convert_options=as_text) as reader:
        for batch in reader:
            for name, values in zip(names, batch.columns, strict=True):
                known = values.drop_null()
                if len(known):
                    seen.add(name)
                    possible[name] = [of for of in possible[name] if _LOOKS[of](known)]
    return [_column(name, next(iter(possible[name]), STR) if name in seen else STR, True) for name in names]


def _column(
    name: str, of: ValueType, nullable: bool, told: str = "ordinary", categories: tuple[str, ...] | None = None
) -> ColumnSchema:
    is_id = name == "patient_id"
    return ColumnSchema(
        name, of, categories, nullable and not is_id, ColumnClass.IDENTIFIER if is_id else ColumnClass(told)
    )


STR = ValueType.STR


def _looks_bool(values: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.array(["T", "F", "TRUE", "FALSE"])
    return bool(pc.all(pc.is_in(pc.utf8_upper(values), value_set=words)).as_py())


def _looks_int(values: Any) -> bool:
    return _matches(values, "^-?[0-9]+$") and _casts(values, "int64")


def _looks_float(values: Any) -> bool:
    return _casts(values, "float64")


def _looks_date(values: Any) -> bool:
    return _matches(values, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")


_LOOKS: dict[ValueType, Callable[[Any], bool]] = {
    ValueType.BOOL: _looks_bool,
    ValueType.INT: _looks_int,
    ValueType.FLOAT: _looks_float,
    ValueType.DATE: _looks_date,
}


def _matches(values: Any, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def _casts(values: Any, to: str) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return bool(pc.all(pc.is_finite(values.cast(to))).as_py())
    except pa.ArrowInvalid:
        return False


def _value_type(arrow_type: Any) -> ValueType:
    import pyarrow.types as types

    of = arrow_type.value_type if types.is_dictionary(arrow_type) else arrow_type
    for test, value_type in (
        (types.is_boolean, ValueType.BOOL),
        (types.is_integer, ValueType.INT),
        (types.is_floating, ValueType.FLOAT),
        (types.is_decimal, ValueType.FLOAT),
        (types.is_date, ValueType.DATE),
        (types.is_timestamp, ValueType.DATE),
        (types.is_string, ValueType.STR),
        (types.is_large_string, ValueType.STR),
    ):
        if test(of):
            return value_type
    raise ValueError("a column is of a type that cannot be used")


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
