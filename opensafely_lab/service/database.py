"""A SQLite database that survives kill -9, shared by the threads of one process and by a few processes.

Reading and writing are told apart: a writer takes the lock at the start (BEGIN IMMEDIATE), so that
nobody decides on what he read and finds at the end that it has changed. PostgreSQL is another URL here.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, DateTime, Dialect, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeDecorator

from opensafely_lab.errors import PlatformError

BUSY_SECONDS = 30


class DatabaseUnusable(PlatformError):
    """The database cannot be opened or written."""

    code: ClassVar[str] = "database-unusable"

    def __init__(self) -> None:
        super().__init__(
            "The database of this service cannot be written.",
            next_step="Check that its disk has room and that its folder belongs to the user of the service.",
        )


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, stored in UTC. A time without a zone is refused: it would mean whatever the machine thinks."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, below
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """`reading()` and `writing()` give a session in one transaction; the end of the block commits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # hide_parameters: an exception's text would carry what was being stored.
        self._engine = create_engine(f"sqlite:///{path}", hide_parameters=True, pool_size=20, max_overflow=40)
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        self._writing_engine = self._engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # takes the lock now, not at the first statement
            yield session

    def migrate(self, migrations: Path) -> None:
        """Bring the schema to the newest version, in one transaction; nothing to do is nothing done."""
        try:
            private_folder(self.path.parent)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            config = Config()
            config.set_main_option("script_location", str(migrations).replace("%", "%%"))
            with self._writing_engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except (OSError, DBAPIError):
            raise DatabaseUnusable from None

    def close(self) -> None:
        self._engine.dispose()


def private_folder(path: Path) -> Path:
    """`path` as a folder, which only its owner can enter if it is made here."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def utc_now() -> datetime:
    return datetime.now(UTC)
