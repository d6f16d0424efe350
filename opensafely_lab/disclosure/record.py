"""The disclosure record: what the gate answered, for people and for programs.

`record` builds `disclosure.json` from outcomes alone, so it says no more than what is shown: no
digests of unreleased bytes (decision 3), no counts behind a hidden cell, no reason why something is
held. Its JSON Schema is published beside it (`record.schema.json`, `schema()`).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from attrs import frozen

from opensafely_lab.disclosure.gate import HELD_NEXT_STEP
from opensafely_lab.disclosure.outcome import (
    FILE_NEXT_STEP,
    FILE_SENTENCE,
    PLACEHOLDER_NEXT_STEP,
    PLACEHOLDER_SENTENCE,
    Outcome,
    ShownTable,
    Verdict,
)
from opensafely_lab.disclosure.policy import Policy, policy_digest

RECORD_VERSION = 1
GATE_VERSION = 1
FILENAME = "disclosure.json"


@frozen
class ShownFile:
    """A file of a result: its path inside the output folder, and its bytes."""

    path: str
    data: bytes


@frozen
class DeclaredFile:
    """A file that project.yaml declares for the author to see: the label and the pattern, as submitted."""

    label: str
    pattern: str


def record(
    outcomes: Sequence[Outcome],
    *,
    policy: Policy,
    dummy: bool,
    placeholders: Iterable[int] = (),
    declared: Iterable[DeclaredFile] = (),
) -> dict[str, Any]:
    """The record of one result: a verdict and a reason for everything that an author could expect to see.

    `placeholders` are the notebook cells that get a placeholder, `declared` the files of the action.
    Both are told from the submitted source and the dummy run, whatever the real run wrote.
    """
    return {
        "version": RECORD_VERSION,
        "gate": GATE_VERSION,
        "policy": {"name": policy.name, "version": policy.version, "sha256": policy_digest(policy)},
        "data": "dummy" if dummy else "real",
        "level": "Dummy data" if dummy else "Level 4 - not released",
        "outputs": [_output(number, outcome) for number, outcome in enumerate(outcomes, start=1)],
        "placeholders": [
            {"cell": cell, **_held(PLACEHOLDER_SENTENCE, PLACEHOLDER_NEXT_STEP)} for cell in sorted(set(placeholders))
        ],
        "files": [
            {"label": file.label, "pattern": file.pattern, **_held(FILE_SENTENCE, FILE_NEXT_STEP)} for file in declared
        ],
    }


def _held(sentence: str, next_step: str) -> dict[str, str]:
    return {"verdict": Verdict.HELD.value, "sentence": sentence, "next_step": next_step}


def record_bytes(made: Mapping[str, Any]) -> bytes:
    """The record as the bytes of `disclosure.json`, the same for the same record."""
    return (json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def shown_files(outcomes: Sequence[Outcome]) -> tuple[ShownFile, ...]:
    """The tables as csv and the figures as png, named as the record names them."""
    made = []
    for number, outcome in enumerate(outcomes, start=1):
        path = _path(number, outcome)
        if path is not None and outcome.table is not None:
            made.append(ShownFile(path, table_csv(outcome.table)))
        elif path is not None and outcome.figure is not None:
            made.append(ShownFile(path, outcome.figure))
    return tuple(made)


def table_csv(table: ShownTable) -> bytes:
    """The shown table as csv in UTF-8. Text that a spreadsheet would take for a formula gets a quote before it."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([_no_formula(text) for text in table.columns])
    writer.writerows([_no_formula(text) for text in row] for row in table.rows)
    return written.getvalue().encode()


def schema() -> dict[str, Any]:
    """The published JSON Schema of `disclosure.json`."""
    text = files("opensafely_lab.disclosure").joinpath("record.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _output(number: int, outcome: Outcome) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": outcome.request,
        "name": outcome.name,
        "kind": outcome.kind,
        "cell": outcome.cell,
        "verdict": outcome.verdict.value,
        "treatment": outcome.treatment.value,
        "sentence": outcome.sentence,
    }
    path = _path(number, outcome)
    if path is not None:
        described["file"] = path
    if outcome.verdict is Verdict.HELD:
        described["next_step"] = HELD_NEXT_STEP
    if outcome.table is not None:
        described["table"] = {
            "columns": list(outcome.table.columns),
            "label_columns": outcome.table.label_columns,
            "rows": [list(row) for row in outcome.table.rows],
            "total_rows": list(outcome.table.total_rows),
        }
    return described


def _path(number: int, outcome: Outcome) -> str | None:
    """Where the output's file goes: made of its place and its name in the submitted source."""
    if outcome.table is None and outcome.figure is None:
        return None
    name = re.sub(r"[^a-z0-9]+", "-", outcome.name.casefold()).strip("-")
    return f"tables/{number:02d}-{name}.csv" if outcome.table is not None else f"figures/{number:02d}-{name}.png"


_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")


def _no_formula(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(text) else text
