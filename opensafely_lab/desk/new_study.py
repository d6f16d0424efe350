"""A new study from a template: a git repository with one commit, whose filter keeps outputs out of commits."""

from __future__ import annotations

import shutil
from pathlib import Path

from opensafely_lab.desk import git, stripfilter
from opensafely_lab.desk.shipped import DEMO_TEMPLATE, template
from opensafely_lab.errors import LabError, PlatformError, Refused

MOST_PROJECT_BYTES = 4_000_000


class CannotMakeStudy(Refused):
    code = "cannot-make-study"


class FolderNotWritten(PlatformError):
    code = "folder-not-written"


def make_study(folder: Path, name: str = DEMO_TEMPLATE) -> bool:
    """Make `folder` a study from the template, unless it is one already. Returns whether it was made."""
    if (folder / "project.yaml").exists():
        install_filter(folder)
        return False
    create_study(name, folder)
    return True


def create_study(name: str, folder: Path) -> git.Repository:
    """A new study in a new or empty folder. Raises `CannotMakeStudy`, `FolderNotWritten`, errors of `git`.

    The folder is filled beside its place and moved there when it is complete, so that a full disk or a
    killed process leaves no half study.
    """
    source = template(name)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CannotMakeStudy(
                f"{folder} is not empty, and holds no project.yaml.",
                next_step="Name a new folder, or one that is a study.",
            )
        # An empty folder that is there may be somebody's current folder, or a mount: it stays the same folder.
        fresh = not folder.exists()
        part = folder.with_name(f".{folder.name}.new") if fresh else folder / ".new-study"
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(source, part, copy_function=shutil.copy)  # modes, not times
            _writable(part)
            _first_commit(part, name)
            if fresh:
                part.rename(folder)
            else:
                for made in sorted(part.iterdir()):
                    made.rename(folder / made.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise FolderNotWritten(
            f"The study could not be written to {folder} ({error.strerror or 'an error of the disk'}).",
            next_step="Look whether the disk is full and the folder may be written.",
        ) from None
    return git.Repository.find(folder)


def install_filter(study: Path) -> None:
    """Have git strip outputs from every notebook that is added here; the file itself keeps them."""
    repository = git.Repository.find(study) if (study / ".git").exists() else git.create(study)
    repository.install_filter(attributes=True)


def first_notebook(study: Path) -> str | None:
    """The notebook of the study's first `notebook:v1` action, to open Lab at; None if there is none to find."""
    from opensafely_lab.study.project import read_project

    try:
        with (study / "project.yaml").open("rb") as file:
            project = read_project(file.read(MOST_PROJECT_BYTES))
    except (LabError, OSError):
        return None  # Lab opens all the same; the panel will say what is wrong with the file
    return next((str(a.notebook) for a in project.actions.values() if a.is_notebook), None)


def _first_commit(folder: Path, name: str) -> None:
    attributes = folder / ".gitattributes"
    said = attributes.read_text().splitlines() if attributes.exists() else []
    if stripfilter.ATTRIBUTE not in said:
        attributes.write_text("\n".join([*said, stripfilter.ATTRIBUTE]) + "\n")
    repository = git.create(folder)
    repository.install_filter(attributes=False)
    repository.commit_all(f"Begin with the template {name}")


def _writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
