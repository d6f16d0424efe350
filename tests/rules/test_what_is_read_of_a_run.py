"""A run may write what it likes: what is read of it is a list of requests, a layout, or a class of failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chain_scene import Scene, failed, ran, table
from fake_executor import FAILED, Left

from opensafely_lab.disclosure.requests import LARGEST_FILE
from opensafely_lab.jobs.executors.protocol import EndKind, RunEnd
from opensafely_lab.notebooks.control import CELLS_BYTES, ERROR_BYTES, FAILURE_CLASSES, STATUS_BYTES
from opensafely_lab.pipeline.execution import FailedRun, NotebookRun, run_notebook

RUBBISH = {
    "nothing": b"",
    "no JSON": b"<html>",
    "no UTF-8": b"\xff\xfe",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"succeeded"',
    "another object": b'{"state": "succeeded"}',
    "deep": b"[" * 50_000,
    "no number": b'{"state": NaN, "class": null, "cell": null}',
    "patient": b'{"state": "failed", "class": "patient 4711", "cell": 1}',
}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def run(scene: Scene, left: Left, mode: str = "real") -> NotebookRun:
    scene.left[mode] = left
    return run_notebook(scene.plan(), [], mode, scene.ports)


def status(state: str, failure: object, cell: object) -> bytes:
    return json.dumps({"state": state, "class": failure, "cell": cell}).encode()


# --- runs that ended well


def test_of_a_success_the_requests_and_the_layout_are_read(scene: Scene) -> None:
    done = run(scene, ran(table(), outputs=(2, 3)))
    assert done.failed is None
    assert done.requests is not None
    assert done.requests.requests == (table(),)
    assert done.cells is not None
    assert done.cells.outputs == (2, 3)


def test_a_notebook_that_never_asked_has_an_empty_list(scene: Scene) -> None:
    left = ran()
    del left.control["requests.json"]  # type: ignore[attr-defined]
    done = run(scene, left)
    assert done.requests is not None
    assert done.requests.requests == ()


@pytest.mark.parametrize("mode", ["dummy", "real"])
@pytest.mark.parametrize("rubbish", [name for name in RUBBISH if name != "nothing"])
@pytest.mark.parametrize("file", ["requests_json", "cells_json"])
def test_rubbish_in_place_of_a_list_or_a_layout_is_a_failed_run(
    scene: Scene, file: str, rubbish: str, mode: str
) -> None:
    done = run(scene, ran(**{file: RUBBISH[rubbish]}), mode)
    assert done.failed == FailedRun("other-error", None, None)
    assert done.requests is None
    assert done.cells is None
    assert done.refused is not None
    assert "4711" not in repr(done)


def test_a_run_that_left_no_layout_has_failed(scene: Scene) -> None:
    assert run(scene, ran(cells_json=b"")).failed == FailedRun("other-error", None, None)


@pytest.mark.parametrize(("file", "most"), [("requests_json", LARGEST_FILE), ("cells_json", CELLS_BYTES)])
def test_a_file_that_is_too_large_is_not_read_to_its_end(scene: Scene, file: str, most: int) -> None:
    valid = ran().control[file.replace("_", ".")]
    assert run(scene, ran(**{file: valid + b" " * (most - len(valid))})).failed is None
    assert run(scene, ran(**{file: valid + b" " * (most - len(valid) + 1)})).failed is not None


def test_a_parser_that_breaks_in_a_way_nobody_foresaw_is_a_failed_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: bytes) -> object:
        raise MemoryError

    monkeypatch.setattr("opensafely_lab.pipeline.execution.parse_requests", breaks)
    assert run(scene, ran()).failed == FailedRun("other-error", None, None)


# --- runs that failed


@pytest.mark.parametrize("failure", FAILURE_CLASSES)
def test_a_failure_is_one_of_a_fixed_list(scene: Scene, failure: str) -> None:
    done = run(scene, failed(failure, 2))
    assert done.failed is not None
    assert (done.failed.failure_class, done.failed.cell) == (failure, 2)
    assert done.requests is None, "what it asked for before it failed is not read"


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_status_that_is_rubbish_is_a_kernel_that_died(scene: Scene, rubbish: str) -> None:
    done = run(scene, Left({"status.json": RUBBISH[rubbish]}, FAILED))
    assert done.failed == FailedRun("kernel-died", None, None)


@pytest.mark.parametrize("cell", [-1, 10_000, 1.5, "1", True, [1], {"patient": 4711}])
def test_a_cell_that_cannot_be_is_not_believed(scene: Scene, cell: object) -> None:
    done = run(scene, Left({"status.json": status("failed", "ValueError", cell)}, FAILED))
    assert done.failed == FailedRun("kernel-died", None, None)


def test_a_status_of_success_does_not_make_a_success(scene: Scene) -> None:
    """A notebook can write its own status, and kill its kernel then."""
    done = run(scene, Left(dict(ran().control), FAILED))
    assert done.failed is not None
    assert done.failed.failure_class == "kernel-died"
    assert done.requests is None


@pytest.mark.parametrize("size", [STATUS_BYTES, STATUS_BYTES + 1])
def test_a_status_that_is_too_large_is_not_believed(scene: Scene, size: int) -> None:
    data = status("failed", "KeyError", 1)
    done = run(scene, Left({"status.json": data + b" " * (size - len(data))}, FAILED))
    assert done.failed is not None
    assert done.failed.failure_class == ("KeyError" if size == STATUS_BYTES else "kernel-died")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(EndKind.TIME, "time-limit"), (EndKind.MEMORY, "memory-limit"), (EndKind.LOST, "KeyError")],
)
@pytest.mark.parametrize("code", [None, 0])
def test_a_limit_is_told_whatever_the_run_says_of_itself(
    scene: Scene, kind: EndKind, told: str, code: int | None
) -> None:
    done = run(scene, failed("KeyError", 1, end=RunEnd(kind, code)))
    assert done.failed is not None
    assert done.failed.failure_class == told


@pytest.mark.parametrize(
    "error",
    [b"", b"[]", b'{"ename": 1, "evalue": "", "traceback": []}', b'{"ename": "a", "evalue": "", "traceback": "x"}'],
)
def test_an_error_that_is_rubbish_is_no_detail(scene: Scene, error: bytes) -> None:
    left = failed()
    done = run(scene, Left({**left.control, "error.json": error}, FAILED), "dummy")
    assert done.failed is not None
    assert done.failed.detail is None


def test_the_detail_of_an_error_is_plain_text_and_short(scene: Scene) -> None:
    line = "\x1b[31mred\x1b[0m\x07 " + "x" * 100_000
    error = json.dumps({"ename": "E", "evalue": "", "traceback": [line, "the end"]}).encode()
    assert len(error) < ERROR_BYTES
    done = run(scene, Left({**failed().control, "error.json": error}, FAILED), "dummy")
    assert done.failed is not None
    assert done.failed.detail is not None
    assert done.failed.detail.endswith("the end")
    assert len(done.failed.detail) <= 20_000
    assert "\x1b" not in done.failed.detail
