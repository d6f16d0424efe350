"""From a study on disk to one action that can be run: everything checked, nothing executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attrs import frozen

from opensafely_lab.errors import UsageError
from opensafely_lab.notebooks import source
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.prepared import Prepared, prepare
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.study.parameters import ParameterSpec, ParameterValue, bind
from opensafely_lab.study.project import Action, ExtractInput, Project
from opensafely_lab.study.project import read_project as project_of

PROJECT_FILE = "project.yaml"
LARGEST_PROJECT_FILE = 1 << 20


class CannotPlan(UsageError):
    """The study does not hold what the action needs."""

    code = "cannot-plan"


@frozen
class Plan:
    """One notebook action of one checkout, with its parameters bound and its inputs named."""

    study: Path
    project: Project
    action: Action
    notebook: SubmittedNotebook
    prepared: Prepared
    specs: Mapping[str, ParameterSpec]
    parameters: Mapping[str, ParameterValue]
    inputs: tuple[ExtractInput, ...]


def read_project(study: Path) -> Project:
    """The study's project.yaml as values. Raises `CannotPlan` or `ProjectError`."""
    data = read_inside(study, PurePosixPath(PROJECT_FILE), LARGEST_PROJECT_FILE)
    if data is None:
        raise CannotPlan(
            "There is no project.yaml here.",
            next_step="Run this in a study's folder, or name it with --project DIR; `opensafely-lab init` makes one.",
        )
    return project_of(data)


def load_plan(study: Path, action_name: str, given: Mapping[str, object], *, from_text: bool) -> Plan:
    """Check everything that can be checked before anything runs.

    `given` are parameter values: text from a command line if `from_text`, else JSON values.
    Raises a `LabError` with a sentence for each mistake an author can make.
    """
    project = read_project(study)
    action = project.action(action_name)
    path = action.notebook
    data = read_inside(study, path, source.MAX_BYTES)
    if data is None:
        raise CannotPlan(
            f"The notebook {path} of the action {action.name} is not in the study.",
            next_step="Add it, or correct its path in project.yaml.",
        )
    notebook = SubmittedNotebook.parse(data)
    specs = merge(declared(notebook), action.parameters)
    return Plan(
        study=study,
        project=project,
        action=action,
        notebook=notebook,
        prepared=prepare(notebook, injects=bool(specs)),
        specs=specs,
        parameters=bind(specs, given, from_text=from_text),
        inputs=project.inputs(action.name),
    )


def read_inside(study: Path, path: PurePosixPath, largest: int) -> bytes | None:
    """The bytes of a plain file below `study`, or None if there is none.

    No component may be a link: a checkout is somebody else's files.
    """
    place = study
    for part in path.parts:
        place = place / part
        if place.is_symlink():
            return None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not place.is_file():
            return None
        data = file.read(largest + 1)
    if len(data) > largest:
        raise CannotPlan(
            f"{path} is larger than {largest // (1 << 20)} MB.", next_step="Make it smaller; data do not belong in it."
        )
    return data
