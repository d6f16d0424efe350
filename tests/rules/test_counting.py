"""The gate's counts: distinct patients, in every combination of declared levels."""

import pyarrow as pa
import pytest

from opensafely_lab.disclosure.requests import Group, Measure, TableRequest
from opensafely_lab.ehrql import engine
from opensafely_lab.expressions.nodes import Column, Literal, call
from opensafely_lab.expressions.schema import ColumnSchema, DatasetSchema, ValueType

SCHEMA = DatasetSchema(
    (
        ColumnSchema("patient_id", ValueType.INT, nullable=False),
        ColumnSchema("sex", ValueType.STR, categories=("female", "male", "other"), nullable=False),
        ColumnSchema("ill", ValueType.BOOL),
        ColumnSchema("age", ValueType.INT, nullable=False),
    )
)
SEX, ILL, AGE = (Column(c.name, c.type) for c in SCHEMA.columns[1:])


@pytest.fixture
def extract(tmp_path):
    table = pa.table(
        {
            "patient_id": [1, 2, 2, 3, 4, 5],
            "sex": ["female", "male", "male", "female", "female", "undeclared"],
            "ill": [True, False, False, None, True, True],
            "age": [30, 40, 40, 50, 2**62, 30],
        }
    )
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return tmp_path / "x.arrow"


def count(extract, where=None, **by):
    groups = tuple(Group(name, expr) for name, expr in by.items())
    request = TableRequest(0, "t", 0, "x", where, groups, (Measure("count", "count"),), False)
    return dict(engine.aggregate(request, extract, SCHEMA).cells())


def test_everybody_is_one_cell(extract):
    assert count(extract) == {(): 5}


def test_empty_levels_are_there_and_undeclared_values_are_nowhere(extract):
    assert count(extract, sex=SEX) == {("female",): 3, ("male",): 1, ("other",): 0}


def test_missing_is_a_level_where_a_value_may_be_missing(extract):
    assert count(extract, ill=ILL) == {(False,): 1, (True,): 3, (None,): 1}


def test_groups_are_crossed_and_cut(extract):
    young = call("cut", AGE, Literal(45, ValueType.INT))
    cells = count(extract, where=call("is_not_null", ILL), band=young, sex=SEX)
    assert cells[("under 45", "female")] == 1
    assert cells[("under 45", "male")] == 1
    assert cells[("45 and over", "female")] == 1
    assert len(cells) == 6


def test_nobody_makes_a_count_fail(extract):
    """An overflow for one patient is a NULL for that patient, not an error that would tell of them."""
    squared = call("mul", AGE, AGE)
    where = call("gt", squared, Literal(0, ValueType.INT))
    assert count(extract, where=where) == {(): 4}


def test_a_column_is_used_as_what_the_schema_says(extract):
    with pytest.raises(TypeError, match="no column age of type str"):
        count(extract, where=call("eq", Column("age", ValueType.STR), Literal("x", ValueType.STR)))
