"""What an author is shown of a run, as files: these bytes, these names and nothing else.

`result.ipynb`, `tables/NN-name.csv`, `figures/NN-name.png`, `disclosure.json`. Every byte is made
from the submitted source and from outcomes of the gate; a file's name from the request's place and
name, which the dummy run fixed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from opensafely_lab.disclosure import record
from opensafely_lab.disclosure.outcome import Outcome, Verdict
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.errors import PlatformError, Refused
from opensafely_lab.study.project import Output

NOTEBOOK = PurePosixPath("result.ipynb")


class OutNotEmpty(Refused):
    code = "out-not-empty"


class OutNotWritable(PlatformError):
    code = "out-not-writable"


@frozen
class Shown:
    """Exactly what the author sees of one run: files by relative path. `held`: was anything held back?"""

    files: tuple[tuple[PurePosixPath, bytes], ...]
    held: bool

    def file(self, path: PurePosixPath) -> bytes:
        return next(data for name, data in self.files if name == path)

    @property
    def notebook(self) -> bytes:
        return self.file(NOTEBOOK)

    @property
    def disclosure(self) -> bytes:
        return self.file(PurePosixPath(record.FILENAME))


def lay_out(
    notebook: bytes,
    outcomes: Sequence[Outcome],
    *,
    policy: Policy,
    dummy: bool,
    placeholders: Iterable[int],
    outputs: Iterable[Output] = (),
) -> Shown:
    """The files of one run."""
    withheld = sorted(set(placeholders))
    declared = [record.DeclaredFile(o.label, o.pattern) for o in outputs if o.level == "moderately_sensitive"]
    made = record.record(outcomes, policy=policy, dummy=dummy, placeholders=withheld, declared=declared)
    files = [(NOTEBOOK, notebook)]
    files += [(PurePosixPath(file.path), file.data) for file in record.shown_files(outcomes)]
    files.append((PurePosixPath(record.FILENAME), record.record_bytes(made)))
    held = bool(withheld or declared) or any(outcome.verdict is Verdict.HELD for outcome in outcomes)
    return Shown(tuple(files), held)


def check_out(out: Path) -> None:
    """`--out` must be new or empty, so that it holds exactly what is shown."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutNotEmpty("--out names something that is not a folder.", next_step="Name a new folder.")
    if out.is_dir() and any(out.iterdir()):
        raise OutNotEmpty("The folder of --out is not empty.", next_step="Name a new folder, or empty this one.")


def write(shown: Shown, out: Path) -> None:
    """Write the files; on a full disk nothing of ours is left, and it can be tried again. Raises `OutNotWritable`."""
    made: list[Path] = []  # files and folders, in order
    try:
        made += _make_folder(out)
        for name, data in shown.files:
            place = out / name
            made += _make_folder(place.parent)
            with place.open("xb") as file:
                made.append(place)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        for place in reversed(made):
            with contextlib.suppress(OSError):
                place.rmdir() if place.is_dir() else place.unlink()
        raise OutNotWritable(
            f"The result could not be written to --out: {os.strerror(error.errno or 0)}.",
            next_step="Make room or name another folder, and run it again.",
        ) from error


def _make_folder(folder: Path) -> list[Path]:
    """Make the folder and those above it that are missing; returns them, the outermost first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
