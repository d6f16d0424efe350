"""What comes with the package: templates of studies, and the demo's records.

In an installed wheel they are in the package; in a checkout (an editable install) in `notebooks/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from opensafely_lab.errors import PlatformError, Refused

PACKAGE = Path(__file__).resolve().parent.parent
DEMO_RECORDS = "gibleed"
DEMO_TEMPLATE = "gi-bleeding"


class NotShipped(PlatformError):
    code = "not-shipped"


class NotSynthetic(Refused):
    code = "not-synthetic"


def template(name: str = DEMO_TEMPLATE) -> Path:
    """The folder of a template study."""
    return _shipped("templates", name)


def templates() -> tuple[str, ...]:
    """The names of the templates that are there."""
    found = {p.parent.name for root in _roots("templates") for p in root.glob("*/project.yaml")}
    return tuple(sorted(found))


def demo_records() -> Path:
    """The folder of the demo's records, about people who never lived."""
    return _shipped("demo", DEMO_RECORDS)


def require_synthetic(folder: Path) -> None:
    """Refuse records that do not say of themselves that they are synthetic.

    Here Lab, its kernels and the backend run as one user of one computer, so nothing keeps a kernel
    from the backend's files: not a place for records of people (decisions.md, 17).
    """
    manifest = folder / "manifest.json"
    try:
        said = json.loads(manifest.read_text())
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict) or said.get("synthetic") is not True:
        raise NotSynthetic(
            f"{folder} does not say that its records are synthetic, and on one computer, with one user, a notebook "
            "could read the backend's files.",
            next_step='If nobody in them ever lived, write {"synthetic": true} to manifest.json in that folder. '
            "If they are records of people, set up a backend of its own: docs/operators.md.",
        )


def _roots(kind: str) -> tuple[Path, ...]:
    return (PACKAGE / kind, PACKAGE.parent / "notebooks" / kind)


def _shipped(kind: str, name: str) -> Path:
    for root in _roots(kind):
        if (root / name).is_dir():
            return root / name
    raise NotShipped(
        f"This installation has no {kind}/{name}.", next_step="Install it again: pip install --force-reinstall."
    )
