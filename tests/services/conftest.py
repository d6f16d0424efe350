from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_fakes import Everything, everything

from opensafely_lab.service import database


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_disks() -> Iterator[None]:
    """No test here pulls the plug of this process. Those that kill another one start it as it is."""
    on_connect = database._on_connect

    def without_sync(connection: sqlite3.Connection, record: object) -> None:
        on_connect(connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_on_connect", without_sync)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Everything]:
    """Site, agent and level 4 service, ready to be started; ended with the test."""
    made = everything(tmp_path)
    yield made
    made.stop()
