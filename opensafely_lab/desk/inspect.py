"""What the open notebook is to the study: its action and parameters, or the reason why it cannot be run."""

from __future__ import annotations

from pathlib import Path

from opensafely_lab.desk.submit import Ask, choose
from opensafely_lab.errors import LabError
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.source import MAX_BYTES, NotebookError, SubmittedNotebook
from opensafely_lab.study.parameters import ParameterSpec
from opensafely_lab.wire.lab import NotebookInfo, ParameterInfo, Problem


def notebook_info(notebook: Path, shown_path: str) -> NotebookInfo:
    """For the toolbar and the form of parameters; `shown_path` is what the browser calls the file.

    Looks at the files as they lie on the desk: what is not committed yet is told at submit.
    """
    study: str | None = None
    action: str | None = None
    try:
        folder, _, found = choose(Ask(notebook))
        study, action = folder.name, found.name
        specs = merge(declared(SubmittedNotebook.parse(_bytes(notebook))), found.parameters)
    except LabError as error:
        return NotebookInfo(path=shown_path, study=study, action=action, parameters=[], problem=problem(error))
    return NotebookInfo(
        path=shown_path, study=study, action=action, parameters=[_info(spec) for spec in specs.values()], problem=None
    )


def problem(error: LabError) -> Problem:
    """An error as the browser is told it. `detail` is there for errors of a dummy run, which may say everything."""
    detail = getattr(error, "detail", None)
    return Problem(
        code=error.code,
        sentence=error.sentence,
        next_step=error.next_step,
        fix=error.fix,
        detail=detail if isinstance(detail, str) else None,
    )


def _info(spec: ParameterSpec) -> ParameterInfo:
    if spec.default is None:
        raise TypeError("a parameter that the notebook declares has a value")
    return ParameterInfo(
        name=spec.name,
        type=spec.type.value,
        default=spec.default,
        minimum=spec.minimum,
        maximum=spec.maximum,
        choices=None if spec.choices is None else list(spec.choices),
        description=spec.description,
    )


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotebookError(f"{path.name} cannot be read ({error.strerror}).") from None
