"""`make demo` without a screen: the main job through Lab's server, and every number as a hand-written query says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.sandbox]


def demo(folder: Path, *options: str) -> str:
    words = [sys.executable, str(ROOT / "tools" / "demo.py"), "--headless"]
    words += ["--state", str(folder / "state"), "--study", str(folder / "study"), *options]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cells_compared(said: str) -> int:
    found = re.search(r"^(\d+) of (\d+) cells equal the hand-written query after redaction\.$", said, re.MULTILINE)
    assert found, said
    assert found[1] == found[2]
    return int(found[2])


@pytest.mark.demo
def test_the_demo_submits_and_every_cell_is_as_the_hand_written_query_says(tmp_path):
    said = demo(tmp_path)
    assert cells_compared(said) == 42
    assert "Level 4 - not released" in said
    assert "[REDACTED]" in said
    assert not (tmp_path / "state" / "run.json").exists()


def test_the_demo_passes_on_other_records_with_another_drug_and_date(tmp_path):
    given = os.environ.get("OSL_SYNTHEA_SMART")
    if not given:
        pytest.skip("OSL_SYNTHEA_SMART is not set: it names a folder with the second data set")
    records = tmp_path / "records"
    records.mkdir()
    for file in Path(given).glob("*.parquet"):
        shutil.copyfile(file, records / file.name)
    (records / "manifest.json").write_text(json.dumps({"synthetic": True}))
    options = ["-p", "drug", "naproxen", "-p", "index_date", "2015-06-01", "-p", "age_bands", "[30, 60]"]
    assert cells_compared(demo(tmp_path, "--data", str(records), *options)) > 10
