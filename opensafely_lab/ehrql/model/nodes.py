"""The nodes of a query, each valid from birth.

Frames are rows of a table: all of them (`SelectTable`, `SelectPatientTable`), those that meet a
condition (`Filter`), in an order (`Sort`), or one a patient (`PickOneRowPerPatient`). Leaves meet
the expressions of `opensafely_lab.expressions`: a column of a frame, or an aggregation of one.

What may be combined follows one rule. Every expression has a domain: the patient (None here), or
the rows of a table after a chain of filters. Expressions about patients go with anything; two
about rows only if table and filters are the same. A filter's condition must be about rows that the
frame's own rows were chosen from.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen
from attrs.validators import in_, instance_of

from ...expressions.nodes import (
    BOOL,
    CODE,
    DATE,
    FLOAT,
    INT,
    NUMBERS,
    ORDERED,
    Call,
    Expr,
    ExpressionError,
    Leaf,
    Literal,
    walk,
)
from ...expressions.schema import ValueType
from ..codes import SYSTEMS
from ..schemas import TableColumn, TableSchema


class DomainError(ExpressionError):
    """Things about different rows, put together."""

    code = "domain"


@frozen(cache_hash=True)
class Domain:
    """The rows of a table that passed a chain of filters."""

    table: TableSchema
    filters: tuple[Expr, ...] = ()

    def comes_from(self, ancestor: Domain) -> bool:
        """Whether every row here is one of the ancestor's."""
        return self.table == ancestor.table and self.filters[: len(ancestor.filters)] == ancestor.filters


class Frame:
    """Rows of one table."""

    __slots__ = ()
    table: TableSchema


@frozen(cache_hash=True)
class SelectPatientTable(Frame):
    """A table with at most one row a patient."""

    table: TableSchema

    def __attrs_post_init__(self) -> None:
        if not self.table.one_row_per_patient:
            raise ExpressionError(f"{self.table.name} has many rows a patient.")


@frozen(cache_hash=True)
class SelectTable(Frame):
    """A table with many rows a patient."""

    table: TableSchema

    def __attrs_post_init__(self) -> None:
        if self.table.one_row_per_patient:
            raise ExpressionError(f"{self.table.name} has one row a patient.")


@frozen(cache_hash=True)
class Filter(Frame):
    """The rows for which the condition is true."""

    source: Frame
    condition: Expr
    table: TableSchema = field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> TableSchema:
        return self.source.table

    def __attrs_post_init__(self) -> None:
        if self.condition.type is not BOOL:
            raise ExpressionError("A filter takes a condition: something true or false for each row.")
        _check_ancestry(self.source, self.condition)


@frozen(cache_hash=True)
class Sort(Frame):
    """The rows in ascending order, before any earlier order; NULL is smallest."""

    source: Frame
    by: Expr
    table: TableSchema = field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> TableSchema:
        return self.source.table

    def __attrs_post_init__(self) -> None:
        _check_ancestry(self.source, self.by)
        if domain(self.by) is None:
            raise DomainError("Rows cannot be sorted by something that is the same for all rows of a patient.")


class Position(Enum):
    FIRST = "first"
    LAST = "last"


@frozen(cache_hash=True)
class PickOneRowPerPatient(Frame):
    """Each patient's first or last row, in the frame's order."""

    source: Frame
    position: Position = field(validator=instance_of(Position))
    table: TableSchema = field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> TableSchema:
        return self.source.table

    def __attrs_post_init__(self) -> None:
        if not sort_keys(self.source):
            raise ExpressionError("Rows must be sorted before one of them is picked.")


@frozen(cache_hash=True)
class SelectColumn(Leaf):
    """A column of a frame: one value a patient or one a row, as the frame has."""

    source: Frame
    name: str
    type: ValueType = field(init=False, eq=False, repr=False)

    @type.default
    def _type(self) -> ValueType:
        return self.column.type

    @property
    def column(self) -> TableColumn:
        column = self.source.table.column(self.name)
        if column is None:
            raise ExpressionError(f"{self.source.table.name} has no column {self.name}.")
        return column


@frozen(cache_hash=True)
class Exists(Leaf):
    """Whether a patient has a row."""

    source: Frame
    type: ValueType = field(init=False, eq=False, repr=False, default=BOOL)


@frozen(cache_hash=True)
class Count(Leaf):
    """How many rows a patient has; 0 where none."""

    source: Frame
    type: ValueType = field(init=False, eq=False, repr=False, default=INT)


AGGREGATIONS: dict[str, frozenset[ValueType]] = {
    "sum": NUMBERS,
    "mean": NUMBERS,
    "minimum": ORDERED,
    "maximum": ORDERED,
    "count_distinct": frozenset(ValueType),
}


@frozen(cache_hash=True)
class Aggregate(Leaf):
    """One value a patient from the values of their rows. NULLs are passed over; of nothing it is NULL, or 0."""

    function: str = field(validator=in_(AGGREGATIONS))
    source: Expr
    type: ValueType = field(init=False, eq=False, repr=False)

    @type.default
    def _type(self) -> ValueType:
        return {"mean": FLOAT, "count_distinct": INT}.get(self.function, self.source.type)

    def __attrs_post_init__(self) -> None:
        if self.source.type not in AGGREGATIONS[self.function]:
            raise ExpressionError(f"{self.function} cannot be used on {self.source.type.value}.")
        _check_rows(self.source)


LONGEST_GAP = 36_600


@frozen(cache_hash=True)
class CountEpisodes(Leaf):
    """How many groups a patient's dates fall into, where a gap of more than so many days ends a group."""

    source: Expr
    longest_gap: int
    type: ValueType = field(init=False, eq=False, repr=False, default=INT)

    def __attrs_post_init__(self) -> None:
        if self.source.type is not DATE:
            raise ExpressionError("Episodes are counted on dates.")
        if type(self.longest_gap) is not int or not 0 <= self.longest_gap <= LONGEST_GAP:
            raise ExpressionError("The gap between episodes is a number of days, 0 or more.")
        _check_rows(self.source)


def _check_rows(source: Expr) -> None:
    if domain(source) is None:
        raise DomainError("Only values of rows, of which a patient can have many, can be aggregated.")
    check_codes(source)


# --- domains -----------------------------------------------------------------------------------


def frame_domain(frame: Frame) -> Domain | None:
    """The domain of the frame's columns: None where it has at most one row a patient."""
    filters: list[Expr] = []
    while isinstance(frame, (Filter, Sort)):
        if isinstance(frame, Filter):
            filters.append(frame.condition)
        frame = frame.source
    return Domain(frame.table, tuple(reversed(filters))) if isinstance(frame, SelectTable) else None


def domain(expr: Expr) -> Domain | None:
    """The rows an expression is about; None for patients. Raises `DomainError` where there are two."""
    found: Domain | None = None
    for node in walk(expr):
        own = frame_domain(node.source) if isinstance(node, SelectColumn) else None
        if own is not None and found is not None and own != found:
            raise different_rows(own, found)
        found = found or own
    return found


def different_rows(one: Domain, other: Domain) -> DomainError:
    if one.table == other.table:
        return DomainError(
            f"These values are about different rows of {one.table.name}: the filters before them are not the same.",
            next_step="Filter once, keep the result in a variable, and take both values from it.",
        )
    return DomainError(
        f"A value for each row of {one.table.name} cannot be combined with one for each row of {other.table.name}.",
        next_step="First make one value a patient of either, as with sort_by(...).first_for_patient().",
    )


def _check_ancestry(source: Frame, expr: Expr) -> None:
    rows, own = frame_domain(source), domain(expr)
    if rows is None:
        raise DomainError("Only tables with many rows a patient can be filtered and sorted.")
    if own is not None and not rows.comes_from(own):
        raise different_rows(own, rows)
    check_codes(expr)


def sort_keys(frame: Frame) -> tuple[Expr, ...]:
    """What the rows are sorted by, the most important first: the latest sort comes before earlier ones."""
    keys: list[Expr] = []
    while isinstance(frame, (Filter, Sort)):
        if isinstance(frame, Sort) and frame.by not in keys:
            keys.append(frame.by)
        frame = frame.source
    return tuple(keys)


# --- codes -------------------------------------------------------------------------------------


def code_system(expr: Expr) -> str | None:
    """The coding system of an expression of codes; None if it has no column."""
    if isinstance(expr, SelectColumn):
        return expr.column.system
    if isinstance(expr, Aggregate):
        return code_system(expr.source)
    if isinstance(expr, Call) and expr.type is CODE:
        systems = (code_system(arg) for arg in expr.args if arg.type is CODE)
        return next((system for system in systems if system), None)
    return None


def check_codes(expr: Expr) -> None:
    """Codes are compared within one system, and constants have the form of its codes."""
    for node in walk(expr):
        if isinstance(node, Call):
            check_codes_of(node)


def check_codes_of(node: Call) -> None:
    codes = [arg for arg in node.args if arg.type is CODE]
    systems = {system for system in map(code_system, codes) if system}
    if len(systems) > 1:
        raise ExpressionError(f"Codes of {' and '.join(sorted(systems))} cannot be compared or mixed.")
    for system in systems:
        regex = SYSTEMS[system].regex
        for arg in codes:
            if isinstance(arg, Literal) and isinstance(arg.value, str) and not regex.fullmatch(arg.value):
                raise ExpressionError(
                    f"A code does not have the form of a code of {system}.",
                    next_step="Check that the codelist is for this column, and not changed by a spreadsheet.",
                )
