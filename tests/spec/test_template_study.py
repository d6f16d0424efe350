"""The template study: its numbers are those of a hand-written query, on any records."""

import os
from pathlib import Path, PurePosixPath

import nbformat
import pytest
import studies

from opensafely_lab.disclosure.requests import Group, Measure, TableRequest
from opensafely_lab.ehrql import engine, loader
from opensafely_lab.ehrql.model import dataset_schema
from opensafely_lab.expressions.nodes import Column
from opensafely_lab.expressions.series import SERIES
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.study.project import parse_project

DEFINITION = PurePosixPath("analysis/dataset_definition.py")
NOTEBOOK = studies.TEMPLATE / "analysis" / "gi_bleeding.ipynb"
BANDS = [40, 50, 60, 70, 80]


class _Rows:
    def meet(self, other):
        return self

    def wrap(self, expr):
        return SERIES[expr.type](expr, self)


class _Columns:
    def __init__(self, schema):
        self.schema = schema

    def __getattr__(self, name):
        column = self.schema.column(name)
        return _Rows().wrap(Column(name, column.type))


def requests(schema, index_date, age_bands, drug):
    """The notebook's two tables, from its own cells: only `safe` is another."""
    asked = {}

    class Safe:
        def dataset(self, path):
            data = _Columns(schema)
            data.where = lambda condition: condition
            return data

        def count(self):
            return Measure("count", "count")

        def table(self, where, by, measures, name, margins):
            groups = tuple(Group(heading, series._expr) for heading, series in by.items())
            asked[name] = TableRequest(len(asked), name, 0, "x", where._expr, groups, tuple(measures), margins)

        def plot(self, *args, **kwargs):
            pass

    cells = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    names = {"safe": Safe(), "index_date": index_date, "age_bands": age_bands, "drug": drug}
    for source in cells[2:]:
        exec(source.replace("from opensafely_lab import safe", ""), names)
    return asked


@pytest.fixture(scope="module")
def dataset():
    return loader.evaluate(DEFINITION, studies.TEMPLATE, studies.plain_process)


def counts(dataset, records: Path, folder: Path, index_date, age_bands, drug):
    info = engine.run(dataset, engine.folder_source(records), folder / "dataset.arrow")
    assert engine.describe(info.path) == info.schema == dataset_schema(dataset)
    found = {}
    for name, request in requests(info.schema, index_date, age_bands, drug).items():
        table = engine.aggregate(request, info.path, info.schema)
        found |= {(name, *key): count for key, count in table.cells()}
    return found


@pytest.mark.parametrize("drug", ["any", "celecoxib", "naproxen"])
@pytest.mark.parametrize("index_date", ["2010-01-01", "2016-02-29"])
def test_the_demo_counts_what_the_hand_written_query_counts(dataset, tmp_path, index_date, drug):
    found = counts(dataset, studies.GIBLEED, tmp_path, index_date, BANDS, drug)
    expected = studies.gi_bleeding_counts(studies.GIBLEED, index_date, BANDS, drug)
    assert len(found) == 2 * 6 * 2
    assert {key: count for key, count in found.items() if count} == expected


def test_the_demo_shows_most_of_its_numbers_and_hides_one(dataset, tmp_path):
    found = counts(dataset, studies.GIBLEED, tmp_path, "2010-01-01", BANDS, "any")
    hidden = [key for key, count in found.items() if count <= 7]
    assert hidden == [("people who bled", "80 and over", "male")]


@pytest.mark.parametrize("drug", ["any", "naproxen"])
def test_the_dummy_tables_show_numbers_too(dataset, tmp_path, drug):
    found = counts(dataset, studies.TEMPLATE / "dummy_tables", tmp_path, "2010-01-01", BANDS, drug)
    expected = studies.gi_bleeding_counts(studies.TEMPLATE / "dummy_tables", "2010-01-01", BANDS, drug)
    assert {key: count for key, count in found.items() if count} == expected
    assert sum(count > 7 for count in found.values()) >= len(found) / 2


def test_a_second_set_of_records_answers_another_question(dataset, tmp_path):
    folder = os.environ.get("OSL_SYNTHEA_SMART")
    if not folder:
        pytest.skip("OSL_SYNTHEA_SMART is not set: it names a folder with the second data set")
    found = counts(dataset, Path(folder), tmp_path, "2018-07-01", [30, 50, 70], "naproxen")
    expected = studies.gi_bleeding_counts(Path(folder), "2018-07-01", [30, 50, 70], "naproxen")
    assert {key: count for key, count in found.items() if count} == expected
    assert expected


def test_each_table_of_events_is_scanned_once(dataset):
    plan = engine.explain(dataset, engine.folder_source(studies.GIBLEED))
    assert plan.count("READ_PARQUET") == 4


def test_the_project_and_the_notebook_agree_on_the_parameters():
    project = parse_project((studies.TEMPLATE / "project.yaml").read_text())
    notebook = SubmittedNotebook.parse(NOTEBOOK.read_bytes())
    assert not notebook.has_outputs
    merged = merge(declared(notebook), project.actions["bleeding"].parameters)
    assert {name: spec.default for name, spec in merged.items()} == {
        "index_date": "2010-01-01", "age_bands": BANDS, "drug": "any"
    }  # fmt: skip


def test_the_dummy_tables_are_what_their_script_makes(tmp_path):
    import runpy

    script = runpy.run_path(str(studies.TEMPLATE.parent / "tools" / "make_dummy_tables.py"))
    script["main"](tmp_path)
    for table in studies.TABLES:
        assert (tmp_path / f"{table}.csv").read_bytes() == (
            studies.TEMPLATE / "dummy_tables" / f"{table}.csv"
        ).read_bytes()
