"""One sandboxed run of a notebook, and the little that is read of what it left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from attrs import field, frozen

from opensafely_lab.disclosure.requests import LARGEST_FILE, RequestList
from opensafely_lab.disclosure.requests import parse as parse_requests
from opensafely_lab.jobs.executors.protocol import EndKind, Mount, RunResult, RunSpec
from opensafely_lab.notebooks import control
from opensafely_lab.pipeline.extracts import Extract
from opensafely_lab.pipeline.plan import Plan
from opensafely_lab.pipeline.ports import Ports
from opensafely_lab.pipeline.sandboxed import PYTHON, read_control, run_sandboxed

CLASS_OF_END = {EndKind.TIME: "time-limit", EndKind.MEMORY: "memory-limit"}
NO_REQUESTS = RequestList(()).text().encode()


@frozen
class FailedRun:
    """Why a notebook did not run to its end: a class from a fixed list and the cell of the submitted source.

    `detail` is the error text; on real data it is level 3 and nobody's to show.
    """

    failure_class: str
    cell: int | None
    detail: str | None


@frozen
class NotebookRun:
    """A run that has ended and been collected. `failed` is None for a success, and only then is there a list.

    `refused` is why what it left cannot be used; of a run on real data it is nobody's to see.
    """

    id: str
    result: RunResult
    failed: FailedRun | None
    requests: RequestList | None
    cells: control.CellsReport | None
    refused: Exception | None = field(default=None, repr=False)


def run_notebook(plan: Plan, extracts: Sequence[Extract], mode: str, ports: Ports) -> NotebookRun:
    """Run the prepared notebook to its end. `mode` is "dummy" or "real".

    Whatever the run did and left, it is an answer, never an exception: one would be a second way to
    fail, that says more, and the caller could not discard the run.
    """
    spec = _spec(plan, extracts, mode, ports)
    result = run_sandboxed(spec, ports)
    if not result.end.succeeded:
        return NotebookRun(spec.id, result, _failure(result), None, None)
    try:
        requests = parse_requests(read_control(result, "requests.json", LARGEST_FILE) or NO_REQUESTS)
        cells = control.parse_cells(read_control(result, "cells.json", control.CELLS_BYTES))
    except Exception as refused:  # noqa: BLE001 - whatever goes wrong in a parser, the run's bytes did it
        return NotebookRun(spec.id, result, FailedRun("other-error", None, None), None, None, refused)
    return NotebookRun(spec.id, result, None, requests, cells)


def _spec(plan: Plan, extracts: Sequence[Extract], mode: str, ports: Ports) -> RunSpec:
    mounts = [Mount(plan.study, PurePosixPath("/study"))]
    inputs = {}
    for number, extract in enumerate(extracts):
        inside = PurePosixPath("/inputs", str(number), extract.path.name)
        mounts.append(Mount(extract.file, inside))
        inputs[str(extract.path)] = str(inside)
    job = {
        "parameters": dict(plan.parameters),
        "ordinals": list(plan.prepared.ordinals),
        "mode": mode,
        "inputs": inputs,
    }
    return RunSpec(
        id=ports.new_id(),
        argv=(PYTHON, "-I", "-m", "opensafely_lab.notebooks.execute"),
        files={"notebook.ipynb": plan.prepared.notebook, "job.json": json.dumps(job).encode()},
        mounts=tuple(mounts),
        limits=ports.limits,
    )


def _failure(result: RunResult) -> FailedRun:
    ended = CLASS_OF_END.get(result.end.kind)
    try:
        status = control.parse_status(read_control(result, "status.json", control.STATUS_BYTES))
        failure, cell = status.failure, status.cell
    except control.ControlFileRefused:
        failure, cell = None, None
    return FailedRun(ended or failure or "kernel-died", cell, _detail(result))


def _detail(result: RunResult) -> str | None:
    try:
        return control.parse_error(read_control(result, "error.json", control.ERROR_BYTES)).text()
    except control.ControlFileRefused:
        return None
