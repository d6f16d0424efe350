"""Codelists in SQL: one small table answers for all the lists that a column is looked up in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from sqlglot import exp

from ...expressions.nodes import CODE, INT, STR, Leaf, Literal
from ...expressions.sql import literal
from . import sqlparts as q
from .sqlparts import Sql

# A list this long is looked up: a join of the rows with one small table answers for all lists at once,
# where an engine makes a join of its own of every IN (five times the processor time with 15 lists).
SHORTEST_LOOKUP = 4
BITS = 62  # lists in one column of the small table, as bits of a signed integer


@define(eq=False)
class Lookup:
    """Which lists a value is in: a table with a row a value, a bit a list."""

    name: str
    alias: str
    leaf: Leaf
    lists: dict[tuple[Literal, ...], int] = field(factory=dict)

    def bit(self, values: tuple[Literal, ...]) -> tuple[str, int]:
        """The column and the bit of a list."""
        column, bit = divmod(self.lists.setdefault(values, len(self.lists)), BITS)
        return f"lists{column}", 1 << bit

    def table(self) -> dict[str, list[Any]]:
        """The columns of the table."""
        found: dict[Any, list[int]] = {}
        columns = 1 + (len(self.lists) - 1) // BITS
        for values, number in self.lists.items():
            column, bit = divmod(number, BITS)
            for value in values:
                found.setdefault(value.value, [0] * columns)[column] |= 1 << bit
        masks = {f"lists{i}": [row[i] for row in found.values()] for i in range(columns)}
        return {"value": list(found), **masks}


class Lookups:
    """The look-ups of one SELECT."""

    def __init__(self, new: Callable[[Leaf, str], Lookup], leaf_sql: Callable[[Leaf], Sql]) -> None:
        self.new, self.leaf_sql = new, leaf_sql
        self.here: dict[Leaf, Lookup] = {}

    def member(self, leaf: Leaf, values: tuple[Literal, ...]) -> Sql | None:
        if len(values) < SHORTEST_LOOKUP or leaf.type not in (CODE, STR):
            return None
        if leaf not in self.here:
            self.here[leaf] = self.new(leaf, f"l{len(self.here)}")
        lookup = self.here[leaf]
        column, bit = lookup.bit(values)
        mask = exp.Coalesce(this=q.column(column, lookup.alias), expressions=[literal(0, INT)])
        found = exp.NEQ(
            this=exp.Paren(this=exp.BitwiseAnd(this=mask, expression=literal(bit, INT))), expression=literal(0, INT)
        )
        known = exp.Not(this=exp.Is(this=self.leaf_sql(leaf), expression=exp.null()))
        return exp.Case(ifs=[exp.If(this=known, true=found)])

    def join(self, select: exp.Select) -> None:
        for leaf, lookup in self.here.items():
            table = exp.Table(this=q.name(lookup.name)).as_(q.name(lookup.alias))
            matched = q.equal(self.leaf_sql(leaf), q.column("value", lookup.alias))
            select.join(table, on=matched, join_type="left", copy=False)
