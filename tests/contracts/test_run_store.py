"""The runs of a desk as files: begun, changed, ended, lost, by several processes at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from opensafely_lab.desk import runs
from opensafely_lab.desk.runs import NoSuchRun, RunStore
from opensafely_lab.desk.state import State
from opensafely_lab.wire.lab import RunKind, Stage

ACTION: Any = SimpleNamespace(name="bleeding", notebook=PurePosixPath("analysis/a.ipynb"))


class Worker:
    """Stands in for the worker process: keeps the lock for as long as it `lives`."""

    def __init__(self) -> None:
        self.locks: list[int] = []

    def popen(self, command: list[str], *, pass_fds: tuple[int, ...], **_: object) -> None:
        self.locks += [os.dup(descriptor) for descriptor in pass_fds]

    def die(self) -> None:
        for lock in self.locks:
            os.close(lock)
        self.locks.clear()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(runs.subprocess, "Popen", worker.popen)
    return worker


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(State(tmp_path / "state"))


def begin(store: RunStore, kind: RunKind = RunKind.LOCAL) -> runs.RunRecord:
    return store.begin(Path("/study"), ACTION, kind, {"drug": "any"})


def test_a_run_is_there_for_everybody_as_soon_as_it_is_begun(store: RunStore, worker: Worker) -> None:
    begun = begin(store)
    (found,) = RunStore(store.state).records()
    assert found == begun
    assert found.row.stage is Stage.QUEUED


def test_a_change_is_seen_by_its_fingerprint(store: RunStore, worker: Worker) -> None:
    record = begin(store)
    before = store.fingerprint()
    store.change(record, stage=Stage.EXECUTING)
    assert store.fingerprint() != before
    (row,) = [found.row for found in store.records()]
    assert row.stage is Stage.EXECUTING
    assert row.progress > record.row.progress


def test_a_run_whose_worker_died_without_a_word_has_failed(store: RunStore, worker: Worker) -> None:
    begin(store)
    assert store.records()[0].row.stage is Stage.QUEUED
    worker.die()
    (found,) = store.records()
    assert found.row.stage is Stage.FAILED
    assert found.row.problem is not None
    assert store.records() == [found]


def test_a_run_that_has_ended_or_is_the_sites_stays_what_it_is_when_the_worker_goes(
    store: RunStore, worker: Worker
) -> None:
    done = store.change(begin(store), stage=Stage.DONE)
    sent = begin(store, RunKind.SUBMITTED).model_copy(update={"job": "j" * 16})
    store.write(sent)
    worker.die()
    assert {record.row.stage for record in store.records()} == {done.row.stage, sent.row.stage}


def test_the_real_worker_keeps_the_lock_and_lets_go_when_it_is_killed(store: RunStore, tmp_path: Path) -> None:
    lock_file = tmp_path / "lock"
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    other = os.open(lock_file, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    child.kill()
    child.communicate()
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(other)


def test_a_result_is_kept_beside_the_run_and_only_its_owner_may_look(store: RunStore, worker: Worker) -> None:
    record = begin(store)
    with pytest.raises(NoSuchRun):
        store.result(record.row.id)
    store.keep_result(record.row.id, b'{"cells": []}')
    assert store.result(record.row.id) == '{"cells": []}'
    assert store.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("run", ["", "..", "../../etc/passwd", "a" * 15, "A" * 16, "a" * 17, "aaaaaaaaaaaaaaa\n"])
def test_what_is_no_id_is_no_run(store: RunStore, run: str) -> None:
    with pytest.raises(NoSuchRun):
        store.read(run)
    with pytest.raises(NoSuchRun):
        store.result(run)


def test_a_damaged_record_is_passed_over(store: RunStore, worker: Worker) -> None:
    record = begin(store)
    (store.folder / record.row.id / "record.json").write_text("{")
    assert store.records() == []


def test_old_runs_are_forgotten(store: RunStore, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT", 2)
    for _ in range(4):
        store.change(begin(store), stage=Stage.DONE)
    assert len(store.records()) <= 3


def test_the_worker_imports_nothing_from_the_folder_that_lab_was_started_in(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(runs.subprocess, "Popen", lambda command, *, env, **_: started.append((command, env)))
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *sys.path])
    begin(store)
    ((command, environment),) = started
    assert "-P" in command
    assert environment["PYTHONPATH"] == str(Path(runs.__file__).parents[2])
