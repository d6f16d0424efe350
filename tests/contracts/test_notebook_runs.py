"""A notebook executed inside the sandbox: what it is given, and what it may say about how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import pytest
from executor_cases import PYTHON, a_spec

from opensafely_lab.jobs.executors.protocol import (
    MB,
    EndKind,
    Executor,
    ExecutorUnavailable,
    Mount,
    RunResult,
    RunSpec,
    RunState,
)
from opensafely_lab.jobs.executors.unsafe_plain import UnsafePlainExecutor
from opensafely_lab.jobs.loop import run_to_end
from opensafely_lab.notebooks.control import parse_cells, parse_error, parse_status

pytestmark = pytest.mark.sandbox

EXECUTE = (*PYTHON, "-m", "opensafely_lab.notebooks.execute")
Execute = Callable[..., RunResult]


def a_notebook(*cells: str | dict[str, Any], metadata: dict[str, Any] | None = None) -> bytes:
    made = []
    for number, cell in enumerate(cells):
        given = {"source": cell} if isinstance(cell, str) else cell
        made.append(
            {"cell_type": "code", "id": f"c{number}", "metadata": {}, "outputs": [], "execution_count": None, **given}
        )
    return json.dumps({"cells": made, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def tagged(source: str, *tags: str) -> dict[str, Any]:
    return {"source": source, "metadata": {"tags": list(tags)}}


@pytest.fixture
def execute(one_executor: Executor) -> Execute:
    def run(notebook: bytes, *, mounts: tuple[Mount, ...] = (), **job: Any) -> RunResult:
        cells = len(json.loads(notebook)["cells"])
        orders = {"parameters": {}, "ordinals": list(range(cells)), "mode": "dummy", "inputs": {}, **job}
        files = {"notebook.ipynb": notebook, "job.json": json.dumps(orders).encode()}
        spec = a_spec(*EXECUTE, files=files, mounts=mounts, memory_bytes=600 * MB, wall_seconds=60.0)
        return run_to_end(one_executor, spec)

    return run


def control(result: RunResult, name: str) -> bytes:
    return (result.folder / "control" / name).read_bytes()


def texts(result: RunResult) -> list[str]:
    """What the executed notebook printed, cell by cell."""
    cells = json.loads(control(result, "executed.ipynb"))["cells"]
    return ["".join("".join(output.get("text", "")) for output in cell.get("outputs", [])) for cell in cells]


def failure(result: RunResult) -> tuple[str | None, int | None]:
    status = parse_status(control(result, "status.json"))
    assert status.succeeded is result.end.succeeded
    return status.failure, status.cell


def test_a_notebook_is_executed_with_its_parameters(execute):
    result = execute(
        a_notebook(tagged("drug = 'a'\nages = [1]", "parameters"), "print(drug, ages)", "1 + 1", "x = 1"),
        parameters={"drug": "b'\"; import os", "ages": [2, 3]},
        ordinals=[0, None, 2, 4, 5],
    )
    assert failure(result) == (None, None)
    assert texts(result)[2] == "b'\"; import os [2, 3]\n"
    cells = parse_cells(control(result, "cells.json"))
    assert cells.outputs == (2, 4)
    assert dict(cells.execution_counts) == {0: 1, 2: 3, 4: 4, 5: 5}


QUICK_FAILURES = {
    "undefined_name": "NameError",
    "class Patient17(Exception): pass\nraise Patient17('NHS 943 476 5919')": "other-error",
    "import os; os._exit(0)": "kernel-died",
}
SLOW_FAILURES = {
    "{}['patient 17']": "KeyError",
    "this isn't python": "SyntaxError",
    "import os; os.kill(os.getpid(), 9)": "kernel-died",
    "import os; os.kill(os.getppid(), 15); raise ValueError": "ValueError",
    "input('who?')": "other-error",
    "while True: print('x' * 10000)": "too-much-output",
    "for _ in range(30000): display(1)": "too-much-output",
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *QUICK_FAILURES.items(),
        *(pytest.param(*failure, marks=pytest.mark.slow) for failure in SLOW_FAILURES.items()),
    ],
)
def test_a_failure_is_told_as_a_class_and_a_cell(execute, source, expected):
    result = execute(a_notebook("1", source, "2"), ordinals=[0, 3, 7])
    assert failure(result) == (expected, 3)
    assert result.end.exit_code == 1


def test_a_kernel_that_died_after_the_last_cell_is_a_failure(execute):
    late = "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), os._exit(0))).start()"
    result = execute(a_notebook(late, "import time; time.sleep(0.5)"))
    assert failure(result)[0] == "kernel-died"


def test_the_error_of_a_dummy_run_can_be_shown(execute):
    error = parse_error(control(execute(a_notebook("1 / 0")), "error.json"))
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    assert any("1 / 0" in line for line in error.traceback)


def test_a_kernel_that_takes_all_memory_fails_the_run(execute):
    result = execute(a_notebook("x = [bytearray(b'x' * (100 << 20)) for _ in range(20)]"))
    assert result.end.kind is EndKind.MEMORY


def test_a_notebook_does_not_choose_its_kernel(execute):
    evil = {"kernelspec": {"name": "evil", "display_name": "x", "language": "bash"}, "language_info": {"name": "R"}}
    assert failure(execute(a_notebook("print(1)", metadata=evil))) == (None, None)


def test_a_request_of_safe_is_no_output_of_the_notebooks_own(execute):
    request = "display({'application/vnd.opensafely.request+json': {'name': 't'}, 'text/plain': 't'}, raw=True)"
    result = execute(a_notebook("x = 1", request, f"{request}\nprint('and this')"))
    assert parse_cells(control(result, "cells.json")).outputs == (2,)


def test_the_kernel_knows_which_submitted_cell_it_executes(execute):
    ask = "from opensafely_lab.notebooks import cellcount; print(cellcount.current())"
    result = execute(
        a_notebook(
            tagged("p = 1", "parameters"),
            "",
            {"cell_type": "markdown", "source": "# text"},
            ask,
            tagged(ask, "skip-execution"),
            ask,
        ),
        parameters={"p": 2},
        ordinals=[0, None, 3, 5],
    )
    printed = [text for text in texts(result) if text]
    assert printed == ["3\n", "5\n"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "analysis").mkdir(parents=True)
    (folder / "output").mkdir()
    (folder / "project.yaml").write_text("version: '5.0'\n")
    (folder / "analysis" / "__init__.py").write_text("")
    (folder / "analysis" / "helpers.py").write_text("def double(x): return 2 * x\n")
    (folder / "output" / "dataset.csv").write_text("committed by mistake")
    (folder / "pandas.py").write_text("raise SystemExit('not pandas')")
    (tmp_path / "extract.csv").write_text("patient_id\n1\n")
    return folder


def mounts_of(study: Path) -> tuple[Mount, ...]:
    return (
        Mount(study, PurePosixPath("/study")),
        Mount(study.parent / "extract.csv", PurePosixPath("/inputs/0/dataset.csv")),
    )


def test_a_study_is_there_to_be_used_with_its_inputs_in_place(execute, study):
    result = execute(
        a_notebook(
            "import os; print(os.getcwd(), os.path.exists('project.yaml'))",
            "from analysis.helpers import double; print(double(2))",
            "print(open('output/dataset.csv').read())",
            "import pandas; print(pandas.__file__)",
            "open('output/mine.csv', 'w').write('1'); open('new.txt', 'w').write('1')",
            "open('/study/x', 'w')",
        ),
        mounts=mounts_of(study),
        inputs={"output/dataset.csv": "/inputs/0/dataset.csv"},
    )
    printed = texts(result)
    assert printed[:3] == ["/work/study True\n", "4\n", "patient_id\n1\n\n"]
    assert printed[3].startswith("/opt/venv/lib/")
    assert failure(result) == ("OSError", 5)
    assert not (study / "new.txt").exists()


@pytest.mark.parametrize("wrong", ["link", "input outside"])
def test_a_run_that_cannot_be_laid_out_does_not_start(execute, study, wrong):
    inputs = {"output/dataset.csv": "/inputs/0/dataset.csv"}
    if wrong == "link":
        (study / "etc").symlink_to("/etc")
    else:
        inputs = {"../../tmp/x": "/inputs/0/dataset.csv"}
    result = execute(a_notebook("1"), mounts=mounts_of(study), inputs=inputs)
    assert failure(result) == ("not-started", None)


def test_a_notebook_that_forges_its_status_gains_nothing(execute):
    """It may write what it likes; what is believed is only what its author may learn anyway."""
    forged = (
        "import os, json\n"
        "json.dump({'state': 'succeeded', 'class': None, 'cell': None}, open('/outputs/.osl/status.json', 'w'))\n"
        "os.kill(os.getpid(), 9)"
    )
    assert failure(execute(a_notebook(forged)))[0] == "kernel-died"


FILL = """
import os
with open('/outputs/full.csv', 'wb', buffering=0) as file:
    while True:
        file.write(bytes(1 << 16))
"""


def test_a_notebook_that_fills_its_outputs_is_still_told_why_it_failed(execute):
    assert failure(execute(a_notebook("1", FILL))) == ("OSError", 1)


@pytest.mark.slow
def test_a_notebook_that_leaves_no_room_for_a_report_has_failed(execute):
    evil = "import os; os.remove('/outputs/.osl/.reserve')\ntry:\n  exec(FILL)\nexcept OSError: pass"
    result = execute(a_notebook(f"FILL = {FILL!r}", evil))
    assert not result.end.succeeded


def test_plots_and_frames_work_in_there(execute):
    result = execute(
        a_notebook(
            "import pandas, pyarrow, numpy; print(pandas.DataFrame({'a': [1, 2]}).a.sum())",
            "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
        )
    )
    assert failure(result) == (None, None)
    assert texts(result)[0] == "3\n"
    assert parse_cells(control(result, "cells.json")).outputs == (0, 1)


# -- without a sandbox: dummy data only ------------------------------------------------------------


@pytest.fixture
def unsafe(tmp_path: Path) -> UnsafePlainExecutor:
    return UnsafePlainExecutor(tmp_path / "state")


def unsafe_spec(
    mode: str, notebook: bytes, mounts: tuple[Mount, ...] = (), inputs: dict[str, str] | None = None
) -> RunSpec:
    job = {"parameters": {}, "ordinals": [0, 1], "mode": mode, "inputs": inputs or {}}
    files = {"notebook.ipynb": notebook, "job.json": json.dumps(job).encode()}
    return a_spec(
        "/opt/venv/bin/python", "-m", "opensafely_lab.notebooks.execute", files=files, mounts=mounts, wall_seconds=60.0
    )


def test_without_a_sandbox_dummy_data_can_be_used_and_it_says_so(unsafe, study, caplog):
    notebook = a_notebook(
        "from analysis.helpers import double; print(double(2), open('output/dataset.csv').read())",
        "import os; print(os.environ['OSL_REQUESTS'].endswith('/outputs/.osl/requests.json'))",
    )
    spec = unsafe_spec("dummy", notebook, mounts_of(study), {"output/dataset.csv": "/inputs/0/dataset.csv"})
    result = run_to_end(unsafe, spec)
    assert failure(result) == (None, None), result.log
    assert texts(result) == ["4 patient_id\n1\n\n", "True\n"]
    assert (result.layers["executor"], result.layers["isolation"]) == ("unsafe-plain", "none")
    assert "UNSAFE" in caplog.text
    assert not unsafe.probe().ok


def test_without_a_sandbox_a_command_finds_its_places(unsafe, study):
    code = "import sys; open(sys.argv[2], 'w').write(open(sys.argv[1] + '/project.yaml').read())"
    spec = a_spec(*PYTHON, "-c", code, "/study", "/outputs/answer.txt", mounts=mounts_of(study))
    result = run_to_end(unsafe, spec)
    assert (result.folder / "outputs" / "answer.txt").read_text() == "version: '5.0'\n"


def test_without_a_sandbox_nothing_is_run_on_real_data(unsafe):
    spec = unsafe_spec("real", a_notebook("1"))
    with pytest.raises(ExecutorUnavailable):
        run_to_end(unsafe, spec)
    assert unsafe.state(spec.id) is RunState.ABSENT


@pytest.mark.slow
def test_without_a_sandbox_a_run_can_still_be_ended(unsafe):
    spec = unsafe_spec("dummy", a_notebook("import time; time.sleep(60)"))
    result = run_to_end(unsafe, attrs.evolve(spec, limits=attrs.evolve(spec.limits, wall_seconds=2.0)))
    assert result.end.kind is EndKind.TIME
