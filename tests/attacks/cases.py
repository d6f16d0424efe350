"""The leak attempts and the harmless notebooks, as values. `cases/README.md` is the format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

FOLDER = Path(__file__).parent / "cases"
ATTACKS = FOLDER / "attacks.jsonl"
BENIGN = FOLDER / "benign.jsonl"
PATIENTS = "patients.csv"
NEIGHBOUR = "patients_neighbour.csv"  # the same people, but that the target is ordinary

IDENTIFIER = r"pt_[0-9a-f]{10}"
TARGET = "pt_7be19c40d2"


@frozen
class Run:
    """One run of a case: which data it gets as `patients.csv`, and the source of its cells."""

    data: str
    cells: tuple[str, ...] = field(converter=tuple)
    declares: tuple[Mapping[str, Any], ...] = field(default=(), converter=tuple)
    markdown: tuple[str, ...] = field(default=(), converter=tuple)


@frozen
class Evidence:
    """How a leak shows where there is no gate. `where` "none": there is nothing to prove."""

    where: str
    find: str = ""
    decode: str = ""


@frozen
class Case:
    """One leak attempt, or one harmless notebook (`expected` is then "passes")."""

    id: str
    title: str
    runs: tuple[Run, ...] = field(converter=tuple)
    expected: tuple[str, ...] = field(converter=tuple)
    vector: str = ""
    requires: tuple[str, ...] = field(default=(), converter=tuple)
    must_never_appear: tuple[str, ...] = field(default=(), converter=tuple)
    must_never_match: tuple[str, ...] = field(default=(), converter=tuple)
    same_when_target_changes: bool = False
    derivations: tuple[Mapping[str, Any], ...] = field(default=(), converter=tuple)
    evidence: Evidence = Evidence("none")
    show: tuple[Mapping[str, Any], ...] = field(default=(), converter=tuple)
    must_show_text: tuple[str, ...] = field(default=(), converter=tuple)
    why: str = ""
    exit_codes: tuple[int, ...] = field(default=(), converter=tuple)  # which are right; any, if none is named

    @property
    def sources(self) -> tuple[str, ...]:
        """Every text that the author wrote."""
        return tuple(text for run in self.runs for text in (*run.cells, *run.markdown))


def read(file: Path) -> tuple[Case, ...]:
    """The cases of a file, one JSON object a line."""
    return tuple(_case(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def chosen(cases: Iterable[Case], only: Iterable[str]) -> tuple[Case, ...]:
    """Those named in `only`, or all of them. An unknown name is a mistake."""
    known = {case.id: case for case in cases}
    wanted = [name for name in only if name]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise SystemExit(f"There is no case {', '.join(missing)}.")
    return tuple(known[name] for name in wanted) if wanted else tuple(known.values())


def _case(obj: Mapping[str, Any]) -> Case:
    evidence = obj.get("raw_evidence")
    expected = obj["expected"]
    return Case(
        id=obj["id"],
        title=obj["title"],
        runs=[Run(run["data"], run["cells"], run.get("declares", ()), run.get("markdown", ())) for run in obj["runs"]],
        expected=[expected] if isinstance(expected, str) else expected,
        vector=obj.get("vector", ""),
        requires=obj.get("requires", ()),
        must_never_appear=obj.get("must_never_appear", ()),
        must_never_match=obj.get("must_never_match", ()),
        same_when_target_changes=obj.get("same_when_target_changes", False),
        derivations=obj.get("derivations", ()),
        evidence=Evidence(evidence["where"], evidence["find"], evidence.get("decode", "")) if evidence else NONE,
        show=obj.get("show", ()),
        must_show_text=obj.get("must_show_text", ()),
        why=obj.get("why", obj.get("notes", "")),
    )


NONE = Evidence("none")
