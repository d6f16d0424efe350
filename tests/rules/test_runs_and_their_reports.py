"""The rules around a run that need no sandbox: what to do next, and what a run's own reports may say."""

from __future__ import annotations

import hashlib
import json

import pytest

from opensafely_lab.jobs.executors import seccomp
from opensafely_lab.jobs.executors.protocol import EndKind, RunEnd, RunState
from opensafely_lab.jobs.lifecycle import Step, next_step
from opensafely_lab.notebooks import cellcount, control, execute
from opensafely_lab.notebooks.control import ControlFileRefused


@pytest.mark.parametrize(
    ("seen", "cancelled", "step"),
    [
        (RunState.ABSENT, False, Step.PREPARE),
        (RunState.READY, False, Step.START),
        (RunState.READY, True, Step.STOP),
        (RunState.RUNNING, False, Step.WAIT),
        (RunState.RUNNING, True, Step.STOP),
        (RunState.ENDED, False, Step.COLLECT),
        (RunState.ENDED, True, Step.COLLECT),
        (RunState.COLLECTED, False, Step.NONE),
    ],
)
def test_each_state_has_one_next_step(seen, cancelled, step):
    assert next_step(seen, cancelled=cancelled) is step


@pytest.mark.parametrize("kind", EndKind)
def test_only_an_exit_with_code_0_is_a_success(kind):
    assert RunEnd(kind, 0).succeeded is (kind is EndKind.EXITED)
    assert not RunEnd(kind, 1).succeeded
    assert not RunEnd(kind, None).succeeded


def as_json(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_a_status_is_read():
    assert control.parse_status(as_json(state="succeeded", **{"class": None}, cell=None)).succeeded
    failed = control.parse_status(as_json(state="failed", **{"class": "KeyError"}, cell=3))
    assert (failed.succeeded, failed.failure, failed.cell) == (False, "KeyError", 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"state": NaN}',
        b"x" * 70_000,
        as_json(state="succeeded", cell=None),
        as_json(state="succeeded", **{"class": None}, cell=None, more=1),
        as_json(state="succeeded", **{"class": "KeyError"}, cell=None),
        as_json(state="failed", **{"class": None}, cell=None),
        as_json(state="failed", **{"class": "patient 943 476 5919"}, cell=None),
        as_json(state="failed", **{"class": ["KeyError"]}, cell=None),
        as_json(state="odd", **{"class": None}, cell=None),
        as_json(state="failed", **{"class": "KeyError"}, cell=9_434_765_919),
        as_json(state="failed", **{"class": "KeyError"}, cell=-1),
        as_json(state="failed", **{"class": "KeyError"}, cell=True),
        as_json(state="failed", **{"class": "KeyError"}, cell="3"),
        as_json(state="failed", **{"class": "KeyError"}, cell=3.0),
    ],
)
def test_a_status_that_could_carry_anything_else_is_refused_without_repeating_it(data):
    with pytest.raises(ControlFileRefused) as refused:
        control.parse_status(data)
    assert "943" not in str(refused.value)


def test_the_list_of_cells_is_read():
    cells = control.parse_cells(as_json(outputs=[3, 1, 1], execution_counts={"1": 4, "3": 5}))
    assert (cells.outputs, dict(cells.execution_counts)) == ((1, 3), {1: 4, 3: 5})


@pytest.mark.parametrize(
    "data",
    [
        as_json(outputs=[], execution_counts={"-1": 1}),
        as_json(outputs=[], execution_counts={"٣": 1}),
        as_json(outputs=[], execution_counts={"943476": 1}),
        as_json(outputs=[], execution_counts={"1": "x"}),
        as_json(outputs=["x"], execution_counts={}),
        as_json(outputs=None, execution_counts={}),
        as_json(outputs=[], execution_counts=[]),
        as_json(outputs=[]),
    ],
)
def test_a_list_of_cells_that_is_none_is_refused(data):
    with pytest.raises(ControlFileRefused):
        control.parse_cells(data)


def test_an_error_is_read_as_text_and_nothing_else():
    assert control.parse_error(as_json(ename="E", evalue="v", traceback=["a"])).traceback == ("a",)
    for traceback in (None, "a", [1], {}):
        with pytest.raises(ControlFileRefused):
            control.parse_error(as_json(ename="E", evalue="v", traceback=traceback))


def test_a_class_is_one_of_a_fixed_list():
    assert control.failure_class("KeyError") == "KeyError"
    assert control.failure_class("Patient943") == "other-error"
    assert len(set(control.FAILURE_CLASSES)) == len(control.FAILURE_CLASSES)


def cell(source: str = "x", kind: str = "code", tags: tuple[str, ...] = ()) -> dict[str, object]:
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)}}


@pytest.mark.parametrize(
    ("cells", "parameters", "ordinals", "expected"),
    [
        ([cell(), cell()], {}, [0, 1], [(0, 0), (1, 1)]),
        ([cell(), cell()], {"p": 1}, [None, 0, 1], [(0, None), (1, 0), (2, 1)]),
        ([cell(tags=("parameters",)), cell()], {"p": 1}, [0, None, 1], [(0, 0), (1, None), (2, 1)]),
        ([cell(tags=("parameters",))], {"p": 1}, [4, None], [(0, 4), (1, None)]),
        ([cell(tags=("parameters",)), cell()], {}, [0, None, 1], [(0, 0), (1, 1)]),
        ([cell("# a", "markdown"), cell(""), cell(tags=("skip-execution",)), cell()], {}, [3], [(3, 3)]),
    ],
)
def test_what_the_kernel_executes_is_matched_with_what_was_submitted(cells, parameters, ordinals, expected):
    job = {"parameters": parameters, "ordinals": ordinals}
    assert execute.executed_cells({"cells": cells}, job) == expected


class Shell:
    """As much of IPython's as `cellcount` uses."""

    def __init__(self) -> None:
        self.events = self
        self.hooks: list[object] = []

    def register(self, name: str, hook: object) -> None:
        assert name == "pre_run_cell"
        self.hooks.append(hook)


def test_cells_are_counted_as_they_are_executed():
    shell = Shell()
    cellcount.watch(shell, cellcount.parse("[0, null, 4]"))
    seen = [cellcount.current()]
    for _ in range(4):
        shell.hooks[0](None)
        seen.append(cellcount.current())
    assert seen == [None, 0, None, 4, None]


def test_shipped_filters_are_those_of_the_manifest():
    manifest = json.loads((seccomp.FILTERS / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((seccomp.FILTERS / name).read_bytes()).hexdigest() == digest
    assert {seccomp.filter_path(kind, machine).name for kind in seccomp.KINDS for machine in seccomp.MACHINES} == set(
        manifest["sha256"]
    )


def test_shipped_filters_are_what_the_list_compiles_to():
    pytest.importorskip("pyseccomp", reason="the generator needs pyseccomp")
    manifest = json.loads((seccomp.FILTERS / "manifest.json").read_text())
    if seccomp.libseccomp_version() != manifest["libseccomp"]:
        pytest.skip("another libseccomp compiles the same list to other bytes")
    compiled = {name: hashlib.sha256(program).hexdigest() for name, program in seccomp.compile_all().items()}
    assert compiled == manifest["sha256"]
