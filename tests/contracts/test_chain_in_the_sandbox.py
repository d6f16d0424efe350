"""The chain with nothing faked: a definition, a notebook, the sandbox, DuckDB, the gate."""

from __future__ import annotations

from pathlib import Path

import pytest
from chain_scene import DATASET, RECORDED, SHOWN, Scene, notebook, rows
from executor_cases import cache_folder

from opensafely_lab.pipeline.chain import DefinitionChanged
from opensafely_lab.pipeline.machine import machine_ports

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

DEFINITION = """\
from ehrql import create_dataset
from ehrql.tables.core import patients
dataset = create_dataset()
dataset.define_population(patients.exists_for_patient())
dataset.sex = patients.sex
"""
ASK = f"""\
from opensafely_lab import safe
people = safe.dataset("{DATASET}")
safe.table(people, by=[people.sex], measures=[safe.count()], name="by sex")"""
PEEK = f"""\
import pyarrow as pa
if pa.ipc.open_file("{DATASET}").read_all().num_rows == {sum(RECORDED.values())}:
    safe.table(people, by=[people.sex], measures=[safe.count()], name="a signal")"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    tmp_path.chmod(0o711)
    made = Scene(tmp_path)
    made.ports = machine_ports(tmp_path / "state", cache=cache_folder())
    (made.study / "analysis" / "people.py").write_text(DEFINITION)
    return made


def write(scene: Scene, *sources: str) -> None:
    (scene.study / "analysis" / "report.ipynb").write_bytes(notebook("minimum_age = 18", *sources))


def test_the_numbers_are_those_of_the_records_and_nothing_is_left(scene: Scene) -> None:
    write(scene, ASK, "print('by itself')")
    done = scene.real()
    assert done.failed is None
    assert done.shown is not None
    assert rows(done.shown.disclosure) == SHOWN
    assert done.shown.held
    assert done.layers["seccomp"] == "2"
    assert list(scene.ports.scratch.iterdir()) == []
    assert scene.ports.executor.reap() == ()


def test_a_notebook_that_asks_by_what_it_sees_in_the_records_shows_nothing(scene: Scene) -> None:
    write(scene, ASK, PEEK)
    done = scene.real()
    assert done.shown is None
    assert done.failed is not None
    assert done.failed.failure_class == "requests-differ"


def test_a_definition_that_reads_the_clock_is_refused(scene: Scene) -> None:
    write(scene, ASK)
    by_the_clock = "import time\ndataset.add_column(f'at_{time.time_ns()}', patients.sex)\n"
    (scene.study / "analysis" / "people.py").write_text(DEFINITION + by_the_clock)
    with pytest.raises(DefinitionChanged):
        scene.real()
