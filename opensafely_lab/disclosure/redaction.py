"""From confidential counts to what may be shown. The one place where numbers are hidden and rounded.

What is shown of a table is this, in order:

1. A cell that counts `largest_unsafe_count` people or fewer is hidden. None and few look alike, so
   a hidden cell says only "0 to 7".
2. Every other cell is rounded to the nearest `rounding_base`.
3. A total is the sum of the shown cells in its line. Hidden cells are left out of it, and a total
   over nothing shown is hidden too.

**What the totals give away: nothing.** Step 3 sees only what steps 1 and 2 let through: a total is a
sum that the reader could have done from the cells on the same page, hidden cells entering as nothing
at all rather than as their values. The confidential counts are out of reach from there on, which is
why `Protected` carries no count and `margins` takes a `Protected`. So each true cell can be any
number of its own band (0-7, 8-12, 13-17, ...) whatever the other cells and the totals show; totals
rounded on their own would narrow the bands (disclosure.md 3.3, sdc-vectors v-11).

What is left to the caller: comparing with other tables (two tables that differ by one person), and
full groups, which are a finding for checkers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType

from attrs import field, frozen

from opensafely_lab.disclosure.cells import CellTable, GroupLevels, Key, Level, combinations
from opensafely_lab.disclosure.outcome import REDACTED
from opensafely_lab.disclosure.policy import Policy


class _All:
    """The level of a total: all of a group's levels together. Unequal to any declared level."""

    def __repr__(self) -> str:
        return "ALL"


ALL = _All()

LineKey = tuple[Level | _All, ...]


def _frozen_values(values: Mapping[Key, int | None]) -> Mapping[Key, int | None]:
    return MappingProxyType(dict(values))


@frozen
class Protected:
    """A table that may be shown: for each cell a rounded count, or None where it is hidden.

    Only `protect` makes one. It holds nothing that is not shown.
    """

    groups: tuple[GroupLevels, ...]
    values: Mapping[Key, int | None] = field(converter=_frozen_values)

    @property
    def cells(self) -> int:
        return len(self.values)

    @property
    def hidden(self) -> int:
        return sum(value is None for value in self.values.values())


def redact(count: int, policy: Policy) -> int | None:
    """The count as it may be shown; None where it is hidden."""
    if count <= policy.largest_unsafe_count:
        return None
    base = policy.rounding_base
    return (2 * count + base) // (2 * base) * base


def shown(value: int | None) -> str:
    """The canonical text of a number: plain digits, or the one mark for hidden."""
    return REDACTED if value is None else str(value)


def protect(cells: CellTable, policy: Policy) -> Protected:
    """Steps 1 and 2: every cell hidden or rounded on its own, whatever the others are."""
    return Protected(cells.groups, {key: redact(count, policy) for key, count in cells.cells()})


def lines(protected: Protected) -> Iterator[tuple[Key, int | None]]:
    """The cells alone, in canonical order."""
    for key in combinations(protected.groups):
        yield key, protected.values[key]


def lines_with_totals(protected: Protected) -> Iterator[tuple[LineKey, int | None]]:
    """Step 3: the cells and every total over them, each after the levels it adds up."""
    sums: dict[tuple[object, ...], int] = {}
    for key, value in lines(protected):
        if value is None:
            continue
        for line in product(*((level, ALL) for level in key)):
            sums[line] = sums.get(line, 0) + value
    for line in product(*((*group.all_levels(), ALL) for group in protected.groups)):
        yield line, sums.get(line)


def is_total(line: LineKey) -> bool:
    return any(level is ALL for level in line)


def labels(group: GroupLevels) -> Mapping[Level | _All, str]:
    """The text of each level of a group. Missing and All step aside for a declared level of that name."""
    texts: dict[Level | _All, str] = {level: str(level) for level in group.levels}
    taken = set(texts.values())
    for level, text in ((None, "missing"), (ALL, "All")):
        if level is None and not group.has_missing:
            continue
        while text in taken:
            text = f"({text})"
        texts[level] = text
        taken.add(text)
    return texts
