"""Where the backend keeps things: one database, and files by digest at level 3 and level 4.

backend.sqlite      jobs, attempts, notices, results, audit events
bundles/            code, until its job has ended
level3/scratch/RUN  one attempt's checkout and extract, until the job has ended
level3/kept/        what was kept on purpose, opaque
level4/             result notebooks, disclosure records, tables, figures
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from attrs import frozen
from sqlalchemy import select
from sqlalchemy.orm import Session

from opensafely_lab.access import Grant, Person, Project, Role
from opensafely_lab.backend.settings import StateSettings
from opensafely_lab.backend.tables import GrantRow, KeptFile, ProjectRow, ResultFile, ResultRow, TokenRow
from opensafely_lab.service import tokens
from opensafely_lab.service.blobs import Blobs
from opensafely_lab.service.database import Database, private_folder, utc_now

MIGRATIONS = Path(__file__).parent / "migrations"
T = TypeVar("T")


class Store:
    """All of the backend's state. The level 4 service opens it too, and reads."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "backend.sqlite")
        self.bundles = Blobs(folder / "bundles")
        self.kept = Blobs(folder / "level3" / "kept")
        self.level4 = Blobs(folder / "level4")
        self.scratch = folder / "level3" / "scratch"

    def migrate(self) -> None:
        self.database.migrate(MIGRATIONS)

    def read(self, do: Callable[[Session], T]) -> T:
        with self.database.reading() as session:
            return do(session)

    def write(self, do: Callable[[Session], T]) -> T:
        with self.database.writing() as session:
            return do(session)

    def sweep(self) -> None:
        """At start, with no attempt running: remove what killed processes left, and files that no row names."""
        for blobs in (self.bundles, self.kept, self.level4):
            blobs.clear_incoming()
        shutil.rmtree(self.scratch, ignore_errors=True)
        private_folder(self.scratch)
        self.level4.remove_others(self.read(_level4_digests))
        self.kept.remove_others(self.read(lambda session: set(session.scalars(select(KeptFile.sha256)))))

    def new_scratch(self, run: str) -> Path:
        """An empty folder for one attempt."""
        self.remove_scratch(run)
        return private_folder(private_folder(self.scratch) / run)

    def remove_scratch(self, run: str) -> None:
        folder = self.scratch / run
        if folder.exists():
            shutil.rmtree(folder)


def _level4_digests(session: Session) -> set[str]:
    found: set[str] = set()
    for column in (ResultRow.notebook, ResultRow.disclosure, ResultFile.sha256):
        found.update(session.scalars(select(column)))
    return found


# --- people


def person(session: Session, name: str) -> Person:
    rows = session.scalars(select(GrantRow).where(GrantRow.user == name)).all()
    return Person(name, tuple(Grant(row.project, Role(row.role), row.until) for row in rows))


def project(session: Session, name: str) -> tuple[Project, str] | None:
    """A project of this backend and the name of its policy."""
    row = session.get(ProjectRow, name)
    return None if row is None else (Project(row.name, row.until), row.policy)


@frozen
class Seed:
    """One analyst with level 4 permission in one project: the one-machine default."""

    project: str
    user: str
    token: str
    policy: str = "opensafely"
    roles: tuple[Role, ...] = (Role.RESEARCHER, Role.LEVEL4)


def seed(session: Session, what: Seed, now: datetime) -> None:
    """Make sure that these are there. Again and again the same; nothing that is there is changed."""
    rows = [
        ProjectRow(name=what.project, policy=what.policy, until=None),
        *(GrantRow(user=what.user, project=what.project, role=role.value, until=None) for role in what.roles),
        TokenRow(sha256=tokens.digest(what.token), user=what.user, created_at=now, until=None),
    ]
    for row in rows:
        if session.get(type(row), session.identity_key(instance=row)[1]) is None:
            session.add(row)
            session.flush()


def open_store(settings: StateSettings) -> Store:
    """The store of these settings: its database brought up to date, and seeded if the settings say so."""
    store = Store(private_folder(settings.folder))
    store.migrate()
    if settings.seed is not None:
        people = Seed(
            project=settings.seed.project,
            user=settings.seed.user,
            token=tokens.token_file(Path(settings.seed.token_file)),
            policy=settings.seed.policy,
        )
        store.write(lambda session: seed(session, people, utc_now()))
    return store
