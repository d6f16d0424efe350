"""kill -9 in the middle of a job, with everything real: `up` starts the dead child again, and the job ends once."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attrs import define
from command_line import COMMAND, Up, environment, git, wait_for

from opensafely_lab.wire.base import ENDS, JobCode

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]

PROJECT = """
version: "5.0"
actions:
  people:
    run: ehrql:v1 generate-dataset people.py --output output/people.arrow
    outputs: {highly_sensitive: {people: output/people.arrow}}
  sleepy:
    run: notebook:v1 sleepy.ipynb
    needs: [people]
"""
DEFINITION = """
from ehrql import case, create_dataset, when
from ehrql.tables.core import patients

dataset = create_dataset()
dataset.define_population(patients.sex.is_in(["female", "male"]))
dataset.sex = case(when(patients.sex == "female").then("female"), otherwise="male")
"""
CELLS = [
    "from opensafely_lab import safe\npeople = safe.dataset('output/people.arrow')\n"
    "safe.table(people, by=[people.sex], measures=[safe.count()], name='people')",
    "import os, time\nif os.environ['OSL_RUN'] == 'real':\n    time.sleep(12)",
]
SUPERVISOR, KERNEL = "jobs.executors.supervisor", "opensafely_lab.notebooks.batch_kernel"


def sleepy_study(folder: Path) -> Path:
    folder.mkdir()
    (folder / "project.yaml").write_text(PROJECT)
    (folder / "people.py").write_text(DEFINITION)
    blank = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [blank | {"source": source} for source in CELLS]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "sleepy.ipynb").write_text(json.dumps(notebook))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


@define
class Job:
    """One `submit` that waits at its terminal, and its job."""

    up: Up
    process: subprocess.Popen[bytes]
    told: Path
    id: str = ""
    sandboxed: tuple[int, ...] = ()  # supervisor and kernel of its first run

    def said(self) -> str:
        return self.told.read_text()

    def events(self) -> list[JobCode]:
        with closing(sqlite3.connect(self.up.state.folder / "site" / "site.sqlite", timeout=20)) as site:
            rows = site.execute("select code from job_events where job = ? order by id", (self.id,)).fetchall()
        return [JobCode(code) for (code,) in rows]

    def backend(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.up.state.folder / "backend" / "backend.sqlite", timeout=20)) as backend:
            return backend.execute(query, (self.id,)).fetchall()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    one = Up(folder, "--study", sleepy_study(folder / "study"))
    try:
        yield one.ready()
    finally:
        one.stop()


@pytest.fixture
def asleep(up: Up, tmp_path: Path) -> Iterator[Job]:
    """A job whose notebook is in the middle of its sleep, on the records."""
    told = tmp_path / "submit.txt"
    words = [*COMMAND, "submit", "--project", str(up.folder / "study"), "--state", str(up.state.folder)]
    with told.open("wb") as out:
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    job = Job(up, process, told)
    wait_for(lambda: process.poll() is not None or "Job " in job.said(), 300)
    found = re.search(r"^Job ([a-z0-9]{16}):", job.said(), re.MULTILINE)
    assert found, job.said()
    job.id = found[1]
    wait_for(lambda: JobCode.EXECUTING in job.events() and up.inside(KERNEL), 120)
    time.sleep(2.0)  # the kernel has begun to sleep
    job.sandboxed = (*up.inside(SUPERVISOR), *up.inside(KERNEL))
    assert len(job.sandboxed) == 2
    yield job
    if process.poll() is None:
        process.kill()
        process.wait()


def ends(job: Job, code: JobCode, exit_code: int, attempts: list[str]) -> None:
    """The job ends with `code`, at its terminal, at the site and in the backend; nothing of it goes on."""
    assert job.process.wait(240) == exit_code, job.said()
    assert [seen for seen in job.events() if seen in ENDS] == [code]
    wait_for(lambda: job.backend("select tidy from jobs where id = ?") == [(1,)], 60)
    assert [end for (end,) in job.backend("select end from attempts where job = ? order by began_at")] == attempts
    succeeded = code is JobCode.SUCCEEDED
    assert job.backend("select count(*) from results where job = ?") == [(int(succeeded),)]
    (at_level_4,) = [one for one in job.up.level4.jobs() if one.id == job.id]
    assert (at_level_4.succeeded, at_level_4.result) == (succeeded, succeeded)
    assert list((job.up.state.folder / "backend" / "level3" / "scratch").iterdir()) == []
    wait_for(lambda: not [pid for pid in job.sandboxed if Path(f"/proc/{pid}").exists()], 30)


@pytest.mark.parametrize(("child", "attempts"), [("agent", ["lost", "done"]), ("site", ["done"])])
def test_a_service_that_is_killed_is_started_again_and_the_job_succeeds_once(
    asleep: Job, child: str, attempts: list[str]
) -> None:
    pid = asleep.up.pid(child)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    ends(asleep, JobCode.SUCCEEDED, 0, attempts)
    assert asleep.up.pid(child) not in (None, pid)
    assert f"The {child} stopped; it starts again" in asleep.up.told.read_text()


@pytest.mark.parametrize("which", [SUPERVISOR, KERNEL])
def test_a_sandbox_or_kernel_that_is_killed_is_a_failed_job_once(asleep: Job, which: str) -> None:
    agent = asleep.up.pid("agent")
    for pid in asleep.up.inside(which):
        os.kill(pid, signal.SIGKILL)
    ends(asleep, JobCode.RUN_FAILED, 1, ["done"])
    assert asleep.up.pid("agent") == agent
    assert "outside level 4 nothing more can be said" in asleep.said()
