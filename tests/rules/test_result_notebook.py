"""The result notebook holds the submitted source and what the gate made, and nothing else."""

from __future__ import annotations

import html.parser
import json

import nbformat
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.disclosure.outcome import Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.notebooks.result import FIGURE_MIME, HELD_MIME, TABLE_MIME, Banner, build, table_html
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.wire.site import Layout


def code(source: str, **more: object) -> dict[str, object]:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None, **more}


def submitted(*cells: object, **metadata: object) -> SubmittedNotebook:
    return SubmittedNotebook.parse(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}).encode())


TABLE = ShownTable(("age", "sex", "count"), 2, (("under 50", "female", "120"), ("50 and over", "<b>", "[REDACTED]")))
SUBMITTED = submitted(
    {
        "cell_type": "markdown",
        "source": "# Hello <script>alert(1)</script>",
        "attachments": {"p": {"image/png": "cGF0aWVudA=="}},
    },
    code("print(data)", outputs=[{"output_type": "stream", "name": "stdout", "text": "patient 12345"}]),
    code("safe.table(data)"),
    code("# nothing"),
    kernelspec={"name": "evil"},
)
BANNER = Banner(level="level4", action="bleeding", notebook="a|b`.ipynb", policy="opensafely", commit="c" * 40)


def outcome(request: int = 0, cell: int = 2, **more: object) -> Outcome:
    said = {"kind": "table", "verdict": Verdict.VERIFIED, "treatment": Treatment.HIDDEN, "table": TABLE} | more
    return Outcome(request=request, name=f"bleeding {request}", cell=cell, sentence="Counts are rounded.", **said)


def built(outcomes, outputs=(), counts=None, parameters=None, banner=BANNER):
    layout = Layout(outputs=list(outputs), execution_counts=counts or {})
    data = build(SUBMITTED, parameters=parameters or {}, outcomes=outcomes, layout=layout, banner=banner)
    document = nbformat.reads(data.decode(), as_version=4)
    nbformat.validate(document)
    return data, document


def test_the_banner_and_the_parameters_come_first():
    _, document = built([], parameters={"drug": "a|b*c*", "bands": [50, 60], "adults": True})
    banner, parameters = document.cells[:2]
    assert banner.source.startswith("**Level 4 - not released**")
    assert "a&#124;b&#96;.ipynb" in banner.source
    assert "| <code>drug</code> | <code>a&#124;b&#42;c&#42;</code> |" in parameters.source
    assert "<code>&#91;50, 60&#93;</code>" in parameters.source
    assert document.metadata.opensafely["title"] == "Level 4 - not released"
    assert document.metadata.kernelspec.name == "python3"


def test_a_result_of_dummy_data_says_so_in_every_output():
    data, document = built([outcome()], banner=Banner("dummy", "bleeding", "n.ipynb", "opensafely"))
    assert document.cells[0].source.startswith("**DUMMY DATA**")
    for kind in ("text/html", "text/plain"):
        assert "DUMMY DATA" in document.cells[3].outputs[0].data[kind]
    assert json.loads(data)["cells"][3]["outputs"][0]["data"][TABLE_MIME]["level"] == "dummy"


def test_a_table_stands_under_the_cell_that_asked_for_it():
    _, document = built([outcome()], counts={2: 7})
    cell = document.cells[3]
    assert cell.source == "safe.table(data)"
    assert cell.execution_count == 7
    data = cell.outputs[0].data
    assert data[TABLE_MIME] == {
        "version": 1, "name": "bleeding 0", "columns": ["age", "sex", "count"], "label_columns": 2,
        "rows": [["under 50", "female", "120"], ["50 and over", "<b>", "[REDACTED]"]], "total_rows": [],
        "verdict": "verified", "treatment": "hidden", "sentence": "Counts are rounded.", "level": "level4",
    }  # fmt: skip
    assert '<th scope="col">age</th>' in data["text/html"]
    assert "&lt;b&gt;</th><td>[REDACTED]</td>" in data["text/html"]
    assert "<caption>bleeding 0. Counts are rounded. (Level 4 - not released)</caption>" in data["text/html"]


def test_totals_are_named_in_the_data_and_bold_and_repeated_labels_are_quiet_in_the_markup():
    rows = (("under 50", "female", "20"), ("under 50", "male", "10"), ("under 50", "all", "30"), ("all", "all", "30"))
    _, document = built([outcome(table=ShownTable(("age", "sex", "count"), 2, rows, total_rows=(2, 3)))])
    data = document.cells[3].outputs[0].data
    assert data[TABLE_MIME]["total_rows"] == [2, 3]
    assert [line.startswith(' style="font-weight:bold"') for line in data["text/html"].split("<tr")[2:]] == [
        False, False, True, True,
    ]  # fmt: skip
    assert [line.count("opacity") for line in data["text/html"].split("<tr")[2:]] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "rows", "repeated"),
    [
        (2, (("a", "x", "1"), ("a", "x", "1")), 1),  # the last label is never one of them
        (3, (("a", "x", "p", "1"), ("b", "x", "q", "1")), 0),  # what stands under another group is new
        (3, (("a", "x", "p", "1"), ("a", "x", "q", "1")), 2),
        (1, (("a", "1"), ("a", "1")), 0),
        (0, (("1",), ("1",)), 0),
    ],
)
def test_a_label_is_repeated_only_where_all_before_it_are(labels, rows, repeated):
    table = ShownTable(tuple("abcd"[: len(rows[0])]), labels, rows)
    assert table.repeated(0) == 0
    assert table.repeated(1) == repeated


def test_outcomes_stand_in_the_order_of_requests_and_before_the_placeholder():
    figure = outcome(1, kind="figure", figure=b"\x89PNG", table=TABLE)
    held = outcome(2, verdict=Verdict.HELD, table=None)
    _, document = built([held, figure, outcome(0)], outputs=[2])
    kinds = [next(k for k in o.data if k.startswith("application/")) for o in document.cells[3].outputs]
    assert kinds == [TABLE_MIME, FIGURE_MIME, HELD_MIME, HELD_MIME]
    assert document.cells[3].outputs[1].data["image/png"] == "iVBORw=="
    assert "Counts are rounded" in document.cells[3].outputs[2].data[HELD_MIME]["sentence"]


def test_a_cell_of_the_layout_has_exactly_one_placeholder_and_others_have_none():
    _, document = built([], outputs=[0, 1, 999])
    assert [len(c.get("outputs", [])) for c in document.cells] == [0, 0, 1, 0, 0]
    assert document.cells[2].outputs[0].data[HELD_MIME]["next_step"]


def test_nothing_of_saved_outputs_attachments_or_metadata_is_in_the_result():
    data, document = built([outcome()], outputs=[1])
    for leak in (b"12345", b"cGF0aWVudA", b"attachments", b"evil"):
        assert leak not in data
    assert document.cells[1].source == "# Hello <script>alert(1)</script>"


def test_a_request_from_no_cell_of_the_source_is_shown_at_the_end():
    _, document = built([outcome(cell=99), outcome(1, cell=0), outcome(2, cell=-1)])
    assert document.cells[-1].id == "osl-elsewhere"
    assert len(document.cells[-1].outputs) == 3


def test_equal_inputs_give_equal_bytes():
    assert built([outcome(0), outcome(1)], outputs=[1])[0] == built([outcome(1), outcome(0)], outputs=[1])[0]


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, tuple[str, ...]]] = set()

    def handle_starttag(self, tag, attrs):
        self.found.add((tag, tuple(name for name, _ in attrs)))


@settings(deadline=None, max_examples=examples(100))
@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_no_text_of_a_table_becomes_markup(name, rows):
    tags = Tags()
    tags.feed(table_html(name, ShownTable((name, "n"), 1, tuple(rows)), name, "level4"))
    assert tags.found <= {
        ("table", ()), ("caption", ()), ("thead", ()), ("tbody", ()), ("tr", ()), ("th", ("scope",)),
        ("th", ("scope", "style")), ("td", ()),
    }  # fmt: skip
