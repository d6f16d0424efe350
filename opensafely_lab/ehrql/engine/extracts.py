"""Extracts: what the engine makes of a dataset, as Arrow IPC, and what such a file says of itself.

Every field carries what the definition says about the column: its class, its type, whether it may
be missing; text with declared categories is a dictionary of all of them, in their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from ...errors import PlatformError
from ...expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType

BATCH_ROWS = 64_000

ARROW_TYPES: dict[ValueType, pa.DataType] = {
    ValueType.BOOL: pa.bool_(),
    ValueType.INT: pa.int64(),
    ValueType.FLOAT: pa.float64(),
    ValueType.STR: pa.string(),
    ValueType.DATE: pa.date32(),
    ValueType.CODE: pa.string(),
}


class ExtractError(PlatformError):
    """Records that break what their table's schema says, met while an extract was made."""

    code = "extract"


@frozen
class ExtractInfo:
    """An extract that was made."""

    path: Path
    rows: int
    schema: DatasetSchema
    sha256: str


def arrow_schema(schema: DatasetSchema) -> pa.Schema:
    return pa.schema([_field(column) for column in schema.columns])


def _field(column: ColumnSchema) -> pa.Field:
    metadata = {
        "osl.class": column.column_class.value,
        "osl.nullable": "true" if column.nullable else "false",
        "osl.type": column.type.value,
    }
    return pa.field(column.name, _arrow_type(column), nullable=column.nullable, metadata=metadata)


def _arrow_type(column: ColumnSchema) -> pa.DataType:
    if column.type is ValueType.STR and column.categories is not None:
        # signed, and as small as will do: what pandas and R read without conversion
        size = len(column.categories)
        index = pa.int8() if size < 2**7 else pa.int16() if size < 2**15 else pa.int32()
        return pa.dictionary(index, pa.string(), ordered=True)
    return ARROW_TYPES[column.type]


def write_arrow(batches: Iterable[pa.RecordBatch], schema: DatasetSchema, output: Path) -> int:
    """Write batches that hold the schema's columns as plain values; the number of rows."""
    target = arrow_schema(schema)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    rows = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".part")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, target, options=options) as writer:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            columns = [_encoded(batch.column(i), column) for i, column in enumerate(schema.columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=target))
            rows += batch.num_rows
        if rows == 0:  # a file of nobody still tells its categories, or a notebook could tell that it is empty
            nobody = [_encoded(pa.nulls(0, ARROW_TYPES[column.type]), column) for column in schema.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(nobody, schema=target))
    partial.replace(output)
    return rows


def each_once(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, whose patients come in order and each once: a table with one row a patient had no more."""
    last = None
    for batch in batches:
        ids = batch.column(0).to_numpy()
        if len(ids) and ((last is not None and ids[0] <= last) or (ids[1:] <= ids[:-1]).any()):
            raise ExtractError("A table with one row a patient has more than one for some patient.")
        last = ids[-1] if len(ids) else last
        yield batch


def _encoded(values: pa.Array, column: ColumnSchema) -> pa.Array:
    if values.null_count and not column.nullable:
        raise ExtractError(f"{column.name} is missing for some patient, and its table says that it never is.")
    wanted = _arrow_type(column)
    if not pa.types.is_dictionary(wanted):
        return values.cast(wanted)
    categories = pa.array(column.categories, pa.string())
    indices = pc.index_in(values.cast(pa.string()), categories)
    if indices.null_count != values.null_count:
        raise ExtractError(f"{column.name} has a value that is none of its categories.")
    return pa.DictionaryArray.from_arrays(indices.cast(wanted.index_type), categories, ordered=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading a file's own account --------------------------------------------------------------


def schema_of_arrow(schema: pa.Schema, dictionaries: dict[str, tuple[str, ...]]) -> DatasetSchema:
    return DatasetSchema([_column(field, dictionaries.get(field.name)) for field in schema])


def _column(field: pa.Field, categories: tuple[str, ...] | None) -> ColumnSchema:
    told = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    is_id = field.name == "patient_id"
    return ColumnSchema(
        name=field.name,
        type=ValueType(told["osl.type"]) if "osl.type" in told else _value_type(field),
        categories=categories,
        nullable=not is_id and told.get("osl.nullable", "true" if field.nullable else "false") == "true",
        column_class=ColumnClass.IDENTIFIER if is_id else ColumnClass(told.get("osl.class", "ordinary")),
    )


def _value_type(field: pa.Field) -> ValueType:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    tests = (
        (pa.types.is_boolean, ValueType.BOOL),
        (pa.types.is_integer, ValueType.INT),
        (pa.types.is_floating, ValueType.FLOAT),
        (pa.types.is_decimal, ValueType.FLOAT),
        (pa.types.is_date, ValueType.DATE),
        (pa.types.is_timestamp, ValueType.DATE),
        (pa.types.is_string, ValueType.STR),
        (pa.types.is_large_string, ValueType.STR),
    )
    for test, value_type in tests:
        if test(kind):
            return value_type
    raise ExtractError(f"The column {field.name} of the extract is of a type that cannot be used.")
