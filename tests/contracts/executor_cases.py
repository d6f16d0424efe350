"""Executors to hold to their contract, as fixtures. Another one (Docker) is added to `EXECUTORS`, and nowhere else."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from opensafely_lab.jobs.executors.protocol import (
    EndKind,
    Executor,
    Limits,
    Mount,
    RunResult,
    RunSpec,
    RunState,
    UnknownRun,
)
from opensafely_lab.jobs.executors.sandbox import SandboxExecutor
from opensafely_lab.jobs.loop import run_to_end
from opensafely_lab.jobs.root import JobRoot, ensure_root

PROBES = Path(__file__).parents[1] / "attacks" / "probes"
PYTHON = ("/opt/venv/bin/python", "-I")
BARE = (*PYTHON, "-S", "-c")

# "sandbox" limits memory by a cgroup where there is one, "sandbox-polled" never.
EXECUTORS: dict[str, Callable[[Path, JobRoot], Executor]] = {
    "sandbox": SandboxExecutor,
    "sandbox-polled": lambda state, root: SandboxExecutor(state, root, use_cgroup=False),
}


def cache_folder() -> Path:
    """Kept between test runs: a root takes a quarter of a minute to build."""
    folder = Path(tempfile.gettempdir()) / f"opensafely-lab-tests-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        pytest.fail(f"{folder} belongs to somebody else")
    return folder / "cache"


@pytest.fixture(scope="session")
def job_root() -> JobRoot:
    return ensure_root(cache_folder())


@pytest.fixture(scope="session")
def proven_states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One state folder for each executor, so that each tests itself once."""
    return {name: tmp_path_factory.mktemp(name) for name in EXECUTORS}


@pytest.fixture(params=list(EXECUTORS))
def executor(request: pytest.FixtureRequest, job_root: JobRoot, proven_states: dict[str, Path]) -> Iterator[Executor]:
    made = EXECUTORS[request.param](proven_states[request.param], job_root)
    report = made.probe() if not (proven_states[request.param] / "probe.json").exists() else None
    if report is not None and not report.ok:
        missing = [f"{layer.name}: {layer.detail}" for layer in report.layers if not layer.ok]
        pytest.skip(f"{made.name} cannot be used here: {missing}")
    yield made
    for run in sorted(path.name for path in (proven_states[request.param] / "runs").glob("[a-z0-9]*")):
        with contextlib.suppress(Exception):
            made.discard(run)


@pytest.fixture
def one_executor(job_root: JobRoot, proven_states: dict[str, Path]) -> Executor:
    """For what does not depend on the executor."""
    return SandboxExecutor(proven_states["sandbox"], job_root)


def keeps_its_states(executor: Executor, spec: RunSpec, *, hangs: RunSpec) -> None:
    """From ABSENT to COLLECTED and back, with every call repeated. `spec` ends by itself, `hangs` does not."""
    assert executor.state(spec.id) is RunState.ABSENT
    for _ in range(2):
        executor.prepare(spec)
        assert executor.state(spec.id) is RunState.READY
    for _ in range(2):
        executor.execute(spec.id)
        assert executor.state(spec.id) is RunState.RUNNING
    assert executor.wait(spec.id, 0.01) is RunState.RUNNING
    assert executor.wait(spec.id) is RunState.ENDED
    executor.execute(spec.id)
    assert executor.state(spec.id) is RunState.ENDED
    first = executor.finalise(spec.id)
    assert first.end.succeeded
    assert executor.state(spec.id) is RunState.COLLECTED
    assert executor.finalise(spec.id) == first
    executor.terminate(spec.id)
    executor.prepare(spec)
    assert executor.state(spec.id) is RunState.COLLECTED
    for _ in range(2):
        executor.discard(spec.id)
        assert executor.state(spec.id) is RunState.ABSENT
    assert not first.folder.exists()

    executor.prepare(hangs)
    executor.execute(hangs.id)
    for _ in range(2):
        executor.terminate(hangs.id)
        assert executor.state(hangs.id) is RunState.ENDED
    assert executor.finalise(hangs.id).end.kind is EndKind.TERMINATED
    executor.discard(hangs.id)

    executor.prepare(hangs)
    executor.terminate(hangs.id)
    executor.execute(hangs.id)
    assert executor.finalise(hangs.id).end.kind is EndKind.TERMINATED
    executor.discard(hangs.id)
    for call in (executor.execute, executor.finalise):
        with pytest.raises(UnknownRun):
            call("no-such-run")
    with pytest.raises(ValueError):
        executor.state("../x")


_numbers = itertools.count()


def a_spec(
    *argv: str,
    files: Mapping[str, bytes] | None = None,
    mounts: tuple[Mount, ...] = (),
    environment: Mapping[str, str] | None = None,
    **limits: object,
) -> RunSpec:
    small = {"memory_bytes": 300 << 20, "processes": 64, "wall_seconds": 20.0, "scratch_bytes": 64 << 20, **limits}
    return RunSpec(
        id=f"run-{os.getpid()}-{next(_numbers)}",
        argv=argv,
        files=files or {},
        mounts=mounts,
        environment=environment or {},
        limits=Limits(**small),  # type: ignore[arg-type]
    )


def python(code: str, **rest: object) -> RunSpec:
    """A run of a few lines of bare Python."""
    return a_spec(*BARE, code, **rest)  # type: ignore[arg-type]


@pytest.fixture
def run(executor: Executor) -> Callable[..., RunResult]:
    """Run a few lines of Python to their end."""
    return lambda code, **rest: run_to_end(executor, python(code, **rest))
