"""The meaning of an expression on one row, in plain Python.

Slow and plain on purpose: it says what every engine must answer. Used where there are no rows
(constants, and the question whether a population could hold a patient without records) and, in
tests, as the oracle of the SQL.
"""

from __future__ import annotations

import bisect
import datetime as dt
import math
from collections.abc import Callable
from typing import Any

from .nodes import LARGEST_INT, SMALLEST_INT, Call, Expr, ExpressionError, Leaf, Literal, Value
from .schema import ValueType
from .static import bands

ONE_DAY = dt.timedelta(days=1)


def evaluate(expr: Expr, leaf: Callable[[Leaf], Value]) -> Value:
    """The value of the expression on a row whose leaves have the values that `leaf` gives."""
    if isinstance(expr, Literal):
        return expr.value
    if isinstance(expr, Leaf):
        return leaf(expr)
    if not isinstance(expr, Call):
        raise ExpressionError("This is not an expression.")
    if expr.op == "case":
        for i in range(0, len(expr.args) - 1, 2):
            if evaluate(expr.args[i], leaf) is True:
                return evaluate(expr.args[i + 1], leaf)
        return evaluate(expr.args[-1], leaf)
    return answer(expr.op, [evaluate(arg, leaf) for arg in expr.args], expr.type)


def answer(op: str, values: list[Any], result: ValueType) -> Value:
    """What the operator (any but `case`) makes of these values."""
    if op in NULL_AWARE:
        return NULL_AWARE[op](values)
    if any(v is None for v in values):
        return None
    try:
        value = STRICT[op](*values)
    except (OverflowError, ZeroDivisionError, ValueError):
        return None  # beyond the calendar, beyond a float, or divided by zero
    if result is ValueType.INT and value is not None and not SMALLEST_INT <= value <= LARGEST_INT:
        return None
    return value  # type: ignore[no-any-return]


def _and(values: list[Any]) -> Value:
    return False if False in values else None if None in values else True


def _or(values: list[Any]) -> Value:
    return True if True in values else None if None in values else False


def _is_in(values: list[Any]) -> Value:
    if len(values) == 1:
        return False  # nothing is in an empty list, not even NULL
    return None if values[0] is None else values[0] in values[1:]


def _map(values: list[Any]) -> Value:
    results: dict[Value, Value] = dict(zip(values[1:-1:2], values[2:-1:2], strict=True))
    return results.get(values[0], values[-1])


def _known(values: list[Any]) -> list[Any]:
    return [v for v in values if v is not None]


NULL_AWARE: dict[str, Callable[[list[Any]], Value]] = {
    "and": _and,
    "or": _or,
    "is_null": lambda v: v[0] is None,
    "is_not_null": lambda v: v[0] is not None,
    "is_in": _is_in,
    "map": _map,
    "coalesce": lambda v: next(iter(_known(v)), None),
    "minimum_of": lambda v: min(_known(v), default=None),
    "maximum_of": lambda v: max(_known(v), default=None),
}


def add_days(date: dt.date, days: int) -> dt.date:
    return date + dt.timedelta(days=days)


def add_months(date: dt.date, months: int) -> dt.date:
    """The same day of the month, or the first of the next where there is no such day."""
    years, month = divmod(date.month - 1 + months, 12)
    try:
        return dt.date(date.year + years, month + 1, date.day)
    except ValueError:
        first = dt.date(date.year + years, month + 1, 1)
        return (first + 31 * ONE_DAY).replace(day=1)


def months_between(later: dt.date, earlier: dt.date) -> int:
    """Whole calendar months."""
    months = 12 * (later.year - earlier.year) + later.month - earlier.month
    return months - (later.day < earlier.day)


def years_between(later: dt.date, earlier: dt.date) -> int:
    """Whole calendar years: an age has its birthday on the day, 29 February on 1 March."""
    return later.year - earlier.year - ((later.month, later.day) < (earlier.month, earlier.day))


def _power(base: float, exponent: float) -> float | None:
    value = float(base) ** float(exponent)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _cut(value: Any, *edges: Any) -> str:
    return bands(edges)[bisect.bisect_right(edges, value)]


STRICT: dict[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "not": lambda a: not a,
    "cut": _cut,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: float(a) / float(b),
    "floordiv": lambda a, b: a // b if isinstance(a, int) else math.floor(a / b),
    "pow": _power,
    "neg": lambda a: -a,
    "absolute": abs,
    "as_int": int,  # toward zero
    "as_float": float,
    "contains": lambda text, part: part in text,
    "year": lambda d: d.year,
    "month": lambda d: d.month,
    "day": lambda d: d.day,
    "to_first_of_year": lambda d: d.replace(month=1, day=1),
    "to_first_of_month": lambda d: d.replace(day=1),
    "add_days": add_days,
    "add_weeks": lambda d, n: add_days(d, 7 * n),
    "add_months": add_months,
    "add_years": lambda d, n: add_months(d, 12 * n),
    "difference_in_days": lambda a, b: (a - b).days,
    "difference_in_weeks": lambda a, b: (a - b).days // 7,
    "difference_in_months": months_between,
    "difference_in_years": years_between,
}
