"""What may be asked is decided from the request and the schema, and a refusal says what to ask instead."""

from __future__ import annotations

import datetime as dt

import attrs
import pytest
from gate_examples import SCHEMA, at_least, column, cut, number, plot, table, text

from opensafely_lab.disclosure.admission import RequestRefused, admit, admit_all, admit_plot, expected_groups
from opensafely_lab.disclosure.cells import GroupLevels
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import RequestList, TableRequest
from opensafely_lab.expressions.nodes import Column, Expr, Literal, call
from opensafely_lab.expressions.schema import ColumnSchema, DatasetSchema, ValueType


def refused(request: TableRequest, schema: DatasetSchema = SCHEMA) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        admit(request, schema, OPENSAFELY)
    assert caught.value.sentence.endswith(".")
    assert caught.value.next_step.endswith(".")
    return caught.value


def day(year: int, month: int = 1, date: int = 1) -> Literal:
    return Literal(dt.date(year, month, date), ValueType.DATE)


def test_declared_categories_bands_and_true_or_false_may_split_a_table() -> None:
    admit(table({"sex": column("sex"), "age": cut("age", 18, 65), "ill": column("ill")}), SCHEMA, OPENSAFELY)


def test_groups_are_laid_out_from_declarations_with_missing_where_it_may_be() -> None:
    assert expected_groups(table({"region": column("region"), "age": cut("age", 18)}), SCHEMA) == (
        GroupLevels("region", ("East", "London", "North"), True),
        GroupLevels("age", ("under 18", "18 and over"), False),
    )


IN_REGION = call("is_in", column("region"), text("East"), text("North"))


@pytest.mark.parametrize(
    ("where", "missing"),
    [
        (None, True),
        (IN_REGION, False),
        (call("and", at_least("age", 18), IN_REGION), False),
        (call("or", at_least("age", 18), IN_REGION), True),
        (call("or", call("eq", column("region"), text("East")), IN_REGION), False),
        (call("is_not_null", column("region")), False),
        (call("is_null", column("region")), True),
        (call("not", call("eq", column("region"), text("East"))), False),
        (call("not", call("is_not_null", column("region"))), True),
        (call("is_in", column("region")), True),
        (call("eq", call("coalesce", column("region"), text("East")), text("East")), True),
    ],
)
def test_missing_is_no_level_where_the_condition_leaves_the_missing_out(where: Expr | None, missing: bool) -> None:
    (group,) = expected_groups(table({"region": column("region")}, where=where), SCHEMA)
    assert group.has_missing is missing


@pytest.mark.parametrize(
    ("where", "regions"),
    [
        (IN_REGION, ("East", "North")),
        (call("eq", column("region"), text("London")), ("London",)),
        (call("eq", text("London"), column("region")), ("London",)),
        (call("and", IN_REGION, call("eq", column("region"), text("East"))), ("East",)),
        (call("or", IN_REGION, call("eq", column("region"), text("London"))), ("East", "London", "North")),
        (call("or", IN_REGION, at_least("age", 18)), ("East", "London", "North")),
        (call("and", IN_REGION, at_least("age", 18)), ("East", "North")),
        (call("not", IN_REGION), ("East", "London", "North")),
        (call("eq", column("region"), text("Atlantis")), ("East", "London", "North")),
    ],
)
def test_categories_that_the_condition_does_not_list_are_no_levels(where: Expr, regions: tuple[str, ...]) -> None:
    (group,) = expected_groups(table({"region": column("region")}, where=where), SCHEMA)
    assert group.levels == regions


@pytest.mark.parametrize("name", ["patient_id", "practice", "msoa"])
@pytest.mark.parametrize("wrapped", ["plain", "null test", "case", "listed"])
def test_identifiers_organisations_and_small_areas_neither_split_nor_choose(name: str, wrapped: str) -> None:
    leaf = column(name)
    one = number(1) if leaf.type is ValueType.INT else text("x")
    expr = {
        "plain": call("eq", leaf, one),
        "null test": call("is_null", leaf),
        "case": call("case", call("eq", leaf, one), text("a"), text("b")),
        "listed": call("is_in", leaf, one),
    }[wrapped]
    assert name in refused(table({"it": expr})).sentence
    chosen = expr if expr.type is ValueType.BOOL else call("eq", expr, text("a"))
    assert name in refused(table({"sex": column("sex")}, where=chosen)).sentence


def test_a_class_follows_its_column_through_all_of_an_expression() -> None:
    deep = call("and", at_least("age", 18), call("gt", call("add", column("age"), column("practice")), number(3)))
    assert "practice" in refused(table({"sex": column("sex")}, where=deep)).sentence


BIRTH = column("date_of_birth")
COARSE = {
    "year": call("ge", call("year", BIRTH), number(1950)),
    "age": call("ge", call("difference_in_years", day(2020, 3, 1), BIRTH), number(70)),
    "known": call("is_not_null", BIRTH),
    "first of year": call("lt", call("to_first_of_year", BIRTH), day(1950, 6, 1)),
    "before a new year": call("lt", BIRTH, day(1950)),
    "from a new year": call("ge", BIRTH, day(1950)),
}
FINE = {
    "equality": call("eq", BIRTH, day(1950, 3, 7)),
    "inequality": call("ne", BIRTH, day(1950, 3, 7)),
    "list": call("is_in", BIRTH, day(1950, 3, 7), day(1950, 3, 8)),
    "day": call("eq", call("day", BIRTH), number(7)),
    "month": call("eq", call("month", BIRTH), number(3)),
    "first of month": call("eq", call("to_first_of_month", BIRTH), day(1950, 3)),
    "before a day": call("lt", BIRTH, day(1950, 3, 7)),
    "to a new year": call("le", BIRTH, day(1950)),
    "days": call("floordiv", call("difference_in_days", day(2020), BIRTH), number(7)),
    "power": call("pow", call("difference_in_days", day(2020), BIRTH), number(2)),
    "moved": call("eq", call("add_days", BIRTH, number(1)), day(1950)),
    "passed on": call("eq", call("coalesce", BIRTH, day(1950)), day(1950, 3, 7)),
    "earliest": call("lt", call("minimum_of", BIRTH, day(1950, 3, 7)), day(1950, 3, 7)),
}


def condition(expr: Expr) -> Expr:
    return expr if expr.type is ValueType.BOOL else call("gt", expr, Literal(*_zero(expr)))


def _zero(expr: Expr) -> tuple[int | float, ValueType]:
    return (0.0, expr.type) if expr.type is ValueType.FLOAT else (0, expr.type)


@pytest.mark.parametrize("use", sorted(COARSE))
def test_of_a_date_of_birth_a_year_or_an_age_may_be_used(use: str) -> None:
    admit(table({"sex": column("sex")}, where=COARSE[use]), SCHEMA, OPENSAFELY)


@pytest.mark.parametrize("use", sorted(FINE))
def test_of_a_date_of_birth_nothing_finer_may_be_used(use: str) -> None:
    assert "date of birth" in refused(table({"sex": column("sex")}, where=condition(FINE[use]))).sentence
    assert "date of birth" in refused(table({"it": condition(FINE[use])})).sentence


def test_a_sensitive_date_is_kept_like_a_date_of_birth_whatever_it_is_called() -> None:
    refused(table({"sex": column("sex")}, where=call("eq", column("secret_day"), day(1950, 3, 7))))


def test_other_dates_may_be_compared_by_the_day() -> None:
    where = call("le", column("event_date"), day(2020, 3, 7))
    admit(table({"sex": column("sex")}, where=where), SCHEMA, OPENSAFELY)


@pytest.mark.parametrize(("name", "advice"), [("age", ".cut("), ("drug", "safe.listed"), ("event_date", ".year.cut(")])
def test_a_column_without_declared_levels_is_refused_with_what_to_do(name: str, advice: str) -> None:
    assert advice in refused(table({name: column(name)})).next_step


def test_text_that_is_listed_may_split_a_table() -> None:
    listed = call("case", call("eq", column("drug"), text("aspirin")), text("aspirin"), text("other"))
    admit(table({"drug": listed}), SCHEMA, OPENSAFELY)


def test_a_case_that_passes_undeclared_text_on_is_refused() -> None:
    passed_on = call("case", at_least("age", 18), column("drug"), text("child"))
    refused(table({"drug": passed_on}))


def test_an_unknown_column_is_refused_with_the_columns_there_are() -> None:
    assert "age" in refused(table({"x": call("is_null", Column("nothing", ValueType.INT))})).next_step


def test_a_column_of_another_type_than_the_extract_has_is_refused() -> None:
    refused(table({"x": call("is_null", Column("age", ValueType.STR))}))


def test_a_where_that_is_not_true_or_false_is_refused() -> None:
    refused(table({"sex": column("sex")}, where=column("age")))


@pytest.mark.parametrize("label", ["[REDACTED]", "a\u202eb", "", "x" * 101, " a", "line\nbreak"])
def test_a_label_that_is_not_plain_is_refused(label: str) -> None:
    refused(table({"x": call("case", at_least("age", 18), text(label), text("b"))}))


def test_a_table_may_have_two_thousand_cells_and_no_more() -> None:
    schema = DatasetSchema(
        (
            ColumnSchema("a", ValueType.STR, tuple(f"a{i}" for i in range(50)), False),
            ColumnSchema("b", ValueType.STR, tuple(f"b{i}" for i in range(40)), False),
        )
    )
    a, b = Column("a", ValueType.STR), Column("b", ValueType.STR)
    admit(table({"a": a, "b": b}), schema, OPENSAFELY)
    nullable = attrs.evolve(schema, columns=(schema.columns[0], attrs.evolve(schema.columns[1], nullable=True)))
    assert "2,050" in refused(table({"a": a, "b": b}), nullable).sentence


@pytest.mark.parametrize("names", [[], ["sex", "ill", "region"]])
def test_a_figure_needs_one_or_two_groups(names: list[str]) -> None:
    with pytest.raises(RequestRefused):
        admit_plot(plot(), table({name: column(name) for name in names}), SCHEMA)


def test_a_figure_with_more_colours_than_are_told_apart_is_refused() -> None:
    bands = cut("age", *range(10, 100, 10))
    admit_plot(plot(), table({"age": bands, "sex": column("sex")}), SCHEMA)
    with pytest.raises(RequestRefused):
        admit_plot(plot(), table({"sex": column("sex"), "age": bands}), SCHEMA)


def test_one_refused_request_refuses_the_list() -> None:
    good, bad = table({"sex": column("sex")}), table({"age": column("age")}, id=2)
    admit_all(RequestList((good, plot())), lambda _: SCHEMA, OPENSAFELY)
    with pytest.raises(RequestRefused):
        admit_all(RequestList((good, plot(), bad)), lambda _: SCHEMA, OPENSAFELY)
