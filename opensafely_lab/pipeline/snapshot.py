"""A local study as a job sees it: the working copy, without what its actions make.

Leaving out every file that an output pattern matches is how an undeclared input is found at the
desk and not in the backend (opensafely-rules.md 4.5).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from opensafely_lab.errors import Refused
from opensafely_lab.study.patterns import matches
from opensafely_lab.study.project import Project

# A study is code, codelists and dummy tables. What is larger is data in the wrong place.
LARGEST_STUDY_BYTES = 256 << 20
MOST_STUDY_FILES = 5_000
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "venv", "metadata"})


class StudyTooLarge(Refused):
    code = "study-too-large"


def take(study: Path, project: Project, into: Path) -> None:
    """Copy the plain files of `study` to the new folder `into`; links, dot folders and outputs stay behind."""
    patterns = [output.pattern for action in project.actions.values() for output in action.outputs]
    into.mkdir(mode=0o755)
    size = count = 0
    for path in _files(study):
        inside = PurePosixPath(path.relative_to(study).as_posix())
        if any(matches(pattern, str(inside)) for pattern in patterns):
            continue
        size += path.stat().st_size
        count += 1
        if size > LARGEST_STUDY_BYTES or count > MOST_STUDY_FILES:
            raise StudyTooLarge(
                f"The study holds more than {LARGEST_STUDY_BYTES >> 20} MB or {MOST_STUDY_FILES} files.",
                next_step="Move data and environments out of the study's folder.",
            )
        place = into / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place, follow_symlinks=False)


def _files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in SKIPPED_FOLDERS
            and not Path(here, name).is_symlink()
            and not Path(here, name, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            path = Path(here, name)
            if path.is_file() and not path.is_symlink():
                yield path
