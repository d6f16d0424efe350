from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from attrs import evolve

from opensafely_lab.access import Grant, Person, Project, Role
from opensafely_lab.backend.authorise import Objection, objection
from opensafely_lab.backend.steps import MOST_ATTEMPTS, MOST_FETCHES, Running, Seen, Step, next_step
from opensafely_lab.disclosure.policy import POLICIES
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import Assignment

NEW = Seen(fetched=False, failed_fetches=0, attempts=0, running=Running.NO, cancelled=False, ended=False, tidy=False)
EVERY_STATE = [
    Seen(fetched, failed, attempts, running, cancelled, ended, tidy)
    for fetched, failed, attempts, running, cancelled, ended, tidy in product(
        (False, True),
        range(MOST_FETCHES + 1),
        range(MOST_ATTEMPTS + 1),
        Running,
        (False, True),
        (False, True),
        (False, True),
    )
]


def after(seen: Seen, step: Step, *, lost: bool) -> Seen:
    """What is seen after a step; `lost`: the agent was killed while it ran."""
    match step:
        case Step.FETCH:
            return evolve(seen, fetched=True)
        case Step.RUN if lost:
            return evolve(seen, attempts=seen.attempts + 1, running=Running.LEFT)
        case Step.RUN:
            return evolve(seen, attempts=seen.attempts + 1, ended=True)
        case Step.CLOSE_LEFT:
            return evolve(seen, running=Running.NO)
        case Step.END_CANCELLED | Step.END_PLATFORM | Step.END_REFUSED:
            return evolve(seen, ended=True)
        case Step.TIDY:
            return evolve(seen, tidy=True)
        case _:
            return seen


def test_a_new_job_is_fetched_run_and_tidied() -> None:
    steps = []
    seen = NEW
    while (step := next_step(seen)) is not Step.NONE:
        steps.append(step)
        seen = after(seen, step, lost=False)
    assert steps == [Step.FETCH, Step.RUN, Step.TIDY]


def test_a_job_whose_agent_is_always_killed_is_run_three_times_and_then_ended() -> None:
    seen, steps = NEW, []
    while (step := next_step(seen)) is not Step.NONE:
        steps.append(step)
        seen = after(seen, step, lost=True)
    assert steps.count(Step.RUN) == MOST_ATTEMPTS
    assert steps[-2:] == [Step.END_PLATFORM, Step.TIDY]


@pytest.mark.parametrize("lost", [False, True])
def test_from_whatever_is_seen_the_job_ends_in_a_few_steps(lost: bool) -> None:
    for start in EVERY_STATE:
        seen = start
        for _ in range(12):
            seen = after(
                evolve(seen, running=Running.LEFT if seen.running is Running.OURS else seen.running),
                next_step(seen),
                lost=lost,
            )
        assert seen.ended, start
        assert seen.tidy, start


def test_a_job_that_has_ended_is_never_run_again() -> None:
    assert {next_step(seen) for seen in EVERY_STATE if seen.ended} == {Step.TIDY, Step.NONE}


def test_while_a_run_is_ours_nothing_else_is_done_to_its_job() -> None:
    assert {next_step(s) for s in EVERY_STATE if s.running is Running.OURS and not s.ended} == {Step.WAIT}


def test_a_cancelled_job_is_not_begun() -> None:
    assert Step.RUN not in {next_step(seen) for seen in EVERY_STATE if seen.cancelled}


def test_code_that_is_never_what_was_asked_for_ends_the_job() -> None:
    assert next_step(evolve(NEW, failed_fetches=MOST_FETCHES)) is Step.END_REFUSED


NOW = datetime(2026, 11, 21, tzinfo=UTC)
ALICE = Person("alice", (Grant("gi-bleeding", Role.RESEARCHER),))
ASSIGNMENT = {
    "job": "a" * 16,
    "author": "alice",
    "cancelled": False,
    "request": {
        "idempotency_key": "k" * 16,
        "project": "gi-bleeding",
        "workspace": "main",
        "backends": ["demo"],
        "commit": "0" * 40,
        "bundle": "0" * 64,
        "action": "a",
        "parameters": {},
        "requests": "{}",
        "layout": {"outputs": [], "execution_counts": {}},
        "definitions": {},
        "policy": "opensafely",
    },
}


def ask(**changes: Any) -> Objection | None:
    asked: dict[str, Any] = {
        "backend": "demo",
        "project": Project("gi-bleeding"),
        "project_policy": "opensafely",
        "author": ALICE,
        "policies": POLICIES,
        "now": NOW,
    } | changes
    return objection(decode(Assignment, json.dumps(ASSIGNMENT).encode()), **asked)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"backend": "tpp"}, Objection.OTHER_BACKEND),
        ({"project": None}, Objection.UNKNOWN_PROJECT),
        ({"project": Project("diabetes")}, Objection.UNKNOWN_PROJECT),
        ({"project": Project("gi-bleeding", until=NOW)}, Objection.NO_PERMISSION),
        ({"author": Person("alice")}, Objection.NO_PERMISSION),
        ({"author": Person("bob", ALICE.grants)}, Objection.NO_PERMISSION),
        (
            {"author": Person("alice", (Grant("gi-bleeding", Role.RESEARCHER, NOW - timedelta(days=1)),))},
            Objection.NO_PERMISSION,
        ),
        ({"project_policy": "strict"}, Objection.UNKNOWN_POLICY),
        ({"project_policy": "strict", "policies": {"strict": POLICIES["opensafely"]}}, Objection.OTHER_POLICY),
    ],
)
def test_the_backend_judges_by_its_own_list_whatever_the_site_says(
    changes: dict[str, Any], expected: Objection | None
) -> None:
    assert ask(**changes) is expected
