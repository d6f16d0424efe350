"""The trusted child: a fresh, capped process for each step on records, of whose failures nothing is told."""

from __future__ import annotations

import stat
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from chain_scene import RECORDED, patients_csv
from service_fakes import wait_until

from opensafely_lab.pipeline import tasks
from opensafely_lab.pipeline.child import GIB, ChildFailed, ChildLimits, ask

SECRET = "patient 4711 of Hay-on-Wye"

# Stands for the interpreter: the same child with more tasks, which do what the real ones must not.
WITH_TASKS = f"""\
#!{sys.executable} -P
import os, resource, sys, time
from opensafely_lab.pipeline import child, tasks

def raises(message):
    print({SECRET!r}, file=sys.stderr)
    raise ValueError({SECRET!r})

def crashes(message):
    os.write(2, {SECRET!r}.encode())
    os.kill(os.getpid(), 11)

def exits(message):
    raise SystemExit({SECRET!r})

def talks(message):
    os.write(1, {SECRET!r}.encode())
    return {{}}

def sleeps(message):
    time.sleep(60)

def spins(message):
    while True:
        pass

def gobbles(message):
    return len(bytearray(2 << 30))

def limits(message):
    names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_CORE")
    return [list(resource.getrlimit(getattr(resource, name))) for name in names]

def surroundings(message):
    return {{"environment": dict(os.environ), "folder": os.getcwd(), "path": sys.path, "words": sys.argv}}

def noted(task):
    def run(message):
        open(message["mark"], "w").write(str(os.getpid()))
        return task(message)
    return run

for task in (raises, crashes, exits, talks, sleeps, spins, gobbles, limits, surroundings):
    tasks.TASKS[task.__name__] = noted(task)
sys.exit(child.main(sys.argv[-1:]))
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the further tasks known; each writes its process id here when it begins."""
    interpreter = tmp_path / "interpreter"
    interpreter.write_text(dedent(WITH_TASKS))
    interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    return tmp_path / "mark"


def test_a_task_is_done_in_another_process_and_answers_in_json(tmp_path: Path) -> None:
    extract = tmp_path / "people.csv"
    extract.write_text(patients_csv(RECORDED))
    answer = ask("describe", {"file": str(extract)}, scratch=tmp_path)
    schema = tasks.schema_value(answer["schema"])
    assert [column.name for column in schema.columns] == ["patient_id", "date_of_birth", "sex", "date_of_death"]


@pytest.mark.parametrize("task", ["raises", "crashes", "exits", "talks"])
def test_of_a_task_that_fails_nothing_is_told_but_that_it_failed(
    tmp_path: Path, mark: Path, capfd: pytest.CaptureFixture[str], task: str
) -> None:
    with pytest.raises(ChildFailed) as broken:
        ask(task, {"value": SECRET, "mark": str(mark)}, scratch=tmp_path)
    assert mark.exists(), "the task was done"
    assert str(broken.value) == "A trusted step on the records failed. Tell the operator of the backend."
    assert "4711" not in everything_said(broken.value)
    said = capfd.readouterr()
    assert "4711" not in said.out + said.err
    assert said.err == ""


def everything_said(error: BaseException | None) -> str:
    """The error and all that hangs on it, where a log or a debugger could look."""
    told = ""
    while error is not None:
        told += repr(error) + repr(getattr(error, "__dict__", {})) + repr(error.args)
        error = error.__cause__ or error.__context__
    return told


def test_a_task_that_takes_too_long_is_ended(tmp_path: Path, mark: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ChildFailed, match="did not finish"):
        ask("sleeps", {"mark": str(mark)}, scratch=tmp_path, limits=ChildLimits(wall_seconds=3.0))
    assert time.monotonic() - began < 50, "it would have slept a minute"
    if mark.exists():
        wait_until(lambda: not Path("/proc", mark.read_text()).exists(), what="the end of the child")


@pytest.mark.parametrize(
    ("task", "limits"), [("spins", ChildLimits(cpu_seconds=1)), ("gobbles", ChildLimits(address_bytes=GIB))]
)
def test_a_task_that_takes_too_much_is_ended(tmp_path: Path, mark: Path, task: str, limits: ChildLimits) -> None:
    with pytest.raises(ChildFailed, match="failed"):
        ask(task, {"mark": str(mark)}, scratch=tmp_path, limits=limits)
    assert mark.exists(), "the task was begun"


def test_the_limits_are_those_that_were_given_and_no_core_is_dumped(tmp_path: Path, mark: Path) -> None:
    found = ask(
        "limits", {"mark": str(mark)}, scratch=tmp_path, limits=ChildLimits(address_bytes=3 * GIB, cpu_seconds=77)
    )
    assert found == [[3 * GIB, 3 * GIB], [77, 77], [0, 0]]


def test_a_task_gets_its_message_on_stdin_and_none_of_our_surroundings(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret of the agent's environment, and no message where other processes can read it."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.syspath_prepend(str(tmp_path / "a-study-with-its-own-numpy"))
    found: dict[str, Any] = ask("surroundings", {"value": SECRET, "mark": str(mark)}, scratch=tmp_path)
    assert "hunter2" not in str(found)
    assert "4711" not in str(found)
    assert "a-study-with-its-own-numpy" not in str(found)
    assert found["folder"] == str(tmp_path)
    assert found["environment"]["TMPDIR"] == str(tmp_path)


def test_an_interpreter_that_cannot_be_started_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(ChildFailed, match="did not finish"):
        ask("gate", {}, scratch=tmp_path)
