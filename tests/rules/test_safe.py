"""What a notebook asks with `safe`: friendly at the desk, a list of requests in a job, and never a value there."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from opensafely_lab import safe
from opensafely_lab.disclosure.admission import RequestRefused, expected_groups
from opensafely_lab.disclosure.cells import CellTable, combinations
from opensafely_lab.disclosure.requests import MOST_REQUESTS, PlotRequest, RequestList, TableRequest, parse
from opensafely_lab.errors import LabError
from opensafely_lab.expressions.schema import ColumnClass, ValueType
from opensafely_lab.notebooks import cellcount
from opensafely_lab.safe import recorder
from opensafely_lab.safe.asking import REQUEST_MIME
from opensafely_lab.safe.errors import NoColumn, NoExtract, NoValueHere, SafeError, TooManyRequests

PROJECT = """
version: "5.0"
actions:
  make_people:
    run: ehrql:v1 generate-dataset analysis/dataset_definition.py --output output/dataset.arrow
    outputs:
      highly_sensitive:
        dataset: output/dataset.arrow
"""


def write_extract(path: Path) -> None:
    """30 women and 3 men, as the engine writes an extract."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def described(name: str, kind: pa.DataType, nullable: bool, of: str = "ordinary") -> pa.Field:
        return pa.field(name, kind, metadata={"osl.class": of, "osl.nullable": "true" if nullable else "false"})

    schema = pa.schema(
        [
            described("patient_id", pa.int64(), False, "identifier"),
            described("sex", pa.dictionary(pa.int8(), pa.string()), False),
            described("age", pa.int64(), True),
            described("drug", pa.string(), True),
            described("date_of_birth", pa.date32(), True, "sensitive"),
            described("practice", pa.int64(), True, "organisation"),
            described("sbp", pa.float64(), True),
            described("ill", pa.bool_(), False),
            described("where", pa.int64(), True),
        ]
    )
    sex = pa.DictionaryArray.from_arrays(
        pa.array([0] * 30 + [1] * 3, pa.int8()), pa.array(["female", "male", "intersex"])
    )
    columns = [
        pa.array(range(33)),
        sex,
        pa.array([40] * 33),
        pa.array(["aspirin"] * 33),
        pa.array([dt.date(1980, 1, 1)] * 33),
        pa.array([7] * 33),
        pa.array([120.5] * 33),
        pa.array([True] * 33),
        pa.array([1] * 33),
    ]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study with a dummy extract, its notebook's folder being the current one."""
    (tmp_path / "project.yaml").write_text(PROJECT)
    (tmp_path / "analysis").mkdir()
    write_extract(tmp_path / "output" / "dataset.arrow")
    monkeypatch.chdir(tmp_path / "analysis")
    monkeypatch.delenv("OSL_RUN", raising=False)
    recorder.start_anew()
    yield tmp_path
    recorder.start_anew()


@pytest.fixture
def job(study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], RequestList]]:
    """A job's Python, in the notebook's cell 4. Gives the list of requests as it stands in the file."""
    file = study / "out" / ".osl" / "requests.json"
    monkeypatch.setenv("OSL_RUN", "real")
    monkeypatch.setenv("OSL_REQUESTS", str(file))
    monkeypatch.setattr(cellcount, "current", lambda: 4)
    recorder.start_anew()
    yield lambda: parse(file.read_bytes())
    recorder.start_anew()


@pytest.fixture
def desk(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The desk, with an engine that counts 30 people in the first cell of any table and 3 in the others."""

    def aggregate(request: TableRequest, extract: Path, schema: Any) -> CellTable:
        assert extract == study / "output" / "dataset.arrow"
        groups = expected_groups(request, schema)
        keys = list(combinations(groups))
        return CellTable(groups, {key: 30 if number == 0 else 3 for number, key in enumerate(keys)})

    engine = ModuleType("opensafely_lab.ehrql.engine")
    engine.aggregate = aggregate  # type: ignore[attr-defined]
    import opensafely_lab.ehrql

    monkeypatch.setitem(sys.modules, "opensafely_lab.ehrql.engine", engine)
    monkeypatch.setattr(opensafely_lab.ehrql, "engine", engine, raising=False)
    return study


def data() -> Any:
    return safe.dataset("output/dataset.arrow")


# The dataset.


def test_a_dataset_reads_its_columns_and_no_rows(study: Path) -> None:
    columns = {column.name: column for column in data()._schema.columns}
    assert columns["sex"].categories == ("female", "male", "intersex")
    assert not columns["sex"].nullable
    assert columns["age"].nullable
    assert columns["practice"].column_class is ColumnClass.ORGANISATION
    assert [columns[name].type for name in ("age", "sbp", "ill", "date_of_birth", "drug")] == [
        ValueType.INT,
        ValueType.FLOAT,
        ValueType.BOOL,
        ValueType.DATE,
        ValueType.STR,
    ]


@pytest.mark.parametrize("name", ["dataset.parquet", "dataset.csv", "dataset.csv.gz"])
def test_other_forms_of_extract_are_read_as_well(study: Path, name: str) -> None:
    people = pa.table({"patient_id": [1, 2], "age": [40, 50], "ill": [True, False], "born": [dt.date(1980, 1, 1)] * 2})
    path = study / "output" / name
    if name.endswith(".parquet"):
        pa.parquet.write_table(people, path)
    else:
        with (
            pa.CompressedOutputStream(str(path), "gzip") if name.endswith(".gz") else pa.OSFile(str(path), "wb") as out
        ):
            pa.csv.write_csv(people, out)
    schema = safe.dataset(f"output/{name}")._schema
    assert [column.type.value for column in schema.columns] == ["int", "int", "bool", "date"]
    assert schema.columns[0].column_class is ColumnClass.IDENTIFIER


def test_a_dataset_lists_its_columns_and_completes_them(study: Path) -> None:
    people = data()
    assert {"age", "sex", "where"} <= set(dir(people))
    assert "sex" in people._ipython_key_completions_()
    assert "one of female, male, intersex" in repr(people)
    assert "organisation" in people._repr_html_()
    assert type(people["where"]).__name__ == "IntSeries"  # a column of that name is still there


def test_a_path_starts_at_the_folder_of_project_yaml(study: Path) -> None:
    assert safe.dataset(study / "output" / "dataset.arrow")._path == "output/dataset.arrow"
    assert safe.dataset("./output/../output/dataset.arrow")._path == "output/dataset.arrow"


@pytest.mark.parametrize("path", ["../elsewhere.arrow", "/etc/passwd", "."])
def test_a_path_outside_the_project_is_refused(study: Path, path: str) -> None:
    with pytest.raises(NoExtract, match="outside"):
        safe.dataset(path)


def test_a_missing_extract_says_which_action_makes_it(study: Path) -> None:
    (study / "output" / "dataset.arrow").unlink()
    with pytest.raises(NoExtract) as refused:
        data()
    assert str(refused.value) == (
        "There is no file output/dataset.arrow yet. Run make_people first: opensafely-lab run make_people."
    )
    with pytest.raises(FileNotFoundError, match="generate_dataset"):
        safe.dataset("output/other.arrow")


def test_a_file_that_is_no_extract_says_so(study: Path) -> None:
    (study / "output" / "dataset.arrow").write_bytes(b"not arrow")
    with pytest.raises(NoExtract, match="cannot be read"):
        data()


def test_outside_any_project_the_next_step_is_to_make_one(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "project.yaml").unlink()
    with pytest.raises(NoExtract, match=r"project\.yaml"):
        data()


FRAME = pd.DataFrame({"age": [1, 2]})


@pytest.mark.parametrize(
    "mistake",
    [
        lambda d: safe.dataset(3),
        lambda d: safe.dataset(None),
        lambda d: d.agee,
        lambda d: d["nothing"],
        lambda d: d.head(),
        lambda d: d.groupby("sex"),
        lambda d: d[d.age > 5],
        lambda d: d[0],
        lambda d: len(d),
        lambda d: list(d),
        lambda d: bool(d),
        lambda d: setattr(d, "band", d.age),
        lambda d: d.__setitem__("band", d.age),
        lambda d: d.where("age > 5"),
        lambda d: d.where(FRAME["age"] > 1),
        lambda d: d.where(d.age),
        lambda d: d.where(lambda row: row.age > 5),
        lambda d: d.where(safe.dataset("output/other.arrow").age > 5),
        lambda d: safe.table(FRAME, by=["age"]),
        lambda d: safe.table("output/dataset.arrow"),
        lambda d: safe.table(d, by="sex"),
        lambda d: safe.table(d, by=["sex"]),
        lambda d: safe.table(d, by=[FRAME["age"]]),
        lambda d: safe.table(d, by=lambda row: row.sex),
        lambda d: safe.table(d, by=[d.sex, d.sex]),
        lambda d: safe.table(d, by={"count": d.sex}),
        lambda d: safe.table(d, by={3: d.sex}),
        lambda d: safe.table(d, by={"a\u202eb": d.sex}),
        lambda d: safe.table(d, by=[d.ill] * 7),
        lambda d: safe.table(d, by=[(d.age + d["where"]).cut([3])]),
        lambda d: safe.table(d, by=[safe.dataset("output/other.arrow").sex]),
        lambda d: safe.table(d, by=[d.age]),
        lambda d: safe.table(d, by=[d.drug]),
        lambda d: safe.table(d, by=[d.practice.cut([3])]),
        lambda d: safe.table(d.where(d.patient_id == 3), by=[d.sex]),
        lambda d: safe.table(d.where(d.date_of_birth == "1980-01-01"), by=[d.sex]),
        lambda d: safe.table(d, by=[d.sex], measures=safe.count),
        lambda d: safe.table(d, by=[d.sex], measures=["count"]),
        lambda d: safe.table(d, by=[d.sex], measures=[]),
        lambda d: safe.table(d, by=[d.sex], measures=[safe.count(), safe.count()]),
        lambda d: safe.table(d, by=[d.sex], margins="yes"),
        lambda d: safe.table(d, by=[d.sex], name="../x"),
        lambda d: safe.table(d, by=[d.sex], name=3),
        lambda d: safe.plot(FRAME),
        lambda d: safe.plot(safe.table(d, by=[d.sex]), kind="pie"),
        lambda d: safe.plot(safe.table(d, by=[d.sex]), title="a\nb"),
        lambda d: safe.plot(safe.table(d)),
        lambda d: safe.listed("drug", ["aspirin"]),
        lambda d: safe.listed(d.drug, "aspirin"),
        lambda d: safe.listed(d.drug, ["other"]),
    ],
)
def test_a_mistake_is_told_in_a_sentence_with_a_next_step(
    job: Callable[[], RequestList], study: Path, mistake: Callable[[Any], Any]
) -> None:
    write_extract(study / "output" / "other.arrow")
    with pytest.raises(LabError) as told:
        mistake(data())
    assert told.value.sentence.endswith(".")
    assert str(told.value) == f"{told.value.sentence} {told.value.next_step}".strip()
    if not isinstance(told.value, (NoExtract, RequestRefused)):
        assert isinstance(told.value, (TypeError, AttributeError))


def test_a_misspelt_column_is_told_its_right_name(study: Path) -> None:
    with pytest.raises(NoColumn, match="Did you mean age"):
        _ = data().agee
    assert not hasattr(data(), "agee")


def test_an_expression_too_large_to_write_is_refused_at_once(job: Callable[[], RequestList]) -> None:
    people = data()
    sum_of = people.age
    for _ in range(30):
        sum_of = sum_of + sum_of
    with pytest.raises(SafeError, match="too large"):
        safe.table(people, by={"sum": sum_of.cut([3])})


# In a job.


def test_requests_are_listed_in_order_with_their_cells(
    job: Callable[[], RequestList], monkeypatch: pytest.MonkeyPatch
) -> None:
    people = data()
    table = safe.table(people.where(people.age >= 18), by=[people.sex, people.age.cut([40, 65])], margins=True)
    monkeypatch.setattr(cellcount, "current", lambda: 7)
    safe.plot(table, title="People by sex")
    safe.table(people, by={"drug": safe.listed(people.drug, ["aspirin"])}, name="Drugs")
    first, second, third = job().requests
    assert isinstance(first, TableRequest)
    assert isinstance(second, PlotRequest)
    assert [(r.id, r.name, r.cell) for r in (first, second, third)] == [
        (0, "table-1", 4),
        (1, "figure-2", 7),
        (2, "Drugs", 7),
    ]
    assert first.dataset == "output/dataset.arrow"
    assert [group.name for group in first.by] == ["sex", "age"]
    assert first.margins
    assert (second.of, second.plot, second.title) == (0, "bar", "People by sex")


def test_the_same_notebook_makes_the_same_list(job: Callable[[], RequestList]) -> None:
    texts = []
    for _ in range(2):
        recorder.start_anew()
        people = data()
        safe.plot(safe.table(people.where(people.sex.is_in({"male", "female"})), by=[people.ill]), kind="line")
        texts.append(job().text())
    assert texts[0] == texts[1]


def test_a_loop_over_declared_categories_makes_a_request_for_each(job: Callable[[], RequestList]) -> None:
    people = data()
    for sex in ("female", "male"):
        safe.table(people.where(people.sex == sex), by=[people.ill], name=f"ill {sex}")
    assert [r.name for r in job().requests] == ["ill female", "ill male"]


def test_a_request_has_no_value_in_a_job(job: Callable[[], RequestList]) -> None:
    table = safe.table(data(), by=[data().sex])
    plot = safe.plot(table)
    for asked in (table, plot):
        with pytest.raises(NoValueHere, match="report notebook"):
            asked.to_pandas()
        bundle = asked._repr_mimebundle_()
        assert set(bundle) == {REQUEST_MIME, "text/plain"}
        assert "30" not in repr(asked)
    assert table._repr_html_() is None


def test_what_is_refused_is_not_listed(job: Callable[[], RequestList]) -> None:
    people = data()
    safe.table(people, by=[people.sex])
    with pytest.raises(RequestRefused):
        safe.table(people, by=[people.age])
    safe.table(people, by=[people.ill])
    assert [r.name for r in job().requests] == ["table-1", "table-2"]


def test_two_requests_of_a_job_have_two_names(job: Callable[[], RequestList]) -> None:
    people = data()
    safe.table(people, by=[people.sex], name="People")
    with pytest.raises(SafeError, match="same name"):
        safe.table(people, by=[people.ill], name="people")


def test_a_request_outside_the_notebooks_cells_is_refused(
    job: Callable[[], RequestList], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellcount, "current", lambda: None)
    with pytest.raises(SafeError, match="outside"):
        safe.table(data(), by=[data().sex])


def test_the_number_of_requests_is_bounded(job: Callable[[], RequestList]) -> None:
    people = data()
    safe.table(people, by=[people.sex])
    recorder.recorder().requests *= MOST_REQUESTS
    with pytest.raises(TooManyRequests):
        safe.table(people, by=[people.sex], name="one more")


def test_the_list_is_replaced_whole_and_nothing_else_is_left_beside_it(
    job: Callable[[], RequestList], study: Path
) -> None:
    people = data()
    for number in range(3):
        safe.table(people, by=[people.sex])
        assert len(job().requests) == number + 1
    assert [path.name for path in (study / "out" / ".osl").iterdir()] == ["requests.json"]


def test_a_job_needs_no_engine_no_web_and_no_plotting_to_ask(study: Path) -> None:
    code = """
import sys
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "duckdb sqlglot pydantic fastapi matplotlib pandas IPython yaml".split():
            raise ImportError(name + " in a job")
sys.meta_path.insert(0, No())
from opensafely_lab.notebooks import cellcount
cellcount.current = lambda: 0
from opensafely_lab import safe
data = safe.dataset("output/dataset.arrow")
table = safe.table(data.where(data.age > 3), by=[data.sex])
safe.plot(table)
print(repr(table))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "OSL_RUN": "dummy",
            "OSL_REQUESTS": str(study / "r.json"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The backend computes it" in done.stdout
    assert len(parse((study / "r.json").read_bytes()).requests) == 2


# At the desk.


def test_at_the_desk_a_table_shows_what_would_come_back_marked_as_dummy_data(desk: Path) -> None:
    people = data()
    table = safe.table(people, by=[people.sex], margins=True)
    bundle = table._repr_mimebundle_()
    assert "DUMMY DATA" in bundle["text/html"]
    assert "DUMMY DATA" in bundle["text/plain"]
    assert "[REDACTED]" in bundle["text/html"]
    assert "2 cells hidden" in repr(table)
    frame = table.to_pandas()
    assert list(frame["sex"]) == ["female", "male", "intersex", "All"]
    assert frame["count"].isna().tolist() == [False, True, True, False]
    assert frame.attrs["opensafely"] == "DUMMY DATA"


def test_at_the_desk_a_plot_is_a_picture(desk: Path) -> None:
    people = data()
    bundle = safe.plot(safe.table(people, by=[people.sex]))._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR")
    assert "DUMMY DATA" in bundle["text/plain"]


def test_at_the_desk_nothing_is_written_and_a_cell_run_again_keeps_its_number(desk: Path) -> None:
    people = data()
    before = sorted(desk.rglob("*"))
    tables = [safe.table(people, by=[people.sex], name=name) for name in (None, None, "mine", "mine")]
    other = safe.table(people, by=[people.ill])
    assert [t.request.name for t in (*tables, other)] == ["table-1", "table-1", "mine", "mine", "table-2"]
    assert sorted(desk.rglob("*")) == before


def test_at_the_desk_an_engine_that_fails_is_not_hidden(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(sys.modules["opensafely_lab.ehrql.engine"], "aggregate", fails)
    with pytest.raises(OSError, match="disk"):
        safe.table(data(), by=[data().sex])


def test_what_is_shown_at_the_desk_is_escaped(desk: Path) -> None:
    people = data()
    label = "<script>alert(1)</script>"
    html = safe.table(people, by={"<b>": safe.case(safe.when(people.ill).then(label), otherwise="x")})._repr_html_()
    assert html is not None
    assert "<script>" not in html
    assert "<b>" not in html


def test_in_a_notebook_a_request_shows_itself_once_in_its_cell(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Shell:
        execution_count = 5

        class display_pub:
            @staticmethod
            def publish(data: Any, metadata: Any) -> None:
                shown.append(data)

    monkeypatch.setattr("opensafely_lab.safe.asking._shell", lambda: Shell)
    table = safe.table(data(), by=[data().sex])
    table._ipython_display_()  # the last line of the cell
    assert len(shown) == 1
    Shell.execution_count = 6
    table._ipython_display_()
    assert len(shown) == 2
