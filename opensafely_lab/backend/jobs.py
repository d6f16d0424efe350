"""Jobs in the backend's database: what is known of each, and the moves, each in one transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from attrs import field, frozen
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from opensafely_lab.backend.steps import Running, Seen
from opensafely_lab.backend.tables import Attempt, FailureRow, JobRow, KeptFile, Notice, ResultFile, ResultRow
from opensafely_lab.backend.work import RunFailure
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.disclosure.slots import may_tell_details, told_at
from opensafely_lab.wire.base import STATE_OF, JobCode
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import Assignment, JobNotice

# How an attempt ends: by its own account; its agent was killed; something of ours broke; the agent was
# asked to stop, which does not count.
DONE, LOST, BROKEN, STOPPED = "done", "lost", "broken", "stopped"


# --- what is known


def to_do(session: Session) -> list[str]:
    """Jobs that are not over and tidied, oldest first."""
    return list(session.scalars(select(JobRow.id).where(JobRow.tidy.is_(False)).order_by(JobRow.received_at)))


def look(session: Session, job: str, active: Collection[str]) -> Seen:
    """What is known of a job. `active`: the runs that this agent is carrying out at this moment."""
    row = session.get_one(JobRow, job)
    attempts = session.scalars(select(Attempt).where(Attempt.job == job)).all()
    running = Running.NO
    for attempt in attempts:
        if attempt.end is None:
            running = Running.OURS if attempt.run in active else Running.LEFT
    return Seen(
        fetched=row.fetched,
        failed_fetches=row.failed_fetches,
        attempts=sum(attempt.end != STOPPED for attempt in attempts),
        running=running,
        cancelled=row.cancelled,
        ended=row.code is not None,
        tidy=row.tidy,
    )


def assignment_of(session: Session, job: str) -> Assignment:
    return decode(Assignment, session.get_one(JobRow, job).assignment.encode())


def runs_of(session: Session, job: str) -> list[str]:
    return list(session.scalars(select(Attempt.run).where(Attempt.job == job)))


def bundle_is_needed(session: Session, bundle: str) -> bool:
    """Does a job that has not ended have this code?"""
    return session.scalar(select(JobRow.id).where(JobRow.bundle == bundle, JobRow.code.is_(None)).limit(1)) is not None


# --- the moves


def receive(session: Session, assignment: Assignment, now: datetime) -> bool:
    """Write down an assignment, or that it was cancelled. True if that is news."""
    row = session.get(JobRow, assignment.job)
    if row is None:
        request = assignment.request
        session.add(
            JobRow(
                id=assignment.job,
                assignment=assignment.model_dump_json(),
                project=request.project,
                workspace=request.workspace,
                author=assignment.author,
                action=request.action,
                commit=request.commit,
                parameters=json.dumps(request.model_dump(mode="json")["parameters"]),
                bundle=request.bundle,
                received_at=now,
                cancelled=assignment.cancelled,
                fetched=False,
                failed_fetches=0,
                code=None,
                ended_at=None,
                tell_at=None,
                tidy=False,
            )
        )
        session.flush()
        tell(session, assignment.job, JobCode.WAITING, now)
        return True
    if not assignment.cancelled or row.cancelled:
        return False
    row.cancelled = True
    if row.code is not None:
        _take_back(session, row, now)
    session.flush()
    return True


def _take_back(session: Session, row: JobRow, now: datetime) -> None:
    """A cancel that comes before the end is told wins.

    Otherwise the moment at which a cancel stops working would tell when the run had ended, to a finer
    measure than the slots (disclosure.md, decision 2).
    """
    notice = session.scalar(select(Notice).where(Notice.job == row.id, Notice.code == row.code))
    if notice is None or notice.offered_at is not None or row.code == JobCode.CANCELLED.value:
        return
    notice.code, notice.not_before = JobCode.CANCELLED.value, now
    row.code, row.tell_at = JobCode.CANCELLED.value, now
    for table in (ResultFile, ResultRow, FailureRow):
        session.execute(delete(table).where(table.job == row.id))


def tell(session: Session, job: str, code: JobCode, not_before: datetime) -> None:
    """Put a notice into the outbox, once for each code."""
    if session.scalar(select(Notice.id).where(Notice.job == job, Notice.code == code.value)) is None:
        session.add(Notice(job=job, code=code.value, not_before=not_before, offered_at=None, sent_at=None))
        session.flush()


def note_fetched(session: Session, job: str) -> None:
    session.get_one(JobRow, job).fetched = True


def note_failed_fetch(session: Session, job: str) -> None:
    session.get_one(JobRow, job).failed_fetches += 1


def fetch_again(session: Session, job: str) -> None:
    """The bundle was in the store and is not whole any more."""
    session.get_one(JobRow, job).fetched = False


def begin(session: Session, job: str, run: str, now: datetime) -> None:
    session.add(Attempt(run=run, job=job, began_at=now, ended_at=None, end=None, executor=None, layers=None))
    session.flush()
    tell(session, job, JobCode.PREPARING, now)


def close_left(session: Session, job: str, active: Collection[str], now: datetime) -> None:
    """Open attempts that nobody carries out are lost."""
    for attempt in session.scalars(select(Attempt).where(Attempt.job == job, Attempt.end.is_(None))):
        if attempt.run not in active:
            attempt.end, attempt.ended_at = LOST, now


def close(session: Session, run: str, how: str, now: datetime) -> None:
    """An attempt is over and its job is not."""
    attempt = session.get_one(Attempt, run)
    if attempt.end is None:
        attempt.end, attempt.ended_at = how, now


@frozen
class Stored:
    """A document whose files are in the store."""

    name: str
    notebook: str
    disclosure: str
    files: Mapping[str, tuple[str, int]] = field(factory=dict)  # name -> digest, size


@frozen
class Ending:
    """What an attempt ends with, all its files stored."""

    run: str
    code: JobCode
    executor: str
    layers: Mapping[str, str]
    stored: Stored | None
    failure: RunFailure | None
    kept: Mapping[str, tuple[str, int]]


def end_attempt(session: Session, job: str, ending: Ending, policy: Policy, now: datetime) -> None:
    """The attempt is done, the job has ended, and what level 4 may see is there: all or nothing of it."""
    attempt = session.get_one(Attempt, ending.run)
    attempt.end, attempt.ended_at = DONE, now
    attempt.executor, attempt.layers = ending.executor, json.dumps(dict(ending.layers))
    for name, (sha256, size) in ending.kept.items():
        session.add(KeptFile(run=ending.run, name=name, sha256=sha256, size=size))
    row = session.get_one(JobRow, job)
    code = JobCode.CANCELLED if row.cancelled else ending.code
    if row.code is not None:
        return
    if code is JobCode.SUCCEEDED and ending.stored is not None:
        _add_result(session, job, ending.run, ending.stored)
    if code is JobCode.RUN_FAILED and ending.failure is not None:
        _add_failure(session, row, ending.failure, policy, now)
    end(session, job, code, now, policy)


def _add_result(session: Session, job: str, run: str, stored: Stored) -> None:
    session.add(ResultRow(job=job, run=run, name=stored.name, notebook=stored.notebook, disclosure=stored.disclosure))
    session.flush()
    for name, (sha256, size) in stored.files.items():
        session.add(ResultFile(job=job, name=name, sha256=sha256, size=size))


def _add_failure(session: Session, row: JobRow, failure: RunFailure, policy: Policy, now: datetime) -> None:
    """Only within the day's budget: what is not stored cannot be asked for tomorrow."""
    day = now.date().isoformat()
    told = session.scalar(
        select(func.count()).select_from(FailureRow).where(FailureRow.project == row.project, FailureRow.day == day)
    )
    if may_tell_details(told or 0, policy):
        session.add(
            FailureRow(job=row.id, project=row.project, day=day, failure_class=failure.failure_class, cell=failure.cell)
        )


def end(session: Session, job: str, code: JobCode, now: datetime, policy: Policy | None) -> None:
    """The job has ended, once. After a run, that is told at the policy's next slot, counted from its first attempt."""
    row = session.get_one(JobRow, job)
    if row.code is not None:
        return
    row.code, row.ended_at, row.tell_at = code.value, now, now
    first = session.scalar(select(func.min(Attempt.began_at)).where(Attempt.job == job))
    if policy is not None and first is not None and code is not JobCode.CANCELLED:
        row.tell_at = first + timedelta(seconds=told_at((now - first).total_seconds(), policy))
    tell(session, job, code, row.tell_at)


def note_tidy(session: Session, job: str) -> None:
    session.get_one(JobRow, job).tidy = True


# --- the outbox


@frozen
class ToSend:
    id: int
    notice: JobNotice


def next_notice(session: Session, now: datetime) -> ToSend | datetime | None:
    """The oldest notice that is due; or when one will be; or None. It counts as heard from here on."""
    unsent = select(Notice).where(Notice.sent_at.is_(None))
    due = session.scalar(unsent.where(Notice.not_before <= now).order_by(Notice.id).limit(1))
    if due is None:
        return session.scalar(select(func.min(Notice.not_before)).where(Notice.sent_at.is_(None)))
    if due.offered_at is None:
        due.offered_at = now
    code = JobCode(due.code)
    return ToSend(due.id, JobNotice(job=due.job, state=STATE_OF[code], code=code))


def note_sent(session: Session, notice: int, now: datetime) -> None:
    session.get_one(Notice, notice).sent_at = now
