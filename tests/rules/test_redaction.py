"""What is shown of a table, and that nothing more can be worked out of it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import attrs
import pytest
from examples import examples
from gate_examples import cells, column, table
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.disclosure.cells import BadCells, CellTable, GroupLevels
from opensafely_lab.disclosure.gate import judge
from opensafely_lab.disclosure.outcome import REDACTED, Outcome, Treatment, Verdict
from opensafely_lab.disclosure.policy import OPENSAFELY, Policy
from opensafely_lab.disclosure.redaction import redact, shown

VECTORS = {
    vector["id"]: vector
    for vector in json.loads((Path(__file__).parents[1] / "data" / "sdc-vectors.json").read_text())["vectors"]
}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, REDACTED), (1, REDACTED), (7, REDACTED), (8, "10"), (12, "10"), (13, "15"), (17, "15"), (1238, "1240")],
)
def test_counts_up_to_seven_are_redacted_and_others_rounded_to_five(count: int, text: str) -> None:
    assert shown(redact(count, OPENSAFELY)) == text


def test_every_shown_number_of_the_default_policy_stands_for_five_counts() -> None:
    bands: dict[str, int] = {}
    for count in range(1003):
        text = shown(redact(count, OPENSAFELY))
        bands[text] = bands.get(text, 0) + 1
    assert bands.pop(REDACTED) == 8
    assert set(bands.values()) == {5}
    assert all(int(text) % 5 == 0 for text in bands)


# The vectors.


def one_way(counts: list[int], *, margins: bool) -> Outcome:
    levels = tuple(f"level {number}" for number in range(len(counts)))
    return judge(table({"group": column("sex")}, margins=margins), cells({"group": levels}, counts), OPENSAFELY)


def numbers(outcome: Outcome) -> list[str]:
    assert outcome.table is not None
    return [row[-1] for row in outcome.table.rows]


@pytest.mark.parametrize("column_name", ["heart_disease", "population"])
def test_vector_01_totals_are_the_sums_of_redacted_and_rounded_cells(column_name: str) -> None:
    vector = VECTORS["v-01"]
    shown_cells = [REDACTED if v == "redacted" else str(v) for v in vector["expect"][column_name]]
    total = str(vector["expect"]["totals"][column_name])
    assert numbers(one_way(vector["given"][column_name], margins=True)) == [*shown_cells, total]


def test_vector_03_agrees_with_the_rule_of_ehrql_measures() -> None:
    vector = VECTORS["v-03"]
    published = [REDACTED if v == 0 else str(v) for v in vector["expect"]["published"]]
    assert numbers(one_way(vector["given"]["counts"], margins=False)) == published


def test_vector_06_a_total_does_not_give_back_a_lone_redaction() -> None:
    given = VECTORS["v-06"]["given"]
    for name in ("heart_disease", "population"):
        true = [1 if v == "redacted" else v for v in given[name]]
        *parts, total = numbers(one_way(true, margins=True))
        assert sum(int(part) for part in parts if part != REDACTED) == int(total)


def test_vector_08_a_two_line_summary_does_not_give_back_its_small_line() -> None:
    given = VECTORS["v-08"]["given"]
    small = given["cohort"] - given["18_and_over"]
    assert numbers(one_way([small, given["18_and_over"]], margins=True)) == [REDACTED, "175", "175"]


def test_vector_11_a_total_of_rounded_parts_does_not_narrow_the_parts() -> None:
    assert VECTORS["v-11"]["given"]["published_total"] == 25  # what rounding it on its own would show
    assert numbers(one_way([13, 13], margins=True)) == ["15", "15", "30"]


def test_vector_17_cells_below_a_threshold_of_ten_are_found_with_zeros_among_them() -> None:
    vector = VECTORS["v-17"]
    rows, columns = tuple(vector["given"]["rows"]), tuple(vector["given"]["columns"])
    flat = [count for line in vector["given"]["counts"] for count in line]
    ten = attrs.evolve(OPENSAFELY, largest_unsafe_count=9)
    request = table({"recommendation": column("sex"), "parents": column("sex")})
    outcome = judge(request, cells({"recommendation": rows, "parents": columns}, flat), ten)
    assert outcome.table is not None
    hidden = [[row[0], row[1]] for row in outcome.table.rows if row[2] == REDACTED]
    assert hidden == vector["expect"]["below_threshold"]


# Canonical form.


def test_rows_stand_in_declared_order_with_missing_and_totals_last() -> None:
    groups = (GroupLevels("region", ("b", "a"), True), GroupLevels("sex", ("f", "m"), False))
    keys = list(product(("b", "a", None), ("f", "m")))
    backwards = dict(reversed([(key, 10 * (number + 1)) for number, key in enumerate(keys)]))
    request = table({"region": column("sex"), "sex": column("sex")}, margins=True)
    outcome = judge(request, CellTable(groups, backwards), OPENSAFELY)
    assert outcome.table is not None
    assert outcome.table.columns == ("region", "sex", "count")
    assert outcome.table.rows == (
        ("b", "f", "10"),
        ("b", "m", "20"),
        ("b", "All", "30"),
        ("a", "f", "30"),
        ("a", "m", "40"),
        ("a", "All", "70"),
        ("missing", "f", "50"),
        ("missing", "m", "60"),
        ("missing", "All", "110"),
        ("All", "f", "90"),
        ("All", "m", "120"),
        ("All", "All", "210"),
    )
    assert outcome.table.total_rows == (2, 5, 8, 9, 10, 11)


def test_a_declared_level_keeps_its_name_when_it_is_called_missing_or_all() -> None:
    groups = (GroupLevels("answer", ("missing", "All"), True),)
    outcome = judge(
        table({"answer": column("sex")}, margins=True),
        CellTable(groups, {("missing",): 10, ("All",): 20, (None,): 30}),
        OPENSAFELY,
    )
    assert outcome.table is not None
    assert [row[0] for row in outcome.table.rows] == ["missing", "All", "(missing)", "(All)"]


def test_a_table_without_groups_is_one_number() -> None:
    outcome = judge(table(margins=True), CellTable((), {(): 123}), OPENSAFELY)
    assert outcome.table is not None
    assert outcome.table.rows == (("125",),)
    assert outcome.sentence == "Counts are rounded to the nearest 5."


@pytest.mark.parametrize(
    ("counts", "margins", "treatment", "sentence"),
    [
        ([20, 30], False, Treatment.ROUNDED, "Counts are rounded to the nearest 5."),
        (
            [20, 30],
            True,
            Treatment.ROUNDED,
            "Counts are rounded to the nearest 5. Totals are sums of the counts shown.",
        ),
        (
            [7, 30],
            False,
            Treatment.HIDDEN,
            "1 cell hidden: 7 or fewer people, or none. Other counts are rounded to the nearest 5.",
        ),
        (
            [0, 3, 30],
            True,
            Treatment.HIDDEN,
            "2 cells hidden: 7 or fewer people, or none. Other counts are rounded to the nearest 5. "
            "Totals are sums of the counts shown.",
        ),
        ([0, 3, 7], True, Treatment.HIDDEN, "All 3 cells are hidden: 7 or fewer people, or none."),
        ([2], False, Treatment.HIDDEN, "The only cell is hidden: 7 or fewer people, or none."),
    ],
)
def test_the_sentence_says_what_was_done_and_no_more(
    counts: list[int], margins: bool, treatment: Treatment, sentence: str
) -> None:
    outcome = one_way(counts, margins=margins)
    assert (outcome.verdict, outcome.treatment, outcome.sentence) == (Verdict.VERIFIED, treatment, sentence)


def test_a_table_may_be_hidden_altogether() -> None:
    assert numbers(one_way([0, 7, 3], margins=True)) == [REDACTED] * 4


# Cells are whole or nothing.


@pytest.mark.parametrize(
    "counts",
    [
        {("f",): 1},
        {("f",): 1, ("m",): 2, ("x",): 3},
        {("f",): 1, ("m",): -1},
        {("f",): 1, ("m",): 2.0},
        {("f",): 1, ("m",): True},
        {("f",): 1, (None,): 2},
    ],
)
def test_cells_that_are_not_exactly_the_declared_ones_are_refused(counts: dict[tuple[str | None, ...], int]) -> None:
    with pytest.raises(BadCells):
        CellTable((GroupLevels("sex", ("f", "m"), False),), counts)


def test_true_is_not_one_among_the_levels() -> None:
    with pytest.raises(BadCells):
        CellTable((GroupLevels("ill", (False, True), False),), {(0,): 1, (1,): 2})


def test_confidential_cells_do_not_print() -> None:
    secret = cells({"sex": ("f", "m")}, [4711, 3])
    assert "4711" not in repr(secret) + str(secret) + f"{secret}"


def test_a_level_is_left_out_only_where_nobody_has_it() -> None:
    with_missing = (GroupLevels("sex", ("f", "m"), True),)
    without = (GroupLevels("sex", ("f", "m"), False),)
    nobody = CellTable(with_missing, {("f",): 1, ("m",): 2, (None,): 0})
    assert dict(nobody.laid_out_by(without).counts) == {("f",): 1, ("m",): 2}
    assert nobody.laid_out_by(with_missing) is nobody
    no_men = CellTable(with_missing, {("f",): 1, ("m",): 0, (None,): 2})
    assert dict(no_men.laid_out_by((GroupLevels("sex", ("f",), True),)).counts) == {("f",): 1, (None,): 2}
    somebody = CellTable(with_missing, {("f",): 1, ("m",): 2, (None,): 1})
    for cells_, groups in (
        (somebody, without),
        (nobody, (GroupLevels("sex", ("f",), False),)),
        (nobody, (GroupLevels("sex", ("f", "m", "x"), False),)),
        (nobody, (GroupLevels("ill", ("f", "m"), False),)),
        (nobody, ()),
        (nobody, (*without, *without)),
    ):
        with pytest.raises(BadCells):
            cells_.laid_out_by(groups)


# Properties.


@st.composite
def count_tables(draw: st.DrawFn) -> tuple[dict[str, tuple[str, ...]], list[int]]:
    shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    groups = {f"g{n}": tuple(f"level {i}" for i in range(size)) for n, size in enumerate(shape)}
    length = 1
    for size in shape:
        length *= size
    counts = draw(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 5000)), min_size=length, max_size=length))
    return groups, counts


def judged(groups: dict[str, tuple[str, ...]], counts: list[int], policy: Policy = OPENSAFELY) -> Outcome:
    return judge(table({name: column("sex") for name in groups}, margins=True), cells(groups, counts), policy)


def band_of(text: str) -> tuple[int, int]:
    """All the counts that a shown base cell can stand for under the published rule."""
    return (0, 7) if text == REDACTED else (max(int(text) - 2, 8), int(text) + 2)


@given(count_tables())
def test_all_shown_numbers_are_multiples_of_five_and_more_than_seven(
    example: tuple[dict[str, tuple[str, ...]], list[int]],
) -> None:
    outcome = judged(*example)
    assert all(text == REDACTED or (int(text) % 5 == 0 and int(text) > 7) for text in numbers(outcome))


@given(count_tables(), st.data())
def test_tables_that_differ_only_within_their_bands_get_the_same_outcome(
    example: tuple[dict[str, tuple[str, ...]], list[int]], data: st.DataObject
) -> None:
    """Every cell moves at once anywhere in its band, and nothing shown changes, totals and words included.

    So whatever is shown, each cell may still be any number of its whole band, whatever the others are.
    """
    groups, counts = example
    bands = [band_of(shown(redact(count, OPENSAFELY))) for count in counts]
    others = [data.draw(st.integers(low, high)) for low, high in bands]
    assert judged(groups, others) == judged(groups, counts)


@given(count_tables())
def test_totals_are_sums_of_shown_cells_and_hidden_where_none_is(
    example: tuple[dict[str, tuple[str, ...]], list[int]],
) -> None:
    groups, counts = example
    outcome = judged(groups, counts)
    assert outcome.table is not None
    totals = set(outcome.table.total_rows)
    base = [row for number, row in enumerate(outcome.table.rows) if number not in totals]
    for number in totals:
        *labels, text = outcome.table.rows[number]
        line = [row[-1] for row in base if all(a in ("All", b) for a, b in zip(labels, row[:-1], strict=True))]
        shown_ones = [int(cell) for cell in line if cell != REDACTED]
        assert text == (str(sum(shown_ones)) if shown_ones else REDACTED)


@settings(max_examples=examples(25))
@given(st.integers(1, 2), st.integers(1, 2), st.data())
def test_no_hidden_cell_can_be_found_by_trying_all_tables(rows: int, columns: int, data: st.DataObject) -> None:
    """Brute force: among all small tables that look like this one, a hidden cell takes all of 0 to 7."""
    groups = {"a": tuple("xy"[:rows]), "b": tuple("pq"[:columns])}
    counts = data.draw(st.lists(st.integers(0, 9), min_size=rows * columns, max_size=rows * columns))
    seen = judged(groups, counts)
    # Others than these change a shown cell and are told apart at sight: 8 and 9 show as 10.
    hidden = [number for number, count in enumerate(counts) if count <= 7]
    possible: list[set[int]] = [set() for _ in counts]
    for values in product(range(8), repeat=min(len(hidden), 2)):
        other = list(counts)
        for position, value in zip(hidden, values, strict=False):
            other[position] = value
        if judged(groups, other) == seen:
            for position in hidden[:2]:
                possible[position].add(other[position])
    assert all(possible[position] == set(range(8)) for position in hidden[:2])


@given(st.integers(0, 10**7), st.integers(0, 30), st.integers(1, 1000))
def test_any_policy_shows_multiples_of_its_base_that_are_nearest(count: int, unsafe: int, base: int) -> None:
    value = redact(count, Policy(largest_unsafe_count=unsafe, rounding_base=base))
    if count <= unsafe:
        assert value is None
    else:
        assert value is not None
        assert value % base == 0
        assert abs(value - count) * 2 <= base
