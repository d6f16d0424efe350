"""A dataset as one SQL statement: one scan for each table of events.

Everything that is asked of a table's rows is gathered and answered together, by conditional
aggregation, in one stage a table. Where a condition on rows needs an answer about the patient that
is itself made of rows, it waits for a later stage. The last SELECT joins the stages to the tables
with one row a patient and keeps the population.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field, frozen
from sqlglot import exp

from ...errors import PlatformError
from ...expressions.nodes import BOOL, FLOAT, INT, Expr, Leaf, call, leaves
from ...expressions.sql import SQL_TYPES, literal, to_sql
from ..model import (
    Aggregate,
    Count,
    CountEpisodes,
    DatasetModel,
    Domain,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    Position,
    SelectColumn,
    SelectPatientTable,
    SelectTable,
    Sort,
    certain,
    domain,
    frame_domain,
    in_order,
    sort_keys,
)
from ..schemas import TableSchema

Sql = exp.Expr

ID = "patient_id"


class PlanError(PlatformError):
    """A query that the planner does not understand: our mistake, whatever the definition says."""

    code = "plan"


@frozen
class Plan:
    """The statement, and the tables it reads: each is a view called by its reference."""

    sql: str
    tables: tuple[TableSchema, ...]


def plan(dataset: DatasetModel) -> Plan:
    """The statement that gives `patient_id` and the variables, ordered by patient."""
    with _deep_recursion():
        return _Planner(dataset).plan()


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Room for expressions as deep as the model allows: writing one takes several calls a level."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def view(table: TableSchema) -> exp.Table:
    return exp.Table(this=exp.to_identifier(table.reference, quoted=True))


def _name(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=True)


def _column(name: str, of: str) -> exp.Column:
    return exp.Column(this=_name(name), table=_name(of))


@frozen(cache_hash=True)
class _Answer:
    """What one aggregation of a stage computes. A picked row answers for all its columns together."""

    leaf: Exists | Count | Aggregate | CountEpisodes | PickOneRowPerPatient


@define
class _Stage:
    """All that is asked of one table's rows at one level."""

    name: str
    table: TableSchema
    answers: dict[_Answer, str] = field(factory=dict)


class _Planner:
    def __init__(self, dataset: DatasetModel) -> None:
        self.dataset = dataset
        self.stages: dict[tuple[int, TableSchema], _Stage] = {}
        self.where: dict[_Answer, tuple[_Stage, str]] = {}
        self.levels: dict[Leaf, int] = {}
        self.selected: dict[PickOneRowPerPatient, dict[str, None]] = {}
        self.patient_tables: dict[TableSchema, str] = {}

    def plan(self) -> Plan:
        outputs = (self.dataset.population, *(v.expr for v in self.dataset.variables))
        for node in in_order(outputs):
            if isinstance(node, SelectColumn) and isinstance(node.source, PickOneRowPerPatient):
                self.selected.setdefault(node.source, {})[node.name] = None
        for expr in outputs:
            for leaf in leaves(expr):
                self.level(leaf)
        ctes = [self.write_stage(level, stage) for (level, _), stage in sorted(self.stages.items(), key=_by_level)]
        final = self.final()
        for name, select in ctes:
            final.with_(exp.to_identifier(name, quoted=True), as_=select, materialized=True, copy=False)
        tables = dict.fromkeys([*self.patient_tables, *(stage.table for stage in self.stages.values())])
        return Plan(final.sql("duckdb", copy=False), tuple(tables))

    # --- which stage answers what ---

    def level(self, leaf: Leaf) -> int:
        """The stage after which the leaf is known: 0 for tables with one row a patient."""
        if leaf in self.levels:
            return self.levels[leaf]
        answer = self.source_of(leaf)
        if isinstance(answer, TableSchema):
            self.patient_tables.setdefault(answer, f"p{len(self.patient_tables)}")
            self.levels[leaf] = 0
            return 0
        before = 0
        rows = self.rows_of(answer)
        for expr in self.needed(answer):
            for inner in leaves(expr):
                if not _is_row(inner):
                    before = max(before, self.level(inner))
        level = before + 1
        stage = self.stages.setdefault((level, rows.table), _Stage(f"s{len(self.stages)}", rows.table))
        name = stage.answers.setdefault(answer, f"a{len(stage.answers)}")
        self.where[answer] = (stage, name)
        self.levels[leaf] = level
        return level

    def source_of(self, leaf: Leaf) -> _Answer | TableSchema:
        """What the leaf is read from: an aggregation of rows, or a table with one row a patient."""
        match leaf:
            case SelectColumn(source=PickOneRowPerPatient() as pick):
                return _Answer(pick)
            case Exists(source=PickOneRowPerPatient() as pick) | Count(source=PickOneRowPerPatient() as pick):
                return _Answer(Exists(_unsorted(pick.source)))
            case Exists() if frame_domain(leaf.source) is not None:
                return _Answer(Exists(_unsorted(leaf.source)))
            case Count() if frame_domain(leaf.source) is not None:
                return _Answer(Count(_unsorted(leaf.source)))
            case Aggregate() | CountEpisodes():
                return _Answer(leaf)
            case SelectColumn() | Exists() | Count():
                return leaf.source.table
        raise PlanError("A query has a leaf of no known kind.")

    def rows_of(self, answer: _Answer) -> Domain:
        leaf = answer.leaf
        found = domain(leaf.source) if isinstance(leaf, (Aggregate, CountEpisodes)) else frame_domain(leaf.source)
        if found is None:
            raise PlanError("A query aggregates what has one row a patient.")
        return found

    def needed(self, answer: _Answer) -> Iterator[Expr]:
        """Every expression over rows that the answer is worked out from."""
        yield from self.rows_of(answer).filters
        if isinstance(answer.leaf, PickOneRowPerPatient):
            yield from self.sort_order(answer.leaf)
        elif isinstance(answer.leaf, (Aggregate, CountEpisodes)):
            yield answer.leaf.source

    def sort_order(self, pick: PickOneRowPerPatient) -> tuple[Expr, ...]:
        """The sort keys, then every selected column that is no key, by name: ties never depend on the engine."""
        keys = sort_keys(pick.source)
        direct = {key.name for key in keys if isinstance(key, SelectColumn)}
        rest = sorted(name for name in self.selected.get(pick, {}) if name not in direct)
        return (*keys, *(SelectColumn(pick.source, name) for name in rest))

    # --- one stage ---

    def write_stage(self, level: int, stage: _Stage) -> tuple[str, exp.Select]:
        writer = _StageWriter(self, level, stage)
        for answer, name in stage.answers.items():
            writer.add(answer, name)
        return stage.name, writer.select()

    # --- reading answers ---

    def read(self, leaf: Leaf) -> Sql:
        """A leaf about the patient, where tables and stages are joined under their names."""
        answer = self.source_of(leaf)
        if isinstance(answer, TableSchema):
            alias = self.patient_tables[answer]
            return _column(leaf.name, alias) if isinstance(leaf, SelectColumn) else _presence(_column(ID, alias), leaf)
        stage, name = self.where[answer]
        value: Sql = _column(name, stage.name)
        if isinstance(leaf, SelectColumn) and isinstance(answer.leaf, PickOneRowPerPatient):
            return value if self.only_first_key(answer.leaf) else exp.Dot(this=value, expression=_name(leaf.name))
        if isinstance(leaf, Count) and isinstance(answer.leaf, Exists):
            return exp.Case(ifs=[exp.If(this=value, true=literal(1, INT))], default=literal(0, INT))
        if isinstance(leaf, Exists):
            return exp.Coalesce(this=value, expressions=[exp.false()])
        if isinstance(leaf, (Count, CountEpisodes)) or (
            isinstance(leaf, Aggregate) and leaf.function == "count_distinct"
        ):
            return exp.Coalesce(this=value, expressions=[literal(0, INT)])
        return value

    def only_first_key(self, pick: PickOneRowPerPatient) -> SelectColumn | None:
        """The first sort key, if it is a column and the only one read: then a minimum or maximum is enough."""
        first = sort_keys(pick.source)[0]
        if isinstance(first, SelectColumn) and set(self.selected.get(pick, {})) <= {first.name}:
            return first
        return None

    def joins(self, exprs: list[Expr]) -> list[tuple[exp.Table, str]]:
        """The tables and stages that the expressions about patients are read from, with their names."""
        found: dict[str, exp.Table] = {}
        for expr in exprs:
            for leaf in leaves(expr):
                if _is_row(leaf):
                    continue
                answer = self.source_of(leaf)
                if isinstance(answer, TableSchema):
                    found[self.patient_tables[answer]] = view(answer)
                else:
                    name = self.where[answer][0].name
                    found[name] = exp.Table(this=_name(name))
        return [(table, name) for name, table in found.items()]

    # --- the last SELECT ---

    def final(self) -> exp.Select:
        outputs = [self.dataset.population, *(v.expr for v in self.dataset.variables)]
        joins = self.joins(outputs)
        base = self.certain_source()
        if base is None:
            people = self.everybody()
            select = exp.select().from_(people.subquery("everybody"))
            identity = _column(ID, "everybody")
        else:
            table = next(table for table, name in joins if name == base)
            select = exp.select().from_(table.as_(_name(base)))
            identity = _column(ID, base)
            joins = [(t, n) for t, n in joins if n != base]
        for table, name in joins:
            matched = _equal(identity, _column(ID, name))
            select.join(table.as_(_name(name)), on=matched, join_type="left", copy=False)
        columns = [exp.alias_(identity.copy(), _name(ID))]
        for variable in self.dataset.variables:
            value = exp.cast(to_sql(variable.expr, self.read), SQL_TYPES[variable.expr.type], copy=False)
            columns.append(exp.alias_(value, _name(variable.name), copy=False))
        select.select(*columns, copy=False).where(to_sql(self.dataset.population, self.read), copy=False)
        return select.order_by(_name(ID), copy=False)

    def certain_source(self) -> str | None:
        """A table or stage in which every member of the population has a row, if one is certain."""
        frames = sorted(
            (fact for fact in certain(self.dataset.population) if isinstance(fact, Frame)),
            key=lambda frame: (not isinstance(frame, SelectPatientTable), frame.table.reference),
        )
        for frame in frames:
            if isinstance(frame, SelectPatientTable):
                return self.patient_tables[frame.table]
            answer = self.source_of(Exists(frame))
            if isinstance(answer, _Answer) and answer in self.where:
                return self.where[answer][0].name
        return None

    def everybody(self) -> exp.Query:
        """Every patient with a row in anything that the population is made of."""
        sources = self.joins([self.dataset.population])
        parts: list[exp.Query] = [
            exp.select(exp.alias_(_column(ID, name), _name(ID))).from_(table.as_(_name(name)))
            for table, name in sources
        ]
        return parts[0] if len(parts) == 1 else exp.union(*parts)


class _StageWriter:
    """Rows with their flags and values (one scan), then one row a patient."""

    def __init__(self, planner: _Planner, level: int, stage: _Stage) -> None:
        self.planner, self.level, self.stage = planner, level, stage
        self.rows: dict[Expr, str] = {}
        self.flags: dict[tuple[Expr, ...], str | None] = {}
        self.windows: list[Sql] = []
        self.outputs: list[Sql] = []

    def row(self, expr: Expr) -> Sql:
        """An expression over a row, computed once in the scan."""
        if isinstance(expr, SelectColumn):
            expr = SelectColumn(SelectTable(self.stage.table), expr.name)  # a row is the same row in every filter
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

    def add(self, answer: _Answer, name: str) -> None:
        leaf = answer.leaf
        passed = self.flag(self.planner.rows_of(answer).filters)
        match leaf:
            case Exists():
                value: Sql = exp.LogicalOr(this=passed) if passed is not None else exp.true()
            case Count():
                value = _filtered(exp.Count(this=exp.Star()), passed)
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
                return _filtered(exp.Min(this=value), passed)
            case "maximum":
                return _filtered(exp.Max(this=value), passed)
            case "count_distinct":
                return _filtered(exp.Count(this=exp.Distinct(expressions=[value])), passed)
        # in order, so that the same rows give the same sum to the last digit
        summed = exp.Order(this=value, expressions=[exp.Ordered(this=value.copy())])
        total = _filtered(exp.Sum(this=summed if leaf.source.type is FLOAT else value), passed)
        if leaf.function == "sum":
            return total if leaf.type is FLOAT else exp.TryCast(this=total, to=exp.DataType.build("bigint"))
        number = _filtered(exp.Count(this=value.copy()), passed.copy() if passed is not None else None)
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
        return _filtered(exp.Count(this=exp.Star()), starts)

    def pick(self, leaf: PickOneRowPerPatient, passed: Sql | None) -> Sql:
        last = leaf.position is Position.LAST
        only = self.planner.only_first_key(leaf)
        if only is not None:
            value = self.row(only)
            if last:
                return _filtered(exp.Max(this=value), passed)
            # NULL sorts first, so one NULL makes the first value NULL
            missing = exp.and_(value.copy().is_(exp.null()), *([passed.copy()] if passed is not None else []))
            any_missing = exp.GT(this=_filtered(exp.Count(this=exp.Star()), missing), expression=literal(0, INT))
            least = _filtered(exp.Min(this=value), passed)
            return exp.Case(ifs=[exp.If(this=any_missing, true=exp.null())], default=least)
        keys: dict[str, Sql] = {}
        for i, key in enumerate(self.planner.sort_order(leaf)):
            value = self.row(key)
            # inside a struct the engine sorts NULL last: say first whether there is a value
            keys[f"known{i}"] = value.copy().is_(exp.null()).not_()
            keys[f"key{i}"] = value
        columns = {name: self.row(SelectColumn(leaf.source, name)) for name in self.planner.selected[leaf]}
        choose = exp.ArgMax if last else exp.ArgMin
        return _filtered(choose(this=_struct(columns), expression=_struct(keys)), passed)

    def select(self) -> exp.Select:
        planner, alias = self.planner, "e"
        needed = list(self.rows)

        def leaf_sql(leaf: Leaf) -> Sql:
            if isinstance(leaf, SelectColumn) and _is_row(leaf):
                return _column(leaf.name, alias)
            return planner.read(leaf)

        rows = exp.select(exp.alias_(_column(ID, alias), ID)).from_(view(self.stage.table).as_(alias), copy=False)
        for table, name in planner.joins(needed):
            matched = _equal(_column(ID, alias), _column(ID, name))
            rows.join(table.as_(_name(name)), on=matched, join_type="left", copy=False)
        values = [exp.alias_(to_sql(expr, leaf_sql), column, copy=False) for expr, column in self.rows.items()]
        rows.select(*values, copy=False)
        names = list(self.flags.values())
        if None not in names:
            passed = exp.or_(*(exp.column(n) for n in names if n), copy=False)
            rows = exp.select("*").from_(rows.subquery("rows_", copy=False), copy=False).where(passed, copy=False)
        if self.windows:
            rows = exp.select("*", *self.windows).from_(rows.subquery("ordered_", copy=False), copy=False)
        grouped = exp.select(exp.column(ID), *self.outputs).from_(rows.subquery("chosen_", copy=False), copy=False)
        return grouped.group_by(exp.column(ID), copy=False)


def _by_level(item: tuple[tuple[int, TableSchema], _Stage]) -> tuple[int, str]:
    return item[0][0], item[1].name


def _is_row(leaf: Leaf) -> bool:
    return isinstance(leaf, SelectColumn) and frame_domain(leaf.source) is not None


def _unsorted(frame: Frame) -> Frame:
    """The same rows, their order forgotten."""
    match frame:
        case Sort():
            return _unsorted(frame.source)
        case Filter():
            return Filter(_unsorted(frame.source), frame.condition)
    return frame


def _presence(identity: Sql, leaf: Leaf) -> Sql:
    found = exp.Paren(this=exp.Not(this=exp.Is(this=identity, expression=exp.null())))
    return found if leaf.type is BOOL else exp.cast(found, "bigint")


def _filtered(aggregation: Sql, passed: Sql | None) -> Sql:
    if passed is None:
        return aggregation
    return exp.Filter(this=aggregation, expression=exp.Where(this=passed.copy()))


def _struct(values: dict[str, Sql]) -> Sql:
    return exp.Struct(
        expressions=[exp.PropertyEQ(this=exp.to_identifier(name), expression=value) for name, value in values.items()]
    )


def _equal(left: Sql, right: Sql) -> Sql:
    return exp.EQ(this=left.copy(), expression=right)
