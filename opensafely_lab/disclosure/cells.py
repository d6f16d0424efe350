"""Counts before protection: confidential, so they do not print.

Only `ehrql.engine` makes a `CellTable`, only the gate reads it. What the gate makes of it is a
`redaction.ProtectedTable`, which has no way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType

from attrs import field, frozen

Level = str | int | bool | None
"""A value of a group; None stands for missing."""

Key = tuple[Level, ...]


class BadCells(Exception):
    """Cells that do not answer the request. Our mistake, never shown: the gate holds the output."""


@frozen
class GroupLevels:
    """One group of a table: its name, its declared levels in order, and whether missing is one."""

    name: str
    levels: tuple[str | int | bool, ...]
    has_missing: bool

    def all_levels(self) -> tuple[Level, ...]:
        """The declared levels in their declared order, then missing."""
        return (*self.levels, None) if self.has_missing else self.levels


def _frozen_counts(counts: Mapping[Key, int]) -> Mapping[Key, int]:
    return MappingProxyType(dict(counts))


@frozen(repr=False, eq=False)
class CellTable:
    """The number of people in each combination of declared levels, none left out, zeros included.

    Raises `BadCells` where a combination is missing, unknown or not a whole number: a partial table
    would be shown as if the rest were empty.
    """

    groups: tuple[GroupLevels, ...]
    counts: Mapping[Key, int] = field(converter=_frozen_counts)

    def __attrs_post_init__(self) -> None:
        expected = [_typed(key) for key in combinations(self.groups)]
        found = {_typed(key): count for key, count in self.counts.items()}
        if len(set(expected)) != len(expected):
            raise BadCells("two levels of one group are equal")
        if len(found) != len(self.counts) or set(found) != set(expected):
            raise BadCells("the cells are not the combinations of the declared levels")
        if any(type(count) is not int or count < 0 for count in found.values()):
            raise BadCells("a count is not a whole number of people")

    def cells(self) -> Iterator[tuple[Key, int]]:
        """Every cell in canonical order: declared level order, missing last, the first group slowest."""
        for key in combinations(self.groups):
            yield key, self.counts[key]

    def laid_out_by(self, groups: tuple[GroupLevels, ...]) -> CellTable:
        """These cells in the layout of `groups`, which may lack levels that nobody has.

        Raises `BadCells` where anything else differs, or where somebody would be left out.
        """
        if groups == self.groups:
            return self
        if [group.name for group in groups] != [group.name for group in self.groups]:
            raise BadCells("the cells are those of another request")
        kept = {key: self.counts[key] for key in combinations(groups) if key in self.counts}
        if sum(kept.values()) != sum(self.counts.values()):
            raise BadCells("somebody has a value that the request leaves out")
        return CellTable(groups, kept)

    def __repr__(self) -> str:
        return "CellTable(confidential)"


def combinations(groups: tuple[GroupLevels, ...]) -> Iterator[Key]:
    """All combinations of levels, in canonical order. One empty key for a table without groups."""
    return product(*(group.all_levels() for group in groups))


def size(groups: tuple[GroupLevels, ...]) -> int:
    """The number of cells of a table with these groups, without building it."""
    cells = 1
    for group in groups:
        cells *= len(group.all_levels())
    return cells


def _typed(key: Key) -> tuple[tuple[str, Level], ...]:
    """True is not 1 here, though Python says they are equal."""
    return tuple((type(level).__name__, level) for level in key)
