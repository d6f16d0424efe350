"""Small schemas and requests that several rule tests share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from opensafely_lab.disclosure.cells import CellTable, GroupLevels
from opensafely_lab.disclosure.requests import Group, Measure, PlotRequest, TableRequest
from opensafely_lab.expressions.nodes import Call, Column, Expr, Literal, call
from opensafely_lab.expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType

INT, STR, BOOL, DATE = ValueType.INT, ValueType.STR, ValueType.BOOL, ValueType.DATE

SCHEMA = DatasetSchema(
    (
        ColumnSchema("patient_id", INT, None, False, ColumnClass.IDENTIFIER),
        ColumnSchema("practice", INT, None, True, ColumnClass.ORGANISATION),
        ColumnSchema("msoa", STR, None, True, ColumnClass.SMALL_AREA),
        ColumnSchema("date_of_birth", DATE, None, True, ColumnClass.ORDINARY),
        ColumnSchema("secret_day", DATE, None, True, ColumnClass.SENSITIVE),
        ColumnSchema("event_date", DATE, None, True, ColumnClass.ORDINARY),
        ColumnSchema("age", INT, None, False),
        ColumnSchema("sex", STR, ("female", "male"), False),
        ColumnSchema("region", STR, ("East", "London", "North"), True),
        ColumnSchema("drug", STR, None, True),
        ColumnSchema("ill", BOOL, None, False),
    )
)


def column(name: str) -> Column:
    found = SCHEMA.column(name)
    assert found is not None
    return Column(name, found.type)


def number(value: int) -> Literal:
    return Literal(value, INT)


def text(value: str) -> Literal:
    return Literal(value, STR)


def at_least(name: str, value: int) -> Call:
    return call("ge", column(name), number(value))


def cut(name: str, *edges: int) -> Call:
    return call("cut", column(name), *(number(edge) for edge in edges))


def table(
    by: Mapping[str, Expr] | None = None,
    *,
    where: Expr | None = None,
    margins: bool = False,
    id: int = 0,
    cell: int = 1,
) -> TableRequest:
    groups = tuple(Group(name, expr) for name, expr in (by or {}).items())
    return TableRequest(
        id, f"table-{id + 1}", cell, "output/dataset.arrow", where, groups, (Measure("count", "count"),), margins
    )


def plot(of: int = 0, *, id: int = 1, kind: str = "bar") -> PlotRequest:
    return PlotRequest(id, f"figure-{id + 1}", 2, of, kind, "People by sex")


def cells(groups: Mapping[str, tuple[str, ...]], counts: list[int]) -> CellTable:
    """A cell table from counts in canonical order."""
    levels = tuple(GroupLevels(name, texts, False) for name, texts in groups.items())
    keys = list(product(*(group.all_levels() for group in levels)))
    assert len(keys) == len(counts)
    return CellTable(levels, dict(zip(keys, counts, strict=True)))
