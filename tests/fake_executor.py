"""An executor that runs nothing: what a run "left" is what the test says (tests/rules/test_fake_executor.py)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import define, evolve, field, frozen

from opensafely_lab.jobs.executors.protocol import (
    CollectedFile,
    EndKind,
    ExecutorUnavailable,
    Layer,
    ProbeReport,
    RunEnd,
    RunResult,
    RunSpec,
    RunState,
    UnknownRun,
    check_run_id,
)

EXITED = RunEnd(EndKind.EXITED, 0)
FAILED = RunEnd(EndKind.EXITED, 1)


@frozen
class Left:
    """How a run ended and what it wrote into `/outputs/.osl`, by name."""

    control: Mapping[str, bytes] = field(factory=dict)
    end: RunEnd = EXITED


@frozen
class _Run:
    spec: RunSpec
    state: RunState = RunState.READY
    end: RunEnd | None = None
    result: RunResult | None = None


@define(slots=False)
class FakeExecutor:
    """`left` is asked what a run leaves, when it ends. A run ends when it is waited for."""

    folder: Path
    left: Callable[[RunSpec], Left] = field(default=lambda _: Left())
    confidential: bool = True
    available: bool = True
    name: str = "fake"
    runs: dict[str, _Run] = field(factory=dict)
    prepared: list[RunSpec] = field(factory=list)
    discarded: list[str] = field(factory=list)
    reaped: int = 0

    def probe(self) -> ProbeReport:
        return ProbeReport(self.name, (Layer("isolation", self.available, "none, it is a test"),))

    def prepare(self, spec: RunSpec) -> None:
        if not self.available:
            raise ExecutorUnavailable("There is no isolation here.")
        if self.state(spec.id) is RunState.ABSENT:
            self.prepared.append(spec)
            self.runs[spec.id] = _Run(spec)

    def execute(self, run: str) -> None:
        found = self._known(run)
        if found.state is RunState.READY:
            self.runs[run] = evolve(found, state=RunState.RUNNING)

    def state(self, run: str) -> RunState:
        check_run_id(run)
        return self.runs[run].state if run in self.runs else RunState.ABSENT

    def wait(self, run: str, timeout: float | None = None) -> RunState:
        if timeout is None and self.state(run) is RunState.RUNNING:
            self.runs[run] = evolve(self.runs[run], state=RunState.ENDED)
        return self.state(run)

    def finalise(self, run: str) -> RunResult:
        found = self._known(run)
        if found.result is None:
            result = self._collect(found)
            self.runs[run] = found = evolve(found, state=RunState.COLLECTED, result=result)
        assert found.result is not None
        return found.result

    def terminate(self, run: str) -> None:
        if self.state(run) in (RunState.READY, RunState.RUNNING):
            end = RunEnd(EndKind.TERMINATED, None)
            self.runs[run] = evolve(self.runs[run], state=RunState.ENDED, end=end)

    def discard(self, run: str) -> None:
        if self.runs.pop(run, None) is not None:
            self.discarded.append(run)
        shutil.rmtree(self.folder / run, ignore_errors=True)

    def reap(self) -> Sequence[str]:
        self.reaped += 1
        left = tuple(self.runs)
        for run in left:
            self.discard(run)
        return left

    def _known(self, run: str) -> _Run:
        check_run_id(run)
        if run not in self.runs:
            raise UnknownRun(run)
        return self.runs[run]

    def _collect(self, run: _Run) -> RunResult:
        left = Left(end=run.end) if run.end is not None else self.left(run.spec)
        control = self.folder / run.spec.id / "control"
        control.mkdir(parents=True)
        files = []
        for name, data in left.control.items():
            (control / name).write_bytes(data)
            path = PurePosixPath("control", name)
            files.append(CollectedFile(path, len(data), hashlib.sha256(data).hexdigest()))
        return RunResult(
            end=left.end,
            folder=control.parent,
            files=tuple(files),
            refused=(),
            log=b"",
            layers={"isolation": "none, it is a test"},
            wall_seconds=0.0,
            memory_peak=None,
        )
