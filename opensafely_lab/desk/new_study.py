"""A new study from a template: a git repository with one commit, whose filter keeps outputs out of commits."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from opensafely_lab.desk.shipped import DEMO_TEMPLATE, template
from opensafely_lab.errors import PlatformError, Refused

FILTER = "opensafely-outputs"
ATTRIBUTES = f"*.ipynb filter={FILTER}\n"
# Git wants a name for each commit; this one is given only where the person has set none.
NOBODY = ("-c", "user.name=OpenSAFELY Lab", "-c", "user.email=lab@localhost.invalid")


class CannotMakeStudy(Refused):
    code = "cannot-make-study"


class GitFailed(PlatformError):
    code = "git-failed"


def make_study(folder: Path, name: str = DEMO_TEMPLATE) -> bool:
    """Make `folder` a study from the template, unless it is one already. Returns whether it was made."""
    if (folder / "project.yaml").exists():
        install_filter(folder)
        return False
    if folder.exists() and any(folder.iterdir()):
        raise CannotMakeStudy(
            f"{folder} has files in it, and no project.yaml.", next_step="Name a new folder, or one that is a study."
        )
    shutil.copytree(template(name), folder, dirs_exist_ok=True, copy_function=shutil.copy)  # modes, not times
    _writable(folder)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    install_filter(folder)
    _git(folder, "add", "--all")
    _git(
        folder, *_identity(folder), "commit", "--quiet", "--no-gpg-sign", "--message", f"Begin with the template {name}"
    )
    return True


def install_filter(folder: Path) -> None:
    """Have git strip outputs from every notebook that is added here (the file itself keeps them)."""
    if not (folder / ".git").exists():
        _git(folder, "init", "--quiet", "--initial-branch=main")
    attributes = folder / ".gitattributes"
    said = attributes.read_text() if attributes.exists() else ""
    if f"filter={FILTER}" not in said:
        attributes.write_text(said + ("\n" if said and not said.endswith("\n") else "") + ATTRIBUTES)
    command = shlex.join([sys.executable, "-m", "opensafely_lab.cli", "strip-outputs"])
    _git(folder, "config", f"filter.{FILTER}.clean", command)
    _git(folder, "config", f"filter.{FILTER}.required", "true")


def first_notebook(study: Path) -> str | None:
    """The notebook of the study's first `notebook:v1` action, to open Lab at; None if there is none to find."""
    from opensafely_lab.errors import LabError
    from opensafely_lab.study.project import parse_project

    try:
        project = parse_project((study / "project.yaml").read_text())
    except (LabError, OSError, UnicodeDecodeError):
        return None  # Lab opens all the same; the panel will say what is wrong with the file
    for action in project.actions.values():
        if action.run.image == "notebook":
            return str(action.notebook)
    return None


def _identity(folder: Path) -> tuple[str, ...]:
    known = subprocess.run(["git", "config", "user.email"], cwd=folder, capture_output=True, check=False)
    return () if known.returncode == 0 else NOBODY


def _writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def _git(folder: Path, *words: str) -> None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise GitFailed("git is not installed.", next_step="Debian, Ubuntu: apt install git") from None
    if done.returncode != 0:
        raise GitFailed(
            f"git {words[0]} failed in {folder}: {done.stderr.strip()}", next_step="Mend that, then try again."
        )
