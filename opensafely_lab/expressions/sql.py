"""Expressions as SQL, through sqlglot, with ehrQL's semantics in whatever an engine does by itself.

Three rules. NULL in, NULL out, but for the operators that are about NULL. Total: a sum beyond 64
bits, a quotient by zero or a power without a real answer is NULL, never an error, since an error
would tell whether such a row exists. Dates follow the calendar as ehrQL does: a day that does not
exist rolls forward to the first of the next month. `rows.evaluate` says the same in Python.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from sqlglot import exp

from .nodes import BOOL, CODE, DATE, FLOAT, INT, STR, Call, Expr, ExpressionError, Leaf, Literal, walk
from .schema import ValueType
from .static import bands

Sql = exp.Expr

SQL_TYPES: dict[ValueType, str] = {
    BOOL: "boolean",
    INT: "bigint",
    FLOAT: "double",
    STR: "varchar",
    DATE: "date",
    CODE: "varchar",
}

# Some operators repeat their arguments, so the SQL can be much larger than the expression.
MAX_SQL_NODES = 100_000
REPEATS = {
    "add_days": 4, "add_weeks": 4, "add_months": 6, "add_years": 6, "difference_in_months": 4,
    "difference_in_years": 6, "floordiv": 3, "pow": 2,
}  # fmt: skip

FIRST_DATE, LAST_DATE = dt.date.min, dt.date.max
# How much may be added to a date: the whole calendar there and back.
FURTHEST = {"days": 3_660_000, "weeks": 522_000, "months": 120_000, "years": 10_000}


# How to write that a leaf is one of many constants, where an engine has a better way than a list.
Member = Callable[[Leaf, tuple[Literal, ...]], Sql | None]


def to_sql(expr: Expr, leaf: Callable[[Leaf], Sql], *, member: Member | None = None) -> Sql:
    """The expression as SQL, its leaves written by `leaf`. Raises `ExpressionError` if it grows too large."""
    if written_size(expr) > MAX_SQL_NODES:
        raise ExpressionError("The expression is too large.", next_step="Compute part of it in a step of its own.")
    return _Writer(leaf, member).write(expr)


def written_size(expr: Expr) -> int:
    """About how many nodes the SQL will have, worked out without writing it."""
    known: dict[int, int] = {}
    for node in reversed(list(walk(expr))):
        _measure(node, known)
    return known[id(expr)]


def _measure(node: Expr, known: dict[int, int]) -> int:
    """Shared nodes are measured once; the recursion is as deep as the expression."""
    if id(node) not in known:
        size = 1
        if isinstance(node, Call):
            parts = [_measure(arg, known) for arg in node.args]
            # a cut or a mapping writes its first argument for every band or value
            repeated = parts[0] * len(parts) if node.op in ("cut", "map") else 0
            size += repeated + REPEATS.get(node.op, 1) * sum(parts)
        known[id(node)] = size
    return known[id(node)]


def null(of: ValueType) -> Sql:
    return exp.cast(exp.null(), SQL_TYPES[of])


def literal(value: Any, of: ValueType) -> Sql:
    """A constant as SQL; sqlglot quotes it, nothing is pasted."""
    if value is None:
        return null(of)
    if of is BOOL:
        return exp.true() if value else exp.false()
    if of is INT:
        return exp.cast(exp.Literal.string(str(value)), "bigint") if abs(value) >= 2**31 or value < 0 else _num(value)
    if of is FLOAT:
        return exp.cast(exp.Literal.string(repr(value)), "double")
    if of is DATE:
        return exp.cast(exp.Literal.string(value.isoformat()), "date")
    return exp.Literal.string(value)


def _num(value: int) -> Sql:
    return exp.Literal.number(str(value))


def _group(sql: Sql) -> Sql:
    """In brackets, wherever precedence could matter."""
    return exp.Paren(this=sql) if isinstance(sql, (exp.Binary, exp.Unary, exp.In, exp.Between)) else sql


def _binary(kind: type[exp.Expression], left: Sql, right: Sql) -> Sql:
    return exp.Paren(this=kind(this=_group(left), expression=_group(right)))


def _case(pairs: list[tuple[Sql, Sql]], otherwise: Sql | None = None) -> Sql:
    ifs = [exp.If(this=condition, true=value) for condition, value in pairs]
    return exp.Case(ifs=ifs, default=otherwise)


def _wide(sql: Sql) -> Sql:
    return exp.cast(sql, "int128")


def _narrow(sql: Sql) -> Sql:
    """Back to 64 bits, NULL where it does not fit."""
    return exp.TryCast(this=sql, to=exp.DataType.build("bigint"))


def _double(sql: Sql) -> Sql:
    return exp.cast(sql, "double")


def _nonzero(sql: Sql) -> Sql:
    return exp.Nullif(this=sql, expression=_num(0))


def _part(part: str, date: Sql) -> Sql:
    return exp.Extract(this=exp.var(part), expression=date)


def _shift(date: Sql, number: Sql, unit: str) -> Sql:
    return exp.cast(exp.DateAdd(this=_group(date), expression=_group(number), unit=exp.var(unit)), "date")


def _first_of(unit: str, date: Sql) -> Sql:
    return exp.cast(exp.TimestampTrunc(this=date, unit=exp.var(unit)), "date")


COMPARISONS: dict[str, type[exp.Expression]] = {
    "eq": exp.EQ, "ne": exp.NEQ, "lt": exp.LT, "le": exp.LTE, "gt": exp.GT, "ge": exp.GTE, "and": exp.And, "or": exp.Or
}  # fmt: skip
ARITHMETIC: dict[str, type[exp.Expression]] = {"add": exp.Add, "sub": exp.Sub, "mul": exp.Mul}


class _Writer:
    def __init__(self, leaf: Callable[[Leaf], Sql], member: Member | None) -> None:
        self.leaf = leaf
        self.member = member

    def write(self, expr: Expr) -> Sql:
        if isinstance(expr, Literal):
            return literal(expr.value, expr.type)
        if isinstance(expr, Leaf):
            return self.leaf(expr)
        if not isinstance(expr, Call):
            raise ExpressionError("This is not an expression.")
        args, op = expr.args, expr.op
        if op in COMPARISONS:
            return _binary(COMPARISONS[op], self.write(args[0]), self.write(args[1]))
        if op in ARITHMETIC:
            return self.arithmetic(ARITHMETIC[op], expr)
        if op.startswith("add_"):
            return self.date_plus(args[0], args[1], op.removeprefix("add_"))
        if op.startswith("difference_in_"):
            return self.difference(args[0], args[1], op.removeprefix("difference_in_"))
        written: Sql = getattr(self, op if not op.startswith(("not", "is_null")) else f"{op}_")(*args)
        return written

    # --- logic and NULL ---

    def not_(self, a: Expr) -> Sql:
        return exp.Paren(this=exp.Not(this=_group(self.write(a))))

    def is_null_(self, a: Expr) -> Sql:
        return exp.Paren(this=exp.Is(this=_group(self.write(a)), expression=exp.null()))

    def is_not_null(self, a: Expr) -> Sql:
        return exp.Paren(this=exp.Not(this=self.is_null_(a)))

    def is_in(self, a: Expr, *values: Literal) -> Sql:
        if not values:
            return exp.false()
        looked_up = self.member(a, values) if self.member is not None and isinstance(a, Leaf) else None
        if looked_up is not None:
            return looked_up
        return exp.Paren(this=exp.In(this=_group(self.write(a)), expressions=[self.write(v) for v in values]))

    def coalesce(self, a: Expr, *others: Expr) -> Sql:
        return exp.Coalesce(this=self.write(a), expressions=[self.write(o) for o in others])

    def case(self, *args: Expr) -> Sql:
        pairs = [(self.write(args[i]), self.write(args[i + 1])) for i in range(0, len(args) - 1, 2)]
        return _case(pairs, self.write(args[-1]))

    def map(self, a: Expr, *args: Literal) -> Sql:
        keys: dict[Literal, list[Literal]] = {}
        for i in range(0, len(args) - 1, 2):
            keys.setdefault(args[i + 1], []).append(args[i])
        return _case([(self.is_in(a, *keys[value]), self.write(value)) for value in keys], self.write(args[-1]))

    def cut(self, a: Expr, *edges: Literal) -> Sql:
        values: list[Any] = [edge.value for edge in edges]
        names = [literal(name, STR) for name in bands(values)]
        pairs = [(_binary(exp.LT, self.write(a), self.write(e)), n) for e, n in zip(edges, names[:-1], strict=True)]
        last = _binary(exp.GTE, self.write(a), self.write(edges[-1]))
        return _case([*pairs, (last, names[-1])])

    def minimum_of(self, a: Expr, *others: Expr) -> Sql:
        return exp.Least(this=self.write(a), expressions=[self.write(o) for o in others], ignore_nulls=True)

    def maximum_of(self, a: Expr, *others: Expr) -> Sql:
        return exp.Greatest(this=self.write(a), expressions=[self.write(o) for o in others], ignore_nulls=True)

    # --- numbers ---

    def arithmetic(self, kind: type[exp.Expression], expr: Call) -> Sql:
        left, right = (self.write(arg) for arg in expr.args)
        if expr.type is FLOAT:
            return _binary(kind, left, right)
        return _narrow(_binary(kind, _wide(left), _wide(right)))

    def truediv(self, a: Expr, b: Expr) -> Sql:
        return _binary(exp.Div, _double(self.write(a)), _nonzero(_double(self.write(b))))

    def floordiv(self, a: Expr, b: Expr) -> Sql:
        if a.type is FLOAT:
            return _narrow(exp.Floor(this=self.truediv(a, b)))
        left, right = _wide(self.write(a)), _nonzero(_wide(self.write(b)))
        toward_zero = _binary(exp.IntDiv, left, right)
        remainder = _binary(exp.Mod, left.copy(), right.copy())
        # the quotient is one too large where there is a remainder of the other sign than the divisor
        other_sign = _binary(exp.LT, _binary(exp.Mul, remainder, _sign(right.copy())), _num(0))
        return _narrow(_binary(exp.Sub, toward_zero, _case([(other_sign, _num(1))], _num(0))))

    def pow(self, a: Expr, b: Expr) -> Sql:
        value = exp.Pow(this=_double(self.write(a)), expression=_double(self.write(b)))
        # neither infinite nor not a number: both are larger than any number here
        finite = _binary(exp.LTE, exp.Abs(this=value), literal(1.7976931348623157e308, FLOAT))
        return _case([(finite, value.copy())])

    def neg(self, a: Expr) -> Sql:
        if a.type is FLOAT:
            return exp.Paren(this=exp.Neg(this=_group(self.write(a))))
        return _narrow(exp.Neg(this=_wide(self.write(a))))

    def absolute(self, a: Expr) -> Sql:
        if a.type is FLOAT:
            return exp.Abs(this=self.write(a))
        return _narrow(exp.Abs(this=_wide(self.write(a))))

    def as_int(self, a: Expr) -> Sql:
        if a.type is FLOAT:
            return _narrow(exp.Trunc(this=self.write(a)))
        return exp.cast(self.write(a), "bigint")

    def as_float(self, a: Expr) -> Sql:
        return _double(self.write(a))

    # --- text ---

    def contains(self, a: Expr, b: Expr) -> Sql:
        return exp.Contains(this=self.write(a), expression=self.write(b))

    # --- dates ---

    def year(self, a: Expr) -> Sql:
        return _part("year", self.write(a))

    def month(self, a: Expr) -> Sql:
        return _part("month", self.write(a))

    def day(self, a: Expr) -> Sql:
        return _part("day", self.write(a))

    def to_first_of_year(self, a: Expr) -> Sql:
        return _first_of("year", self.write(a))

    def to_first_of_month(self, a: Expr) -> Sql:
        return _first_of("month", self.write(a))

    def date_plus(self, date: Expr, number: Expr, unit: str) -> Sql:
        amount = self.amount(number, unit)
        if unit in ("days", "weeks"):
            later = _shift(self.write(date), _times(amount, 7 if unit == "weeks" else 1), "DAY")
        else:
            months = _times(amount, 12 if unit == "years" else 1)
            target = _shift(_first_of("month", self.write(date)), months, "MONTH")
            before = _binary(exp.Sub, _part("day", self.write(date)), _num(1))
            # as many days into the target month, but no further than the first of the next
            later = exp.Least(
                this=_shift(target, before, "DAY"),
                expressions=[_shift(target.copy(), _num(1), "MONTH")],
                ignore_nulls=True,
            )
        known = exp.Between(this=later, low=literal(FIRST_DATE, DATE), high=literal(LAST_DATE, DATE))
        return _case([(known, later.copy())])

    def amount(self, number: Expr, unit: str) -> Sql:
        """How many units, NULL where that is beyond the whole calendar."""
        furthest = FURTHEST[unit]
        if isinstance(number, Literal):
            value = number.value if isinstance(number.value, int) and abs(number.value) <= furthest else None
            return exp.cast(literal(value, INT), "int")
        within = exp.Between(this=self.write(number), low=literal(-furthest, INT), high=literal(furthest, INT))
        return _case([(within, exp.cast(self.write(number), "int"))])

    def difference(self, later: Expr, earlier: Expr, unit: str) -> Sql:
        a, b = self.write(later), self.write(earlier)
        if unit in ("days", "weeks"):
            days = exp.DateDiff(this=a, expression=b, unit=exp.var("DAY"))
            if unit == "days":
                return days
            return exp.cast(exp.Floor(this=_binary(exp.Div, _double(days), _num(7))), "bigint")
        years = _binary(exp.Sub, _part("year", a), _part("year", b))
        if unit == "years":
            return _binary(exp.Sub, years, _case([(_binary(exp.LT, _birthday(a), _birthday(b)), _num(1))], _num(0)))
        months = _binary(exp.Add, _times(years, 12), _binary(exp.Sub, _part("month", a), _part("month", b)))
        short = _binary(exp.LT, _part("day", a.copy()), _part("day", b.copy()))
        return _binary(exp.Sub, months, _case([(short, _num(1))], _num(0)))


def _times(sql: Sql, factor: int) -> Sql:
    return sql if factor == 1 else _binary(exp.Mul, sql, _num(factor))


def _sign(sql: Sql) -> Sql:
    return _case([(_binary(exp.LT, sql, _num(0)), exp.Neg(this=_num(1)))], _num(1))


def _birthday(date: Sql) -> Sql:
    """Month and day as one number."""
    return _binary(exp.Add, _times(_part("month", date.copy()), 100), _part("day", date.copy()))
