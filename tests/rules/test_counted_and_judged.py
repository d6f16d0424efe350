"""Engine and gate together: from the rows of an extract to what is shown."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from examples import examples
from gate_examples import INT, STR, column, cut, table, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensafely_lab import safe
from opensafely_lab.disclosure.gate import answer
from opensafely_lab.disclosure.outcome import REDACTED, Outcome, Verdict
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import RequestList, TableRequest
from opensafely_lab.ehrql import engine
from opensafely_lab.ehrql.engine.extracts import write_arrow
from opensafely_lab.expressions.nodes import call
from opensafely_lab.expressions.schema import ColumnSchema, DatasetSchema
from opensafely_lab.safe import recorder
from opensafely_lab.safe.extracts import read_schema

SCHEMA = DatasetSchema(
    (
        ColumnSchema("patient_id", STR, None, False),
        ColumnSchema("sex", STR, ("female", "male"), True),
        ColumnSchema("region", STR, ("East", "London", "North"), True),
        ColumnSchema("age", INT, None, True),
    )
)
Row = tuple[str, str, str, int]
ROWS: list[Row] = [
    *((f"f{i}", "female", "East", 30 + i % 40) for i in range(43)),
    *((f"m{i}", "male", "London", 50) for i in range(18)),
    *((f"n{i}", "male", "North", 20) for i in range(7)),
]


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["patient_id,sex,region,age", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def shown(request: TableRequest, extract: Path) -> Outcome:
    def told(_: object, error: Exception) -> None:
        raise error

    (outcome,) = answer(
        RequestList((request,)),
        lambda asked: engine.aggregate(asked, extract, SCHEMA),
        lambda _: SCHEMA,
        OPENSAFELY,
        False,
        report=told,
    )
    return outcome


BY_REGION = table({"region": column("region")}, where=call("is_in", column("sex"), text("female"), text("male")))
BY_SEX_AND_AGE = table(
    {"sex": column("sex"), "age": cut("age", 40, 60)},
    where=call("and", call("is_not_null", column("sex")), call("is_not_null", column("age"))),
    margins=True,
)


def test_what_is_shown_equals_the_rows_counted_by_hand(tmp_path: Path) -> None:
    extract = write(tmp_path / "x.csv", ROWS)
    outcome = shown(BY_SEX_AND_AGE, extract)
    assert outcome.table is not None
    true = {
        (sex, band): sum(r[1] == sex and low <= r[3] < high for r in ROWS)
        for sex in ("female", "male")
        for band, low, high in (("under 40", 0, 40), ("40-59", 40, 60), ("60 and over", 60, 999))
    }
    expected = {key: REDACTED if n <= 7 else str(5 * round(n / 5)) for key, n in true.items()}
    assert {row[:2]: row[2] for row in outcome.table.rows if "All" not in row} == expected
    assert (
        outcome.sentence == "2 cells hidden: 7 or fewer people, or none. "
        "Other counts are rounded to the nearest 5. Totals are sums of the counts shown."
    )


def test_vector_20_people_are_counted_and_not_rows(tmp_path: Path) -> None:
    extract = write(tmp_path / "x.csv", [("p1", "female", "East", 40)] * 10 + [(p, "male", "East", 40) for p in "ab"])
    outcome = shown(BY_REGION, extract)
    assert outcome.table is not None
    assert {row[1] for row in outcome.table.rows if row[0] == "East"} == {REDACTED}


@settings(max_examples=examples(4), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ROWS), max_size=30))
def test_order_and_duplicates_of_rows_change_nothing_that_is_shown(
    tmp_path: Path, seed: int, doubled: list[Row]
) -> None:
    plain = write(tmp_path / "plain.csv", ROWS)
    mixed = [*ROWS, *doubled]
    random.Random(seed).shuffle(mixed)
    other = write(tmp_path / "other.csv", mixed)
    assert shown(BY_SEX_AND_AGE, other) == shown(BY_SEX_AND_AGE, plain)


def test_people_who_come_or_go_within_a_hidden_cell_change_nothing_that_is_shown(tmp_path: Path) -> None:
    """The North has 7 people; none of them, or one who is somebody in particular, looks the same."""
    plain = shown(BY_REGION, write(tmp_path / "plain.csv", ROWS))
    for left in (0, 1, 3):
        fewer = [row for row in ROWS if row[2] != "North"] + ROWS[-7 : len(ROWS) - 7 + left]
        assert shown(BY_REGION, write(tmp_path / "fewer.csv", fewer)) == plain


def test_an_extract_of_nobody_is_a_table_that_is_hidden(tmp_path: Path) -> None:
    outcome = shown(BY_REGION, write(tmp_path / "none.csv", []))
    assert outcome.verdict is Verdict.VERIFIED
    assert outcome.table is not None
    assert {row[1] for row in outcome.table.rows} == {REDACTED}


def test_an_extract_of_nobody_asks_the_same_as_any_other(tmp_path: Path) -> None:
    """Were its categories not in the file, a notebook would fail on it: an answer about its people."""
    assert write_arrow([], SCHEMA, tmp_path / "nobody.arrow") == 0
    described = read_schema(tmp_path, "nobody.arrow")
    assert described == engine.describe(tmp_path / "nobody.arrow")
    assert [c.categories for c in described.columns] == [c.categories for c in SCHEMA.columns]
    assert shown(BY_REGION, tmp_path / "nobody.arrow").verdict is Verdict.VERIFIED


# At the desk, with the real engine.


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project.yaml").write_text('version: "5.0"\nactions: {}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OSL_RUN", raising=False)
    recorder.start_anew()
    return tmp_path


def test_at_the_desk_a_table_is_counted_by_the_engine_and_judged_by_the_gate(study: Path) -> None:
    write(study / "output" / "dataset.csv", ROWS)
    data = safe.dataset("output/dataset.csv")
    listed = {"sex": safe.listed(data.sex, ["female", "male"]), "age band": data.age.cut([40, 60])}
    frame = safe.table(data.where(data.age >= 18), by=listed).to_pandas()
    # sex may be missing in a csv, and age may not where it is compared
    assert list(frame["sex"]) == [s for s in ("female", "male", "other", "missing") for _ in range(3)]
    counts: dict[tuple[str, str], Any] = {(s, a): n for s, a, n in frame.itertuples(index=False)}
    assert counts["male", "40-59"] == 20
    assert counts["male", "under 40"] is pd.NA


FILES = {
    "int,bool,date": "patient_id,i,b,d\n1,3,T,2020-01-02\n2,-4,false,1999-12-31\n",
    "missing": "patient_id,i,b,d\np1,,,\np2,5,TRUE,2020-01-01\n",
    "text": "patient_id,i,b,d\np1,3x,maybe,2020-1-1\np2,,,\n",
    "numbers": "patient_id,i,b,d\np1,1.5,99999999999999999999,nan\np2,2,1,1\n",
    "nothing": "patient_id,i,b,d\n",
    "empty columns": "patient_id,i,b,d\np1,,,\n",
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_csv_has_the_same_schema_for_a_notebook_as_for_the_engine(study: Path, name: str) -> None:
    (study / "x.csv").write_text(FILES[name])
    assert read_schema(study, "x.csv") == engine.describe(study / "x.csv")


@pytest.mark.parametrize("name", ["x.arrow", "x.parquet"])
def test_other_files_have_the_same_schema_for_a_notebook_as_for_the_engine(study: Path, name: str) -> None:
    schema = pa.schema(
        [
            pa.field("patient_id", pa.int64(), nullable=False),
            pa.field("sex", pa.dictionary(pa.int8(), pa.string())),
            pa.field("born", pa.date32(), metadata={"osl.class": "sensitive", "osl.nullable": "false"}),
            pa.field("code", pa.string(), metadata={"osl.type": "code"}),
            pa.field("sbp", pa.float32()),
        ]
    )
    rows = pa.table(
        [
            pa.array([1, 2]),
            pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["f", "m", "x"])),
            pa.array([dt.date(1980, 1, 1)] * 2),
            pa.array(["a", None]),
            pa.array([1.0, 2.0], pa.float32()),
        ],
        schema=schema,
    )
    if name.endswith(".arrow"):
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(rows)
    else:
        import pyarrow.parquet as pq

        pq.write_table(rows, name)
    assert read_schema(study, name) == engine.describe(study / name)
