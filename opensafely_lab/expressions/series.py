"""Series: Python values with operators, that build expressions.

ehrQL's series and the columns of `safe` are both these. What differs is their `Scope`: which rows
a series has values for, and so what it may be combined with.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NoReturn, Protocol, cast

from .jsonio import parse_date
from .nodes import BOOL, CODE, DATE, FLOAT, INT, STR, Expr, ExpressionError, Literal, Value, call
from .rows import add_days, add_months
from .schema import ValueType


class Scope(Protocol):
    """Which rows a series is about."""

    def meet(self, other: Scope) -> Scope:
        """The scope of a combination. Raises `ExpressionError` where the two do not go together."""

    def wrap(self, expr: Expr) -> Series:
        """The expression as a series of this scope."""


class Series:
    """A value for each row. Operators give new series; nothing is computed here."""

    _type: ValueType

    def __init__(self, expr: Expr, scope: Scope) -> None:
        self._expr = expr
        self._scope = scope

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __bool__(self) -> NoReturn:
        raise ExpressionError(
            "A series has a value for each patient, so it is neither true nor false.",
            next_step="Use & | ~ instead of and, or, not, with brackets around each comparison; "
            "write a <= x <= b as (a <= x) & (x <= b); and case(when(...)) instead of if.",
        )

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: Any) -> BoolSeries:  # type: ignore[override]
        return _bool("eq", self, self._operand(other))

    def __ne__(self, other: Any) -> BoolSeries:  # type: ignore[override]
        return _bool("ne", self, self._operand(other))

    def is_null(self) -> BoolSeries:
        """True where there is no value."""
        return _bool("is_null", self)

    def is_not_null(self) -> BoolSeries:
        """True where there is a value."""
        return _bool("is_not_null", self)

    def when_null_then(self, other: Any) -> Any:
        """The value, or `other` where there is none."""
        return _apply("coalesce", self, self._operand(other))

    def is_in(self, other: Iterable[Any]) -> BoolSeries:
        """True where the value is one of a list, tuple, set, or the keys of a dict."""
        if not isinstance(other, (list, tuple, set, frozenset, dict)):
            raise ExpressionError(
                f"is_in() takes a list, a tuple, a set or a dict, not {_kind(other)}.",
                next_step="Write is_in([value]) for one value.",
            )
        literals = {self._constant(value) for value in other}
        ordered = sorted(literals, key=lambda literal: literal.value)  # type: ignore[arg-type,return-value]
        return _bool("is_in", self, *ordered)

    def is_not_in(self, other: Iterable[Any]) -> BoolSeries:
        """The opposite of `is_in`; where there is no value, there is no answer."""
        return ~self.is_in(other)

    def map_values(self, mapping: Mapping[Any, Any], default: Any = None) -> Any:
        """The mapping's value for each key; `default` where the value is no key of it."""
        if not isinstance(mapping, Mapping) or not mapping:
            raise ExpressionError("A mapping is a dict with at least one entry.")
        results = _like(list(mapping.values()))
        pairs: list[Literal] = []
        for key, value in mapping.items():
            pairs += [self._constant(key), constant(value, results)]
        return _apply("map", self, *pairs, constant(default, results))

    def _constant(self, value: Any) -> Literal:
        """A constant that may be compared with this series."""
        if value is None:
            raise ExpressionError("None cannot be compared with a series.", next_step="Use is_null() or is_not_null().")
        return constant(value, self._type)

    def _operand(self, value: Any) -> Series | Literal:
        return value if isinstance(value, Series) else self._constant(value)


class BoolSeries(Series):
    """True, False or missing. `&`, `|` and `~` are three-valued."""

    _type = BOOL

    def __and__(self, other: Any) -> BoolSeries:
        return _bool("and", self, self._operand(other))

    def __or__(self, other: Any) -> BoolSeries:
        return _bool("or", self, self._operand(other))

    def __rand__(self, other: Any) -> BoolSeries:
        return _bool("and", self._operand(other), self)

    def __ror__(self, other: Any) -> BoolSeries:
        return _bool("or", self._operand(other), self)

    def __invert__(self) -> BoolSeries:
        return _bool("not", self)

    def as_int(self) -> IntSeries:
        """1 for True, 0 for False."""
        return _int("as_int", self)


class _Ordered(Series):
    def __lt__(self, other: Any) -> BoolSeries:
        return _bool("lt", self, self._operand(other))

    def __le__(self, other: Any) -> BoolSeries:
        return _bool("le", self, self._operand(other))

    def __gt__(self, other: Any) -> BoolSeries:
        return _bool("gt", self, self._operand(other))

    def __ge__(self, other: Any) -> BoolSeries:
        return _bool("ge", self, self._operand(other))


class _Number(_Ordered):
    def __add__(self, other: Any) -> Any:
        return _apply("add", self, self._operand(other))

    def __radd__(self, other: Any) -> Any:
        return _apply("add", self._operand(other), self)

    def __sub__(self, other: Any) -> Any:
        return _apply("sub", self, self._operand(other))

    def __rsub__(self, other: Any) -> Any:
        return _apply("sub", self._operand(other), self)

    def __mul__(self, other: Any) -> Any:
        return _apply("mul", self, self._operand(other))

    def __rmul__(self, other: Any) -> Any:
        return _apply("mul", self._operand(other), self)

    def __truediv__(self, other: Any) -> FloatSeries:
        """A float; missing where the divisor is 0."""
        return _float("truediv", self, self._operand(other))

    def __rtruediv__(self, other: Any) -> FloatSeries:
        return _float("truediv", self._operand(other), self)

    def __floordiv__(self, other: Any) -> IntSeries:
        """A whole number, rounded down; missing where the divisor is 0."""
        return _int("floordiv", self, self._operand(other))

    def __rfloordiv__(self, other: Any) -> IntSeries:
        return _int("floordiv", self._operand(other), self)

    def __pow__(self, other: Any) -> FloatSeries:
        return _float("pow", self, self._operand(other))

    def __rpow__(self, other: Any) -> FloatSeries:
        return _float("pow", self._operand(other), self)

    def __neg__(self) -> Any:
        return _apply("neg", self)

    def __abs__(self) -> NoReturn:
        raise ExpressionError("abs(x) cannot be used on a series.", next_step="Write x.absolute().")

    def absolute(self) -> Any:
        """The distance from 0."""
        return _apply("absolute", self)

    def as_int(self) -> IntSeries:
        """A whole number, toward zero."""
        return _int("as_int", self)

    def as_float(self) -> FloatSeries:
        return _float("as_float", self)

    def cut(self, edges: Iterable[int] | Iterable[float]) -> StrSeries:
        """Bands between the edges: cut([50, 70]) gives "under 50", "50-69" and "70 and over"."""
        return _str("cut", self, *(self._constant(edge) for edge in edges))


class IntSeries(_Number):
    """Whole numbers."""

    _type = INT


class FloatSeries(_Number):
    """Numbers with decimals. A whole number written in the code is taken as one."""

    _type = FLOAT


class StrSeries(_Ordered):
    """Text."""

    _type = STR

    def contains(self, other: Any) -> BoolSeries:
        """True where the text holds the other, capitals and small letters apart."""
        return _bool("contains", self, self._operand(other))


class CodeSeries(Series):
    """Codes of one clinical coding system."""

    _type = CODE

    def to_category(self, categorisation: Mapping[Any, Any], default: Any = None) -> Any:
        """The category that a codelist gives each code."""
        return self.map_values(categorisation, default)


class DateSeries(_Ordered):
    """Dates. A date in the code is a `datetime.date` or text written YYYY-MM-DD."""

    _type = DATE

    @property
    def year(self) -> IntSeries:
        return _int("year", self)

    @property
    def month(self) -> IntSeries:
        return _int("month", self)

    @property
    def day(self) -> IntSeries:
        return _int("day", self)

    def to_first_of_year(self) -> DateSeries:
        return _date("to_first_of_year", self)

    def to_first_of_month(self) -> DateSeries:
        return _date("to_first_of_month", self)

    def is_before(self, other: Any) -> BoolSeries:
        return _bool("lt", self, self._operand(other))

    def is_on_or_before(self, other: Any) -> BoolSeries:
        return _bool("le", self, self._operand(other))

    def is_after(self, other: Any) -> BoolSeries:
        return _bool("gt", self, self._operand(other))

    def is_on_or_after(self, other: Any) -> BoolSeries:
        return _bool("ge", self, self._operand(other))

    def is_between_but_not_on(self, start: Any, end: Any) -> BoolSeries:
        return self.is_after(start) & self.is_before(end)

    def is_on_or_between(self, start: Any, end: Any) -> BoolSeries:
        return self.is_on_or_after(start) & self.is_on_or_before(end)

    def is_during(self, interval: tuple[Any, Any]) -> BoolSeries:
        """On or between the two dates of a pair."""
        start, end = interval
        return self.is_on_or_between(start, end)

    def __add__(self, other: Any) -> DateSeries:
        if isinstance(other, Duration):
            return other._added_to(self)  # type: ignore[no-any-return]
        raise _date_and(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Duration):
            return (-other)._added_to(self)
        if isinstance(other, (DateSeries, dt.date, str)):
            return DateDifference(self, self._operand(other))
        raise _date_and(other)

    def __rsub__(self, other: Any) -> DateDifference:
        if isinstance(other, (dt.date, str)):
            return DateDifference(self._operand(other), self)
        raise _date_and(other)


def _date_and(other: Any) -> ExpressionError:
    if isinstance(other, (int, float, _Number)):
        return ExpressionError("A number cannot be added to a date.", next_step="Say of what: date + days(10).")
    return ExpressionError(f"A date and {_kind(other)} cannot be added or subtracted.")


class DateDifference:
    """The time from one date to another. It has a value once you say in what: `.days`, `.years`."""

    def __init__(self, later: Series | Literal, earlier: Series | Literal) -> None:
        self._later = later
        self._earlier = earlier

    @property
    def days(self) -> IntSeries:
        return self._in("days")

    @property
    def weeks(self) -> IntSeries:
        """Whole weeks."""
        return self._in("weeks")

    @property
    def months(self) -> IntSeries:
        """Whole calendar months."""
        return self._in("months")

    @property
    def years(self) -> IntSeries:
        """Whole calendar years, as an age is counted."""
        return self._in("years")

    def _in(self, unit: str) -> IntSeries:
        return _int(f"difference_in_{unit}", self._later, self._earlier)

    def _no_unit(self, *_: Any) -> NoReturn:
        raise ExpressionError(
            "The difference between two dates has no unit yet.", next_step="Add .days, .weeks, .months or .years."
        )

    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __sub__ = __mul__ = __truediv__ = __bool__ = _no_unit
    __radd__ = __rsub__ = __rmul__ = __neg__ = _no_unit
    __eq__ = __ne__ = _no_unit
    __hash__ = None  # type: ignore[assignment]


class Duration:
    """A number of days, weeks, months or years, to be added to a date or taken from it."""

    _unit: str

    def __init__(self, value: int | IntSeries) -> None:
        if type(value) is not int and not isinstance(value, IntSeries):
            raise ExpressionError(f"{self._unit}() takes a whole number or a series of whole numbers.")
        self.value = value

    def __repr__(self) -> str:
        return f"{self._unit}({self.value!r})"

    def __eq__(self, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return self.value == other.value

    def __ne__(self, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return self.value != other.value

    def __hash__(self) -> int:
        return hash((self._unit, self.value))

    def __neg__(self) -> Duration:
        return type(self)(-self.value)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Duration):
            return type(self)(self.value + self._same_unit(other))
        return self._added_to(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Duration):
            return type(self)(self.value - self._same_unit(other))
        raise ExpressionError("A date cannot be taken from a duration.")

    def __rsub__(self, other: Any) -> Any:
        return (-self)._added_to(other)

    def _same_unit(self, other: Duration) -> Any:
        if type(other) is not type(self):
            raise ExpressionError(f"{self._unit} and {other._unit} cannot be added to each other.")
        return other.value

    def _added_to(self, date: Any) -> Any:
        """The date so much later: a series where either is one, else a `datetime.date`."""
        if not isinstance(date, (DateSeries, dt.date, str)):
            raise _date_and(date)
        moment = date if isinstance(date, DateSeries) else constant(date, DATE)
        if isinstance(self.value, IntSeries):
            return _apply(f"add_{self._unit}", moment, self.value)
        if isinstance(moment, DateSeries):
            return _apply(f"add_{self._unit}", moment, constant(self.value, INT))
        try:
            return _later(moment.value, self.value, self._unit)
        except (OverflowError, ValueError):
            raise ExpressionError("That date is beyond the calendar.") from None


def _later(date: Any, number: int, unit: str) -> dt.date:
    if unit in ("days", "weeks"):
        return add_days(date, number * (7 if unit == "weeks" else 1))
    return add_months(date, number * (12 if unit == "years" else 1))


class days(Duration):
    """A number of days."""

    _unit = "days"


class weeks(Duration):
    """A number of weeks."""

    _unit = "weeks"


class months(Duration):
    """A number of calendar months: to the same day, or else the first of the next month."""

    _unit = "months"


class years(Duration):
    """A number of calendar years: to the same day, and from 29 February to 1 March."""

    _unit = "years"


SERIES: dict[ValueType, type[Series]] = {
    BOOL: BoolSeries,
    INT: IntSeries,
    FLOAT: FloatSeries,
    STR: StrSeries,
    DATE: DateSeries,
    CODE: CodeSeries,
}


# --- functions over several series -------------------------------------------------------------


class when:
    """A condition waiting for its value: `when(condition).then(value)`."""

    def __init__(self, condition: BoolSeries) -> None:
        if not isinstance(condition, BoolSeries):
            raise ExpressionError(f"when() takes a condition, true or false for each row, not {_kind(condition)}.")
        self._condition = condition

    def then(self, value: Any) -> WhenThen:
        return WhenThen(self._condition, value)


class WhenThen:
    """One line of a case; alone, finished by `.otherwise(value)`."""

    def __init__(self, condition: BoolSeries, value: Any) -> None:
        self._condition = condition
        self._value = value

    def otherwise(self, value: Any) -> Any:
        return case(self, otherwise=value)


def case(*cases: WhenThen, otherwise: Any = None) -> Any:
    """The value of the first line whose condition is true; `otherwise` where none is."""
    if not cases:
        raise ExpressionError("case() needs at least one when(...).then(...).")
    for line in cases:
        if isinstance(line, when):
            raise ExpressionError("A when(...) has no value.", next_step="Add .then(value).")
        if not isinstance(line, WhenThen):
            raise ExpressionError(
                f"case() takes lines of when(...).then(...), not {_kind(line)}.",
                next_step="Name the default: otherwise=value.",
            )
    conditions = [line._condition._expr for line in cases]
    if len(set(conditions)) != len(conditions):
        raise ExpressionError("Two lines of a case have the same condition.")
    values = [*(line._value for line in cases), otherwise]
    if all(value is None for value in values):
        raise ExpressionError("A case needs a value other than None.")
    of = _like(values)
    args: list[Series | Literal] = []
    for line in cases:
        args += [line._condition, _value(line._value, of)]
    return _apply("case", *args, _value(otherwise, of))


def minimum_of(value: Any, other_value: Any, *other_values: Any) -> Any:
    """The smallest of several values of one row; missing ones are passed over."""
    return _extreme("minimum_of", [value, other_value, *other_values])


def maximum_of(value: Any, other_value: Any, *other_values: Any) -> Any:
    """The largest of several values of one row; missing ones are passed over."""
    return _extreme("maximum_of", [value, other_value, *other_values])


def _extreme(op: str, values: list[Any]) -> Any:
    if not any(isinstance(value, Series) for value in values):
        raise ExpressionError(f"{op}() needs at least one series.")
    of = _like(values)
    return _apply(op, *(_value(value, of) for value in values))


def _like(values: list[Any]) -> Series | ValueType:
    """What several values are: the first series among them, or the type of the first constant."""
    for value in values:
        if isinstance(value, Series):
            return value
    kinds = {_type_of(value) for value in values if value is not None}
    if kinds == {INT, FLOAT}:
        return FLOAT
    if len(kinds) != 1:
        raise ExpressionError("The values must all be of one type.")
    return kinds.pop()


def _type_of(value: Any) -> ValueType:
    # bool before int: in Python True is an int
    for python_type, value_type in ((bool, BOOL), (int, INT), (float, FLOAT), (str, STR), (dt.date, DATE)):
        if type(value) is python_type:
            return value_type
    raise ExpressionError(f"{_kind(value).capitalize()} cannot be a value.")


def _value(value: Any, like: Series | ValueType) -> Series | Literal:
    return value if isinstance(value, Series) else constant(value, like)


def constant(value: Value, like: Series | ValueType) -> Literal:
    """A Python value as a constant of a type. Whole numbers become floats and text a date where one is meant."""
    if isinstance(like, Series):
        return Literal(None, like._type) if value is None else like._constant(value)
    if value is None:
        return Literal(None, like)
    if like is DATE and isinstance(value, str):
        return Literal(parse_date(value), DATE)
    if like is FLOAT and type(value) is int:
        return Literal(float(value), FLOAT)
    if like is INT and type(value) is float:
        raise ExpressionError(
            "A number with decimals cannot be used with a series of whole numbers.",
            next_step="Turn the series into one of floats with .as_float().",
        )
    if type(value).__module__.startswith("datetime") and isinstance(value, dt.datetime):
        value = value.date()
    try:
        return Literal(value, like)
    except ExpressionError:
        if isinstance(value, (bool, int, float, str, dt.date)) and _type_of(value) is like:
            raise
        raise ExpressionError(f"{_kind(value).capitalize()} cannot be used where {_ARTICLE[like]} is meant.") from None


_ARTICLE = {
    BOOL: "true or false",
    INT: "a whole number",
    FLOAT: "a number",
    STR: "text",
    DATE: "a date",
    CODE: "a code",
}


def _kind(value: object) -> str:
    """What a value is, in words and without the value."""
    if isinstance(value, Series):
        return "a series"
    if value is None:
        return "None"
    if callable(value) and hasattr(value, "__name__"):
        return "something called without its brackets"
    if isinstance(value, tuple):
        return "a tuple (is there a comma at the end of the line?)"
    name = type(value).__name__
    return {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}.get(name, f"a {name}")


def _bool(op: str, *operands: Series | Literal) -> BoolSeries:
    return cast(BoolSeries, _apply(op, *operands))


def _int(op: str, *operands: Series | Literal) -> IntSeries:
    return cast(IntSeries, _apply(op, *operands))


def _float(op: str, *operands: Series | Literal) -> FloatSeries:
    return cast(FloatSeries, _apply(op, *operands))


def _str(op: str, *operands: Series | Literal) -> StrSeries:
    return cast(StrSeries, _apply(op, *operands))


def _date(op: str, *operands: Series | Literal) -> DateSeries:
    return cast(DateSeries, _apply(op, *operands))


def _apply(op: str, *operands: Series | Literal) -> Any:
    """The operator on the operands, in the scope that they have in common."""
    scope = reduce(lambda a, b: a.meet(b), (o._scope for o in operands if isinstance(o, Series)))
    return scope.wrap(call(op, *(o._expr if isinstance(o, Series) else o for o in operands)))
