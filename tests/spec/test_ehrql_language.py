"""ehrQL by example: patients in, values out; and the same on random rows against a plain engine."""

import datetime as dt

import plain_engine
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensafely_lab import ehrql
from opensafely_lab.ehrql import (
    case,
    create_dataset,
    days,
    evaluate,
    maximum_of,
    minimum_of,
    model_json,
    months,
    weeks,
    when,
    years,
)  # fmt: skip
from opensafely_lab.ehrql.language import dataset_model
from opensafely_lab.ehrql.model import dataset_schema
from opensafely_lab.ehrql.tables.core import (
    clinical_events,
    medications,
    ons_deaths,
    patients,
    practice_registrations,
)  # fmt: skip
from opensafely_lab.expressions.schema import ColumnClass

D = dt.date.fromisoformat
A, B, C = "100000", "200000", "300000"


def events(*rows):
    """(patient, date, code, value) each."""
    return {
        clinical_events: [
            {"patient_id": p, "date": D(d) if d else None, "snomedct_code": c, "numeric_value": v}
            for p, d, c, v in rows
        ]
    }


E1 = events(
    (1, "2020-01-01", A, 1.0),
    (1, "2020-01-10", B, None),
    (1, None, A, 3.0),
    (2, "2021-05-05", C, -2.5),
    (2, "2021-05-05", A, 7.0),
    (3, None, None, None),
)
e = clinical_events


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (e.count_for_patient(), {1: 3, 2: 2, 3: 1}),
        (e.where(e.snomedct_code == A).exists_for_patient(), {1: True, 2: True, 3: False}),
        (e.where(e.numeric_value > 0).count_for_patient(), {1: 2, 2: 1, 3: 0}),
        (e.except_where(e.numeric_value > 0).count_for_patient(), {1: 1, 2: 1, 3: 1}),
        (e.where(e.date < "2021-01-01").where(e.snomedct_code == B).count_for_patient(), {1: 1, 2: 0, 3: 0}),
        (e.numeric_value.sum_for_patient(), {1: 4.0, 2: 4.5, 3: None}),
        (e.numeric_value.mean_for_patient(), {1: 2.0, 2: 2.25, 3: None}),
        (e.numeric_value.minimum_for_patient(), {1: 1.0, 2: -2.5, 3: None}),
        (e.date.maximum_for_patient(), {1: D("2020-01-10"), 2: D("2021-05-05"), 3: None}),
        (e.snomedct_code.count_distinct_for_patient(), {1: 2, 2: 2, 3: 0}),
        (e.date.count_episodes_for_patient(days(8)), {1: 2, 2: 1, 3: 0}),
        (e.date.count_episodes_for_patient(days(9)), {1: 1, 2: 1, 3: 0}),
        (e.date.count_episodes_for_patient(weeks(2)), {1: 1, 2: 1, 3: 0}),
        # NULL sorts before everything
        (e.sort_by(e.date).first_for_patient().numeric_value, {1: 3.0, 2: -2.5, 3: None}),
        (e.sort_by(e.date).first_for_patient().date, {1: None, 2: D("2021-05-05"), 3: None}),
        (e.sort_by(e.date).last_for_patient().snomedct_code, {1: B, 2: C, 3: None}),
        # a tie is broken by the column that is read
        (e.sort_by(e.date).first_for_patient().snomedct_code, {1: A, 2: A, 3: None}),
        (e.sort_by(e.date, e.numeric_value).last_for_patient().snomedct_code, {1: B, 2: A, 3: None}),
        # the latest sort comes first, and a filter may follow a sort
        (
            e.sort_by(e.numeric_value).sort_by(e.snomedct_code).where(e.date.is_not_null()).last_for_patient().date,
            {1: D("2020-01-10"), 2: D("2021-05-05"), 3: None},
        ),
        (e.sort_by(e.date).last_for_patient().exists_for_patient(), {1: True, 2: True, 3: True}),
        (e.where(e.snomedct_code == C).sort_by(e.date).last_for_patient().count_for_patient(), {1: 0, 2: 1, 3: 0}),
        (e.where(e.snomedct_code.is_in([])).count_for_patient(), {1: 0, 2: 0, 3: 0}),
        (e.where(e.snomedct_code.is_not_in([A])).count_for_patient(), {1: 1, 2: 1, 3: 0}),
        (
            e.sort_by(e.date).last_for_patient().snomedct_code.to_category({B: "bee", C: "cee"}, default="other"),
            {1: "bee", 2: "cee", 3: "other"},
        ),
        (e.where(e.date > e.date.minimum_for_patient() + days(3)).count_for_patient(), {1: 1, 2: 0, 3: 0}),
        ((e.numeric_value + 1).maximum_for_patient(), {1: 4.0, 2: 8.0, 3: None}),
        (e.count_for_patient() / 0, {1: None, 2: None, 3: None}),
        (e.count_for_patient() // 2, {1: 1, 2: 1, 3: 0}),
        (-e.count_for_patient() // 2, {1: -2, 2: -1, 3: -1}),
        (e.numeric_value.minimum_for_patient().as_int(), {1: 1, 2: -2, 3: None}),
        (2 ** e.count_for_patient(), {1: 8.0, 2: 4.0, 3: 2.0}),
        (e.date.minimum_for_patient().when_null_then("1900-01-01").year, {1: 2020, 2: 2021, 3: 1900}),
        ("2021-05-06" - e.date.maximum_for_patient(), None),
        (("2021-05-06" - e.date.maximum_for_patient()).days, {1: 482, 2: 1, 3: None}),
        (e.date.maximum_for_patient() + months(1), {1: D("2020-02-10"), 2: D("2021-06-05"), 3: None}),
        (e.date.maximum_for_patient() - years(2), {1: D("2018-01-10"), 2: D("2019-05-05"), 3: None}),
        (years(e.count_for_patient()) + "2020-02-29", {1: D("2023-03-01"), 2: D("2022-03-01"), 3: D("2021-03-01")}),
        (
            minimum_of(e.date.minimum_for_patient(), "2020-06-01"),
            {1: D("2020-01-01"), 2: D("2020-06-01"), 3: D("2020-06-01")},
        ),
        (maximum_of(e.numeric_value.minimum_for_patient(), 0, -1), {1: 1.0, 2: 0.0, 3: 0.0}),
        (
            case(
                when(e.count_for_patient() > 2).then("many"),
                when(e.numeric_value.sum_for_patient() > 4).then("few, high"),
                otherwise=None,
            ),
            {1: "many", 2: "few, high", 3: None},
        ),
        (when(e.count_for_patient() > 2).then(1).otherwise(0), {1: 1, 2: 0, 3: 0}),
        (
            e.date.minimum_for_patient().is_during(("2020-01-01", "2020-12-31"))
            | e.numeric_value.sum_for_patient().is_null(),
            {1: True, 2: False, 3: True},
        ),
        (~(e.numeric_value.sum_for_patient() > 4.2), {1: True, 2: False, 3: None}),
        ((e.numeric_value.sum_for_patient() > 4.2) & (e.count_for_patient() > 5), {1: False, 2: False, 3: False}),
    ],
)  # fmt: skip
def test_a_series_of_events_is_answered_for_each_patient(series, expected):
    if expected is None:
        with pytest.raises(TypeError, match=r"no unit"):
            series > 3  # noqa: B015
    else:
        assert evaluate(series, E1) == expected


PEOPLE = {
    patients: [
        {"patient_id": 1, "date_of_birth": D("1950-03-01"), "sex": "female", "date_of_death": None},
        {"patient_id": 2, "date_of_birth": D("2000-02-01"), "sex": "male", "date_of_death": D("2020-06-01")},
    ],
    practice_registrations: [
        {"patient_id": 1, "start_date": D("2000-01-01"), "end_date": D("2010-01-01"), "practice_pseudo_id": 1},
        {"patient_id": 1, "start_date": D("2005-01-01"), "end_date": None, "practice_pseudo_id": 2},
        {"patient_id": 1, "start_date": D("2005-01-01"), "end_date": D("2030-01-01"), "practice_pseudo_id": 3},
        {"patient_id": 2, "start_date": D("2010-01-01"), "end_date": D("2015-01-01"), "practice_pseudo_id": 4},
        {"patient_id": 3, "start_date": D("2010-01-01"), "end_date": None, "practice_pseudo_id": 5},
    ],
    ons_deaths: [
        {"patient_id": 2, "date": D("2020-06-02"), "underlying_cause_of_death": "J440", "cause_of_death_03": "I219"}
    ],
}


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (patients.age_on("2020-02-29"), {1: 69, 2: 20, 3: None}),
        (patients.age_on("2020-03-01"), {1: 70, 2: 20, 3: None}),
        (patients.age_on("1999-12-31"), {1: 49, 2: -1, 3: None}),
        (patients.is_alive_on("2020-06-01"), {1: True, 2: False, 3: True}),
        (patients.is_alive_on("2020-05-31"), {1: True, 2: True, 3: True}),
        (patients.is_dead_on("2020-06-01"), {1: False, 2: True, 3: False}),
        # of equal starts an open-ended registration loses
        (practice_registrations.for_patient_on("2006-01-01").practice_pseudo_id, {1: 3, 2: None, 3: None}),
        (practice_registrations.for_patient_on("2003-01-01").practice_pseudo_id, {1: 1, 2: None, 3: None}),
        (practice_registrations.exists_for_patient_on("2015-01-01"), {1: True, 2: True, 3: True}),
        (practice_registrations.exists_for_patient_on("2015-01-02"), {1: True, 2: False, 3: True}),
        (practice_registrations.spanning("2010-01-01", "2015-01-02").count_for_patient(), {1: 2, 2: 0, 3: 1}),
        (ons_deaths.cause_of_death_is_in(["I219"]), {1: None, 2: True, 3: None}),
        (patients.exists_for_patient(), {1: True, 2: True, 3: False}),
        (patients.count_for_patient(), {1: 1, 2: 1, 3: 0}),
        (patients.sex == "female", {1: True, 2: False, 3: None}),
        (patients.date_of_birth.to_first_of_year(), {1: D("1950-01-01"), 2: D("2000-01-01"), 3: None}),
    ],
)  # fmt: skip
def test_core_tables_have_their_methods(series, expected):
    assert evaluate(series, PEOPLE) == expected


def test_a_dataset_holds_its_population_and_columns_alone():
    dataset = create_dataset()
    dataset.define_population(
        patients.date_of_birth.is_on_or_after("1940-01-01") & patients.sex.is_in({"female", "male"})
    )
    dataset.sex = patients.sex
    dataset.add_column("registered", practice_registrations.exists_for_patient_on("2020-01-01"))
    assert evaluate(dataset, PEOPLE) == {"sex": {1: "female", 2: "male"}, "registered": {1: True, 2: False}}


def test_conditions_may_wait_for_answers_about_the_patient_in_stages():
    """Events after the first A, and of those the ones after the patient's mean value: three stages of one table."""
    first = e.where(e.snomedct_code == A).sort_by(e.date).first_for_patient()
    later = e.where(e.date > first.date)
    high = later.where(later.numeric_value > later.numeric_value.mean_for_patient())
    rows = events(
        (1, "2020-01-01", A, 100.0), (1, "2020-01-02", B, 1.0), (1, "2020-01-03", B, 3.0), (2, "2020-01-01", B, 9.0)
    )  # fmt: skip
    assert evaluate(high.count_for_patient(), rows) == {1: 1, 2: 0}


def test_a_population_can_rest_on_events_alone():
    dataset = create_dataset()
    dataset.define_population((e.count_for_patient() > 1) | medications.exists_for_patient())
    dataset.n = e.count_for_patient()
    drugs = {medications: [{"patient_id": 9, "date": D("2020-01-01"), "dmd_code": None}]}
    assert evaluate(dataset, E1 | drugs) == {"n": {1: 3, 2: 2, 9: 0}}


LONG = [str(n) for n in range(100000, 100050)]
OTHERS = [str(n) for n in range(200000, 200050)]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (e.where(e.snomedct_code.is_in(LONG)).count_for_patient(), {1: 2, 2: 1, 3: 0}),
        (e.where(e.snomedct_code.is_not_in(LONG)).count_for_patient(), {1: 1, 2: 1, 3: 0}),
        (e.except_where(e.snomedct_code.is_in(LONG)).count_for_patient(), {1: 1, 2: 1, 3: 1}),
        (e.where(e.snomedct_code.is_in(LONG) | e.snomedct_code.is_in(OTHERS)).count_for_patient(), {1: 3, 2: 1, 3: 0}),
        (e.sort_by(e.date).last_for_patient().snomedct_code.is_in(OTHERS), {1: True, 2: False, 3: None}),
        (
            e.sort_by(e.date)
            .first_for_patient()
            .snomedct_code.to_category(dict.fromkeys(LONG, "a") | dict.fromkeys(OTHERS, "b"), default="neither"),
            {1: "a", 2: "a", 3: "neither"},
        ),
    ],
)
def test_long_lists_are_looked_up_and_mean_what_short_ones_do(series, expected):
    assert evaluate(series, E1) == expected


def test_seventy_lists_are_more_than_one_column_of_bits():
    dataset = create_dataset()
    dataset.define_population(e.exists_for_patient())
    for n in range(70):
        codes = [str(100000 + 50 * n + i) for i in range(50)]
        dataset.add_column(f"list{n}", e.where(e.snomedct_code.is_in(codes)).count_for_patient())
    rows = {e: [{"patient_id": 1, "snomedct_code": str(100000 + 50 * n)} for n in range(70) for _ in range(n + 1)]}
    assert evaluate(dataset, rows) == {f"list{n}": {1: n + 1} for n in range(70)}


# --- against the plain engine --------------------------------------------------------------------

some_dates = st.none() | st.dates(dt.date(2020, 1, 1), dt.date(2020, 1, 12))
random_events = st.lists(
    st.fixed_dictionaries(
        {
            "patient_id": st.integers(1, 3),
            "date": some_dates,
            "snomedct_code": st.none() | st.sampled_from([A, B, C]),
            "numeric_value": st.none() | st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        }
    ),
    max_size=12,
)
random_people = st.dictionaries(
    st.integers(1, 3), st.tuples(st.dates(dt.date(1950, 1, 1), dt.date(2000, 1, 1)), some_dates), max_size=3
)


def everything():
    """One dataset that uses most of the language on events and people at once."""
    first = e.sort_by(e.date).first_for_patient()
    tied = e.where(e.numeric_value >= 0).sort_by(e.numeric_value).last_for_patient()
    computed = e.sort_by(e.numeric_value * -1.0, e.date).first_for_patient()
    not_a = e.except_where(e.snomedct_code == A)
    after = e.where(e.date >= first.date).where(e.date <= patients.date_of_death)
    dataset = create_dataset()
    dataset.define_population(e.exists_for_patient() | (patients.date_of_birth > "1960-01-01"))
    dataset.first_date, dataset.first_code, dataset.first_value = first.date, first.snomedct_code, first.numeric_value
    dataset.tied_code, dataset.tied_date = tied.snomedct_code, tied.date
    dataset.tied_value = tied.numeric_value
    dataset.computed_code = computed.snomedct_code
    dataset.least_first = e.where(e.snomedct_code.is_in([A, B])).sort_by(e.date).first_for_patient().date
    dataset.not_a = not_a.count_for_patient()
    dataset.not_a_max = not_a.numeric_value.maximum_for_patient()
    dataset.after = after.exists_for_patient()
    dataset.after_sum = after.numeric_value.sum_for_patient()
    dataset.mean = e.numeric_value.mean_for_patient()
    dataset.distinct = e.snomedct_code.count_distinct_for_patient()
    dataset.episodes = not_a.date.count_episodes_for_patient(days(2))
    dataset.age = patients.age_on(first.date + months(1))
    dataset.band = patients.age_on("2020-02-29").cut([30, 50])
    dataset.kind = case(
        when(dataset.not_a > 3).then("many"), when(dataset.after).then(e.count_for_patient().cut([2])), otherwise="none"
    )
    return dataset_model(dataset)


EVERYTHING = everything()


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=random_events, people=random_people)
def test_duckdb_answers_as_plain_python_does(rows, people):
    from opensafely_lab.ehrql.engine.memory import MemorySource, _answers

    tables = {
        clinical_events._table: rows,
        patients._table: [
            {"patient_id": p, "date_of_birth": born, "sex": "female", "date_of_death": died}
            for p, (born, died) in people.items()
        ],
    }
    assert _answers(EVERYTHING, MemorySource(tables)) == plain_engine.answers(EVERYTHING, tables)


def test_a_definition_survives_the_journey_as_json():
    text = model_json.text(EVERYTHING)
    again = model_json.from_bytes(text.encode())
    assert again == EVERYTHING
    assert model_json.text(again) == text
    assert model_json.digest(again) == model_json.digest(EVERYTHING)


# --- what a definition says of its columns -------------------------------------------------------


def test_columns_know_their_categories_and_whether_they_can_be_missing():
    dataset = create_dataset()
    dataset.define_population(patients.exists_for_patient() & e.sort_by(e.date).last_for_patient().date.is_not_null())
    dataset.sex = patients.sex
    dataset.born = patients.date_of_birth
    dataset.age = patients.age_on("2020-01-01")
    dataset.died = patients.date_of_death
    dataset.band = dataset.age.cut([40, 65])
    dataset.last = e.sort_by(e.date).last_for_patient().date
    dataset.value = e.sort_by(e.date).last_for_patient().numeric_value
    dataset.practice = practice_registrations.for_patient_on("2020-01-01").practice_pseudo_id
    dataset.big = practice_registrations.where(practice_registrations.practice_pseudo_id > 9).exists_for_patient()
    dataset.known = patients.sex.when_null_then("unknown")
    schema = dataset_schema(dataset_model(dataset))
    told = {c.name: (c.categories, c.nullable, c.column_class) for c in schema.columns}
    sexes = ("female", "male", "intersex", "unknown")
    ordinary, sensitive = ColumnClass.ORDINARY, ColumnClass.SENSITIVE
    assert told == {
        "patient_id": (None, False, ColumnClass.IDENTIFIER),
        "sex": (sexes, False, ordinary),
        "born": (None, False, sensitive),
        "age": (None, False, sensitive),
        "died": (None, True, ordinary),
        "band": (("under 40", "40-64", "65 and over"), False, sensitive),
        "last": (None, False, ordinary),
        "value": (None, True, ordinary),
        "practice": (None, True, ColumnClass.ORGANISATION),
        "big": (None, False, ColumnClass.ORGANISATION),
        "known": (sexes, False, ordinary),
    }


# --- what is refused, in a sentence --------------------------------------------------------------


def _population(condition):
    create_dataset().define_population(condition)


def _column(value, name="x"):
    create_dataset().add_column(name, value)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: e.date + medications.date, "added or subtracted"),
        (lambda: e.where(medications.date > "2020-01-01"), "different|each row of"),
        (lambda: e.where(e.numeric_value > 1).date == e.date, "different rows"),
        (lambda: e.where(e.where(e.numeric_value > 1).date > "2020-01-01"), "different rows"),
        (lambda: e.sort_by(patients.sex), "same for all rows"),
        (lambda: e.sort_by("date"), "not the name"),
        (lambda: e.where(e.date), "condition"),
        (lambda: e.date > "2020-1-1", "YYYY-MM-DD"),
        (lambda: e.date > "2020-02-30", "YYYY-MM-DD"),
        (lambda: e.count_for_patient() > 1.5, "as_float"),
        (lambda: e.count_for_patient() + e.numeric_value.sum_for_patient(), "as_float"),
        (lambda: patients.sex == 1, "text"),
        (lambda: patients.sex.is_in("female"), "list"),
        (lambda: patients.sex.is_in([None]), "None"),
        (lambda: patients.sex == None, "is_null"),  # noqa: E711
        (lambda: patients.date_of_birth + 3, "days"),
        (lambda: patients.date_of_birth and True, r"& \| ~"),
        (lambda: not patients.date_of_birth.is_null(), r"& \| ~"),
        (lambda: e.snomedct_code == "abc", "form of a code"),
        (lambda: e.snomedct_code == medications.sort_by(medications.date).first_for_patient().dmd_code, "SNOMED CT"),
        (lambda: case(when(patients.sex == "male").then(1), otherwise="x"), "one type"),
        (lambda: case(when(patients.sex == "male")), "then"),
        (lambda: abs(e.numeric_value), "absolute"),
        (lambda: days(1) + weeks(1), "cannot be added"),
        (lambda: patients.age_on("2020-01-01").cut([5, 3]), "go up"),
        (lambda: _population(patients.exists_for_patient), "brackets"),
        (lambda: _population(patients), "exists_for_patient"),
        (lambda: _population(~patients.exists_for_patient()), "no records"),
        (lambda: _population(e.count_for_patient() == 0), "no records"),
        (lambda: _population(e.date > "2020-01-01"), "each patient"),
        (lambda: _column(e.date), "many values"),
        (lambda: _column(patients), "frame"),
        (lambda: _column((patients.sex,)), "comma"),
        (lambda: _column("2020-01-01" - patients.date_of_birth), "days"),
        (lambda: _column(patients.sex, "population"), "reserved"),
        (lambda: _column(patients.sex, "2nd"), "letters"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_where_it_is_made(mistake, told):
    with pytest.raises(TypeError, match=told):
        mistake()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: e.dat, "Did you mean date"),
        (lambda: e.first_for_patient(), "Sort the rows"),
        (lambda: patients.where, "one row a patient"),
        (lambda: e.sort_by(e.date).first_for_patient().sort_by, "one row a patient"),
        (lambda: ehrql.create_measures, "not part of this version"),
        (lambda: create_dataset().x, "no column x"),
    ],
)
def test_what_is_not_there_says_so(mistake, told):
    with pytest.raises(AttributeError, match=told):
        mistake()
