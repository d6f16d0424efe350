"""Begin a run from the desk: what can be refused at once is refused here, the rest is the worker's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from opensafely_lab.desk.runs import RunRecord, RunStore
from opensafely_lab.desk.submit import Ask, NotebookMissing, choose
from opensafely_lab.errors import UsageError
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.source import MAX_BYTES, SubmittedNotebook
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
    study, _, action = choose(Ask(notebook))
    specs = merge(declared(SubmittedNotebook.parse(_read(notebook))), action.parameters)
    parameters = bind(specs, given, from_text=from_text)
    if kind is RunKind.SUBMITTED:
        from opensafely_lab.desk.send import check

        check(store.state, Ask(notebook, parameters=parameters, from_text=False, fixes=fixes))
    return store.begin(study, action, kind, parameters, fixes=fixes)


def _read(notebook: Path) -> bytes:
    try:
        with notebook.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        raise NotebookMissing(f"The notebook {notebook.name} cannot be read.", next_step="Save it first.") from None
