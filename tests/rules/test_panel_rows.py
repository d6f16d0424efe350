"""What the panel says of runs begun here, of the site's jobs, and of level 4."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from opensafely_lab.desk.runs import RunRecord
from opensafely_lab.desk.server.rows import STAGE_OF, rows
from opensafely_lab.wire.base import STATE_OF, JobCode
from opensafely_lab.wire.lab import RunKind, RunRow, Stage
from opensafely_lab.wire.level4 import Failure, Level4Job
from opensafely_lab.wire.site import Job

COMMIT = "a" * 40


def job(code: JobCode = JobCode.EXECUTING, name: str = "j" * 16, hour: int = 10) -> Job:
    moment = datetime(2026, 3, 1, hour, tzinfo=UTC)
    return Job(
        id=name,
        project="p",
        workspace="w",
        backend="b",
        commit=COMMIT,
        action="bleeding",
        parameters={"drug": "naproxen"},
        state=STATE_OF[code],
        code=code,
        created_at=moment,
        updated_at=moment,
        author="analyst",
    )


def level4(*, result: bool = True, failure: Failure | None = None) -> dict[str, Level4Job]:
    seen = Level4Job(
        id="j" * 16,
        project="p",
        workspace="w",
        backend="b",
        action="bleeding",
        commit=COMMIT,
        parameters={},
        succeeded=failure is None,
        finished_day="2026-03-01",
        result=result,
        failure=failure,
    )
    return {seen.id: seen}


def record(sent_as: str | None, name: str = "r" * 16) -> RunRecord:
    row = RunRow(
        id=name,
        kind=RunKind.SUBMITTED,
        action="bleeding",
        notebook="analysis/a.ipynb",
        backend=None,
        commit=None,
        parameters={},
        stage=Stage.SENDING,
        progress=0.4,
        started="2026-03-01T09:59:00+00:00",
        problem=None,
        has_result=False,
        level="none",
    )
    return RunRecord(row=row, study="/study", fixes=[], job=sent_as)


def test_a_run_that_became_a_job_is_one_line_with_its_own_id_and_the_jobs_state() -> None:
    (row,) = rows([record("j" * 16)], [job()], {}, {})
    assert row.id == "r" * 16
    assert row.stage is Stage.EXECUTING
    assert row.notebook == "analysis/a.ipynb"
    assert row.backend == "b"


def test_a_run_whose_job_is_not_known_yet_is_told_as_it_was_left() -> None:
    (row,) = rows([record("j" * 16)], [], {}, {})
    assert row.stage is Stage.SENDING


def test_a_job_from_elsewhere_is_a_line_of_its_own() -> None:
    first, second = rows([record(None)], [job()], {}, {"bleeding": "analysis/b.ipynb"})
    assert first.id == "j" * 16  # it is newer
    assert first.notebook == "analysis/b.ipynb"
    assert second.id == "r" * 16


@pytest.mark.parametrize("code", list(JobCode))
def test_every_code_of_a_job_has_a_stage(code: JobCode) -> None:
    (row,) = rows([], [job(code)], {}, {})
    assert row.stage is STAGE_OF[code]
    assert (row.problem is not None) == (row.stage in (Stage.FAILED, Stage.REFUSED, Stage.CANCELLED))


def test_a_cancelled_job_is_cancelled_and_not_refused() -> None:
    (row,) = rows([record("j" * 16)], [job(JobCode.CANCELLED)], {}, {})
    assert (row.id, row.stage, row.progress) == ("r" * 16, Stage.CANCELLED, 1.0)
    assert row.problem is not None
    assert row.problem.sentence == "The job was cancelled; nothing of it is kept."


def test_a_result_can_be_opened_only_where_level_4_lists_it() -> None:
    done = job(JobCode.SUCCEEDED)
    assert rows([], [done], {}, {})[0].has_result is False
    assert rows([], [done], level4(result=False), {})[0].has_result is False
    (row,) = rows([], [done], level4(), {})
    assert (row.has_result, row.level) == (True, "level4")


def test_the_class_of_a_failure_is_told_only_by_level_4() -> None:
    failed = job(JobCode.RUN_FAILED)
    (outside,) = rows([], [failed], {}, {})
    assert outside.problem is not None
    assert outside.problem.detail is None
    (inside,) = rows([], [failed], level4(result=False, failure=Failure(failure_class="memory-limit", cell=3)), {})
    assert inside.problem is not None
    assert inside.problem.detail == "memory limit, in cell 4"
