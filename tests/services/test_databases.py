"""The databases of site and backend: made by their migrations, by several processes at once, and private."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from service_fakes import HERE
from sqlalchemy import create_engine

from opensafely_lab.backend import store
from opensafely_lab.backend.tables import Base as BackendBase
from opensafely_lab.service.database import Database, DatabaseUnusable
from opensafely_lab.site import app
from opensafely_lab.site.tables import Base as SiteBase

ROOMS = [(app.MIGRATIONS, SiteBase), (store.MIGRATIONS, BackendBase)]
IDS = ["site", "backend"]


@pytest.mark.parametrize(("migrations", "base"), ROOMS, ids=IDS)
def test_the_migrations_make_the_tables_that_the_code_uses(migrations: Path, base: type, tmp_path: Path) -> None:
    Database(tmp_path / "x.sqlite").migrate(migrations)
    with create_engine(f"sqlite:///{tmp_path / 'x.sqlite'}").connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, base.metadata) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(("migrations", "base"), ROOMS, ids=IDS)
def test_the_migrations_go_down_again(migrations: Path, base: type, tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite"
    Database(file).migrate(migrations)
    config = Config()
    config.set_main_option("script_location", str(migrations))
    with create_engine(f"sqlite:///{file}").begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with sqlite3.connect(file) as database:
        left = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    assert left <= {"alembic_version", "sqlite_sequence"}


@pytest.mark.slow
def test_several_processes_may_make_the_database_at_the_same_time(tmp_path: Path) -> None:
    code = "import sys, pathlib, opensafely_lab.backend.store as s; s.Store(pathlib.Path(sys.argv[1])).migrate()"
    words = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(words, cwd=HERE.parent.parent) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]


def test_a_database_is_its_owners_alone(tmp_path: Path) -> None:
    Database(tmp_path / "state" / "x.sqlite").migrate(app.MIGRATIONS)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "state").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_database_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.sqlite", tmp_path):
        with pytest.raises(DatabaseUnusable) as caught:
            Database(path).migrate(app.MIGRATIONS)
        assert caught.value.next_step
