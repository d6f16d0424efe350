"""The site's tables. Of a run there is a state and a code; there is no column for anything else it might say."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opensafely_lab.service.database import UtcDateTime


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, str: String(64)}  # noqa: RUF012  as SQLAlchemy wants it


class User(Base):
    __tablename__ = "users"
    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]


class ProjectRow(Base):
    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[str]
    until: Mapped[datetime | None]


class GrantRow(Base):
    __tablename__ = "grants"
    user: Mapped[str] = mapped_column(ForeignKey("users.name"), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime | None]


class BackendRow(Base):
    __tablename__ = "backends"
    name: Mapped[str] = mapped_column(primary_key=True)


class WorkspaceRow(Base):
    __tablename__ = "workspaces"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)


class WorkspaceBackend(Base):
    __tablename__ = "workspace_backends"
    __table_args__ = (ForeignKeyConstraint(["project", "workspace"], ["workspaces.project", "workspaces.name"]),)
    project: Mapped[str] = mapped_column(primary_key=True)
    workspace: Mapped[str] = mapped_column(primary_key=True)
    backend: Mapped[str] = mapped_column(ForeignKey("backends.name"), primary_key=True)


class TokenRow(Base):
    """A token of one user or of one backend, as its digest."""

    __tablename__ = "tokens"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str | None] = mapped_column(ForeignKey("users.name"))
    backend: Mapped[str | None] = mapped_column(ForeignKey("backends.name"))
    created_at: Mapped[datetime]
    until: Mapped[datetime | None]


class BundleRow(Base):
    """Who has uploaded which bundle; the bytes are in the store."""

    __tablename__ = "bundles"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name"), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    uploaded_at: Mapped[datetime]


class Submission(Base):
    """One request of one author, as the canonical text of the message. Its key makes it happen once."""

    __tablename__ = "submissions"
    __table_args__ = (Unique("author", "idempotency_key"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(ForeignKey("users.name"))
    idempotency_key: Mapped[str]
    sha256: Mapped[str]  # of `request`
    request: Mapped[str] = mapped_column(Text, deferred=True)  # large: a list of jobs does without it
    bundle: Mapped[str] = mapped_column(index=True)
    commit: Mapped[str]
    action: Mapped[str]
    parameters: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class JobRow(Base):
    """What a submission became at one backend.

    `cancelled` is the author's wish, the only field an author changes; `code` is the backend's word.
    `offered` is the site's revision when the backend had last something new to hear of this job.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_of_workspace", "project", "workspace", "updated_at"),
        Index("jobs_for_backend", "backend", "ended", "offered"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    submission: Mapped[str] = mapped_column(ForeignKey("submissions.id"))
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    workspace: Mapped[str]
    backend: Mapped[str] = mapped_column(ForeignKey("backends.name"))
    code: Mapped[str]
    ended: Mapped[bool] = mapped_column(Boolean)
    cancelled: Mapped[bool] = mapped_column(Boolean)
    offered: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class JobEvent(Base):
    """Every move of a job, in order."""

    __tablename__ = "job_events"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    code: Mapped[str]
    at: Mapped[datetime]


class Clock(Base):
    """One row: how often the site has changed, and when last. A writer holds it until he commits."""

    __tablename__ = "clock"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
