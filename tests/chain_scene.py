"""A study of one dataset and one notebook, records, and the chain around a fake executor: for tests of the chain.

The trusted child's tasks are done in this process (`trusted_steps`), with the same JSON in between.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from attrs import define, field
from fake_executor import FAILED, FakeExecutor, Left

from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import Group, Measure, PlotRequest, Request, RequestList, TableRequest, parse
from opensafely_lab.ehrql import model_json
from opensafely_lab.ehrql.language import create_dataset, dataset_model
from opensafely_lab.ehrql.tables.core import patients
from opensafely_lab.expressions.nodes import Column, Expr
from opensafely_lab.expressions.schema import ValueType
from opensafely_lab.jobs.executors.protocol import RunEnd, RunSpec
from opensafely_lab.notebooks import control
from opensafely_lab.notebooks.result import Banner
from opensafely_lab.pipeline import child, tasks
from opensafely_lab.pipeline.chain import Authorised, DummyRun, Layout, RealRun, dummy_run, real_run
from opensafely_lab.pipeline.plan import Plan, load_plan
from opensafely_lab.pipeline.ports import Ports

DATASET = "output/people.arrow"
PROJECT = f"""\
version: "5.0"
actions:
  people:
    run: ehrql:v1 generate-dataset analysis/people.py --output {DATASET} --dummy-tables dummy_tables
    outputs: {{highly_sensitive: {{dataset: {DATASET}}}}}
  report:
    run: notebook:v1 analysis/report.ipynb
    needs: [people]
    config: {{parameters: {{minimum_age: {{type: int, min: 0, max: 120}}}}}}
"""
SOURCES = ("minimum_age = 18", "ask()", "print('by itself')", "ask_again()")
# Who is in the records, by sex: the gate hides what is 7 or fewer and rounds the rest to 5.
RECORDED = {"female": 41, "male": 12, "intersex": 3}
SHOWN = [["female", "40"], ["male", "10"], ["intersex", "[REDACTED]"], ["unknown", "[REDACTED]"]]
DUMMY = {"female": 9, "male": 30}


def notebook(*sources: str) -> bytes:
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "execution_count": None,
            "metadata": {"tags": ["parameters"]} if number == 0 else {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(sources or SOURCES)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def patients_csv(people: Mapping[str, int]) -> str:
    sexes = [sex for sex, count in people.items() for _ in range(count)]
    lines = [f"{number},1980-05-01,{sex},\n" for number, sex in enumerate(sexes, start=1)]
    return "patient_id,date_of_birth,sex,date_of_death\n" + "".join(lines)


def definition(*sexes: str) -> bytes:
    """A dataset definition as its evaluation answers: everybody, or people of these sexes."""
    dataset = create_dataset()
    everybody = patients.exists_for_patient()
    dataset.define_population(patients.sex.is_in(list(sexes)) if sexes else everybody)
    dataset.sex = patients.sex
    return model_json.text(dataset_model(dataset)).encode()


def table(
    name: str = "by sex", *, id: int = 0, cell: int = 1, column: str = "sex", where: Expr | None = None
) -> TableRequest:
    by = (Group("sex", Column(column, ValueType.STR)),)
    return TableRequest(id, name, cell, DATASET, where, by, (Measure("count", "count"),), False)


def plot(*, id: int = 1, of: int = 0) -> PlotRequest:
    return PlotRequest(id, "bars", 3, of, "bar", "People")


def ran(*requests: Request, outputs: tuple[int, ...] = (2,), **written: bytes) -> Left:
    """What a notebook leaves that ran to its end. Its own files are named with `_` for `.`: `cells_json=b"..."`."""
    files = {
        "status.json": b'{"state": "succeeded", "class": null, "cell": null}',
        "cells.json": json.dumps({"outputs": list(outputs), "execution_counts": {"1": 1, "2": 2}}).encode(),
        "requests.json": RequestList(requests or (table(),)).text().encode(),
        "executed.ipynb": b"patient 17 lives in Hay-on-Wye",
    }
    return Left(files | {name.replace("_", "."): data for name, data in written.items()})


def failed(failure: str = "ValueError", cell: int | None = 1, *, end: RunEnd = FAILED) -> Left:
    status = {"state": "failed", "class": failure, "cell": cell}
    error = {"ename": failure, "evalue": "patient 17 is 93", "traceback": [f"{failure}: patient 17 is 93"]}
    return Left({"status.json": json.dumps(status).encode(), "error.json": json.dumps(error).encode()}, end)


@define(slots=False)
class Scene:
    """`left` says what the notebook leaves in each mode; `definitions` what each evaluation answers, the last again."""

    folder: Path
    left: dict[str, Left] = field(factory=lambda: {"dummy": ran(), "real": ran()})
    definitions: list[bytes] = field(factory=lambda: [definition()])
    evaluated: int = 0
    jobs: list[dict[str, Any]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.study = self.folder / "study"
        self.records = self.folder / "records"
        for place in ("analysis", "dummy_tables"):
            (self.study / place).mkdir(parents=True)
        (self.study / "project.yaml").write_text(PROJECT)
        (self.study / "analysis" / "people.py").write_text("dataset = 'evaluated by nobody'\n")
        (self.study / "analysis" / "report.ipynb").write_bytes(notebook())
        (self.study / "dummy_tables" / "patients.csv").write_text(patients_csv(DUMMY))
        self.records.mkdir()
        (self.records / "patients.csv").write_text(patients_csv(RECORDED))
        scratch = self.folder / "scratch"
        scratch.mkdir(mode=0o700)
        self.executor = FakeExecutor(self.folder / "runs", self._left)
        numbers = itertools.count()
        self.ports = Ports(self.executor, scratch, OPENSAFELY, lambda: f"run-{next(numbers)}")

    def _left(self, spec: RunSpec) -> Left:
        if "opensafely_lab.ehrql.evaluate_inside" in spec.argv:
            answer = self.definitions[min(self.evaluated, len(self.definitions) - 1)]
            self.evaluated += 1
            return Left({"definition.json": answer})
        job = json.loads(spec.files["job.json"])
        self.jobs.append(job)
        return self.left[job["mode"]]

    @property
    def modes(self) -> list[str]:
        """In which modes the notebook was run."""
        return [job["mode"] for job in self.jobs]

    @property
    def is_clean(self) -> bool:
        """Is nothing of any run left?"""
        return not list(self.ports.scratch.iterdir()) and not self.executor.runs

    def plan(self) -> Plan:
        return load_plan(self.study, "report", {}, from_text=False)

    def authorised(self) -> Authorised:
        """What the dummy run would fix, without running it."""
        left = self.left["dummy"].control
        definition = model_json.digest(model_json.from_bytes(self.definitions[0]))
        cells = control.parse_cells(left["cells.json"])
        requests = parse(left["requests.json"] or RequestList(()).text().encode())
        return Authorised(requests, Layout(cells.outputs, cells.execution_counts), {"people": definition})

    def dummy(self, **options: Any) -> DummyRun:
        return dummy_run(self.plan(), self.ports, Banner("dummy", "report", "report.ipynb", "opensafely"), **options)

    def real(self, authorised: Authorised | None = None, **options: Any) -> RealRun:
        banner = Banner("level4", "report", "report.ipynb", "opensafely")
        known = authorised or self.authorised()
        return real_run(self.plan(), known, options.pop("records", self.records), self.ports, banner, **options)


Steps = list[tuple[str, Any]]


def trusted_steps(monkeypatch: pytest.MonkeyPatch, *, fails: Callable[[str], bool] = lambda _: False) -> Steps:
    """Do the trusted child's tasks in this process; returns where each is noted, with its message."""
    asked: Steps = []

    def ask(task: str, message: Mapping[str, Any], *, scratch: Path, limits: object = None) -> Any:
        asked.append((task, message))
        try:
            assert not fails(task)
            return json.loads(json.dumps(tasks.TASKS[task](json.loads(json.dumps(message)))))
        except Exception:
            raise child.ChildFailed("A trusted step on the records failed.") from None

    monkeypatch.setattr(child, "ask", ask)
    return asked


def rows(record: bytes, output: int = 0) -> list[list[str]]:
    """The rows of a shown table, from `disclosure.json`."""
    found: list[list[str]] = json.loads(record)["outputs"][output]["table"]["rows"]
    return found


def path(text: str) -> PurePosixPath:
    return PurePosixPath(text)
