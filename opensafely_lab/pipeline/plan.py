"""From a study on disk to one action that can be run: everything checked, nothing executed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attrs import frozen

from opensafely_lab.errors import Refused
from opensafely_lab.notebooks import source
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.prepared import Prepared, prepare
from opensafely_lab.notebooks.source import NotebookError, SubmittedNotebook
from opensafely_lab.study.parameters import ParameterSpec, ParameterValue, bind
from opensafely_lab.study.project import Action, ExtractInput, Project
from opensafely_lab.study.project import read_project as project_of

PROJECT_FILE = "project.yaml"
LARGEST_PROJECT_FILE = 1 << 20


class CannotPlan(Refused):
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
    if not study.is_dir():
        raise CannotPlan(f"There is no folder {study}.", next_step="Look at the path for a mistake.")
    data = read_inside(study, PurePosixPath(PROJECT_FILE), LARGEST_PROJECT_FILE, "Data do not belong in it.")
    if data is None:
        raise CannotPlan(
            f"There is no project.yaml in {study}.",
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
    data = read_inside(study, path, source.MAX_BYTES, "Clear its outputs and save it; keep data out of it.")
    if data is None:
        raise CannotPlan(
            f"The notebook {path} of the action {action.name} is not in the study.",
            next_step="Add it, or correct its path in project.yaml.",
        )
    notebook = parse_notebook(data, path)
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


def parse_notebook(data: bytes, path: PurePosixPath) -> SubmittedNotebook:
    """The notebook at `path`, by which a mistake in it is told. Raises `NotebookError`."""
    try:
        return SubmittedNotebook.parse(data)
    except NotebookError as error:
        raise NotebookError(f"{path}: {error.sentence}", next_step=error.next_step) from None


def read_inside(study: Path, path: PurePosixPath, largest: int, advice: str) -> bytes | None:
    """The bytes of a plain file below `study`, or None if there is none. Too large a one is told with `advice`.

    No component may be a link: a checkout is somebody else's files. Nor may the file be a pipe that
    nobody writes to, which would be waited for.
    """
    place = study
    for part in path.parts:
        place = place / part
        if place.is_symlink():
            raise CannotPlan(
                f"{path} is, or lies behind, a link, which is not followed.", next_step="Put the file itself there."
            )
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotPlan(f"{path} cannot be read ({error.strerror}).", next_step="Look at who may read it.") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CannotPlan(f"{path} is no file.", next_step="Put the file itself there.")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(largest + 1)
    finally:
        os.close(descriptor)
    if len(data) > largest:
        raise CannotPlan(f"{path} is larger than {largest / 1_000_000:.0f} MB.", next_step=advice)
    return data
