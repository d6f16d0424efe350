"""A notebook file as its study knows it: which action runs it, and which parameters it takes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from attrs import frozen

from opensafely_lab.errors import LabError, Refused
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.source import MAX_BYTES, SubmittedNotebook
from opensafely_lab.pipeline.plan import PROJECT_FILE, read_project
from opensafely_lab.study.parameters import ParameterSpec
from opensafely_lab.study.project import Action


class NotInStudy(Refused):
    code = "not-in-a-study"


class NoNotebook(LabError):
    code = "no-notebook"
    kind = LabError.kind.NOT_FOUND


@frozen
class StudyNotebook:
    """A notebook that an action of its study runs."""

    study: Path
    path: PurePosixPath  # within the study
    action: Action
    specs: dict[str, ParameterSpec]
    source: SubmittedNotebook


def study_of(file: Path) -> Path:
    """The nearest folder above with a project.yaml. Raises `NotInStudy`."""
    for folder in file.absolute().parents:
        if (folder / PROJECT_FILE).is_file():
            return folder
    raise NotInStudy(
        f"{file.name} is in no study: no folder above it has a project.yaml.",
        next_step="Make a study from the template (launcher, or `opensafely-lab init DIR`), and move the notebook there.",
    )


def open_notebook(file: Path) -> StudyNotebook:
    """Look a notebook up in its study. Raises a `LabError` for each mistake an author can make."""
    study = study_of(file)
    path = PurePosixPath(file.absolute().relative_to(study).as_posix())
    action = read_project(study).action_of(path)
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError:
        raise NoNotebook(f"There is no notebook {path} in the study.", next_step="Save it first.") from None
    source = SubmittedNotebook.parse(data)
    return StudyNotebook(study, path, action, merge(declared(source), action.parameters), source)
