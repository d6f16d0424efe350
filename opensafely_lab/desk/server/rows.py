"""The lines of the panel: runs begun here, jobs the site tells of, and what level 4 adds. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opensafely_lab.desk.runs import PROGRESS, RunRecord
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.lab import Problem, RunKind, RunRow, Stage
from opensafely_lab.wire.level4 import Failure, Level4Job
from opensafely_lab.wire.sentences import SENTENCES
from opensafely_lab.wire.site import Job

STAGE_OF: Mapping[JobCode, Stage] = {
    JobCode.CREATED: Stage.WAITING,
    JobCode.WAITING: Stage.WAITING,
    JobCode.PREPARING: Stage.PREPARING,
    JobCode.EXECUTING: Stage.EXECUTING,
    JobCode.CHECKING: Stage.CHECKING,
    JobCode.SUCCEEDED: Stage.DONE,
    JobCode.RUN_FAILED: Stage.FAILED,
    JobCode.REFUSED: Stage.REFUSED,
    JobCode.CANCELLED: Stage.CANCELLED,
    JobCode.PLATFORM: Stage.FAILED,
}
TROUBLE = frozenset({JobCode.RUN_FAILED, JobCode.REFUSED, JobCode.CANCELLED, JobCode.PLATFORM})


def rows(
    records: Sequence[RunRecord],
    jobs: Sequence[Job],
    level4: Mapping[str, Level4Job],
    notebooks: Mapping[str, str],
) -> list[RunRow]:
    """Every run once, newest first. `notebooks` gives the notebook's path for an action of the open study."""
    known = {job.id: job for job in jobs}
    lines = []
    for record in records:
        job = known.pop(record.job, None) if record.job else None
        lines.append(record.row if job is None else _of_job(job, level4.get(job.id), record))
    for job in known.values():
        lines.append(_of_job(job, level4.get(job.id), None, notebooks.get(job.action, "")))
    return sorted(lines, key=lambda row: row.started, reverse=True)


def _of_job(job: Job, seen: Level4Job | None, record: RunRecord | None, notebook: str = "") -> RunRow:
    stage = STAGE_OF[job.code]
    readable = seen is not None and seen.result
    return RunRow(
        id=record.row.id if record else job.id,
        kind=RunKind.SUBMITTED,
        action=job.action,
        notebook=record.row.notebook if record else notebook,
        backend=job.backend,
        commit=job.commit,
        parameters=job.parameters,
        stage=stage,
        progress=PROGRESS[stage],
        started=record.row.started if record else job.created_at.isoformat(timespec="seconds"),
        problem=_problem(job, seen.failure if seen else None) if job.code in TROUBLE else None,
        has_result=readable,
        level="level4" if readable else "none",
    )


def _problem(job: Job, failure: Failure | None) -> Problem:
    """The site's sentence; at level 4 the class of the failure, from its fixed list, and the cell."""
    said = SENTENCES[job.code]
    detail = None
    if failure is not None:
        where = "" if failure.cell is None else f", in cell {failure.cell + 1}"
        detail = f"{failure.failure_class.replace('-', ' ')}{where}"
    return Problem(code=job.code.value, sentence=said.sentence, next_step=said.next_step, detail=detail)
