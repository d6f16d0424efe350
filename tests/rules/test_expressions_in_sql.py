"""Whatever an expression means in `rows`, DuckDB must answer from `sql`."""

import datetime as dt

import duckdb
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.expressions.nodes import Column, Literal, call, leaves
from opensafely_lab.expressions.rows import evaluate
from opensafely_lab.expressions.schema import ValueType
from opensafely_lab.expressions.sql import SQL_TYPES, literal, to_sql

BOOL, INT, FLOAT, STR, DATE = (ValueType[n] for n in ("BOOL", "INT", "FLOAT", "STR", "DATE"))
CONNECTION = duckdb.connect()
CONNECTION.execute("SET threads=1")

dates = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
recent = st.dates(dt.date(1999, 1, 1), dt.date(2005, 1, 1))
small = st.integers(-30, 30)
ints = st.one_of(small, st.sampled_from([2**63 - 1, -(2**63), 2**31, -(2**31) - 1, 10**18]))
floats = st.one_of(small.map(float), st.floats(-1e6, 1e6), st.sampled_from([1e308, -1e308, 5e-324, 0.5]))
texts = st.text("ab'%_\\é", max_size=3)
VALUES = {BOOL: st.booleans(), INT: ints, FLOAT: floats, STR: texts, DATE: st.one_of(recent, dates)}


def in_sql(expr, values):
    def leaf(node):
        return literal(values[node.name], node.type)

    sql = f"SELECT CAST({to_sql(expr, leaf).sql('duckdb')} AS {SQL_TYPES[expr.type]})"
    return CONNECTION.execute(sql).fetchone()[0]


def agree(expr, values):
    expected = evaluate(expr, lambda leaf: values[leaf.name])
    found = in_sql(expr, values)
    if isinstance(expected, float) and found is not None:
        assert found == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)
    else:
        assert (found, type(found)) == (expected, type(expected))


# operator, types of its arguments
SIGNATURES = [
    *[(op, (t, t)) for op in ("eq", "ne") for t in VALUES],
    *[(op, (t, t)) for op in ("lt", "le", "gt", "ge", "minimum_of", "maximum_of") for t in (INT, FLOAT, STR, DATE)],
    *[(op, (BOOL, BOOL)) for op in ("and", "or")],
    ("not", (BOOL,)),
    *[(op, (t,)) for op in ("is_null", "is_not_null") for t in VALUES],
    *[("coalesce", (t, t)) for t in VALUES],
    *[(op, (t, t)) for op in ("add", "sub", "mul", "truediv", "floordiv", "pow") for t in (INT, FLOAT)],
    *[(op, (t,)) for op in ("neg", "absolute", "as_int", "as_float") for t in (INT, FLOAT)],
    ("as_int", (BOOL,)),
    ("contains", (STR, STR)),
    *[(op, (DATE,)) for op in ("year", "month", "day", "to_first_of_year", "to_first_of_month")],
    *[(f"add_{u}", (DATE, INT)) for u in ("days", "weeks", "months", "years")],
    *[(f"difference_in_{u}", (DATE, DATE)) for u in ("days", "weeks", "months", "years")],
]


@pytest.mark.parametrize(("op", "types"), SIGNATURES, ids=lambda p: p if isinstance(p, str) else p[0].value)
@settings(max_examples=examples(10), deadline=None)
@given(data=st.data())
def test_every_operator_means_the_same_in_python_and_in_sql(op, types, data):
    expr = call(op, *(Column(f"c{i}", t) for i, t in enumerate(types)))
    agree(expr, {c.name: data.draw(st.none() | VALUES[c.type]) for c in leaves(expr)})


@pytest.mark.parametrize("unit", ["days", "weeks", "months", "years"])
@settings(max_examples=examples(10), deadline=None)
@given(date=recent, number=st.integers(-100, 100))
def test_a_constant_is_added_to_a_date_as_a_series_is(unit, date, number):
    agree(call(f"add_{unit}", Column("d", DATE), Literal(number, INT)), {"d": date})


@settings(max_examples=examples(20), deadline=None)
@given(value=st.none() | st.integers(0, 12))
def test_lists_mappings_cuts_and_cases_mean_the_same_in_python_and_in_sql(value):
    x = Column("x", INT)
    one, two, five = (Literal(n, INT) for n in (1, 2, 5))
    a, b, none = Literal("a", STR), Literal("b", STR), Literal(None, STR)
    for expr in (
        call("is_in", x, one, five),
        call("is_in", x),
        call("map", x, one, a, two, b, five, a, none),
        call("map", x, one, a, b),
        call("cut", x, two, five),
        call("case", call("lt", x, two), a, call("lt", x, five), b, none),
    ):
        agree(expr, {"x": value})


D = dt.date


@pytest.mark.parametrize(
    ("date", "unit", "number", "expected"),
    [
        (D(2020, 2, 29), "years", 1, D(2021, 3, 1)),
        (D(2020, 2, 29), "years", 4, D(2024, 2, 29)),
        (D(2020, 2, 29), "years", -1, D(2019, 3, 1)),
        (D(2003, 8, 31), "months", 1, D(2003, 10, 1)),
        (D(2003, 1, 31), "months", 1, D(2003, 3, 1)),
        (D(2003, 12, 31), "months", -1, D(2003, 12, 1)),
        (D(2003, 11, 30), "months", 3, D(2004, 3, 1)),
        (D(2000, 1, 1), "weeks", 2, D(2000, 1, 15)),
        (D(9999, 12, 31), "days", 1, None),
        (D(2000, 1, 1), "days", 2**62, None),
    ],
)
def test_a_day_that_does_not_exist_rolls_forward(date, unit, number, expected):
    for values, amount in (({"d": date}, Literal(number, INT)), ({"d": date, "n": number}, Column("n", INT))):
        expr = call(f"add_{unit}", Column("d", DATE), amount)
        assert in_sql(expr, values) == expected
        agree(expr, values)


@pytest.mark.parametrize(
    ("later", "earlier", "unit", "expected"),
    [
        (D(2021, 2, 28), D(2020, 2, 29), "years", 0),
        (D(2021, 3, 1), D(2020, 2, 29), "years", 1),
        (D(2020, 1, 1), D(2020, 1, 2), "years", -1),
        (D(2020, 3, 30), D(2020, 2, 29), "months", 1),
        (D(2020, 3, 28), D(2020, 2, 29), "months", 0),
        (D(2020, 1, 1), D(2020, 1, 2), "weeks", -1),
        (D(2020, 1, 15), D(2020, 1, 1), "weeks", 2),
    ],
)
def test_differences_are_whole_calendar_units(later, earlier, unit, expected):
    expr = call(f"difference_in_{unit}", Column("a", DATE), Column("b", DATE))
    assert in_sql(expr, {"a": later, "b": earlier}) == expected


@pytest.mark.parametrize(
    ("op", "left", "right", "expected"),
    [
        ("truediv", 7, 2, 3.5),
        ("truediv", 7, 0, None),
        ("floordiv", 7, 0, None),
        ("floordiv", -7, 2, -4),
        ("floordiv", 7, -2, -4),
        ("floordiv", -(2**63), -1, None),
        ("add", 2**63 - 1, 1, None),
        ("mul", 2**62, 4, None),
        ("pow", 0, -1, None),
        ("pow", -8, 2, 64.0),
    ],
)
def test_arithmetic_without_an_answer_is_missing_never_an_error(op, left, right, expected):
    expr = call(op, Column("a", INT), Column("b", INT))
    assert in_sql(expr, {"a": left, "b": right}) == expected


def test_an_expression_that_would_grow_without_end_is_refused():
    expr = Column("d", DATE)
    for _ in range(40):
        expr = call("add_months", expr, Literal(1, INT))
    with pytest.raises(TypeError, match="too large"):
        to_sql(expr, lambda leaf: literal(None, DATE))
