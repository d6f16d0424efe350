"""What the columns of a dataset are, as its definition says: types, categories, NULLs, classes.

Worked out from the query alone, so that it tells nothing about any row.
"""

from __future__ import annotations

from ...expressions.nodes import STR, Call, Expr, Leaf
from ...expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType
from ...expressions.static import column_class, levels, nullable, strictest
from .dataset import DatasetModel
from .nodes import (
    Aggregate,
    Count,
    CountEpisodes,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    SelectColumn,
    Sort,
)

PATIENT_ID = ColumnSchema("patient_id", ValueType.INT, nullable=False, column_class=ColumnClass.IDENTIFIER)


def dataset_schema(dataset: DatasetModel) -> DatasetSchema:
    """The columns of the dataset's extract, `patient_id` first."""
    facts = _Facts(certain(dataset.population))
    columns = []
    for variable in dataset.variables:
        expr = variable.expr
        found = levels(expr, facts) if expr.type is STR else None
        columns.append(
            ColumnSchema(
                name=variable.name,
                type=expr.type,
                categories=None if found is None else tuple(str(level) for level in found),
                nullable=nullable(expr, facts),
                column_class=column_class(expr, facts),
            )
        )
    return DatasetSchema((PATIENT_ID, *columns))


Certain = frozenset[SelectColumn | Frame]


def certain(condition: Expr) -> Certain:
    """The columns that have a value, and the frames that have a row, wherever the condition is true."""
    if isinstance(condition, Exists):
        return frozenset({condition.source})
    if isinstance(condition, SelectColumn):
        return present(condition)
    if not isinstance(condition, Call):
        return frozenset()
    match condition.op:
        case "and":
            return certain(condition.args[0]) | certain(condition.args[1])
        case "or":
            return certain(condition.args[0]) & certain(condition.args[1])
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "contains":
            return present(condition.args[0]) | present(condition.args[1])
        case "is_in" | "is_not_null":
            return present(condition.args[0])
    return frozenset()


# Where the answer is not NULL, no argument was.
_STRICT = frozenset({
    "eq", "ne", "lt", "le", "gt", "ge", "contains", "add", "sub", "mul", "truediv", "floordiv", "neg", "absolute",
    "as_int", "as_float", "cut", "not", "year", "month", "day", "to_first_of_year", "to_first_of_month",
    "difference_in_days", "difference_in_weeks", "difference_in_months", "difference_in_years",
    "add_days", "add_weeks", "add_months", "add_years",
})  # fmt: skip


def present(expr: Expr) -> Certain:
    """The columns that have a value, and the frames that have a row, wherever the expression is not NULL."""
    if isinstance(expr, SelectColumn):
        return frozenset({expr, expr.source})
    if isinstance(expr, Call) and expr.op in _STRICT:
        return frozenset().union(*(present(arg) for arg in expr.args))
    return frozenset()


class _Facts:
    """A leaf as a column: what is certain about the population, and what the tables declare."""

    def __init__(self, known: Certain) -> None:
        self.known = known

    def __call__(self, leaf: Leaf) -> ColumnSchema:
        match leaf:
            case SelectColumn():
                column = leaf.column
                return ColumnSchema(
                    name=column.name,
                    type=column.type,
                    categories=column.categories,
                    nullable=leaf not in self.known and (column.nullable or leaf.source not in self.known),
                    column_class=strictest([column.column_class, self.chosen_by(leaf.source)]),
                )
            case Exists() | Count():
                return self._aggregated(leaf, None, self.chosen_by(leaf.source))
            case Aggregate() | CountEpisodes():
                found = None
                if isinstance(leaf, Aggregate) and leaf.function in ("minimum", "maximum") and leaf.type is STR:
                    inner = levels(leaf.source, self)
                    found = None if inner is None else tuple(str(level) for level in inner)
                return self._aggregated(leaf, found, column_class(leaf.source, self))
        return ColumnSchema("", leaf.type)

    def _aggregated(self, leaf: Leaf, categories: tuple[str, ...] | None, of: ColumnClass) -> ColumnSchema:
        null = isinstance(leaf, Aggregate) and leaf.function != "count_distinct"
        return ColumnSchema("", leaf.type, categories=categories, nullable=null, column_class=of)

    def chosen_by(self, frame: Frame) -> ColumnClass:
        """The strictest class among what a frame's rows were chosen by."""
        found = ColumnClass.ORDINARY
        while isinstance(frame, (Filter, Sort, PickOneRowPerPatient)):
            if isinstance(frame, Filter):
                found = strictest([found, column_class(frame.condition, self)])
            frame = frame.source
        return found
