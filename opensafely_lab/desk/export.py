"""`opensafely-lab export`: the files of it. What the page holds is for `notebooks.export`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from opensafely_lab.errors import PlatformError, UsageError
from opensafely_lab.notebooks.export import page, read
from opensafely_lab.notebooks.export.document import LARGEST_RESULT

SUFFIX = ".html"


def export(result: Path, out: Path | None) -> tuple[Path, str]:
    """Write the page; where it is, and the words for its level. Raises `LabError`, and then writes nothing."""
    place = out if out is not None else result.with_suffix(SUFFIX)
    if place.is_dir():
        raise UsageError("--out names a folder.", next_step="Name the file to write, for example result.html.")
    try:
        with result.open("rb") as file:
            data = file.read(LARGEST_RESULT + 1)
    except OSError as error:
        raise UsageError(
            f"The result cannot be read: {os.strerror(error.errno or 0)}.",
            next_step="Name the result.ipynb that `opensafely-lab run --out` wrote.",
        ) from None
    if place.exists() and place.samefile(result):
        raise UsageError("--out names the result itself.", next_step="Name another file.")
    document = read(data)
    _replace(place, page(document).encode())
    return place, document.heading.title


def _replace(place: Path, data: bytes) -> None:
    """All of it or nothing: a page cut short could end before its footnotes."""
    new = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise PlatformError(
            f"The page could not be written: {os.strerror(error.errno or 0)}.",
            next_step="Make room, or name another file with --out.",
        ) from error
