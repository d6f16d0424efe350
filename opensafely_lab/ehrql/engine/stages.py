"""One stage of a plan: the rows of a table, scanned once, become one row a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field, frozen
from sqlglot import exp

from ...expressions.nodes import FLOAT, INT, Expr, Leaf, call
from ...expressions.sql import literal, to_sql
from ..model import Aggregate, Count, CountEpisodes, Exists, PickOneRowPerPatient, Position, SelectColumn
from ..schemas import TableSchema
from . import sqlparts as q
from .lookups import Lookups
from .sqlparts import ID, Sql

if TYPE_CHECKING:
    from .plan import Planner


@frozen(cache_hash=True)
class Answer:
    """What one aggregation of a stage computes. A picked row answers for all its columns together."""

    leaf: Exists | Count | Aggregate | CountEpisodes | PickOneRowPerPatient


@define
class Stage:
    """All that is asked of one table's rows at one level."""

    name: str
    table: TableSchema
    answers: dict[Answer, str] = field(factory=dict)


class StageWriter:
    """Rows with their flags and values (one scan), then one row a patient."""

    def __init__(self, planner: Planner, level: int, stage: Stage) -> None:
        self.planner, self.level, self.stage = planner, level, stage
        self.rows: dict[Expr, str] = {}
        self.flags: dict[tuple[Expr, ...], str | None] = {}
        self.windows: list[Sql] = []
        self.outputs: list[Sql] = []

    def row(self, expr: Expr) -> Sql:
        """An expression over a row, computed once in the scan."""
        expr = q.on_rows(expr, self.stage.table)
        return exp.column(self.rows.setdefault(expr, f"r{len(self.rows)}"))

    def flag(self, filters: tuple[Expr, ...]) -> Sql | None:
        """Whether a row passed the filters; None where there are none."""
        if not filters:
            self.flags[()] = None
            return None
        condition = filters[0]
        for more in filters[1:]:
            condition = call("and", condition, more)
        column = self.row(condition)
        self.flags[filters] = column.name
        return column

    def add(self, answer: Answer, name: str) -> None:
        leaf = answer.leaf
        passed = self.flag(self.planner.rows_of(answer).filters)
        match leaf:
            case Exists():
                value: Sql = exp.LogicalOr(this=passed) if passed is not None else exp.true()
            case Count():
                value = q.filtered(exp.Count(this=exp.Star()), passed)
            case Aggregate():
                value = self.aggregate(leaf, passed)
            case CountEpisodes():
                value = self.episodes(leaf, passed, name)
            case PickOneRowPerPatient():
                value = self.pick(leaf, passed)
        self.outputs.append(exp.alias_(value, name, copy=False))

    def aggregate(self, leaf: Aggregate, passed: Sql | None) -> Sql:
        value = self.row(leaf.source)
        match leaf.function:
            case "minimum":
                return q.filtered(exp.Min(this=value), passed)
            case "maximum":
                return q.filtered(exp.Max(this=value), passed)
            case "count_distinct":
                return q.filtered(exp.Count(this=exp.Distinct(expressions=[value])), passed)
        # in order, so that the same rows give the same sum to the last digit
        summed = exp.Order(this=value, expressions=[exp.Ordered(this=value.copy())])
        total = q.filtered(exp.Sum(this=summed if leaf.source.type is FLOAT else value), passed)
        if leaf.function == "sum":
            return total if leaf.type is FLOAT else exp.TryCast(this=total, to=exp.DataType.build("bigint"))
        number = q.filtered(exp.Count(this=value.copy()), passed.copy() if passed is not None else None)
        divisor = exp.Nullif(this=number, expression=exp.Literal.number("0"))
        return exp.Div(this=exp.cast(total, "double"), expression=divisor)

    def episodes(self, leaf: CountEpisodes, passed: Sql | None, name: str) -> Sql:
        """Dates that begin an episode: those with no date in the days before them."""
        date = self.row(leaf.source)
        partition = [exp.column(ID), *([passed.copy()] if passed is not None else [])]
        previous = exp.Window(
            this=exp.Lag(this=date.copy()),
            partition_by=partition,
            order=exp.Order(expressions=[exp.Ordered(this=date.copy(), nulls_first=True)]),
        )
        self.windows.append(exp.alias_(previous, f"before_{name}"))
        before = exp.column(f"before_{name}")
        gap = exp.DateDiff(this=date.copy(), expression=before, unit=exp.var("DAY"))
        starts = exp.and_(
            date.copy().is_(exp.null()).not_(),
            exp.or_(before.copy().is_(exp.null()), exp.GT(this=gap, expression=literal(leaf.longest_gap, INT))),
            *([passed.copy()] if passed is not None else []),
        )
        return q.filtered(exp.Count(this=exp.Star()), starts)

    def pick(self, leaf: PickOneRowPerPatient, passed: Sql | None) -> Sql:
        last = leaf.position is Position.LAST
        only = self.planner.only_first_key(leaf)
        if only is not None:
            value = self.row(only)
            if last:
                return q.filtered(exp.Max(this=value), passed)
            # NULL sorts first, so one NULL makes the first value NULL
            missing = exp.and_(value.copy().is_(exp.null()), *([passed.copy()] if passed is not None else []))
            any_missing = exp.GT(this=q.filtered(exp.Count(this=exp.Star()), missing), expression=literal(0, INT))
            least = q.filtered(exp.Min(this=value), passed)
            return exp.Case(ifs=[exp.If(this=any_missing, true=exp.null())], default=least)
        keys: dict[str, Sql] = {}
        for i, key in enumerate(self.planner.sort_order(leaf)):
            value = self.row(key)
            # inside a struct the engine sorts NULL last: say first whether there is a value
            keys[f"known{i}"] = value.copy().is_(exp.null()).not_()
            keys[f"key{i}"] = value
        columns = {name: self.row(SelectColumn(leaf.source, name)) for name in self.planner.selected[leaf]}
        choose = exp.ArgMax if last else exp.ArgMin
        return q.filtered(choose(this=q.struct(columns), expression=q.struct(keys)), passed)

    def select(self) -> exp.Select:
        planner, alias = self.planner, "e"
        needed = list(self.rows)

        def leaf_sql(leaf: Leaf) -> Sql:
            if isinstance(leaf, SelectColumn) and q.is_row(leaf):
                return q.column(leaf.name, alias)
            return planner.read(leaf)

        rows = exp.select(exp.alias_(q.column(ID, alias), ID)).from_(q.view(self.stage.table).as_(alias), copy=False)
        for table, name in planner.joins(needed):
            matched = q.equal(q.column(ID, alias), q.column(ID, name))
            rows.join(table.as_(q.name(name)), on=matched, join_type="left", copy=False)
        lookups = Lookups(planner.new_lookup, leaf_sql)
        for expr, column in self.rows.items():
            value = to_sql(expr, leaf_sql, member=lookups.member)
            rows.select(exp.alias_(value, column, copy=False), copy=False)
        lookups.join(rows)
        names = list(self.flags.values())
        if None not in names:
            passed = exp.or_(*(exp.column(n) for n in names if n), copy=False)
            rows = exp.select("*").from_(rows.subquery("rows_", copy=False), copy=False).where(passed, copy=False)
        if self.windows:
            rows = exp.select("*", *self.windows).from_(rows.subquery("ordered_", copy=False), copy=False)
        grouped = exp.select(exp.column(ID), *self.outputs).from_(rows.subquery("chosen_", copy=False), copy=False)
        return grouped.group_by(exp.column(ID), copy=False)
