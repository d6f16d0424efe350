from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from opensafely_lab.access import (
    ROLES_FOR,
    Act,
    Grant,
    Person,
    Project,
    Reason,
    Role,
    may_fetch,
    may_submit,
    may_view_level4,
    why_not,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROJECT = Project("gi-bleeding")

# (role, submit, cancel, view a job, view level 4)
TABLE = [
    (Role.RESEARCHER, True, True, True, False),
    (Role.LEVEL4, False, False, True, True),
    (Role.CO_PILOT, True, True, True, True),
    (Role.COLLABORATOR, False, False, False, False),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].value)
def test_each_role_may_do_what_its_row_says_and_no_more(row: tuple[Role, bool, bool, bool, bool]) -> None:
    person = Person("alice", (Grant("gi-bleeding", row[0]),))
    found = [
        why_not(person, act, PROJECT, NOW) is None for act in (Act.SUBMIT, Act.CANCEL, Act.VIEW_JOB, Act.VIEW_LEVEL4)
    ]
    assert found == list(row[1:])


def test_the_table_covers_every_role_and_every_act() -> None:
    assert {row[0] for row in TABLE} == set(Role)
    assert set(ROLES_FOR) == set(Act)


@pytest.mark.parametrize(("role", "act"), list(product(Role, Act)))
def test_a_role_in_one_project_is_nothing_in_another(role: Role, act: Act) -> None:
    person = Person("alice", (Grant("gi-bleeding", role),))
    assert why_not(person, act, Project("diabetes"), NOW) is Reason.NO_ROLE


def test_a_person_without_grants_may_nothing() -> None:
    assert all(why_not(Person("mallory"), act, PROJECT, NOW) is Reason.NO_ROLE for act in Act)


def test_a_role_ends_at_its_moment_by_itself() -> None:
    person = Person("alice", (Grant("gi-bleeding", Role.LEVEL4, until=NOW),))
    assert may_view_level4(person, PROJECT, NOW - timedelta(microseconds=1))
    assert not may_view_level4(person, PROJECT, NOW)
    assert why_not(person, Act.VIEW_LEVEL4, PROJECT, NOW) is Reason.ROLE_ENDED


def test_a_project_that_has_ended_gives_nobody_anything() -> None:
    person = Person("alice", tuple(Grant("gi-bleeding", role) for role in Role))
    ended = Project("gi-bleeding", until=NOW)
    assert may_submit(person, ended, NOW - timedelta(seconds=1))
    assert all(why_not(person, act, ended, NOW) is Reason.PROJECT_ENDED for act in Act)


def test_a_second_grant_that_holds_is_enough() -> None:
    person = Person("alice", (Grant("gi-bleeding", Role.LEVEL4, until=NOW), Grant("gi-bleeding", Role.CO_PILOT)))
    assert may_view_level4(person, PROJECT, NOW)


def test_a_backend_fetches_the_code_of_its_own_jobs_alone() -> None:
    assert may_fetch("demo", frozenset({"demo", "tpp"}))
    assert not may_fetch("emis", frozenset({"demo", "tpp"}))
    assert not may_fetch("demo", frozenset())
