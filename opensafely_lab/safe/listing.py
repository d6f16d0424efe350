"""`safe.listed`: text without declared categories, split by the values that you name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opensafely_lab.expressions.schema import ValueType
from opensafely_lab.expressions.series import Series, StrSeries, case, when
from opensafely_lab.safe.errors import SafeError
from opensafely_lab.safe.kinds import kind_of


def listed(column: Series, values: Iterable[Any], other: str = "other") -> StrSeries:
    """The listed values by name, every other one as `other`; missing stays missing.

    What is not listed is never shown by its name, so a value found in data cannot become a label.
    """
    if not isinstance(column, Series) or column._type in (ValueType.BOOL, ValueType.FLOAT, ValueType.DATE):
        raise SafeError(
            "safe.listed() takes a column of text, codes or whole numbers.",
            next_step='Write safe.listed(data.region, ["London", "North East"]).',
        )
    if not isinstance(values, (list, tuple)) or not values:
        raise SafeError(
            f"safe.listed() takes a list of values, not {kind_of(values)}.",
            next_step='Write safe.listed(data.region, ["London", "North East"]).',
        )
    labels = [str(value) for value in values]
    if len({*labels, other}) != len(labels) + 1:
        raise SafeError(f'A value is listed twice, or is called "{other}" like the rest.')
    lines = [when(column == value).then(label) for value, label in zip(values, labels, strict=True)]
    result: StrSeries = case(*lines, when(column.is_not_null()).then(other), otherwise=None)
    return result
