"""Run leak attempts through the product's own chain, and say of each what its author saw.

    python tests/attacks/run.py --cases tests/attacks/cases/attacks.jsonl --data tests/attacks/cases --json OUT

Each case is a study of its own, run as `opensafely-lab run attack --extract patients.csv=FILE --out DIR`
would. "held" counts only where the leak is proved to be live in this very session (decisions.md, 26).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

if __package__ in (None, ""):  # run as a program
    sys.path[0] = str(Path(__file__).parents[1])
    sys.path.insert(1, str(Path(__file__).parents[2]))

from attacks import cases, judged, neutral, traces
from attacks.cases import Case
from attacks.evidence import Proof, prove
from attacks.judged import Judged

from opensafely_lab.pipeline.ports import Ports

IN_A_JOB = ("matplotlib", "pyarrow")  # of what the cases ask for, this is in a job's root


@frozen
class Report:
    """What came of one case. `held` is the gate's part; `proved` says whether there was anything to hold."""

    id: str
    title: str
    held: bool
    proved: bool
    proof: str
    verdicts: Mapping[str, str]
    exit_codes: tuple[int, ...]
    reached_real_data: bool
    traces: tuple[str, ...]
    complaints: tuple[str, ...]
    missing: tuple[str, ...]
    layers: Mapping[str, str] = field(factory=dict)
    seconds: float = 0.0
    harmless: bool = False

    @property
    def fine(self) -> bool:
        """Held, and shown to be worth holding; without a package that a job lacks nothing can be shown."""
        return self.held and (self.proved or bool(self.missing))


def run_case(case: Case, data: Path, room: Path, state: Path, ports: Ports) -> Report:
    """Every run of the case, in order, in one project; each on both files where these must look alike."""
    began = time.monotonic()
    missing = tuple(name for name in case.requires if name not in IN_A_JOB or importlib.util.find_spec(name) is None)
    complaints: list[str] = []
    found: list[str] = []
    proofs: list[Proof] = []
    done: list[Judged] = []
    for number, run in enumerate(case.runs):
        extract = data / run.data
        one = judged.judge(run, extract, room / f"run-{number}", state)
        done.append(one)
        forbidden = traces.of_case(case, sources=one.sources)
        found += [str(trace) for trace in one.traces(forbidden)]
        if one.not_removed:
            complaints.append("level 3 bytes of a run were left behind")
        if case.same_when_target_changes:
            other = judged.judge(run, data / cases.NEIGHBOUR, room / f"run-{number}-neighbour", state)
            found += [str(trace) for trace in other.traces(forbidden)]
            complaints += [f"differs when the target changes: {name}" for name in differences(one, other)]
        proofs.append(prove(case, run, one, extract, room / f"proof-{number}", ports))
    complaints += wrong_verdicts(case, done) + derived(case, done)
    if case.exit_codes:
        complaints += [f"exit code {one.exit_code}" for one in done if one.exit_code not in case.exit_codes]
    return Report(
        id=case.id,
        title=case.title,
        held=not found and not complaints,
        proved=all(proof.live for proof in proofs),
        proof="; ".join(dict.fromkeys(proof.how for proof in proofs)),
        verdicts={name: verdict for one in done for name, verdict in verdicts(one).items()},
        exit_codes=tuple(one.exit_code for one in done),
        reached_real_data=all(one.was_real for one in done),
        traces=tuple(found),
        complaints=tuple(complaints),
        missing=missing,
        layers=done[-1].layers,
        seconds=round(time.monotonic() - began, 1),
    )


def differences(one: Judged, other: Judged) -> list[str]:
    """Names of what is not the same to the last byte."""
    first, second = one.seen, other.seen
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def verdicts(one: Judged) -> dict[str, str]:
    """What the author got of the notebook's plain output, and of each aggregate."""
    return {"cells": "withheld", **one.verdicts}


def wrong_verdicts(case: Case, done: Sequence[Judged]) -> list[str]:
    """A case passes if each verdict is one of those expected; plain output has no other than withheld."""
    wrong = []
    for run, one in zip(case.runs, done, strict=True):
        if not run.declares and "withheld" not in case.expected and not one.outputs:
            wrong.append("nothing was shown")
        if not run.declares and one.outputs:
            wrong.append("something was shown that nobody asked for")
        for declare in run.declares:
            verdict = one.verdict(declare["name"])
            if verdict not in case.expected:
                wrong.append(f"{declare['name']} is {verdict}, not {' or '.join(case.expected)}")
    return wrong


def derived(case: Case, done: Sequence[Judged]) -> list[str]:
    """Sums that an author could do with what is shown must leave a wide enough range."""
    declares = [declare for run in case.runs for declare in run.declares]
    outputs = [output for one in done for output in one.outputs]
    wrong = []
    for derivation in case.derivations:
        shown = [(term["sign"], neutral.number(outputs, declares, term)) for term in derivation["terms"]]
        if any(number is None for _, number in shown):
            continue  # not shown at all: it can stand for anything
        low = sum(number.low if sign > 0 else -number.high for sign, number in shown if number)
        high = sum(number.high if sign > 0 else -number.low for sign, number in shown if number)
        if high - low < derivation["min_width"]:
            wrong.append(f"{derivation['true']} can be told to lie in {low:g} to {high:g}")
    return wrong


# -- harmless notebooks ----------------------------------------------------------------------------------


def run_benign(case: Case, data: Path, room: Path, state: Path) -> Report:
    """A notebook that must pass unharmed: it runs, every number of `show` is visible, nothing is held."""
    began = time.monotonic()
    complaints: list[str] = []
    found: list[str] = []
    done: list[Judged] = []
    for number, run in enumerate(case.runs):
        one = judged.judge(run, data / run.data, room / f"run-{number}", state)
        done.append(one)
        found += [str(trace) for trace in one.traces(traces.of_case(case, sources=one.sources))]
        if one.exit_code not in ((0, 4) if run.declares else (0,)):
            complaints.append(f"exit code {one.exit_code}")
        result = one.out.get("result.ipynb", b"").decode()
        complaints += [f"not shown: {text}" for text in case.must_show_text if text not in result]
        for source in one.sources:
            if json.dumps(source, ensure_ascii=False) not in result:
                complaints.append("the submitted source is not shown as written")
        if not run.declares and one.record is not None and (one.record["outputs"] or one.record["placeholders"]):
            complaints.append("something is listed as withheld")
    declares = [declare for run in case.runs for declare in run.declares]
    outputs = [output for one in done for output in one.outputs]
    for wanted in case.show:
        complaints += not_visible(wanted, neutral.number(outputs, declares, wanted))
    return Report(
        id=case.id,
        title=case.title,
        held=not found and not complaints,
        proved=True,
        proof="nothing to prove",
        verdicts={name: verdict for one in done for name, verdict in one.verdicts.items()},
        exit_codes=tuple(one.exit_code for one in done),
        reached_real_data=all(one.was_real for one in done),
        traces=tuple(found),
        complaints=tuple(dict.fromkeys(complaints)),
        missing=(),
        layers=done[-1].layers,
        seconds=round(time.monotonic() - began, 1),
        harmless=True,
    )


def not_visible(wanted: Mapping[str, Any], shown: neutral.Number | None) -> list[str]:
    where = f"{wanted['declare']} {wanted['cell']} {wanted['measure']}"
    if shown is None:
        return [f"{where} is not shown"]
    value = neutral.value(shown)
    if value is None:
        return [f"{where} is hidden"]
    if abs(value - wanted["true"]) > wanted["tolerance"]:
        return [f"{where} is {value:g}, too far from {wanted['true']:g}"]
    return []


def run_any(case: Case, data: Path, room: Path, state: Path, ports: Ports) -> Report:
    if "passes" in case.expected:
        return run_benign(case, data, room, state)
    return run_case(case, data, room, state, ports)


# -- the program ------------------------------------------------------------------------------------------


def ports_for_evidence(state: Path) -> Ports:
    """The same sandbox and root as the judged runs have, in a state of its own."""
    import os

    from opensafely_lab.desk.state import default_cache
    from opensafely_lab.pipeline.machine import machine_ports

    return machine_ports(state / "evidence", cache=default_cache(os.environ, root=os.geteuid() == 0))


def line(report: Report) -> str:
    words = ("passes" if report.held else "DOES NOT PASS") if report.harmless else "held" if report.held else "LEAKS"
    if not report.proved:
        words += f"; needs {', '.join(report.missing)}, so not proved" if report.missing else "; NOT PROVED"
    verdicts = ", ".join(f"{name} {verdict}" for name, verdict in report.verdicts.items())
    real = "" if report.reached_real_data else "; never met real data"
    lines = [f"{report.id}  {words}  [{verdicts}] exit {', '.join(map(str, report.exit_codes))}{real}  {report.title}"]
    lines += [f"    {what}" for what in (*report.traces, *report.complaints)]
    return "\n".join(lines)


def main(argv: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run leak attempts through opensafely-lab's own chain.")
    parser.add_argument("--cases", type=Path, default=cases.ATTACKS, metavar="FILE")
    parser.add_argument("--data", type=Path, default=cases.FOLDER, metavar="DIR")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--only", default="", metavar="ID,...")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep every run's files here (they hold the leaks)")
    given = parser.parse_args(argv)
    chosen = cases.chosen(cases.read(given.cases), given.only.split(","))
    room = given.keep or Path(tempfile.mkdtemp(prefix="attacks-"))
    room.chmod(0o711) if room.exists() else room.mkdir(mode=0o711, parents=True)
    reports = []
    try:
        ports = ports_for_evidence(room / "state")
        for case in chosen:
            reports.append(run_any(case, given.data, room / case.id, room / "state", ports))
            print(line(reports[-1]), flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(room, ignore_errors=True)
    given.json.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    fine = sum(report.fine for report in reports)
    print(f"{fine} of {len(reports)} cases are as they must be.")
    return 0 if fine == len(reports) else 1


if __name__ == "__main__":
    raise SystemExit(main())
