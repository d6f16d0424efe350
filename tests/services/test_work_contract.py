"""The suite that whatever carries out jobs has to pass: the fake of the other tests, and the pipeline."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from service_fakes import COMMIT, PATIENT, FakeWork, submission

from opensafely_lab.backend.pipeline_work import PipelineWork
from opensafely_lab.backend.work import RESULT_CODES, Document, Order, RunFailure, Work, WorkResult
from opensafely_lab.disclosure.policy import POLICIES
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import Assignment


@frozen
class Case:
    """A work and how to order from it: a job that succeeds, one that fails, one that runs until it is cancelled."""

    work: Work
    order: Callable[[str, Callable[[], bool]], Order]


def fake(folder: Path) -> Case:
    def order(mode: str, cancelled: Callable[[], bool]) -> Order:
        checkout, scratch = folder / "code", folder / "scratch"
        for each in (checkout, scratch):
            each.mkdir(exist_ok=True)
        (checkout / "COMMIT").write_text(COMMIT)
        request = submission(parameters={"mode": mode})
        text = json.dumps({"job": "a" * 16, "author": "alice", "cancelled": False, "request": request})
        assignment = decode(Assignment, text.encode())
        return Order("r" * 16, assignment, POLICIES["opensafely"], checkout, scratch, cancelled)

    return Case(FakeWork(folder / "runs.txt"), order)


NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {
            "id": f"c{number}",
            "cell_type": "code",
            "execution_count": None,
            "metadata": {"tags": tags},
            "outputs": [],
            "source": source,
        }
        for number, (tags, source) in enumerate(
            [
                (["parameters"], 'mode = "succeed"'),
                ([], "import time"),
                ([], f'if mode == "fail": raise ValueError({PATIENT!r})'),
                ([], 'if mode == "wait": time.sleep(120)'),
            ]
        )
    ],
}
PROJECT = """
version: "5.0"
actions:
  bleeding:
    run: notebook:v1 analysis/gi.ipynb
    config: {parameters: {mode: {type: str, default: succeed, choices: [succeed, fail, wait]}}}
"""


@pytest.fixture(scope="module")
def sandboxed(tmp_path_factory: pytest.TempPathFactory) -> PipelineWork:
    folder = tmp_path_factory.mktemp("work")
    folder.chmod(0o711)
    (folder / "records").mkdir()
    return PipelineWork("demo", folder / "state", folder / "records")


def pipeline(folder: Path, work: PipelineWork) -> Case:
    def order(mode: str, cancelled: Callable[[], bool]) -> Order:
        checkout, scratch = folder / "code", folder / "scratch"
        for each in (checkout, scratch):
            each.mkdir(mode=0o700)
        (checkout / "analysis").mkdir()
        (checkout / "analysis" / "gi.ipynb").write_text(json.dumps(NOTEBOOK))
        (checkout / "project.yaml").write_text(PROJECT)
        nothing = {"outputs": [], "execution_counts": {}}
        request = submission(parameters={"mode": mode}, layout=nothing, definitions={})
        text = json.dumps({"job": "a" * 16, "author": "alice", "cancelled": False, "request": request})
        assignment = decode(Assignment, text.encode())
        return Order("r" * 16, assignment, POLICIES["opensafely"], checkout, scratch, cancelled)

    return Case(work, order)


@pytest.fixture(params=["fake", pytest.param("pipeline", marks=[pytest.mark.sandbox, pytest.mark.slow])])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "fake":
        return fake(tmp_path)
    return pipeline(tmp_path, request.getfixturevalue("sandboxed"))


def run(case: Case, mode: str, cancelled: Callable[[], bool] = lambda: False) -> tuple[WorkResult, list[JobCode]]:
    told: list[JobCode] = []
    result = case.work.run(case.order(mode, cancelled), told.append)
    assert result.code in RESULT_CODES
    return result, told


def test_it_says_what_it_found_out_about_itself(case: Case) -> None:
    probe = case.work.probe()
    assert probe.executor
    assert probe.ready


def test_reaping_again_and_again_does_no_harm(case: Case) -> None:
    case.work.reap()
    case.work.reap()


def test_a_success_brings_a_document_and_tells_its_way(case: Case) -> None:
    result, told = run(case, "succeed")
    assert result.code is JobCode.SUCCEEDED
    assert result.document is not None
    json.loads(result.document.notebook)
    json.loads(result.document.disclosure)
    assert told[-2:] == [JobCode.EXECUTING, JobCode.CHECKING]
    assert result.executor == case.work.probe().executor
    assert result.layers


def test_a_failure_brings_a_class_and_a_cell_and_no_document(case: Case) -> None:
    result, told = run(case, "fail")
    assert result.code is JobCode.RUN_FAILED
    assert result.document is None
    assert isinstance(result.failure, RunFailure)
    assert told[-1] is JobCode.EXECUTING


def test_it_ends_soon_after_it_is_asked_to(case: Case) -> None:
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    result, _ = run(case, "wait", asked.is_set)
    assert result.code is JobCode.CANCELLED
    assert result.document is None


def test_what_it_keeps_lies_in_its_own_folder(case: Case) -> None:
    result, _ = run(case, "succeed")
    for path in result.kept.values():
        assert path.is_file()
        assert not path.is_symlink()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "tables/pt_1.csv", "other/00-x.csv", "tables/00-a/b.csv", ""])
def test_a_document_has_files_with_names_of_ours_alone(name: str) -> None:
    with pytest.raises(ValueError, match="tables/NN-name"):
        Document("n", b"", b"", {name: b""})


@pytest.mark.parametrize("code", sorted(set(JobCode) - RESULT_CODES))
def test_a_result_has_one_of_four_codes(code: JobCode) -> None:
    with pytest.raises(ValueError, match="code"):
        WorkResult(code, "fake", {})


def test_a_failure_class_cannot_be_an_exceptions_text() -> None:
    with pytest.raises(ValueError, match="failure_class"):
        RunFailure("ValueError: pt_7be19c40d2", 1)
