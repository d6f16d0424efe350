"""Tables from files: a folder of TABLE.parquet, TABLE.csv or TABLE.arrow, or TABLE/part-*.parquet.

A source makes one view for each table of a plan, with the schema's names and types, so that the
statement reads the same whatever the files are. CSV is checked in full first, and an error names
the file and the row. No error holds a value.
"""

# ruff: noqa: S608 - sqlglot writes and quotes every name and constant

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import duckdb
from attrs import frozen
from sqlglot import exp

from ...errors import UsageError
from ...expressions.nodes import BOOL, DATE, FLOAT, INT
from ...expressions.schema import ValueType
from ...expressions.sql import SQL_TYPES, literal
from ..schemas import TableColumn, TableSchema

LONGEST_LINE = 2**20
_MADE_AGAIN = "Make the file again, with the columns and types of ehrQL's table."
_SAVED_AGAIN = "Mend it there (row 1 is the header), or save it again as CSV UTF-8."


class SourceError(UsageError):
    """A file of records that is absent, or not what its table must be."""

    code = "records"


class TablesMissing(SourceError):
    """What a folder's list of files alone says: no record was read to find it out."""

    code = "tables-missing"


class Source(Protocol):
    """Where records come from."""

    def attach(self, connection: duckdb.DuckDBPyConnection, tables: Iterable[TableSchema]) -> None:
        """Make a view for each table, called by its reference."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """What the connection must be able to read once it is locked."""


@frozen
class FolderSource:
    """A folder with a file, or a folder of parts, for each table."""

    path: Path
    dummy: bool = False

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.path.resolve(),)

    def attach(self, connection: duckdb.DuckDBPyConnection, tables: Iterable[TableSchema]) -> None:
        for table in tables:
            files = self._files(table.name)
            kind = files[0].suffix
            reader = {".parquet": _from_parquet, ".arrow": _from_arrow}.get(kind, _from_csv)
            select = reader(connection, table, files)
            connection.execute(f"CREATE TEMP VIEW {quoted(table.reference)} AS {select}")

    def _files(self, name: str) -> list[Path]:
        root = self.path.resolve()
        if not root.is_dir():
            raise TablesMissing(
                f"There is no folder {self.path.name}.",
                next_step="Make it, with a file for each table, as patients.csv.",
            )
        single = [root / f"{name}{suffix}" for suffix in (".parquet", ".arrow", ".csv", ".csv.gz")]
        found = [[file] for file in single if file.is_file()]
        parts = sorted((root / name).glob("part-*.parquet")) if (root / name).is_dir() else []
        found += [parts] if parts else []
        if not found:
            raise TablesMissing(
                f"There is no table {name} in {self.path.name}.",
                next_step=f"Add {name}.csv, {name}.arrow or {name}.parquet.",
            )
        if len(found) > 1:
            raise TablesMissing(f"There is more than one file for {name} in {self.path.name}.", next_step="Keep one.")
        if any(not file.resolve().is_relative_to(root) for file in found[0]):
            raise TablesMissing(
                f"The file of {name} in {self.path.name} is a link to somewhere else.",
                next_step="Put the file itself there.",
            )
        return found[0]


def folder_source(path: Path) -> FolderSource:
    """The tables in a folder."""
    return FolderSource(Path(path))


def quoted(name: str) -> str:
    return exp.to_identifier(name, quoted=True).sql("duckdb")


def text(value: str) -> str:
    """A text as an SQL literal."""
    return exp.Literal.string(value).sql("duckdb")


def _list(paths: Iterable[Path]) -> str:
    return f"[{', '.join(text(str(path)) for path in paths)}]"


# --- columnar files ----------------------------------------------------------------------------

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
_READABLE: dict[ValueType, re.Pattern[str]] = {
    BOOL: re.compile("BOOLEAN"),
    INT: re.compile("|".join(_INTEGERS)),
    FLOAT: re.compile(r"FLOAT|DOUBLE|DECIMAL.*|" + "|".join(_INTEGERS)),
    DATE: re.compile("DATE|TIMESTAMP.*"),
}
_TEXT = re.compile("VARCHAR|ENUM.*")


def _from_parquet(connection: duckdb.DuckDBPyConnection, table: TableSchema, files: list[Path]) -> str:
    return _typed_select(connection, table, f"read_parquet({_list(files)})", files[0].name)


def _from_arrow(connection: duckdb.DuckDBPyConnection, table: TableSchema, files: list[Path]) -> str:
    import pyarrow.dataset

    name = f"arrow of {table.reference}"
    try:
        connection.register(name, pyarrow.dataset.dataset([str(file) for file in files], format="arrow"))
    except pyarrow.ArrowInvalid:
        raise SourceError(f"{files[0].name} is not an Arrow file.", next_step=_MADE_AGAIN) from None
    return _typed_select(connection, table, quoted(name), files[0].name)


def _typed_select(connection: duckdb.DuckDBPyConnection, table: TableSchema, source: str, file: str) -> str:
    """The table's columns in its types, from a source that has types of its own."""
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    except duckdb.Error:
        raise SourceError(f"{file} cannot be read.", next_step=_MADE_AGAIN) from None
    types = {row[0]: str(row[1]) for row in described}
    _check_columns(table, types, file)
    columns = [f"TRY_CAST(patient_id AS BIGINT) AS {quoted('patient_id')}"]
    for column in table.columns:
        found = types.get(column.name)
        if found is not None and not _READABLE.get(column.type, _TEXT).fullmatch(found):
            raise SourceError(
                f"{file}: {column.name} is {found.lower()}, and must be {column.type.value}.", next_step=_MADE_AGAIN
            )
        columns.append(_converted(column, present=found is not None))
    return f"SELECT {', '.join(columns)} FROM {source} WHERE patient_id IS NOT NULL"


def _converted(column: TableColumn, *, present: bool) -> str:
    name = quoted(column.name)
    sql_type = SQL_TYPES[column.type]
    if not present:
        return f"CAST(NULL AS {sql_type}) AS {name}"
    value = f"TRY_CAST({name} AS {sql_type})"
    if column.type is FLOAT:
        value = f"CASE WHEN isfinite({value}) THEN {value} END"
    return f"{value} AS {name}"


def _check_columns(table: TableSchema, found: Iterable[str], file: str) -> None:
    names = set(found)
    for name in ("patient_id", *(column.name for column in table.columns if not column.nullable)):
        if name not in names:
            raise SourceError(f"{file} has no column {name}.", next_step="Add it: every row must have a value there.")


# --- CSV ---------------------------------------------------------------------------------------


def _from_csv(connection: duckdb.DuckDBPyConnection, table: TableSchema, files: list[Path]) -> str:
    file = files[0]
    names = _header(file, table)
    _check_columns(table, names, file.name)
    columns = ", ".join(f"{text(name)}: 'VARCHAR'" for name in names)
    source = (
        f"read_csv({text(str(file))}, columns={{{columns}}}, header=true, auto_detect=false, delim=',', "
        f"quote='\"', escape='\"', nullstr='', max_line_size={LONGEST_LINE})"
    )
    present = [column for column in table.columns if column.name in names]
    _check_rows(connection, table, present, source, file.name)
    chosen = [f"CAST(patient_id AS BIGINT) AS {quoted('patient_id')}"]
    for column in table.columns:
        if column in present:
            chosen.append(f"{_parsed(column)} AS {quoted(column.name)}")
        else:
            chosen.append(_converted(column, present=False))
    return f"SELECT {', '.join(chosen)} FROM {source}"


def _header(file: Path, table: TableSchema) -> list[str]:
    import gzip

    try:  # of the first line alone: a mistake further down is told with its row
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as lines:
            names = next(csv.reader([lines.readline(LONGEST_LINE).decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error, OSError, EOFError):
        raise SourceError(f"{file.name} is not a CSV file in UTF-8.", next_step=_SAVED_AGAIN) from None
    if not names or len(set(names)) != len(names):
        raise SourceError(
            f"{file.name} must begin with a row of column names, each once.",
            next_step=f"Look at its first row; ehrQL's table {table.name} says which columns there are.",
        )
    return names


def _parsed(column: TableColumn) -> str:
    name = quoted(column.name)
    if column.type is BOOL:
        return f"CASE {name} WHEN 'T' THEN TRUE WHEN 'F' THEN FALSE END"
    return f"CAST({name} AS {SQL_TYPES[column.type]})"


_FORMS: Mapping[ValueType, str] = {
    BOOL: "[TF]",
    INT: "[+-]?[0-9]+",
    FLOAT: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    DATE: "[0-9]{4}-[0-9]{2}-[0-9]{2}",
}
_WORDS = {BOOL: "T or F", INT: "a whole number", FLOAT: "a number", DATE: "a date, as 2020-12-31"}


def _check_rows(
    connection: duckdb.DuckDBPyConnection, table: TableSchema, columns: list[TableColumn], source: str, file: str
) -> None:
    """The first row of each kind of mistake, all in one scan; the earliest is told."""
    checks = [("patient_id is not a whole number", f"NOT coalesce({_is_of_form('patient_id', INT)}, FALSE)")]
    for column in columns:
        name = quoted(column.name)
        if column.type in _FORMS:
            bad = f"{name} IS NOT NULL AND NOT coalesce({_is_of_form(column.name, column.type)}, FALSE)"
            checks.append((f"{column.name} is not {_WORDS[column.type]}", bad))
        if column.categories is not None:
            listed = ", ".join(literal(c, column.type).sql("duckdb") for c in column.categories)
            allowed = ", ".join(column.categories)
            checks.append((f"{column.name} is none of {allowed}", f"{name} NOT IN ({listed})"))
        if not column.nullable:
            checks.append((f"{column.name} is missing", f"{name} IS NULL"))
    wanted = ", ".join(f"min(row) FILTER (WHERE {bad})" for _, bad in checks)
    twice = f", count(*) - count(DISTINCT patient_id) FROM (SELECT *, 1 + row_number() OVER () AS row FROM {source})"
    try:
        found = connection.execute(f"SELECT {wanted}{twice}").fetchone() or ()
    except duckdb.Error as error:
        line = re.search(r"on Line: (\d+)", str(error))
        where = f", row {line[1]}" if line else ""
        raise SourceError(
            f"{file}{where}: this is not CSV in UTF-8 with as many columns as the header.", next_step=_SAVED_AGAIN
        ) from None
    mistakes = sorted((row, what) for row, (what, _) in zip(found, checks, strict=False) if row is not None)
    if mistakes:
        row, what = mistakes[0]
        raise SourceError(f"{file}, row {row}: {what}.", next_step="Correct that row; row 1 is the header.")
    if table.one_row_per_patient and found[-1]:
        raise SourceError(f"{file} has two rows for one patient.", next_step=f"{table.name} has one row a patient.")


def _is_of_form(name: str, of: ValueType) -> str:
    value = quoted(name)
    matches = f"regexp_full_match({value}, {text(_FORMS[of])})"
    return matches if of is BOOL else f"({matches} AND TRY_CAST({value} AS {SQL_TYPES[of]}) IS NOT NULL)"
