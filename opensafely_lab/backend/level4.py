"""The level 4 service: results, for people with level 4 permission in their project. It listens inside the wall only.

`python -m opensafely_lab.backend.level4 --config FILE.json`. Every view is an audit event, written in
the transaction that reads: what cannot be written down is not shown. An end is there from the moment at
which it may be told, so that looking here is no finer clock than the site.
"""
# No `from __future__ import annotations` here: FastAPI reads the annotations, and they name what is local.

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from attrs import frozen
from fastapi import Depends, FastAPI, Request
from fastapi import Path as InPath
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from opensafely_lab import __version__
from opensafely_lab.access import Person, Project, may_view_level4
from opensafely_lab.backend.settings import Level4Settings, read_settings
from opensafely_lab.backend.store import Store, open_store, person
from opensafely_lab.backend.tables import AuditEvent, Beat, FailureRow, JobRow, ProjectRow, ResultRow, TokenRow
from opensafely_lab.errors import LabError
from opensafely_lab.service import tokens
from opensafely_lab.service.database import utc_now
from opensafely_lab.service.http import NotThere, Unauthenticated, bearer, new_app
from opensafely_lab.service.logs import start_logging
from opensafely_lab.service.serve import serve
from opensafely_lab.wire.base import Identifier, JobCode
from opensafely_lab.wire.level4 import Failure, Heartbeat, Level4Job, Level4JobList, ResultDocument

NEWEST = 200
ALIVE_SECONDS = 30
PathIdentifier = Annotated[Identifier, InPath()]


def create_app(store: Store, backend: str, now: Callable[[], datetime] = utc_now) -> FastAPI:
    """The service as an application over a store that is up to date."""
    app = new_app("OpenSAFELY level 4 service", __version__)
    started = now()

    async def analyst(request: Request) -> Person:
        token = bearer(request)
        return await run_in_threadpool(store.read, lambda session: _person_of(session, token, now()))

    async def health() -> Heartbeat:
        return await run_in_threadpool(store.read, lambda session: _heartbeat(session, backend, started, now()))

    async def list_jobs(who: Annotated[Person, Depends(analyst)]) -> Level4JobList:
        return await run_in_threadpool(store.write, lambda session: _list(session, backend, who, now()))

    async def one_job(who: Annotated[Person, Depends(analyst)], job: PathIdentifier) -> Level4Job:
        found = await run_in_threadpool(store.write, lambda session: _view(session, who, job, "view-job", now()))
        if found is None:
            raise NotThere
        return _message(found, backend)

    async def result(who: Annotated[Person, Depends(analyst)], job: PathIdentifier) -> ResultDocument:
        found = await run_in_threadpool(store.write, lambda session: _view(session, who, job, "view-result", now()))
        if found is None or found.result is None:
            raise NotThere
        return await run_in_threadpool(_document, store, found.result)

    app.get("/health")(health)
    app.get("/level4/jobs")(list_jobs)
    app.get("/level4/jobs/{job}")(one_job)
    app.get("/level4/jobs/{job}/result")(result)
    return app


def _person_of(session: Session, token: str, now: datetime) -> Person:
    row = session.get(TokenRow, tokens.digest(token))
    if row is None or (row.until is not None and now >= row.until):
        raise Unauthenticated
    return person(session, row.user)


@frozen
class _Found:
    """What the database has of one job that may be seen."""

    job: JobRow
    result: ResultRow | None
    failure: FailureRow | None


def _may_view(session: Session, who: Person, project: str, now: datetime) -> bool:
    row = session.get(ProjectRow, project)
    return row is not None and may_view_level4(who, Project(row.name, row.until), now)


def _find(session: Session, row: JobRow) -> _Found:
    failure = session.get(FailureRow, row.id) if row.code == JobCode.RUN_FAILED.value else None
    return _Found(row, session.get(ResultRow, row.id), failure)


def _is_told(row: JobRow, now: datetime) -> bool:
    return row.tell_at is not None and row.tell_at <= now and row.code != JobCode.CANCELLED.value


def _view(session: Session, who: Person, job: str, act: str, now: datetime) -> _Found | None:
    """What may be seen of a job, and the audit event of it; None, and the audit event of that."""
    row = session.get(JobRow, job)
    allowed = row is not None and _may_view(session, who, row.project, now) and _is_told(row, now)
    found = _find(session, row) if row is not None and allowed else None
    session.add(
        AuditEvent(
            at=now,
            user=who.name,
            act=act,
            project=None if row is None else row.project,
            job=None if row is None else job,
            answer="shown" if found is not None else "refused",
        )
    )
    session.flush()
    return found


def _list(session: Session, backend: str, who: Person, now: datetime) -> Level4JobList:
    projects = [name for name in {grant.project for grant in who.grants} if _may_view(session, who, name, now)]
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.project.in_(projects), JobRow.tell_at <= now, JobRow.code != JobCode.CANCELLED.value)
        .order_by(JobRow.received_at.desc())
        .limit(NEWEST)
    ).all()
    for project in sorted(projects):
        session.add(AuditEvent(at=now, user=who.name, act="list-jobs", project=project, job=None, answer="shown"))
    if not projects:
        session.add(AuditEvent(at=now, user=who.name, act="list-jobs", project=None, job=None, answer="refused"))
    session.flush()
    return Level4JobList(jobs=[_message(_find(session, row), backend) for row in rows])


def _message(found: _Found, backend: str) -> Level4Job:
    row = found.job
    failure = found.failure
    return Level4Job(
        id=row.id,
        project=row.project,
        workspace=row.workspace,
        backend=backend,
        action=row.action,
        commit=row.commit,
        parameters=json.loads(row.parameters),
        succeeded=row.code == JobCode.SUCCEEDED.value,
        finished_day="" if row.tell_at is None else row.tell_at.date().isoformat(),
        result=found.result is not None,
        failure=None if failure is None else Failure(failure_class=failure.failure_class, cell=failure.cell),
    )


def _document(store: Store, row: ResultRow) -> ResultDocument:
    """The document's bytes, which are checked against their digests as they are read."""
    return ResultDocument(
        id=row.job,
        name=row.name,
        notebook=store.level4.get(row.notebook).decode(),
        disclosure=store.level4.get(row.disclosure).decode(),
    )


def _heartbeat(session: Session, backend: str, started: datetime, now: datetime) -> Heartbeat:
    beat = session.get(Beat, 1)
    if beat is None:
        return Heartbeat(backend=backend, executor="none", layers={}, ready=False, since=started)
    alive = now - beat.at < timedelta(seconds=ALIVE_SECONDS)
    return Heartbeat(
        backend=backend,
        executor=beat.executor,
        layers=json.loads(beat.layers),
        ready=beat.ready and alive,
        since=beat.since,
    )


def run(settings: Level4Settings) -> None:
    start_logging(None if settings.log_file is None else Path(settings.log_file))
    store = open_store(settings)
    port_file = None if settings.port_file is None else Path(settings.port_file)
    try:
        serve(create_app(store, settings.backend), settings.port, port_file, lambda: None)
    finally:
        store.database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m opensafely_lab.backend.level4", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings, a JSON file")
    try:
        run(read_settings(Level4Settings, parser.parse_args(argv).config))
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201  what the person who started it reads
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
