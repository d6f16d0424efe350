"""The runs begun at this desk, as files: what Lab's server, a kernel's magic and the worker share.

A run is a folder with `record.json` (replaced atomically), `lock` (held by whoever carries the run
out, for as long as they live) and, for a run on dummy data, `result.ipynb`. Nothing of level 4 is
ever kept here, and nothing is kept in the study.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from opensafely_lab.desk.state import State
from opensafely_lab.errors import ErrorKind, LabError
from opensafely_lab.study.project import Action
from opensafely_lab.wire.base import Message, ParameterValue
from opensafely_lab.wire.decode import BadMessage, decode
from opensafely_lab.wire.lab import Problem, RunKind, RunRow, Stage

KEPT = 50
LARGEST_RESULT = 64 << 20
ENDED = frozenset({Stage.DONE, Stage.FAILED, Stage.REFUSED, Stage.CANCELLED})
PROGRESS: Mapping[Stage, float] = {
    Stage.QUEUED: 0.02,
    Stage.DUMMY_RUN: 0.15,
    Stage.SENDING: 0.35,
    Stage.WAITING: 0.42,
    Stage.PREPARING: 0.55,
    Stage.EXECUTING: 0.7,
    Stage.CHECKING: 0.9,
    Stage.DONE: 1.0,
    Stage.FAILED: 1.0,
    Stage.REFUSED: 1.0,
    Stage.CANCELLED: 1.0,
}
_ID = re.compile(r"[a-z0-9]{16}\Z")

LOST = Problem(
    code="lost",
    sentence="The run on this computer stopped before its end.",
    next_step="Start it again.",
)


class NoSuchRun(LabError):
    code = "no-such-run"
    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("There is no such run here.", next_step="Reload the page to see the runs that there are.")


class RunRecord(Message):
    """A run begun here. Once `job` is there, the site knows more of it than this file.

    `row.notebook` is its path within the study.
    """

    row: RunRow
    study: str
    fixes: list[str]
    job: str | None


class RunStore:
    """The folder of runs. Any number of processes may use it at once."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.folder = state.folder / "runs"

    def begin(
        self,
        study: Path,
        action: Action,
        kind: RunKind,
        parameters: Mapping[str, ParameterValue],
        *,
        fixes: Sequence[str] = (),
    ) -> RunRecord:
        """Record a run and start a worker for it."""
        row = RunRow(
            id=secrets.token_hex(8),
            kind=kind,
            action=action.name,
            notebook=str(action.notebook),
            backend=None,
            commit=None,
            parameters=dict(parameters),
            stage=Stage.QUEUED,
            progress=PROGRESS[Stage.QUEUED],
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            problem=None,
            has_result=False,
            level="none",
        )
        record = RunRecord(row=row, study=str(study), fixes=list(fixes), job=None)
        self.state.make()
        self.state.room("runs")
        self._room(row.id).mkdir(mode=0o700)
        self.write(record)
        self._spawn(row.id)
        self._prune()
        return record

    def write(self, record: RunRecord) -> None:
        place = self._room(record.row.id) / "record.json"
        new = place.with_name(f".record.{os.getpid()}")
        new.write_text(record.model_dump_json())
        new.replace(place)

    def change(self, record: RunRecord, **changes: object) -> RunRecord:
        """The record with a changed row, written."""
        stage = changes.get("stage")
        update = {"progress": PROGRESS[stage]} | changes if isinstance(stage, Stage) else changes
        row = record.row.model_copy(update=update)
        changed = record.model_copy(update={"row": row})
        self.write(changed)
        return changed

    def read(self, run: str) -> RunRecord:
        """Raises `NoSuchRun`."""
        try:
            return decode(RunRecord, (self._room(run) / "record.json").read_bytes())
        except (OSError, BadMessage):
            raise NoSuchRun from None

    def records(self) -> list[RunRecord]:
        """All runs, newest first. One whose worker has died without a word has failed."""
        found = []
        for run in self._ids():
            try:
                record = self.read(run)
            except NoSuchRun:
                continue
            if record.job is None and record.row.stage not in ENDED and not self._is_worked_on(run):
                record = self.read(run)  # it may have ended in between
                if record.job is None and record.row.stage not in ENDED:
                    record = self.change(record, stage=Stage.FAILED, problem=LOST)
            found.append(record)
        return sorted(found, key=lambda record: (record.row.started, record.row.id), reverse=True)

    def fingerprint(self) -> object:
        """Something that differs once a record has."""
        return tuple((run, _mtime(self._room(run) / "record.json")) for run in self._ids())

    def keep_result(self, run: str, notebook: bytes) -> None:
        place = self._room(run) / "result.ipynb"
        new = place.with_name(".result")
        new.write_bytes(notebook)
        new.replace(place)

    def result(self, run: str) -> str:
        """The result of a run on dummy data. Raises `NoSuchRun`."""
        try:
            data = (self._room(run) / "result.ipynb").read_bytes()
            return data[:LARGEST_RESULT].decode()
        except (OSError, UnicodeDecodeError):
            raise NoSuchRun from None

    def _spawn(self, run: str) -> None:
        """A process of its own: it outlives Lab's server and the kernel, and its lock dies with it."""
        lock = os.open(self._room(run) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (self._room(run) / "worker.log").open("wb") as log:
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "opensafely_lab.desk.worker", str(self.state.folder), run],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=worker_environment(),
                    cwd=self.folder,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)  # the worker's copy keeps it locked

    def _is_worked_on(self, run: str) -> bool:
        try:
            lock = os.open(self._room(run) / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _prune(self) -> None:
        for record in self.records()[KEPT:]:
            if record.row.stage in ENDED or record.job is not None:
                shutil.rmtree(self._room(record.row.id), ignore_errors=True)

    def _ids(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if _ID.match(name))
        except OSError:
            return []

    def _room(self, run: str) -> Path:
        if not _ID.match(run):
            raise NoSuchRun
        return self.folder / run


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def worker_environment() -> dict[str, str]:
    """Ours, without what belongs to the Jupyter server or kernel that asks.

    Of `sys.path` only where this package is: the rest may begin with the study, whose modules have no
    business in a process that holds tokens.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JPY_", "JUPYTER", "MPLBACKEND"))}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])}
