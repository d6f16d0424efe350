"""What a column is: its type, its categories, whether it may be missing, how sensitive it is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from attrs import field, frozen


class ValueType(str, Enum):
    """The types of ehrQL's series. Codes are text with a system, compared as text."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"
    DATE = "date"
    CODE = "code"


class ColumnClass(str, Enum):
    """How a column may be used in a request (disclosure.md, decision 5). The strictest wins."""

    ORDINARY = "ordinary"
    SENSITIVE = "sensitive"
    SMALL_AREA = "small-area"
    ORGANISATION = "organisation"
    IDENTIFIER = "identifier"


@frozen
class ColumnSchema:
    """One column of an extract, as the definition (never the data) says it is."""

    name: str
    type: ValueType
    categories: tuple[str, ...] | None = None
    nullable: bool = True
    column_class: ColumnClass = ColumnClass.ORDINARY


def _columns(columns: Iterable[ColumnSchema]) -> tuple[ColumnSchema, ...]:
    return tuple(columns)


@frozen
class DatasetSchema:
    """The columns of one extract, `patient_id` first."""

    columns: tuple[ColumnSchema, ...] = field(converter=_columns)

    def column(self, name: str) -> ColumnSchema | None:
        return next((c for c in self.columns if c.name == name), None)
