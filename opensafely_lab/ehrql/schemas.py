"""What a table is: its columns, their types, what holds for their values, and who may use it."""

from __future__ import annotations

import datetime as dt

from attrs import frozen

from ..expressions.schema import ColumnClass, ValueType


class Constraint:
    """What holds for the values of a column."""

    @frozen
    class Categorical:
        """One of these values, in this order."""

        values: tuple[str | int, ...]

    @frozen
    class NotNull:
        """Never missing."""

    @frozen
    class Unique:
        """No two rows have the same."""

    @frozen
    class FirstOfMonth:
        """A date is the first day of its month."""

    @frozen
    class Regex:
        """Text of this pattern, from beginning to end."""

        regex: str

    @frozen
    class ClosedRange:
        """From the minimum to the maximum, both included, in steps."""

        minimum: int
        maximum: int
        step: int = 1

    @frozen
    class GeneralRange:
        """Between two limits, either of which may be absent."""

        minimum: dt.date | int | float | None = None
        maximum: dt.date | int | float | None = None
        includes_minimum: bool = True
        includes_maximum: bool = True

    @frozen
    class DateAfter:
        """Not before the dates of these columns."""

        column_names: tuple[str, ...]


AnyConstraint = (
    Constraint.Categorical
    | Constraint.NotNull
    | Constraint.Unique
    | Constraint.FirstOfMonth
    | Constraint.Regex
    | Constraint.ClosedRange
    | Constraint.GeneralRange
    | Constraint.DateAfter
)


@frozen(cache_hash=True)
class TableColumn:
    """One column of a table. `system` is the coding system of a column of codes."""

    name: str
    type: ValueType
    system: str | None = None
    constraints: tuple[AnyConstraint, ...] = ()
    dummy_data_constraints: tuple[AnyConstraint, ...] = ()
    column_class: ColumnClass = ColumnClass.ORDINARY
    description: str = ""

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The values a column of text can have, where they are declared."""
        for constraint in self.constraints:
            if isinstance(constraint, Constraint.Categorical) and self.type is ValueType.STR:
                return tuple(str(value) for value in constraint.values)
        return None

    @property
    def nullable(self) -> bool:
        return not any(isinstance(c, Constraint.NotNull) for c in self.constraints)


@frozen(cache_hash=True)
class TableSchema:
    """A table: `reference` (module.name) is how a definition names it, `name` how a backend does."""

    reference: str
    name: str
    one_row_per_patient: bool
    columns: tuple[TableColumn, ...]
    required_permission: str | None = None
    activation_filter_field: str | bool | None = None

    def column(self, name: str) -> TableColumn | None:
        return next((c for c in self.columns if c.name == name), None)
