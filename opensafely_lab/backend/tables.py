"""The backend's tables. Text that a run made is in no column; level 4 documents are files, here are their digests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opensafely_lab.service.database import UtcDateTime


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, str: String(64)}  # noqa: RUF012  as SQLAlchemy wants it


class ProjectRow(Base):
    """A project that may run here, and under which policy. Ours, not the site's word."""

    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[str]
    until: Mapped[datetime | None]


class GrantRow(Base):
    __tablename__ = "grants"
    user: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime | None]


class TokenRow(Base):
    """An analyst's token for the level 4 service, as its digest. The site has never seen it."""

    __tablename__ = "tokens"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str]
    created_at: Mapped[datetime]
    until: Mapped[datetime | None]


class JobRow(Base):
    """A job as the site assigned it, and how it ended here.

    `code` is empty until it ends, and is set once. `tell_at` is the moment from which the end may be
    known, at the site and at level 4 alike.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("jobs_to_do", "tidy", "received_at"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    assignment: Mapped[str] = mapped_column(Text, deferred=True)
    project: Mapped[str]
    workspace: Mapped[str]
    author: Mapped[str]
    action: Mapped[str]
    commit: Mapped[str]
    parameters: Mapped[str] = mapped_column(Text)
    bundle: Mapped[str]
    received_at: Mapped[datetime]
    cancelled: Mapped[bool] = mapped_column(Boolean)
    fetched: Mapped[bool] = mapped_column(Boolean)
    failed_fetches: Mapped[int] = mapped_column(Integer)
    code: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    tell_at: Mapped[datetime | None]
    tidy: Mapped[bool] = mapped_column(Boolean)


class Attempt(Base):
    """One run of a job, and what was in force for it. `end`: none yet, done, lost, broken, stopped."""

    __tablename__ = "attempts"
    run: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end: Mapped[str | None]
    executor: Mapped[str | None]
    layers: Mapped[str | None] = mapped_column(Text)


class Notice(Base):
    """What the site is still to be told, or was. `offered_at`: from here on it may have been heard."""

    __tablename__ = "notices"
    __table_args__ = (UniqueConstraint("job", "code"), Index("notices_to_send", "sent_at", "not_before"))
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    code: Mapped[str]
    not_before: Mapped[datetime]
    offered_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]


class ResultRow(Base):
    """The level 4 document of a job, by digest."""

    __tablename__ = "results"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("attempts.run"))
    name: Mapped[str] = mapped_column(Text)
    notebook: Mapped[str]
    disclosure: Mapped[str]


class ResultFile(Base):
    """A table or figure that the gate made, by digest."""

    __tablename__ = "result_files"
    job: Mapped[str] = mapped_column(ForeignKey("results.job"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)


class KeptFile(Base):
    """A level 3 file that is kept on purpose, as opaque bytes. Its digest never leaves this table."""

    __tablename__ = "kept_files"
    run: Mapped[str] = mapped_column(ForeignKey("attempts.run"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)


class FailureRow(Base):
    """Class and cell of a failed run that the day's budget still had room for."""

    __tablename__ = "failures"
    __table_args__ = (Index("failures_of_day", "project", "day"),)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    project: Mapped[str]
    day: Mapped[str]
    failure_class: Mapped[str]
    cell: Mapped[int | None] = mapped_column(Integer)


class AuditEvent(Base):
    """Who saw, or was refused, what at level 4."""

    __tablename__ = "audit_events"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    user: Mapped[str]
    act: Mapped[str]
    project: Mapped[str | None]
    job: Mapped[str | None]
    answer: Mapped[str]


class Beat(Base):
    """One row: the agent is alive, and what its executor found out about itself."""

    __tablename__ = "beat"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    executor: Mapped[str]
    layers: Mapped[str] = mapped_column(Text)
    ready: Mapped[bool] = mapped_column(Boolean)
    since: Mapped[datetime]
    at: Mapped[datetime]
