"""What a query means, in plain Python, row by row: slow, short, and the oracle of the DuckDB engine."""

from __future__ import annotations

import math
from functools import cmp_to_key

from opensafely_lab.ehrql.model import (
    Aggregate,
    Count,
    CountEpisodes,
    Exists,
    Filter,
    PickOneRowPerPatient,
    Position,
    SelectColumn,
    Sort,
    frame_domain,
    in_order,
    sort_keys,
)
from opensafely_lab.expressions.nodes import LARGEST_INT, leaves
from opensafely_lab.expressions.rows import evaluate


def answers(dataset, tables):
    """{column: {patient: value}}; `tables` maps schemas to rows."""
    engine = PlainEngine(dataset, tables)
    patients = sorted({row["patient_id"] for rows in tables.values() for row in rows})
    members = [p for p in patients if engine.value(dataset.population, p) is True]
    return {v.name: {p: engine.value(v.expr, p) for p in members} for v in dataset.variables}


class PlainEngine:
    def __init__(self, dataset, tables):
        self.tables = tables
        self.selected = {}
        for node in in_order((dataset.population, *(v.expr for v in dataset.variables))):
            if isinstance(node, SelectColumn):
                self.selected.setdefault(node.source, set()).add(node.name)

    def value(self, expr, patient, row=None):
        return evaluate(expr, lambda leaf: self.leaf(leaf, patient, row))

    def rows(self, frame, patient):
        """The patient's rows of a frame, in table order."""
        if isinstance(frame, Filter):
            return [r for r in self.rows(frame.source, patient) if self.value(frame.condition, patient, r) is True]
        if isinstance(frame, Sort):
            return self.rows(frame.source, patient)
        if isinstance(frame, PickOneRowPerPatient):
            rows = sorted(self.rows(frame.source, patient), key=cmp_to_key(self.comparison(frame, patient)))
            return rows[:1] if frame.position is Position.FIRST else rows[-1:]
        return [r for r in self.tables.get(frame.table, []) if r["patient_id"] == patient]

    def comparison(self, pick, patient):
        keys = sort_keys(pick.source)
        direct = {key.name for key in keys if isinstance(key, SelectColumn)}
        ties = sorted(self.selected.get(pick, set()) - direct)

        def values(row):
            found = [self.value(key, patient, row) for key in keys] + [row.get(name) for name in ties]
            return [(value is not None, value) for value in found]

        def compare(a, b):
            for (known_a, x), (known_b, y) in zip(values(a), values(b), strict=True):
                if known_a != known_b:
                    return -1 if known_b else 1
                if known_a and x != y:
                    return -1 if x < y else 1
            return 0

        return compare

    def leaf(self, leaf, patient, row):
        if isinstance(leaf, SelectColumn):
            if frame_domain(leaf.source) is not None:
                return row.get(leaf.name)
            rows = self.rows(leaf.source, patient)
            return rows[0].get(leaf.name) if rows else None
        if isinstance(leaf, Exists):
            return bool(self.rows(leaf.source, patient))
        if isinstance(leaf, Count):
            return len(self.rows(leaf.source, patient))
        values = [v for v in self.column(leaf.source, patient) if v is not None]
        if isinstance(leaf, CountEpisodes):
            dates = sorted(values)
            return sum(1 for i, d in enumerate(dates) if i == 0 or (d - dates[i - 1]).days > leaf.longest_gap)
        assert isinstance(leaf, Aggregate)
        if leaf.function == "count_distinct":
            return len(set(values))
        if not values:
            return None
        match leaf.function:
            case "minimum":
                return min(values)
            case "maximum":
                return max(values)
            case "mean":
                return math.fsum(values) / len(values)
        total = sum(sorted(values))
        return None if isinstance(total, int) and abs(total) > LARGEST_INT else total

    def column(self, expr, patient):
        """The values of an expression over rows, for those rows that its filters let through."""
        frame = next(n.source for n in leaves(expr) if isinstance(n, SelectColumn) and frame_domain(n.source))
        return [self.value(expr, patient, row) for row in self.rows(frame, patient)]
