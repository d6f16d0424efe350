"""A DuckDB connection that can do what it is for and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
from attrs import frozen

from .sources import text


@frozen
class EngineLimits:
    """What the engine may use."""

    memory_mb: int = 1024
    threads: int = 2


DEFAULT_LIMITS = EngineLimits()


@contextmanager
def connect(limits: EngineLimits) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to a folder of its own, with no extensions and no look-up of Python names."""
    with TemporaryDirectory(prefix="opensafely-lab-engine-") as scratch:
        connection = duckdb.connect(
            config={
                "memory_limit": f"{limits.memory_mb}MB",
                "threads": str(limits.threads),
                "temp_directory": scratch,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            }
        )
        try:
            yield connection
        finally:
            connection.close()


def lock(connection: duckdb.DuckDBPyConnection, readable: tuple[Path, ...] = ()) -> None:
    """From here on: no files but those in the folders named, no network, no settings changed."""
    if readable:
        folders = ", ".join(text(str(folder)) for folder in readable)
        connection.execute(f"SET allowed_directories=[{folders}]")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
