"""The template study and its hand-written check, for tests and the demo."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import duckdb

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "notebooks" / "templates" / "gi-bleeding"
GIBLEED = ROOT / "notebooks" / "demo" / "gibleed"
TABLES = ("patients", "practice_registrations", "medications", "clinical_events")


def gi_bleeding_counts(
    records: Path, index_date: str, age_bands: Sequence[int], drug: str
) -> dict[tuple[str, str, str], int]:
    """The true counts of the template's tables by the hand-written query: {(table, age band, sex): people}."""
    query = (TEMPLATE / "check" / "handwritten.sql").read_text()
    with duckdb.connect() as connection:
        for table in TABLES:
            parquet, csv = records / f"{table}.parquet", records / f"{table}.csv"
            codes = "types={'dmd_code': 'VARCHAR'}" if table == "medications" else "types={'snomedct_code': 'VARCHAR'}"
            codes = f", {codes}" if table in ("medications", "clinical_events") else ""
            source = f"read_parquet('{parquet}')" if parquet.exists() else f"read_csv('{csv}'{codes})"
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {source}")
        rows = connection.execute(
            query, {"index_date": index_date, "age_bands": list(age_bands), "drug": drug}
        ).fetchall()
    return {(name, band, sex): people for name, band, sex, people in rows}


def plain_process(
    argv: Sequence[str], *, mounts: Mapping[PurePosixPath, Path], files: Mapping[str, bytes], answer: PurePosixPath
) -> bytes:
    """An isolation that isolates nothing: a fresh process, for tests of the loader alone."""
    with TemporaryDirectory() as folder:
        left = Path(folder) / "answer.json"
        inside = {str(path): str(host) for path, host in mounts.items()} | {str(answer): str(left)}
        words = [inside.get(word, word) for word in argv]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, *words], env=environment, cwd=folder, timeout=60, check=False)
        return left.read_bytes() if left.exists() else b""
