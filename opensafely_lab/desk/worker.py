"""Carries out one run of the store, in a process of its own: `python -m opensafely_lab.desk.worker STATE RUN`.

A process, because a sandbox dies with the thread that started it, and because neither Lab's server
nor a kernel should wait, or hold the memory. How it goes is in the run's record; nobody reads stdout.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from opensafely_lab.desk.inspect import problem
from opensafely_lab.desk.runs import RunRecord, RunStore
from opensafely_lab.desk.state import State
from opensafely_lab.errors import ErrorKind, LabError
from opensafely_lab.wire.lab import Problem, RunKind, Stage

Tell = Callable[[Stage], None]

BROKE = Problem(
    code="platform",
    sentence="Something of ours broke during this run.",
    next_step="Try again; if it stays, `opensafely-lab doctor` says what works on this computer.",
)


def main(arguments: list[str]) -> int:
    if arguments[0] == "--probe":
        sys.stdout.write(sandbox(State(Path(arguments[1]))))
        return 0
    store, run = RunStore(State(Path(arguments[0]))), arguments[1]
    work(store, store.read(run))
    return 0


def work(store: RunStore, record: RunRecord) -> RunRecord:
    """Do it, and leave the end in the record, whatever it is."""

    def tell(stage: Stage) -> None:
        nonlocal record
        record = store.change(record, stage=stage)

    try:
        if record.row.kind is RunKind.LOCAL:
            return run_on_dummy_data(store, record, tell)
        from opensafely_lab.desk.send import send

        return send(store, record)
    except LabError as error:
        failed = error.kind in (ErrorKind.RUN_FAILED, ErrorKind.PLATFORM)
        stage = Stage.FAILED if failed else Stage.REFUSED
        return store.change(record, stage=stage, problem=problem(error))
    except Exception as error:
        store.change(record, stage=Stage.FAILED, problem=BROKE)
        raise SystemExit(f"{type(error).__name__} in {record.row.action}") from error


def run_on_dummy_data(store: RunStore, record: RunRecord, tell: Tell) -> RunRecord:
    """The working copy as it is, in the sandbox; what comes of it is kept as the run's result."""
    from opensafely_lab.desk.dummy import ports_here
    from opensafely_lab.notebooks.result import Banner
    from opensafely_lab.pipeline import snapshot
    from opensafely_lab.pipeline.chain import dummy_run
    from opensafely_lab.pipeline.plan import load_plan, read_project
    from opensafely_lab.pipeline.ports import Phase

    stages = {
        Phase.PREPARING: Stage.DUMMY_RUN,
        Phase.EXECUTING: Stage.EXECUTING,
        Phase.CHECKING: Stage.CHECKING,
    }
    tell(Stage.DUMMY_RUN)
    ports = ports_here(store.state)
    with tempfile.TemporaryDirectory(prefix="osl-", dir=ports.scratch) as folder:
        study = Path(folder, "study")
        snapshot.take(Path(record.study), read_project(Path(record.study)), study)
        plan = load_plan(study, record.row.action, record.row.parameters, from_text=False)
        banner = Banner("dummy", plan.action.name, str(plan.action.notebook), ports.policy.name)
        done = dummy_run(plan, ports, banner, notify=lambda phase: tell(stages[phase]))
    store.keep_result(record.row.id, done.shown.notebook)
    return store.change(record, stage=Stage.DONE, has_result=True, level="dummy")


def sandbox(state: State) -> str:
    """ "ok", or which layers of the sandbox are missing here."""
    from opensafely_lab.desk.dummy import ports_here

    report = ports_here(state).executor.probe()
    return "ok" if report.ok else "; ".join(f"{layer.name}: {layer.detail}" for layer in report.layers if not layer.ok)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
