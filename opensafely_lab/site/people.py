"""Who is calling: tokens into people and backends. And the seed of the one-machine default."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen
from sqlalchemy import select
from sqlalchemy.orm import Session

from opensafely_lab.access import Act, Grant, Person, Project, Role, may_submit, why_not
from opensafely_lab.service import tokens
from opensafely_lab.service.http import Unauthenticated
from opensafely_lab.site.tables import (
    BackendRow,
    GrantRow,
    ProjectRow,
    TokenRow,
    User,
    WorkspaceBackend,
    WorkspaceRow,
)
from opensafely_lab.wire.site import Me, Workspace


def _valid_token(session: Session, token: str, now: datetime) -> TokenRow:
    row = session.get(TokenRow, tokens.digest(token))
    if row is None or (row.until is not None and now >= row.until):
        raise Unauthenticated
    return row


def user_of(session: Session, token: str, now: datetime) -> Person:
    """The person whose token this is, with what they were granted. Raises `Unauthenticated`."""
    row = _valid_token(session, token, now)
    if row.user is None:
        raise Unauthenticated
    return person(session, row.user)


def backend_of(session: Session, token: str, now: datetime) -> str:
    """The backend whose token this is. Raises `Unauthenticated`."""
    row = _valid_token(session, token, now)
    if row.backend is None:
        raise Unauthenticated
    return row.backend


def person(session: Session, name: str) -> Person:
    rows = session.scalars(select(GrantRow).where(GrantRow.user == name)).all()
    return Person(name, tuple(Grant(row.project, Role(row.role), row.until) for row in rows))


def project(session: Session, name: str) -> Project | None:
    row = session.get(ProjectRow, name)
    return None if row is None else Project(row.name, row.until)


def projects_seen_by(session: Session, who: Person, now: datetime) -> list[str]:
    """The projects whose jobs this person may see now."""
    rows = session.scalars(select(ProjectRow).where(ProjectRow.name.in_({grant.project for grant in who.grants})))
    return [row.name for row in rows if why_not(who, Act.VIEW_JOB, Project(row.name, row.until), now) is None]


def me(session: Session, who: Person, now: datetime) -> Me:
    """The workspaces of this person's projects."""
    seen = projects_seen_by(session, who, now)
    rows = session.scalars(
        select(WorkspaceRow).where(WorkspaceRow.project.in_(seen)).order_by(WorkspaceRow.project, WorkspaceRow.name)
    )
    return Me(user=who.name, workspaces=[_workspace(session, row, who, now) for row in rows])


def _workspace(session: Session, row: WorkspaceRow, who: Person, now: datetime) -> Workspace:
    of = project(session, row.project)
    return Workspace(
        project=row.project,
        workspace=row.name,
        backends=backends_of(session, row.project, row.name),
        may_submit=of is not None and may_submit(who, of, now),
    )


def backends_of(session: Session, project: str, workspace: str) -> list[str]:
    """Where this workspace is; nothing if there is no such workspace."""
    return list(
        session.scalars(
            select(WorkspaceBackend.backend)
            .where(WorkspaceBackend.project == project, WorkspaceBackend.workspace == workspace)
            .order_by(WorkspaceBackend.backend)
        )
    )


@frozen
class Seed:
    """One author, one project, one workspace at one backend: the one-machine default."""

    user: str
    project: str
    workspace: str
    backend: str
    user_token: str
    backend_token: str
    policy: str = "opensafely"
    roles: tuple[Role, ...] = (Role.RESEARCHER, Role.LEVEL4)


def seed(session: Session, what: Seed, now: datetime) -> None:
    """Make sure that these are there. Again and again the same; nothing that is there is changed."""
    rows = [
        User(name=what.user, created_at=now),
        ProjectRow(name=what.project, policy=what.policy, until=None),
        BackendRow(name=what.backend),
        *(GrantRow(user=what.user, project=what.project, role=role.value, until=None) for role in what.roles),
        WorkspaceRow(project=what.project, name=what.workspace),
        WorkspaceBackend(project=what.project, workspace=what.workspace, backend=what.backend),
        _token(what.user_token, now, user=what.user),
        _token(what.backend_token, now, backend=what.backend),
    ]
    for row in rows:
        key = session.identity_key(instance=row)[1]
        if session.get(type(row), key) is None:
            session.add(row)
            session.flush()


def _token(token: str, now: datetime, *, user: str | None = None, backend: str | None = None) -> TokenRow:
    return TokenRow(sha256=tokens.digest(token), user=user, backend=backend, created_at=now, until=None)
