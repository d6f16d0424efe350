"""The proof that a leak is live: it shows in what the notebook left in the sandbox, on the very same data.

First in what the judged run itself left. What a sandbox keeps to itself (files of the working folder),
and runs that the product refused before they met real data, are proved by a second run of the same cells,
straight in the sandbox on the same file.
"""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attacks import studies
from attacks.cases import PATIENTS, TARGET, Case, Run
from attacks.judged import Judged
from attacks.traces import Forbidden, decoded, forbidden_in_tree
from attrs import field, frozen

from opensafely_lab.expressions.schema import DatasetSchema
from opensafely_lab.pipeline import execution
from opensafely_lab.pipeline.extracts import Extract
from opensafely_lab.pipeline.plan import load_plan
from opensafely_lab.pipeline.ports import Ports

REPORT = "evidence.json"
LAST_CELL = f"""\
import base64 as _b, glob as _g, json as _j, os as _o
_names = sorted(_n for _n in _g.glob('outputs/**', recursive=True) + _g.glob('*.ipynb') if _o.path.isfile(_n))
with open('/outputs/{REPORT}', 'w') as _f:
    _j.dump({{_n: _b.b64encode(open(_n, 'rb').read()).decode() for _n in _names}}, _f)"""

TRIES = 3  # for evidence in time: a busy computer can stretch a cell


@frozen
class Left:
    """What a run left behind: the executed notebook, and files of its working folder if it was asked for them."""

    executed: bytes = field(repr=False)
    files: Mapping[str, bytes] = field(factory=dict, repr=False)

    @property
    def notebook(self) -> Mapping[str, Any]:
        return json.loads(self.executed) if self.executed else {"cells": [], "metadata": {}}


@frozen
class Proof:
    live: bool
    how: str  # "the judged run", "a run straight in the sandbox", or why there is none


def prove(case: Case, run: Run, judged: Judged, extract: Path, room: Path, ports: Ports) -> Proof:
    """Does the case leak, on this computer, in this very session?"""
    if case.evidence.where == "none":
        return Proof(True, "nothing to prove")
    if case.evidence.where == "left":
        found = forbidden_in_tree(judged.left / "real", Forbidden(strings=[case.evidence.find]))
        return Proof(bool(found), "the judged run" if found else "the leak did not show")
    if judged.was_real:
        executed = judged.left / "real" / "control" / "executed.ipynb"
        if executed.is_file() and shows(case, Left(executed.read_bytes()), extract):
            return Proof(True, "the judged run")
    for attempt in range(TRIES if case.evidence.find == "timing" else 1):
        if shows(case, straight(run, extract, room / f"evidence-{attempt}", ports), extract):
            return Proof(True, "a run straight in the sandbox")
    return Proof(False, "the leak did not show")


def straight(run: Run, extract: Path, study: Path, ports: Ports) -> Left:
    """The case's cells in the sandbox on the real file, with nothing of the gate around them."""
    studies.write(run, study, last=[LAST_CELL])
    plan = load_plan(study, studies.ACTION, {}, from_text=True)
    given = Extract(PurePosixPath(PATIENTS), extract, DatasetSchema(()))
    done = execution.run_notebook(plan, [given], "real", ports)
    try:
        executed = done.result.folder / "control" / "executed.ipynb"
        report = done.result.folder / "outputs" / REPORT
        files = json.loads(report.read_bytes()) if report.is_file() else {}
        return Left(
            executed.read_bytes() if executed.is_file() else b"",
            {name: base64.b64decode(data) for name, data in files.items()},
        )
    finally:
        ports.executor.discard(done.id)


def shows(case: Case, left: Left, extract: Path) -> bool:
    """Is the case's raw evidence in what the run left?"""
    evidence = case.evidence
    match evidence.where:
        case "notebook":
            return _found(evidence.find, left.executed, evidence.decode)
        case "notebook-metadata":
            return _found(evidence.find, json.dumps(left.notebook["metadata"]).encode(), evidence.decode)
        case "disk-notebook":
            return any(
                _found(evidence.find, data, evidence.decode)
                for name, data in left.files.items()
                if name.endswith(".ipynb")
            )
        case "files":
            return any(
                _found(evidence.find, data, evidence.decode)
                for name, data in left.files.items()
                if name.startswith("outputs/")
            )
        case "filenames":
            return any(evidence.find in name for name in left.files)
        case "special":
            return _special(evidence.find, left, extract)
    raise ValueError(evidence.where)


def _found(wanted: str, data: bytes, decode: str) -> bool:
    """Is the text there, after the named decodings (in this order)?"""
    steps = [step for step in decode.split("+") if step]
    return any(wanted.encode() in blob and _in_order(steps, how.split(", ")) for how, blob in decoded(data))


def _in_order(steps: list[str], taken: list[str]) -> bool:
    at = iter(taken)
    return all(step in at for step in steps)


def _special(wanted: str, left: Left, extract: Path) -> bool:
    cells = [cell for cell in left.notebook["cells"] if cell["cell_type"] == "code"]
    name, _, value = wanted.partition("=")
    match name:
        case "size":
            return any(len(data) == int(value) for name, data in left.files.items() if name.endswith("padding.txt"))
        case "outputs":
            return any(len(cell["outputs"]) == int(value) for cell in cells)
        case "timing":
            return _digits(cells) == [2, 7, 1, 7]
        case "order":
            return any(_is_shuffled(_plain(cell)) for cell in cells)
        case "diff":
            counts = [int(n) for n in re.findall(r"\bF\s+(\d+)", "\n".join(map(_plain, cells)))]
            return any(abs(one - other) == int(value) for one in counts for other in counts)
        case "dominance":
            numbers = [float(n) for cell in cells for n in re.findall(r"\d+\.\d+", _plain(cell))]
            return any(abs(n - 108.2) < 1e-6 for n in numbers) and abs(_target(extract)["sbp"] - 165 - 106.7) < 1e-6
    raise ValueError(wanted)


def _digits(cells: list[Mapping[str, Any]]) -> list[int]:
    """What the run times of the case's last four cells spell."""
    timed = [cell for cell in cells if "time.sleep" in "".join(cell["source"])]
    durations = [cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in timed]
    return [int((duration - 0.05) / 0.12) for duration in durations[-4:]]


def _plain(cell: Mapping[str, Any]) -> str:
    texts = [output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "\n".join("".join(text) for text in texts)


def _is_shuffled(text: str) -> bool:
    labels = re.findall(r"^((?:East|London|North|South)[A-Za-z ]*?)\s+\d+$", text, re.MULTILINE)
    return len(labels) == 6 and labels != sorted(labels)


def _target(extract: Path) -> dict[str, Any]:
    with extract.open(encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["patient_id"] == TARGET)
    return {**row, "sbp": float(row["sbp"])}
