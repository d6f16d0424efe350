"""Frames: tables as one writes about them, and how a table is declared.

    @table
    class patients(PatientFrame):
        date_of_birth = Column(datetime.date, constraints=[Constraint.NotNull()])

`@table` replaces the class by an instance of it. A frame's columns are series; filters, sorts and
picks give frames of the same table.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, overload

from ...expressions.nodes import BOOL, CODE, DATE, FLOAT, INT, STR, ExpressionError, Literal, call
from ...expressions.schema import ColumnClass, ValueType
from ...expressions.series import BoolSeries, Series
from ..codes import BaseCode
from ..model import (
    Count,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    Position,
    SelectColumn,
    SelectPatientTable,
    SelectTable,
    Sort,
    frame_domain,
)
from ..schemas import AnyConstraint, TableColumn, TableSchema
from .series import PATIENT, BoolPatientSeries, EventScope, IntPatientSeries

_TYPES: dict[type, ValueType] = {bool: BOOL, int: INT, float: FLOAT, str: STR, dt.date: DATE}


class Column:
    """A column of a table: its type, and what holds for its values. Called `Series` in `ehrql.tables`."""

    def __init__(
        self,
        type_: type,
        *,
        description: str = "",
        constraints: Sequence[AnyConstraint] = (),
        dummy_data_constraints: Sequence[AnyConstraint] = (),
        required: bool = True,
        implementation_notes_to_add_to_description: str = "",
        notes_for_implementors: str = "",
        column_class: ColumnClass = ColumnClass.ORDINARY,
    ) -> None:
        is_code = isinstance(type_, type) and issubclass(type_, BaseCode)
        if not is_code and type_ not in _TYPES:
            raise ExpressionError("A column's type is bool, int, float, str, datetime.date or a type of code.")
        self.type = CODE if is_code else _TYPES[type_]
        self.system: str | None = type_.system if is_code else None  # type: ignore[attr-defined]
        self.description = description
        self.constraints = tuple(constraints)
        self.dummy_data_constraints = tuple(dummy_data_constraints)
        self.column_class = column_class
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, frame: None, owner: type) -> Column: ...
    @overload
    def __get__(self, frame: BaseFrame, owner: type) -> Any: ...
    def __get__(self, frame: BaseFrame | None, owner: type) -> Any:
        return self if frame is None else frame._select(self.name)

    def schema(self) -> TableColumn:
        return TableColumn(
            name=self.name,
            type=self.type,
            system=self.system,
            constraints=self.constraints,
            dummy_data_constraints=self.dummy_data_constraints,
            column_class=self.column_class,
            description=self.description,
        )


class BaseFrame:
    """Rows of a table."""

    _table: TableSchema

    def __init__(self, node: Frame) -> None:
        self._node = node

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._node.table.name}>"

    def __bool__(self) -> NoReturn:
        raise ExpressionError("A frame is neither true nor false.", next_step="Did you mean .exists_for_patient()?")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(_no_such(self, name))

    def _select(self, name: str) -> Series:
        domain = frame_domain(self._node)
        scope = PATIENT if domain is None else EventScope(domain)
        return scope.wrap(SelectColumn(self._node, name))

    def exists_for_patient(self) -> BoolPatientSeries:
        """Whether the patient has a row."""
        return PATIENT.wrap(Exists(self._node))  # type: ignore[return-value]

    def count_for_patient(self) -> IntPatientSeries:
        """How many rows the patient has; 0 where none."""
        return PATIENT.wrap(Count(self._node))  # type: ignore[return-value]


ROWS_ONLY = ("where", "except_where", "sort_by", "first_for_patient", "last_for_patient")


def _no_such(frame: BaseFrame, name: str) -> str:
    table = frame._node.table.name
    if name in ("first_for_patient", "last_for_patient") and isinstance(frame, EventFrame):
        return f"Sort the rows before you pick one: {table}.sort_by(...).{name}()."
    if name in ROWS_ONLY:
        return f"{table} has one row a patient here, so there is no {name}."
    columns = [c.name for c in frame._node.table.columns]
    near = difflib.get_close_matches(name, columns, 1)
    hint = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(columns)}."
    return f"{table} has no column {name}. {hint}"


class PatientFrame(BaseFrame):
    """At most one row a patient."""


class EventFrame(BaseFrame):
    """Any number of rows a patient."""

    def where(self, condition: BoolSeries) -> Any:
        """The rows for which the condition is true."""
        _check_condition("where", condition)
        return type(self)(Filter(self._node, condition._expr))

    def except_where(self, condition: BoolSeries) -> Any:
        """The other rows: those for which it is false, and those for which it is missing."""
        _check_condition("except_where", condition)
        complement = call("case", condition._expr, Literal(False, BOOL), Literal(True, BOOL))
        return type(self)(Filter(self._node, complement))

    def sort_by(self, *order_by: Series) -> Any:
        """The rows in ascending order, by the first series before the second; missing values come first."""
        if not order_by:
            raise ExpressionError("sort_by() needs at least one series.")
        node = self._node
        for series in reversed(order_by):
            if isinstance(series, str):
                raise ExpressionError(
                    "sort_by() takes a series, not the name of one.",
                    next_step=f"Write sort_by({self._node.table.name}.date), not sort_by('date').",
                )
            if not isinstance(series, Series):
                raise ExpressionError("sort_by() takes series of the same table.")
            node = Sort(node, series._expr)
        return sorted_kind(type(self))(node)


class SortedEventFrame(EventFrame):
    """Rows in an order, of which the first or last can be picked."""

    def first_for_patient(self) -> Any:
        """Each patient's first row."""
        return picked_kind(type(self))(PickOneRowPerPatient(self._node, Position.FIRST))

    def last_for_patient(self) -> Any:
        """Each patient's last row."""
        return picked_kind(type(self))(PickOneRowPerPatient(self._node, Position.LAST))


def _check_condition(method: str, condition: object) -> None:
    if not isinstance(condition, BoolSeries):
        raise ExpressionError(
            f"{method}() takes a condition: something true or false for each row.",
            next_step="Compare a column with something, and put each comparison in brackets before you use & or |.",
        )


def sorted_kind(kind: type[EventFrame]) -> type[EventFrame]:
    """The same table, with first_for_patient and last_for_patient."""
    return kind if issubclass(kind, SortedEventFrame) else type(kind.__name__, (SortedEventFrame, kind), {})


def picked_kind(kind: type[EventFrame]) -> type[PatientFrame]:
    """The same columns, with one row a patient."""
    members: dict[str, Any] = {}
    for ancestor in reversed(kind.__mro__):
        members |= {k: v for k, v in vars(ancestor).items() if isinstance(v, (Column, property))}
    return type(kind.__name__, (PatientFrame,), members)


F = TypeVar("F", bound=BaseFrame)


def table(kind: type[F]) -> F:
    """Declare a table: the class is replaced by the table itself."""
    if not isinstance(kind, type) or not issubclass(kind, (PatientFrame, EventFrame)):
        raise ExpressionError("@table is put on a class of PatientFrame or EventFrame.")
    meta = {k: v for k, v in vars(getattr(kind, "_meta", object)).items() if not k.startswith("__")}
    unknown = set(meta) - {"table_name", "required_permission", "activation_filter_field"}
    if "_meta" in vars(kind) and unknown:
        raise ExpressionError(f"_meta of {kind.__name__} has {', '.join(sorted(unknown))}, which means nothing.")
    meta = meta if "_meta" in vars(kind) else {}
    columns: dict[str, Column] = {}
    for ancestor in reversed(kind.__mro__):
        columns |= {k: v for k, v in vars(ancestor).items() if isinstance(v, Column)}
    schema = TableSchema(
        reference=f"{kind.__module__.rpartition('.tables.')[2]}.{kind.__name__}",
        name=meta.get("table_name", kind.__name__),
        one_row_per_patient=issubclass(kind, PatientFrame),
        columns=tuple(column.schema() for column in columns.values()),
        required_permission=meta.get("required_permission"),
        activation_filter_field=meta.get("activation_filter_field"),
    )
    kind._table = schema
    return kind(SelectPatientTable(schema) if schema.one_row_per_patient else SelectTable(schema))
