"""Jobs at the site: asked for once, offered to their backend, moved forwards by its notices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import ClassVar

from attrs import frozen
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from opensafely_lab.access import Act, NotAllowed, Person, may_fetch, may_submit, why_not
from opensafely_lab.errors import Refused
from opensafely_lab.service.http import NotThere
from opensafely_lab.site import people
from opensafely_lab.site.tables import BundleRow, Clock, JobEvent, JobRow, ProjectRow, Submission
from opensafely_lab.wire.base import ENDS, MOVES, STATE_OF, JobCode
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import Assignment, AssignmentList, Job, JobList, JobNotice, SubmitRequest

NEWEST = 200  # jobs in a list
OFFERED_AT_ONCE = 20


class SameKeyOtherRequest(Refused):
    code: ClassVar[str] = "key-used"

    def __init__(self) -> None:
        super().__init__(
            "This idempotency key was used for another request.", next_step="Submit again: each request has a new key."
        )


class NotAtBackend(Refused):
    code: ClassVar[str] = "not-at-backend"

    def __init__(self, workspace: str, there: Collection[str]) -> None:
        super().__init__(
            f"The workspace {workspace} is not at every backend that was named.",
            next_step=f"It is at: {', '.join(sorted(there)) or 'none yet'}.",
        )


class OtherPolicy(Refused):
    code: ClassVar[str] = "other-policy"

    def __init__(self, project: str, policy: str) -> None:
        super().__init__(
            f"The project {project} shows results under the policy {policy}, and this was prepared under another one.",
            next_step="Run it on dummy data again, so that it is prepared under that policy, and submit.",
        )


class BundleMissing(Refused):
    code: ClassVar[str] = "bundle-missing"

    def __init__(self) -> None:
        super().__init__("The code of this job has not been uploaded.", next_step="Upload the bundle first.")


def tick(session: Session, now: datetime) -> Clock:
    """Count a change of the site. Its moment is later than that of every change before it."""
    clock = session.get_one(Clock, 1, with_for_update=True)
    clock.revision += 1
    clock.at = max(now, clock.at + timedelta(microseconds=1))
    return clock


def canonical(request: SubmitRequest) -> str:
    """One text for one request, whatever the order of its fields was."""
    return json.dumps(request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


# --- asking


@frozen
class Submitted:
    jobs: JobList
    created: bool


def submit(
    session: Session, author: Person, request: SubmitRequest, now: datetime, new_id: Callable[[], str]
) -> Submitted:
    """Make one job for each backend that was named, once for each key.

    1. the author may submit in this project, now; 2. the same key and request: the same jobs; 3. the
    workspace is at those backends; 4. the project's policy; 5. the author has uploaded the bundle.
    That the commit is in the bundle is for the backend to see.
    """
    project = people.project(session, request.project)
    there = people.backends_of(session, request.project, request.workspace)
    if project is None or not there or not may_submit(author, project, now):
        raise NotAllowed
    text = canonical(request)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    earlier = session.scalar(
        select(Submission).where(
            Submission.author == author.name, Submission.idempotency_key == request.idempotency_key
        )
    )
    if earlier is not None:
        if earlier.sha256 != sha256:
            raise SameKeyOtherRequest
        return Submitted(_list(session, _jobs().where(JobRow.submission == earlier.id)), created=False)
    if not set(request.backends) <= set(there):
        raise NotAtBackend(request.workspace, there)
    policy = session.get_one(ProjectRow, request.project).policy
    if request.policy != policy:
        raise OtherPolicy(request.project, policy)
    if session.get(BundleRow, (request.bundle, author.name)) is None:
        raise BundleMissing
    submission = Submission(
        id=new_id(),
        author=author.name,
        idempotency_key=request.idempotency_key,
        sha256=sha256,
        request=text,
        bundle=request.bundle,
        commit=request.commit,
        action=request.action,
        parameters=json.dumps(request.model_dump(mode="json")["parameters"]),
        created_at=now,
    )
    session.add(submission)
    session.flush()
    for backend in request.backends:
        clock = tick(session, now)
        row = JobRow(
            id=new_id(),
            submission=submission.id,
            project=request.project,
            workspace=request.workspace,
            backend=backend,
            code=JobCode.CREATED.value,
            ended=False,
            cancelled=False,
            offered=clock.revision,
            created_at=clock.at,
            updated_at=clock.at,
        )
        session.add(row)
        session.flush()
        session.add(JobEvent(job=row.id, code=row.code, at=clock.at))
    session.flush()
    return Submitted(_list(session, _jobs().where(JobRow.submission == submission.id)), created=True)


def cancel(session: Session, who: Person, job: str, now: datetime) -> Job:
    """Note the wish; the backend ends the job. Nothing, if it has ended."""
    row = _job_of(session, who, job, Act.CANCEL, now)
    if not row.ended and not row.cancelled:
        clock = tick(session, now)
        row.cancelled, row.offered, row.updated_at = True, clock.revision, clock.at
        session.flush()
    return one(session, who, job, now)


# --- reading


def _jobs() -> Select[JobRow, Submission]:
    return select(JobRow, Submission).join(Submission, Submission.id == JobRow.submission)


def _message(row: JobRow, submission: Submission) -> Job:
    code = JobCode(row.code)
    return Job(
        id=row.id,
        project=row.project,
        workspace=row.workspace,
        backend=row.backend,
        commit=submission.commit,
        action=submission.action,
        parameters=json.loads(submission.parameters),
        state=STATE_OF[code],
        code=code,
        created_at=row.created_at,
        updated_at=row.updated_at,
        author=submission.author,
    )


def _list(session: Session, query: Select[JobRow, Submission]) -> JobList:
    rows = session.execute(query.order_by(JobRow.created_at.desc()).limit(NEWEST))
    return JobList(jobs=[_message(row, submission) for row, submission in rows])


def _job_of(session: Session, who: Person, job: str, act: Act, now: datetime) -> JobRow:
    row = session.get(JobRow, job)
    project = None if row is None else people.project(session, row.project)
    if row is None or project is None or why_not(who, act, project, now) is not None:
        raise NotThere
    return row


def one(session: Session, who: Person, job: str, now: datetime) -> Job:
    row = _job_of(session, who, job, Act.VIEW_JOB, now)
    return _message(row, session.get_one(Submission, row.submission))


def newest(session: Session, who: Person, workspace: str | None, now: datetime) -> JobList:
    """The newest jobs of the projects that this person may see, newest first."""
    query = _jobs().where(JobRow.project.in_(people.projects_seen_by(session, who, now)))
    return _list(session, query if workspace is None else query.where(JobRow.workspace == workspace))


# --- the backend's side


def offer(session: Session, backend: str, seen: int) -> AssignmentList:
    """Open jobs of this backend with something new since `seen`, oldest news first."""
    rows = session.execute(
        select(JobRow, Submission, Submission.request)
        .join(Submission, Submission.id == JobRow.submission)
        .where(JobRow.backend == backend, JobRow.ended.is_(False), JobRow.offered > seen)
        .order_by(JobRow.offered)
        .limit(OFFERED_AT_ONCE)
    )
    found = rows.all()
    return AssignmentList(
        assignments=[
            Assignment(
                job=row.id,
                author=submission.author,
                cancelled=row.cancelled,
                request=decode(SubmitRequest, request.encode()),
            )
            for row, submission, request in found
        ],
        revision=max([seen, *(row.offered for row, _, _ in found)]),
    )


def without_permission(session: Session, backend: str, now: datetime) -> list[JobRow]:
    """Jobs that this backend has not fetched yet, and whose authors may no longer submit."""
    waiting = session.execute(
        _jobs().where(JobRow.backend == backend, JobRow.ended.is_(False), JobRow.code == JobCode.CREATED.value)
    )
    found = []
    for row, submission in waiting.all():
        project = people.project(session, row.project)
        if project is None or not may_submit(people.person(session, submission.author), project, now):
            found.append(row)
    return found


def refuse_ended_permissions(session: Session, backend: str, now: datetime) -> None:
    """What was allowed when it was asked for, and is not any more, is not done."""
    for row in without_permission(session, backend, now):
        _move(session, row, JobCode.REFUSED, now)


def may_fetch_bundle(session: Session, backend: str, sha256: str) -> bool:
    asked = session.scalars(
        select(JobRow.backend).join(Submission, Submission.id == JobRow.submission).where(Submission.bundle == sha256)
    )
    return may_fetch(backend, frozenset(asked))


def take_notice(session: Session, backend: str, notice: JobNotice, now: datetime) -> bool:
    """Move the job forwards; False if the notice is late or repeated. Raises `NotThere`."""
    row = session.get(JobRow, notice.job)
    if row is None or row.backend != backend:
        raise NotThere
    return _move(session, row, notice.code, now)


def _move(session: Session, row: JobRow, code: JobCode, now: datetime) -> bool:
    if code not in MOVES[JobCode(row.code)]:
        return False
    clock = tick(session, now)
    row.code, row.ended, row.updated_at = code.value, code in ENDS, clock.at
    session.add(JobEvent(job=row.id, code=code.value, at=clock.at))
    session.flush()
    return True
