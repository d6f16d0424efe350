"""The neutral form of an aggregate in the product's words, and the product's table read back.

What the product cannot express is None: that aggregate is refused, which counts as withheld.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

# What an analyst knows of these columns before seeing a row.
LEVELS: dict[str, list[Any]] = {
    "sex": ["F", "M"],
    "region": [
        "East", "East Midlands", "Isle of Wight", "Isles of Scilly", "London", "North East", "North West",
        "South East", "South West", "West Midlands", "Yorkshire",
    ],
    "imd": [1, 2, 3, 4, 5],
}  # fmt: skip
TRUE_OR_FALSE = ("has_condition",)
ALL = "All"

# SQL of the cases that the expression language can say.
EXPRESSIONS = {
    "case when sbp is null then 'missing' else 'recorded' end": (
        "safe.case(safe.when(data.sbp.is_null()).then('missing'), otherwise='recorded')"
    ),
}
OPERATORS = {"==", "!=", "<", "<=", ">", ">="}


class Inexpressible(Exception):
    """The product has no words for it (yet)."""


def in_product_words(declare: Mapping[str, Any]) -> str | None:
    """The cell that asks for the aggregate, or None."""
    try:
        return _table(declare)
    except Inexpressible:
        return None


def _table(declare: Mapping[str, Any]) -> str:
    if declare["kind"] == "histogram":
        by = [{"column": declare["of"], "bins": declare["bins"], "name": "bin"}]
    elif declare["kind"] == "table":
        by = declare["by"]
        if any(measure["fn"] != "count" for measure in declare["measures"]):
            raise Inexpressible(declare["name"])
    else:
        raise Inexpressible(declare["name"])
    where = ", ".join(_condition(*condition) for condition in declare.get("where", ()))
    data = f"data.where({where})" if where else "data"
    groups = ", ".join(f"{_name(group)!r}: {_group(group)}" for group in by)
    margins = bool(declare.get("margins"))
    return f"safe.table({data}, by={{{groups}}}, measures=[safe.count()], margins={margins}, name={declare['name']!r})"


def _name(group: Any) -> str:
    return group if isinstance(group, str) else group.get("name", group.get("column"))


def _group(group: Any) -> str:
    if isinstance(group, str):
        if group in TRUE_OR_FALSE:
            return f"data.{group}"
        if group in LEVELS:
            return f"safe.listed(data.{group}, LEVELS[{group!r}])"
    elif "bins" in group:
        return f"data.{group['column']}.cut({group['bins']!r})"
    elif group.get("expr") in EXPRESSIONS:
        return EXPRESSIONS[group["expr"]]
    raise Inexpressible(str(group))


def _condition(column: str, operator: str, value: Any) -> str:
    if operator in OPERATORS:
        return f"data.{column} {operator} {value!r}"
    match operator:
        case "in":
            return f"data.{column}.is_in({value!r})"
        case "not-in":
            return f"~data.{column}.is_in({value!r})"
        case "is-missing":
            return f"data.{column}.is_null()"
        case "not-missing":
            return f"data.{column}.is_not_null()"
    raise Inexpressible(operator)


# -- the product's table --------------------------------------------------------------------------------


@frozen
class Number:
    """What is visible of one number: its text, and the range of true values that it can stand for."""

    text: str
    low: float
    high: float

    @property
    def is_hidden(self) -> bool:
        return self.text == "[REDACTED]"


def number(
    outputs: Sequence[Mapping[str, Any]], declares: Sequence[Mapping[str, Any]], term: Mapping[str, Any]
) -> Number | None:
    """The visible number that a term of a derivation (or an entry of `show`) names; None if it is not shown.

    A total stands for the sum of what its lines can stand for, since it is made from what is shown.
    """
    declare = next(d for d in declares if d["name"] == term["declare"])
    output = next((o for o in outputs if o["name"] == term["declare"] and "table" in o), None)
    if output is None or term["measure"] != "count":
        return None
    wanted = {name: _label(declare, name, value) for name, value in term["cell"].items()}
    table = output["table"]
    lines = [
        dict(zip(table["columns"], row, strict=True))
        for at, row in enumerate(table["rows"])
        if at not in table["total_rows"]
    ]
    totals = [dict(zip(table["columns"], table["rows"][at], strict=True)) for at in table["total_rows"]]
    parts = [line for line in lines if all(label in (None, line[name]) for name, label in wanted.items())]
    ranges = [_stands_for(line["count"]) for line in parts]
    if not parts:
        return None
    low, high = sum(low for low, _ in ranges), sum(high for _, high in ranges)
    if None not in wanted.values():
        return Number(parts[0]["count"], low, high) if len(parts) == 1 else None
    total = next(
        (
            line
            for line in totals
            if all(
                (line[name] == label) if label is not None else _is_all(line[name]) for name, label in wanted.items()
            )
        ),
        None,
    )
    return None if total is None else Number(total["count"], low, high)


def value(shown: Number) -> float | None:
    return None if shown.is_hidden else float(shown.text.replace(",", ""))


def _is_all(label: str) -> bool:
    return label.casefold() in ("all", "total")


def _stands_for(text: str) -> tuple[float, float]:
    """0 to 7 look alike; the rest are rounded to the nearest 5 (policy "opensafely")."""
    if text == "[REDACTED]":
        return 0, 7
    shown = float(text.replace(",", ""))
    return max(shown - 2, 8), shown + 2


def _label(declare: Mapping[str, Any], name: str, wanted: Any) -> str | None:
    """The product's label of a level; None stands for the total."""
    if wanted == ALL:
        return None
    bins = next(
        (
            group["bins"]
            for group in declare.get("by", ())
            if isinstance(group, dict) and _name(group) == name and "bins" in group
        ),
        declare.get("bins"),
    )
    if bins is not None and isinstance(wanted, str) and wanted.startswith("["):
        low, high = (int(edge) for edge in wanted.strip("[])").split(","))
        return f"{low}-{high - 1}" if high - 1 > low else str(low)
    if isinstance(wanted, bool):
        return str(wanted)
    return str(wanted)
