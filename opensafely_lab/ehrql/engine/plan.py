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

from attrs import frozen
from sqlglot import exp

from ...errors import PlatformError
from ...expressions.nodes import INT, Expr, Leaf, leaves
from ...expressions.sql import SQL_TYPES, literal, to_sql
from ..model import (
    Aggregate,
    Count,
    CountEpisodes,
    DatasetModel,
    Domain,
    Exists,
    Frame,
    PickOneRowPerPatient,
    SelectColumn,
    SelectPatientTable,
    certain,
    domain,
    frame_domain,
    in_order,
    sort_keys,
)
from ..schemas import TableSchema
from . import sqlparts as q
from .lookups import Lookup, Lookups
from .sqlparts import ID, Sql
from .stages import Answer, Stage, StageWriter


class PlanError(PlatformError):
    """A query that the planner does not understand: our mistake, whatever the definition says."""

    code = "plan"


@frozen
class Plan:
    """The statement, the tables it reads (each a view called by its reference), and the lists it looks codes up in."""

    sql: str
    tables: tuple[TableSchema, ...]
    lookups: tuple[Lookup, ...]


def plan(dataset: DatasetModel) -> Plan:
    """The statement that gives `patient_id` and the variables, ordered by patient."""
    with _deep_recursion():
        return Planner(dataset).plan()


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Room for expressions as deep as the model allows: writing one takes several calls a level."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class Planner:
    def __init__(self, dataset: DatasetModel) -> None:
        self.dataset = dataset
        self.stages: dict[tuple[int, TableSchema], Stage] = {}
        self.where: dict[Answer, tuple[Stage, str]] = {}
        self.levels: dict[Leaf, int] = {}
        self.selected: dict[PickOneRowPerPatient, dict[str, None]] = {}
        self.patient_tables: dict[TableSchema, str] = {}
        self.lookups: list[Lookup] = []

    def new_lookup(self, leaf: Leaf, alias: str) -> Lookup:
        self.lookups.append(Lookup(f"lookup{len(self.lookups)}", alias, leaf))
        return self.lookups[-1]

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
        return Plan(final.sql("duckdb", copy=False), tuple(tables), tuple(self.lookups))

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
                if not q.is_row(inner):
                    before = max(before, self.level(inner))
        level = before + 1
        stage = self.stages.setdefault((level, rows.table), Stage(f"s{len(self.stages)}", rows.table))
        name = stage.answers.setdefault(answer, f"a{len(stage.answers)}")
        self.where[answer] = (stage, name)
        self.levels[leaf] = level
        return level

    def source_of(self, leaf: Leaf) -> Answer | TableSchema:
        """What the leaf is read from: an aggregation of rows, or a table with one row a patient."""
        match leaf:
            case SelectColumn(source=PickOneRowPerPatient() as pick):
                return Answer(pick)
            case Exists(source=PickOneRowPerPatient() as pick) | Count(source=PickOneRowPerPatient() as pick):
                return Answer(Exists(q.unsorted(pick.source)))
            case Exists() if frame_domain(leaf.source) is not None:
                return Answer(Exists(q.unsorted(leaf.source)))
            case Count() if frame_domain(leaf.source) is not None:
                return Answer(Count(q.unsorted(leaf.source)))
            case Aggregate() | CountEpisodes():
                return Answer(leaf)
            case SelectColumn() | Exists() | Count():
                return leaf.source.table
        raise PlanError("A query has a leaf of no known kind.")

    def rows_of(self, answer: Answer) -> Domain:
        leaf = answer.leaf
        found = domain(leaf.source) if isinstance(leaf, (Aggregate, CountEpisodes)) else frame_domain(leaf.source)
        if found is None:
            raise PlanError("A query aggregates what has one row a patient.")
        return found

    def needed(self, answer: Answer) -> Iterator[Expr]:
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

    def write_stage(self, level: int, stage: Stage) -> tuple[str, exp.Select]:
        writer = StageWriter(self, level, stage)
        for answer, name in stage.answers.items():
            writer.add(answer, name)
        return stage.name, writer.select()

    # --- reading answers ---

    def read(self, leaf: Leaf) -> Sql:
        """A leaf about the patient, where tables and stages are joined under their names."""
        answer = self.source_of(leaf)
        if isinstance(answer, TableSchema):
            alias = self.patient_tables[answer]
            return (
                q.column(leaf.name, alias) if isinstance(leaf, SelectColumn) else q.presence(q.column(ID, alias), leaf)
            )
        stage, name = self.where[answer]
        value: Sql = q.column(name, stage.name)
        if isinstance(leaf, SelectColumn) and isinstance(answer.leaf, PickOneRowPerPatient):
            return value if self.only_first_key(answer.leaf) else exp.Dot(this=value, expression=q.name(leaf.name))
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
                if q.is_row(leaf):
                    continue
                answer = self.source_of(leaf)
                if isinstance(answer, TableSchema):
                    found[self.patient_tables[answer]] = q.view(answer)
                else:
                    name = self.where[answer][0].name
                    found[name] = exp.Table(this=q.name(name))
        return [(table, name) for name, table in found.items()]

    # --- the last SELECT ---

    def final(self) -> exp.Select:
        outputs = [self.dataset.population, *(v.expr for v in self.dataset.variables)]
        joins = self.joins(outputs)
        base = self.certain_source()
        if base is None:
            people = self.everybody()
            select = exp.select().from_(people.subquery("everybody"))
            identity = q.column(ID, "everybody")
        else:
            table = next(table for table, name in joins if name == base)
            select = exp.select().from_(table.as_(q.name(base)))
            identity = q.column(ID, base)
            joins = [(t, n) for t, n in joins if n != base]
        for table, name in joins:
            matched = q.equal(identity, q.column(ID, name))
            select.join(table.as_(q.name(name)), on=matched, join_type="left", copy=False)
        lookups = Lookups(self.new_lookup, self.read)
        columns = [exp.alias_(identity.copy(), q.name(ID))]
        for variable in self.dataset.variables:
            value = exp.cast(
                to_sql(variable.expr, self.read, member=lookups.member), SQL_TYPES[variable.expr.type], copy=False
            )
            columns.append(exp.alias_(value, q.name(variable.name), copy=False))
        population = to_sql(self.dataset.population, self.read, member=lookups.member)
        select.select(*columns, copy=False).where(population, copy=False)
        lookups.join(select)
        return select.order_by(q.name(ID), copy=False)

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
            if isinstance(answer, Answer) and answer in self.where:
                return self.where[answer][0].name
        return None

    def everybody(self) -> exp.Query:
        """Every patient with a row in anything that the population is made of."""
        sources = self.joins([self.dataset.population])
        parts: list[exp.Query] = [
            exp.select(exp.alias_(q.column(ID, name), q.name(ID))).from_(table.as_(q.name(name)))
            for table, name in sources
        ]
        return parts[0] if len(parts) == 1 else exp.union(*parts)


def _by_level(item: tuple[tuple[int, TableSchema], Stage]) -> tuple[int, str]:
    return item[0][0], item[1].name
