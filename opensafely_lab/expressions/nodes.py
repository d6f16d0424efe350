"""The tree of an expression: literals, calls of listed operators, and leaves.

An expression has a value for each row. `call` is the only way to put an operator on arguments:
it looks the operator up in `OPERATORS`, checks the arguments' types and works out the result's.
Every operator is total: it answers NULL where it has no answer, and never fails on a value, so
that whether a computation fails can tell nobody anything about a row.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from attrs import frozen

from ..errors import UsageError
from .schema import ValueType

Value = bool | int | float | str | dt.date | None

BOOL, INT, FLOAT, STR, DATE, CODE = (
    ValueType.BOOL,
    ValueType.INT,
    ValueType.FLOAT,
    ValueType.STR,
    ValueType.DATE,
    ValueType.CODE,
)
NUMBERS = frozenset({INT, FLOAT})
ORDERED = frozenset({INT, FLOAT, STR, DATE})

# Integers are 64 bits wide in every engine and every file; a result outside is NULL.
LARGEST_INT = 2**63 - 1
SMALLEST_INT = -(2**63)
LONGEST_TEXT = 10_000


class ExpressionError(UsageError, TypeError):
    """An operator, its arguments or a literal that do not go together."""

    code = "expression"


PYTHON_TYPES: dict[ValueType, type] = {BOOL: bool, INT: int, FLOAT: float, STR: str, DATE: dt.date, CODE: str}


class Expr:
    """An expression over one row. Its `type` says what its values are; any value may be NULL."""

    __slots__ = ()
    type: ValueType


class Leaf(Expr):
    """Where an expression meets somebody's data. Whoever owns the data derives their own."""

    __slots__ = ()


@frozen(cache_hash=True)
class Column(Leaf):
    """A named column of an extract."""

    name: str
    type: ValueType


@frozen(cache_hash=True)
class Literal(Expr):
    """A constant. `None` is the NULL of its type."""

    value: Value
    type: ValueType

    def __attrs_post_init__(self) -> None:
        value = self.value
        if value is None:
            return
        if type(value) is not PYTHON_TYPES[self.type]:
            raise ExpressionError(f"A literal of type {self.type.value} cannot be a {type(value).__name__}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ExpressionError("A number must be finite.")
        if isinstance(value, int) and not SMALLEST_INT <= value <= LARGEST_INT:
            raise ExpressionError("A whole number must fit in 64 bits.")
        if isinstance(value, str):
            _check_text(value)


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ExpressionError(f"A text can have up to {LONGEST_TEXT:,} characters.")
    if "\0" in text:
        raise ExpressionError("A text cannot hold the character NUL.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExpressionError("A text must be valid Unicode.") from None


@frozen(cache_hash=True)
class Call(Expr):
    """An operator on arguments. Made by `call`, which works out `type`; checked again here."""

    op: str
    args: tuple[Expr, ...]
    type: ValueType

    def __attrs_post_init__(self) -> None:
        if result_type(self.op, self.args) is not self.type:
            raise ExpressionError(f"{self.op} does not give a value of type {self.type.value} here.")


def call(op: str, *args: Expr) -> Call:
    """The operator on the arguments, type-checked. Raises `ExpressionError`."""
    return Call(op, args, result_type(op, args))


def result_type(op: str, args: tuple[Expr, ...]) -> ValueType:
    rule = OPERATORS.get(op)
    if rule is None:
        raise ExpressionError("There is no such operator.")
    return rule(op, args)


def walk(expr: Expr) -> Iterator[Expr]:
    """Each distinct node once, arguments after the call that has them."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, Call):
            waiting.extend(reversed(node.args))


def leaves(expr: Expr) -> tuple[Leaf, ...]:
    """The distinct leaves, in order of first appearance."""
    return tuple(dict.fromkeys(node for node in walk(expr) if isinstance(node, Leaf)))


# --- the operator table -----------------------------------------------------------------------

Rule = Callable[[str, tuple[Expr, ...]], ValueType]

NAMES = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|", "not": "~",
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "pow": "**", "neg": "-",
}  # fmt: skip


def _spoken(op: str) -> str:
    return f"`{NAMES.get(op, op)}`"


def _count(op: str, args: tuple[Expr, ...], number: int) -> None:
    if len(args) != number:
        raise ExpressionError(f"{_spoken(op)} takes {number} arguments, not {len(args)}.")


def _mismatch(op: str, types: list[ValueType]) -> ExpressionError:
    kinds = " and ".join(t.value for t in types)
    advice = ""
    if set(types) == NUMBERS:
        advice = "Turn the whole number into a float with .as_float()."
    return ExpressionError(f"{_spoken(op)} cannot be used on {kinds}.", next_step=advice)


def _same(op: str, args: tuple[Expr, ...], allowed: frozenset[ValueType]) -> ValueType:
    """All arguments are of one of the allowed types."""
    first = args[0].type
    if first not in allowed or any(a.type is not first for a in args):
        raise _mismatch(op, list(dict.fromkeys(a.type for a in args)))
    return first


def _alike(number: int | None, allowed: frozenset[ValueType], result: ValueType | None = None) -> Rule:
    def rule(op: str, args: tuple[Expr, ...]) -> ValueType:
        if number is not None:
            _count(op, args, number)
        elif not args:
            raise ExpressionError(f"{_spoken(op)} needs at least one argument.")
        same = _same(op, args, allowed)
        return result or same

    return rule


def _typed(signature: tuple[ValueType, ...], result: ValueType) -> Rule:
    def rule(op: str, args: tuple[Expr, ...]) -> ValueType:
        _count(op, args, len(signature))
        if tuple(a.type for a in args) != signature:
            raise _mismatch(op, [a.type for a in args])
        return result

    return rule


def _literals(op: str, args: tuple[Expr, ...], of: ValueType) -> None:
    for arg in args:
        if not isinstance(arg, Literal) or arg.value is None:
            raise ExpressionError(f"{_spoken(op)} takes constants, and none of them may be missing.")
        if arg.type is not of:
            raise _mismatch(op, [of, arg.type])


def _is_in(op: str, args: tuple[Expr, ...]) -> ValueType:
    if not args:
        raise ExpressionError("`is_in` needs a value to look for.")
    _literals(op, args[1:], args[0].type)
    return BOOL


def _case(op: str, args: tuple[Expr, ...]) -> ValueType:
    """condition, value, condition, value, ..., otherwise."""
    if len(args) < 3 or len(args) % 2 == 0:
        raise ExpressionError("A case needs conditions, a value for each, and what to give otherwise.")
    if any(condition.type is not BOOL for condition in args[:-1:2]):
        raise ExpressionError("The condition of a `when` must be true or false.")
    return _same(op, (*args[1:-1:2], args[-1]), ALL)


def _map(op: str, args: tuple[Expr, ...]) -> ValueType:
    """the value, key, result, key, result, ..., default: constants all, only the default may be NULL."""
    if len(args) < 4 or len(args) % 2:
        raise ExpressionError("A mapping needs at least one pair, and a default.")
    value, keys, results, default = args[0], args[1:-1:2], args[2:-1:2], args[-1]
    _literals(op, keys, value.type)
    _literals(op, results, results[0].type)
    if len(set(keys)) != len(keys):
        raise ExpressionError("A mapping has each key once.")
    if not isinstance(default, Literal):
        raise ExpressionError("The default of a mapping is a constant.")
    return _same(op, (*results, default), ALL)


def _cut(op: str, args: tuple[Expr, ...]) -> ValueType:
    """the number, then the edges, ascending: each edge opens a band."""
    if len(args) < 2 or args[0].type not in NUMBERS:
        raise ExpressionError("`cut` needs a number and at least one edge.")
    _literals(op, args[1:], args[0].type)
    edges: list[Any] = [edge.value for edge in args[1:] if isinstance(edge, Literal)]
    if any(low >= high for low, high in pairwise(edges)):
        raise ExpressionError("The edges of a `cut` must go up.")
    return STR


ALL = frozenset(ValueType)
DURATIONS = ("days", "weeks", "months", "years")

OPERATORS: dict[str, Rule] = {
    "eq": _alike(2, ALL, BOOL),
    "ne": _alike(2, ALL, BOOL),
    "lt": _alike(2, ORDERED, BOOL),
    "le": _alike(2, ORDERED, BOOL),
    "gt": _alike(2, ORDERED, BOOL),
    "ge": _alike(2, ORDERED, BOOL),
    "and": _alike(2, frozenset({BOOL})),
    "or": _alike(2, frozenset({BOOL})),
    "not": _alike(1, frozenset({BOOL})),
    "is_null": _alike(1, ALL, BOOL),
    "is_not_null": _alike(1, ALL, BOOL),
    "is_in": _is_in,
    "coalesce": _alike(None, ALL),
    "case": _case,
    "map": _map,
    "cut": _cut,
    "add": _alike(2, NUMBERS),
    "sub": _alike(2, NUMBERS),
    "mul": _alike(2, NUMBERS),
    "truediv": _alike(2, NUMBERS, FLOAT),
    "floordiv": _alike(2, NUMBERS, INT),
    "pow": _alike(2, NUMBERS, FLOAT),
    "neg": _alike(1, NUMBERS),
    "absolute": _alike(1, NUMBERS),
    "as_int": _alike(1, frozenset({BOOL, INT, FLOAT}), INT),
    "as_float": _alike(1, NUMBERS, FLOAT),
    "minimum_of": _alike(None, ORDERED),
    "maximum_of": _alike(None, ORDERED),
    "contains": _typed((STR, STR), BOOL),
    "year": _typed((DATE,), INT),
    "month": _typed((DATE,), INT),
    "day": _typed((DATE,), INT),
    "to_first_of_year": _typed((DATE,), DATE),
    "to_first_of_month": _typed((DATE,), DATE),
    **{f"add_{unit}": _typed((DATE, INT), DATE) for unit in DURATIONS},
    # the first date minus the second
    **{f"difference_in_{unit}": _typed((DATE, DATE), INT) for unit in DURATIONS},
}
