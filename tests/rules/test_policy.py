"""Each field of a policy changes a verdict, and its name and version travel with everything it judged."""

from __future__ import annotations

import attrs
import pytest
from gate_examples import SCHEMA, cells, column, table

from opensafely_lab.disclosure.admission import RequestRefused, admit
from opensafely_lab.disclosure.gate import judge
from opensafely_lab.disclosure.outcome import REDACTED
from opensafely_lab.disclosure.policy import OPENSAFELY, POLICIES, Policy, policy_digest
from opensafely_lab.disclosure.record import record
from opensafely_lab.disclosure.slots import bits_of_a_run, may_tell_details, told_at
from opensafely_lab.expressions.schema import ColumnClass

TURNED = {
    "name": "other",
    "version": 2,
    "largest_unsafe_count": 9,
    "rounding_base": 10,
    "largest_table": 3,
    "closed_classes": (ColumnClass.IDENTIFIER, ColumnClass.SENSITIVE),
    "result_step_seconds": 4.0,
    "failure_details_per_day": 0,
}


def count_of(people: int, policy: Policy) -> str:
    outcome = judge(table({"sex": column("sex")}), cells({"sex": ("female",)}, [people]), policy)
    assert outcome.table is not None
    return outcome.table.rows[0][-1]


def admitted(policy: Policy, name: str) -> bool:
    try:
        admit(table({name: column(name), "ill": column("ill")}), SCHEMA, policy)
    except RequestRefused:
        return False
    return True


def with_(field: str) -> Policy:
    return attrs.evolve(OPENSAFELY, **{field: TURNED[field]})


def test_every_field_of_the_policy_is_turned_here() -> None:
    assert set(TURNED) == {field.name for field in attrs.fields(Policy)}


@pytest.mark.parametrize("field", sorted(TURNED))
def test_turning_a_field_changes_the_digest(field: str) -> None:
    assert policy_digest(with_(field)) != policy_digest(OPENSAFELY)


@pytest.mark.parametrize("field", ["name", "version"])
def test_name_and_version_of_the_policy_stand_in_the_record(field: str) -> None:
    before, after = (record((), policy=policy, dummy=False) for policy in (OPENSAFELY, with_(field)))
    assert after["policy"] != before["policy"]


def test_the_largest_unsafe_count_decides_what_is_hidden() -> None:
    assert count_of(9, OPENSAFELY) == "10"
    assert count_of(9, with_("largest_unsafe_count")) == REDACTED


def test_the_rounding_base_decides_what_is_shown() -> None:
    assert count_of(14, OPENSAFELY) == "15"
    assert count_of(14, with_("rounding_base")) == "10"


def test_the_largest_table_decides_what_may_be_asked() -> None:
    assert admitted(OPENSAFELY, "sex")
    assert not admitted(with_("largest_table"), "sex")


def test_the_closed_classes_decide_what_may_split_a_table() -> None:
    sensitive = attrs.evolve(SCHEMA.columns[7], column_class=ColumnClass.SENSITIVE)
    schema = attrs.evolve(SCHEMA, columns=(*SCHEMA.columns[:7], sensitive, *SCHEMA.columns[8:]))
    admit(table({"sex": column("sex")}), schema, OPENSAFELY)
    with pytest.raises(RequestRefused):
        admit(table({"sex": column("sex")}), schema, with_("closed_classes"))


def test_the_result_step_decides_when_an_end_is_told() -> None:
    assert [told_at(seconds, OPENSAFELY) for seconds in (0.1, 1.0, 1.1, 5.0, 8.0, 8.1)] == [1, 1, 2, 8, 8, 16]
    assert told_at(5.0, with_("result_step_seconds")) == 8
    assert told_at(1.1, with_("result_step_seconds")) == 4
    assert told_at(1.1, attrs.evolve(OPENSAFELY, result_step_seconds=0)) == 1.1


def test_the_result_step_decides_how_many_bits_a_run_can_tell() -> None:
    assert bits_of_a_run(1024, OPENSAFELY) == pytest.approx(4.46, abs=0.01)  # 11 slots, success or not
    assert bits_of_a_run(1024, with_("result_step_seconds")) < bits_of_a_run(1024, OPENSAFELY)
    assert bits_of_a_run(10, attrs.evolve(OPENSAFELY, result_step_seconds=0)) == float("inf")


def test_the_daily_budget_decides_whether_a_failure_tells_its_class() -> None:
    assert may_tell_details(9, OPENSAFELY)
    assert not may_tell_details(10, OPENSAFELY)
    assert not may_tell_details(0, with_("failure_details_per_day"))


@pytest.mark.parametrize(
    "fields",
    [{"rounding_base": 0}, {"largest_unsafe_count": -1}, {"name": "Not a Name"}, {"result_step_seconds": float("nan")}],
)
def test_a_policy_that_makes_no_sense_cannot_be_made(fields: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Policy(**fields)  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        OPENSAFELY.rounding_base = 1  # type: ignore[misc]
    assert POLICIES["opensafely"] is OPENSAFELY
