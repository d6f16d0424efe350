"""Pieces of SQL, and of queries, that the planner puts together."""

from __future__ import annotations

from sqlglot import exp

from ...expressions.nodes import BOOL, Call, Expr, Leaf
from ..model import Filter, Frame, SelectColumn, SelectTable, Sort, frame_domain
from ..schemas import TableSchema

Sql = exp.Expr

ID = "patient_id"


def view(table: TableSchema) -> exp.Table:
    return exp.Table(this=exp.to_identifier(table.reference, quoted=True))


def name(text: str) -> exp.Identifier:
    return exp.to_identifier(text, quoted=True)


def column(named: str, of: str) -> exp.Column:
    return exp.Column(this=name(named), table=name(of))


def is_row(leaf: Leaf) -> bool:
    return isinstance(leaf, SelectColumn) and frame_domain(leaf.source) is not None


def on_rows(expr: Expr, table: TableSchema) -> Expr:
    """The expression over the table's rows themselves: a row is the same row in every filter of it."""
    if isinstance(expr, SelectColumn) and is_row(expr):
        return SelectColumn(SelectTable(table), expr.name)
    if isinstance(expr, Call):
        return Call(expr.op, tuple(on_rows(arg, table) for arg in expr.args), expr.type)
    return expr


def unsorted(frame: Frame) -> Frame:
    """The same rows, their order forgotten."""
    match frame:
        case Sort():
            return unsorted(frame.source)
        case Filter():
            return Filter(unsorted(frame.source), frame.condition)
    return frame


def presence(identity: Sql, leaf: Leaf) -> Sql:
    found = exp.Paren(this=exp.Not(this=exp.Is(this=identity, expression=exp.null())))
    return found if leaf.type is BOOL else exp.cast(found, "bigint")


def filtered(aggregation: Sql, passed: Sql | None) -> Sql:
    if passed is None:
        return aggregation
    return exp.Filter(this=aggregation, expression=exp.Where(this=passed.copy()))


def struct(values: dict[str, Sql]) -> Sql:
    return exp.Struct(
        expressions=[exp.PropertyEQ(this=exp.to_identifier(name), expression=value) for name, value in values.items()]
    )


def equal(left: Sql, right: Sql) -> Sql:
    return exp.EQ(this=left.copy(), expression=right)
