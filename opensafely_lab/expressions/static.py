"""What can be said about an expression without looking at a single row.

Which values it can have (`levels`), whether it can be missing (`nullable`) and how sensitive it is
(`column_class`). A table's rows and columns are laid out from these, never from what occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .nodes import BOOL, Call, Column, Expr, ExpressionError, Leaf, Literal, leaves
from .schema import ColumnClass, ColumnSchema, DatasetSchema

Level = str | int | bool
Facts = DatasetSchema | Callable[[Leaf], ColumnSchema]

# Least to most sensitive: the strictest of several is the last of them here.
STRICTNESS = (
    ColumnClass.ORDINARY,
    ColumnClass.SENSITIVE,
    ColumnClass.SMALL_AREA,
    ColumnClass.ORGANISATION,
    ColumnClass.IDENTIFIER,
)


def levels(expr: Expr, schema: Facts) -> tuple[Level, ...] | None:
    """Every value the expression can have other than NULL, in order; None where they are not declared."""
    if expr.type is BOOL:
        return (False, True)
    if isinstance(expr, Literal):
        return _literal_levels([expr])
    if isinstance(expr, Leaf):
        return _fact(expr, schema).categories
    if isinstance(expr, Call):
        match expr.op:
            case "cut":
                edges: list[Any] = [a.value for a in expr.args[1:] if isinstance(a, Literal)]
                return bands(edges)
            case "case":
                return _merged((*expr.args[1:-1:2], expr.args[-1]), schema)
            case "map":
                return _merged((*expr.args[2:-1:2], expr.args[-1]), schema)
            case "coalesce" | "minimum_of" | "maximum_of":
                return _merged(expr.args, schema)
    return None


def _literal_levels(literals: Iterable[Literal]) -> tuple[Level, ...] | None:
    found: dict[Level, None] = {}
    for literal in literals:
        if isinstance(literal.value, (str, int)):
            found[literal.value] = None
        elif literal.value is not None:
            return None
    return tuple(found)


def _merged(parts: Sequence[Expr], schema: Facts) -> tuple[Level, ...] | None:
    """The values of several parts: those of columns first, as first met, then the literals."""
    columns = [p for p in parts if not isinstance(p, Literal)]
    found: dict[Level, None] = {}
    for part in columns:
        known = levels(part, schema)
        if known is None:
            return None
        found.update(dict.fromkeys(known))
    literal = _literal_levels(p for p in parts if isinstance(p, Literal))
    if literal is None:
        return None
    found.update(dict.fromkeys(literal))
    return tuple(found)


def bands(edges: Sequence[int] | Sequence[float]) -> tuple[str, ...]:
    """Names of the bands of a cut: open at both ends, so that nobody is dropped."""
    shown = [repr(edge).removesuffix(".0") for edge in edges]
    middle = []
    for i in range(len(edges) - 1):
        low, high = edges[i], edges[i + 1]
        if isinstance(low, int) and isinstance(high, int):
            middle.append(str(low) if high - 1 == low else f"{low}-{high - 1}")
        else:
            middle.append(f"{shown[i]} to under {shown[i + 1]}")
    return (f"under {shown[0]}", *middle, f"{shown[-1]} and over")


# A NULL among the arguments makes the answer NULL, and nothing else does. (A whole number beyond
# 64 bits or a date beyond the year 9999 becomes NULL too; no record holds either.)
STRICT = frozenset({
    "eq", "ne", "lt", "le", "gt", "ge", "not", "add", "sub", "mul", "neg", "absolute", "as_float", "cut", "contains",
    "year", "month", "day", "to_first_of_year", "to_first_of_month", "add_days", "add_weeks", "add_months",
    "add_years", "difference_in_days", "difference_in_weeks", "difference_in_months", "difference_in_years",
})  # fmt: skip


def nullable(expr: Expr, schema: Facts) -> bool:
    """Whether the expression can be NULL, as far as declarations tell."""
    if isinstance(expr, Literal):
        return expr.value is None
    if isinstance(expr, Leaf):
        return _fact(expr, schema).nullable
    if not isinstance(expr, Call):
        return True
    match expr.op:
        case "is_null" | "is_not_null":
            return False
        case "is_in":
            return len(expr.args) > 1 and nullable(expr.args[0], schema)
        case "coalesce" | "minimum_of" | "maximum_of":
            return all(nullable(a, schema) for a in expr.args)
        case "case":
            return any(nullable(a, schema) for a in (*expr.args[1:-1:2], expr.args[-1]))
        case "map":
            # NULL has no entry in a mapping, so it gets the default like any other value without one
            return nullable(expr.args[-1], schema)
        case "as_int":
            return expr.args[0].type not in (BOOL, expr.type) or nullable(expr.args[0], schema)
        case "and" | "or":
            return any(nullable(a, schema) for a in expr.args)
        case op if op in STRICT:
            return any(nullable(a, schema) for a in expr.args)
    return True


def column_class(expr: Expr, schema: Facts) -> ColumnClass:
    """The strictest class of the expression's leaves."""
    return strictest(_fact(leaf, schema).column_class for leaf in leaves(expr))


def strictest(classes: Iterable[ColumnClass]) -> ColumnClass:
    return max(classes, key=STRICTNESS.index, default=ColumnClass.ORDINARY)


def _fact(leaf: Leaf, schema: Facts) -> ColumnSchema:
    if not isinstance(schema, DatasetSchema):
        return schema(leaf)
    if isinstance(leaf, Column):
        column = schema.column(leaf.name)
        if column is not None:
            return column
        raise ExpressionError(f"There is no column {leaf.name}.")
    raise ExpressionError("This expression is not about the columns of an extract.")
