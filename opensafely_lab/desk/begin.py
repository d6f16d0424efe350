"""Begin a run from the desk: what can be refused at once is refused here, the rest is the worker's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from opensafely_lab.desk.notebook import open_notebook
from opensafely_lab.desk.runs import RunRecord, RunStore
from opensafely_lab.errors import UsageError
from opensafely_lab.study.parameters import bind
from opensafely_lab.wire.lab import RunKind

FIXES = frozenset({"commit", "strip"})


def begin(
    store: RunStore,
    notebook: Path,
    kind: RunKind,
    given: Mapping[str, object],
    *,
    from_text: bool,
    fixes: Sequence[str] = (),
) -> RunRecord:
    """Start a run of the notebook file. Raises the `LabError` of whatever stands in the way."""
    if not FIXES.issuperset(fixes):
        raise UsageError("There is no such repair.", next_step="Reload the page.")
    opened = open_notebook(notebook)
    parameters = bind(opened.specs, given, from_text=from_text)
    if kind is RunKind.SUBMITTED:
        from opensafely_lab.desk.send import check

        check(opened, fixes)
    return store.begin(opened, kind, parameters, fixes=fixes)
