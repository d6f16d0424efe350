"""The gate answers every request of the list, and whatever goes wrong holds that one and says nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs
import jsonschema
import pytest
from gate_examples import SCHEMA, cells, column, plot, table

from opensafely_lab.disclosure import gate, record
from opensafely_lab.disclosure.cells import CellTable, GroupLevels
from opensafely_lab.disclosure.outcome import REDACTED, Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import Request, RequestList, TableRequest
from opensafely_lab.expressions.schema import DatasetSchema

BY_SEX = table({"sex": column("sex")}, margins=True)
LIST = RequestList((BY_SEX, plot(), table({"ill": column("ill")}, id=2)))
SECRET = "pt_7be19c40d2"


def count(request: TableRequest) -> CellTable:
    if request.by[0].name == "sex":
        return cells({"sex": ("female", "male")}, [123, 3])
    return CellTable((GroupLevels("ill", (False, True), False),), {(False,): 100, (True,): 26})


def schema_of(_: str) -> DatasetSchema:
    return SCHEMA


def test_every_request_gets_one_outcome_in_order() -> None:
    answers = gate.answer(LIST, count, schema_of, OPENSAFELY, False)
    assert [(a.request, a.name, a.kind, a.cell) for a in answers] == [
        (0, "table-1", "table", 1),
        (1, "figure-2", "figure", 2),
        (2, "table-3", "table", 1),
    ]
    assert all(a.verdict is Verdict.VERIFIED for a in answers)
    assert answers[0].table == ShownTable(
        ("sex", "count"), 1, (("female", "125"), ("male", REDACTED), ("All", "125")), (2,)
    )
    assert answers[2].table is not None
    assert answers[2].table.rows == (("False", "100"), ("True", "25"))


def broken(error: Exception) -> Callable[[TableRequest], CellTable]:
    def aggregate(request: TableRequest) -> CellTable:
        if request.id == 0:
            raise error
        return count(request)

    return aggregate


class Named(Exception):
    pass


Named.__name__ = SECRET


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), Named(SECRET), MemoryError(), RecursionError(SECRET), KeyError(SECRET)]
)
def test_an_exception_holds_its_request_and_its_figure_and_tells_nothing(error: Exception) -> None:
    heard: list[tuple[Request, Exception]] = []
    answers = gate.answer(
        LIST, broken(error), schema_of, OPENSAFELY, False, report=lambda request, e: heard.append((request, e))
    )
    assert [a.verdict for a in answers] == [Verdict.HELD, Verdict.HELD, Verdict.VERIFIED]
    assert answers[0].sentence == answers[1].sentence == gate.HELD_SENTENCE
    assert answers[0].table is None
    assert answers[1].figure is None
    assert SECRET not in repr(answers)
    assert heard[0] == (BY_SEX, error)


def test_every_reason_for_holding_looks_the_same() -> None:
    def other_levels(request: TableRequest) -> CellTable:
        return cells({"sex": ("female", "other")}, [10, 10]) if request.id == 0 else count(request)

    def other_groups(request: TableRequest) -> CellTable:
        return CellTable((), {(): 5}) if request.id == 0 else count(request)

    refused = attrs.evolve(BY_SEX, by=(attrs.evolve(BY_SEX.by[0], expr=column("patient_id")),))
    all_held = [
        gate.answer(LIST, broken(ValueError()), schema_of, OPENSAFELY, False),
        gate.answer(LIST, other_levels, schema_of, OPENSAFELY, False),
        gate.answer(LIST, other_groups, schema_of, OPENSAFELY, False),
        gate.answer(RequestList((refused, *LIST.requests[1:])), count, schema_of, OPENSAFELY, False),
    ]
    assert all(answers == all_held[0] for answers in all_held)


def test_a_schema_that_is_not_there_holds_what_asks_for_it() -> None:
    def no_schema(path: str) -> DatasetSchema:
        raise FileNotFoundError(SECRET)

    assert {a.verdict for a in gate.answer(LIST, count, no_schema, OPENSAFELY, False)} == {Verdict.HELD}


def test_the_gate_does_not_swallow_being_stopped() -> None:
    def stopped(request: TableRequest) -> CellTable:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gate.answer(LIST, stopped, schema_of, OPENSAFELY, False)


def test_a_figure_says_no_more_than_its_table() -> None:
    """Tables that look alike give figures that are alike, to the last byte."""

    def other(request: TableRequest) -> CellTable:
        return cells({"sex": ("female", "male")}, [127, 0]) if request.id == 0 else count(request)

    assert gate.answer(LIST, other, schema_of, OPENSAFELY, False) == gate.answer(
        LIST, count, schema_of, OPENSAFELY, False
    )


def test_a_figure_of_another_table_than_it_asks_for_is_held() -> None:
    shown = gate.judge(attrs.evolve(BY_SEX, id=5), count(BY_SEX), OPENSAFELY)
    assert gate.draw(plot(), shown, policy=OPENSAFELY, dummy=False).verdict is Verdict.HELD


# Figures.


def figure(rows: list[tuple[str, ...]], *, kind: str = "bar", dummy: bool = False) -> bytes:
    labels = len(rows[0]) - 1
    names = ("age_band", "sex", "count")[: labels or 1] if labels == 2 else ("age_band",)
    shown = Outcome(
        0,
        "table-1",
        "table",
        0,
        Verdict.VERIFIED,
        Treatment.ROUNDED,
        "Counts are rounded to the nearest 5.",
        ShownTable((*names[:labels], "count"), labels, tuple(rows)),
    )
    drawn = gate.draw(plot(kind=kind), shown, policy=OPENSAFELY, dummy=dummy)
    assert drawn.figure is not None
    return drawn.figure


def chunks(png: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        found.append(name)
        at += 12 + length
    return found


ROWS = [("under 50", "f", "10"), ("under 50", "m", REDACTED), ("50 and over", "f", "1200"), ("50 and over", "m", "40")]


@pytest.mark.parametrize("kind", ["bar", "line"])
def test_a_figure_is_the_same_bytes_each_time_and_a_png_without_text(kind: str) -> None:
    png = figure(ROWS, kind=kind)
    assert png == figure(ROWS, kind=kind)
    assert set(chunks(png)) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_a_figure_does_not_depend_on_the_settings_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    before = figure(ROWS)
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 40, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert figure(ROWS) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_hidden_is_drawn_otherwise_than_any_number_and_dummy_data_is_marked() -> None:
    seen = {figure([*ROWS[:1], ("under 50", "m", text), *ROWS[2:]]) for text in (REDACTED, "10", "15")}
    assert len(seen) == 3
    assert figure(ROWS, dummy=True) != figure(ROWS)


@pytest.mark.parametrize(
    "rows",
    [
        [("a", REDACTED), ("b", REDACTED)],
        [("$\\frac{1$", "10"), ("_x", "15"), ("患者 🩺", "20")],
        [(f"a rather long label number {i}", str(i * 5 + 10)) for i in range(60)],
        [(f"{a}", f"_{s}", "15") for a in range(60) for s in range(8)],
        [("only", "1000000000")],
    ],
)
@pytest.mark.parametrize("kind", ["bar", "line"])
def test_every_admitted_table_can_be_drawn(rows: list[tuple[str, ...]], kind: str) -> None:
    assert figure(rows, kind=kind).startswith(b"\x89PNG")


# The record.


def test_the_record_follows_its_published_schema() -> None:
    answers = (
        *gate.answer(LIST, count, schema_of, OPENSAFELY, False),
        attrs.evolve(gate.held(BY_SEX), request=3, name="table-4"),
    )
    made = record.record(answers, policy=OPENSAFELY, dummy=False, placeholders=[2])
    validator = jsonschema.Draft202012Validator(record.schema())
    validator.check_schema(record.schema())
    validator.validate(made)
    assert [output.get("file") for output in made["outputs"]] == [
        "tables/01-table-1.csv",
        "figures/02-figure-2.png",
        "tables/03-table-3.csv",
        None,
    ]
    assert "table" not in made["outputs"][3]
    assert record.record_bytes(made) == record.record_bytes(made)
    for wrong in ({**made, "extra": 1}, {**made, "outputs": [{**made["outputs"][3], "file": "tables/04-x.csv"}]}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(wrong)


def test_what_a_cell_writes_and_every_declared_file_is_held_with_a_reason() -> None:
    declared = [record.DeclaredFile("table", "output/table*.csv")]
    made = record.record((), policy=OPENSAFELY, dummy=True, placeholders=[4, 2, 4], declared=declared)
    jsonschema.Draft202012Validator(record.schema()).validate(made)
    assert [place["cell"] for place in made["placeholders"]] == [2, 4]
    assert [file["pattern"] for file in made["files"]] == ["output/table*.csv"]
    assert {item["verdict"] for item in (*made["placeholders"], *made["files"])} == {"held"}
    assert made["level"] == "Dummy data"


def test_tables_that_look_alike_have_records_and_files_that_are_alike() -> None:
    def other(request: TableRequest) -> CellTable:
        return cells({"sex": ("female", "male")}, [125, 7]) if request.id == 0 else count(request)

    one, two = (gate.answer(LIST, counted, schema_of, OPENSAFELY, False) for counted in (count, other))
    assert record.shown_files(one) == record.shown_files(two)
    assert record.record(one, policy=OPENSAFELY, dummy=False) == record.record(two, policy=OPENSAFELY, dummy=False)


def test_a_table_as_csv_is_what_is_shown_and_starts_no_formula() -> None:
    shown = ShownTable(("=band", "count"), 1, (("=1+1", "10"), ("-5", REDACTED), ("@a, b", "15")))
    assert record.table_csv(shown).decode() == "'=band,count\n'=1+1,10\n-5,[REDACTED]\n\"'@a, b\",15\n"


def test_two_outputs_of_one_name_get_two_files() -> None:
    first, second = (attrs.evolve(BY_SEX, id=i, name=name) for i, name in enumerate(("A.b", "a b")))
    answers = gate.answer(RequestList((first, second)), count, schema_of, OPENSAFELY, False)
    assert [f.path for f in record.shown_files(answers)] == ["tables/01-a-b.csv", "tables/02-a-b.csv"]
