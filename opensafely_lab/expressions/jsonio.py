"""Expressions as JSON, parsed strictly.

A literal is `{"int": 3}`, a column `{"column": "age", "type": "int"}`, a call
`{"op": "lt", "args": [...]}`. Anything else, an unknown key included, is refused. Types of calls
are worked out again, never read.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any

from .nodes import Call, Column, Expr, ExpressionError, Leaf, Literal, call
from .schema import ValueType

MAX_DEPTH = 32
MAX_NODES = 5_000

Json = dict[str, Any]

ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TYPES = {t.value: t for t in ValueType}


def to_json(expr: Expr, *, leaf: Callable[[Leaf], Json] | None = None) -> Json:
    """The expression as plain JSON values. `leaf` writes leaves that are not columns."""
    if isinstance(expr, Literal):
        return literal_to_json(expr)
    if isinstance(expr, Call):
        return {"op": expr.op, "args": [to_json(arg, leaf=leaf) for arg in expr.args]}
    if isinstance(expr, Leaf) and leaf is not None:
        return leaf(expr)
    if isinstance(expr, Column):
        return {"column": expr.name, "type": expr.type.value}
    raise ExpressionError("This expression cannot be written as JSON.")


def from_json(obj: object, *, leaf: Callable[[Json], Expr] | None = None) -> Expr:
    """The expression that `obj` says. Raises `ExpressionError` on anything but what `to_json` writes."""
    left = [MAX_NODES]
    return _read(obj, leaf or column_from_json, MAX_DEPTH, left)


def _read(obj: object, leaf: Callable[[Json], Expr], depth: int, left: list[int]) -> Expr:
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise ExpressionError("The expression is too large.", next_step="Split it, or compute part of it in ehrQL.")
    if not isinstance(obj, dict):
        raise ExpressionError("An expression must be a JSON object.")
    if "op" in obj:
        if set(obj) != {"op", "args"} or not isinstance(obj["op"], str) or not isinstance(obj["args"], list):
            raise ExpressionError("A call has an operator and a list of arguments, nothing else.")
        return call(obj["op"], *(_read(arg, leaf, depth - 1, left) for arg in obj["args"]))
    if len(obj) == 1 and next(iter(obj)) in _TYPES:
        return literal_from_json(obj)
    return leaf(obj)


def column_from_json(obj: Json) -> Column:
    if set(obj) != {"column", "type"}:
        raise ExpressionError("A column has a name and a type, nothing else.")
    name, type_name = obj["column"], obj["type"]
    if not isinstance(name, str) or not COLUMN_NAME.fullmatch(name):
        raise ExpressionError("A column's name has letters, digits and underscores.")
    if not isinstance(type_name, str) or type_name not in _TYPES:
        raise ExpressionError("There is no such type.")
    return Column(name, _TYPES[type_name])


def literal_to_json(literal: Literal) -> Json:
    value = literal.value
    return {literal.type.value: value.isoformat() if isinstance(value, dt.date) else value}


def literal_from_json(obj: Mapping[str, Any]) -> Literal:
    if len(obj) != 1 or next(iter(obj)) not in _TYPES:
        raise ExpressionError("A literal has a type and a value, nothing else.")
    type_name, value = next(iter(obj.items()))
    of = _TYPES[type_name]
    if of is ValueType.DATE and value is not None:
        value = parse_date(value)
    elif of is ValueType.FLOAT and type(value) is int:
        value = float(value)
    return Literal(value, of)


def parse_date(text: object) -> dt.date:
    """A date written YYYY-MM-DD, and no other way."""
    if isinstance(text, str) and ISO_DATE.fullmatch(text) and text.isascii():
        try:
            return dt.date.fromisoformat(text)
        except ValueError:
            pass
    raise ExpressionError("A date must be written YYYY-MM-DD and must exist.")
