"""A notebook as somebody wrote it: its cells, whether output was saved in it, and the same without output.

Plain JSON, read with limits; nbformat is not needed. This is for notebooks from the study's commit.
An *executed* notebook is never parsed outside the sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from attrs import frozen

from opensafely_lab.errors import Refused

MAX_BYTES = 10_000_000
MAX_CELLS = 2_000
MAX_DEPTH = 60
PARAMETERS_TAG = "parameters"
KINDS = ("code", "markdown", "raw")

# Metadata that changes with each run or each computer, or that carries saved widgets.
_VOLATILE_NOTEBOOK = ("widgets", "papermill", "execution", "signature", "varInspector")
_VOLATILE_CELL = ("execution", "papermill", "ExecuteTime", "collapsed", "scrolled", "trusted", "outputId")


class NotebookError(Refused):
    """A file that is no notebook we can run."""

    code = "notebook"

    def __init__(self, sentence: str, *, next_step: str = "") -> None:
        super().__init__(sentence, next_step=next_step or "Open it in JupyterLab, save it, and commit it again.")


@frozen
class Cell:
    kind: str  # "code", "markdown" or "raw"
    source: str
    tags: tuple[str, ...] = ()

    @property
    def is_parameters(self) -> bool:
        return self.kind == "code" and PARAMETERS_TAG in self.tags


@frozen
class SubmittedNotebook:
    """The source of a notebook, and nothing else that was in the file."""

    cells: tuple[Cell, ...]
    sha256: str  # of the bytes that were parsed
    has_outputs: bool  # saved output, or saved widgets

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `NotebookError`."""
        document = load(data)
        raw_cells: list[dict[str, Any]] = document["cells"]
        return cls(
            cells=tuple(_cell(index, raw) for index, raw in enumerate(raw_cells)),
            sha256=hashlib.sha256(data).hexdigest(),
            has_outputs=_widgets_saved(document) or any(raw.get("outputs") for raw in raw_cells),
        )

    @property
    def parameters_cell(self) -> int | None:
        """The index of the cell that papermill takes for the parameters: the first so tagged."""
        return next((index for index, cell in enumerate(self.cells) if cell.is_parameters), None)


def strip(data: bytes) -> bytes:
    """The notebook without outputs, execution numbers, widgets and volatile metadata, as Jupyter writes files.

    Where there is nothing to take out the bytes stay as they are: another editor than Jupyter may have
    written them, and git would call the file changed. Stripping twice is stripping once. Raises
    `NotebookError`.
    """
    document = load(data)
    metadata = {k: v for k, v in _mapping(document.get("metadata")).items() if k not in _VOLATILE_NOTEBOOK}
    language = metadata.get("language_info")
    if isinstance(language, dict):
        metadata["language_info"] = {k: v for k, v in language.items() if k == "name"}
    stripped = dict(document, metadata=metadata, cells=[_stripped(raw) for raw in document["cells"]])
    return data if stripped == document else write(stripped)


def write(document: Mapping[str, Any]) -> bytes:
    """JSON in the form in which Jupyter saves notebooks, so that a diff shows only what somebody changed."""
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ": "))
    return (text + "\n").encode("utf-8")


def load(data: bytes) -> dict[str, Any]:
    """The JSON of a notebook in format 4, with a list of cells that are mappings. Raises `NotebookError`."""
    if len(data) > MAX_BYTES:
        raise NotebookError(
            f"The notebook is {len(data) / 1_000_000:.1f} MB; the limit is {MAX_BYTES // 1_000_000} MB.",
            next_step="Clear its outputs and save it; keep data and pictures out of it.",
        )
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotebookError(
            "The file is not a notebook: it is not JSON text.",
            next_step="A merge may have left its marks in it; restore the last good version with git.",
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        if isinstance(document, dict) and ("worksheets" in document or document.get("nbformat") in (1, 2, 3)):
            raise NotebookError(
                "The notebook is in an old format; only format 4 can be run.",
                next_step="Open it in JupyterLab and save it: that brings it up to date.",
            )
        raise NotebookError("The file is not a notebook: it has no list of cells.")
    if document.get("nbformat") != 4:
        raise NotebookError("The notebook is not in format 4, the only one that can be run.")
    if len(document["cells"]) > MAX_CELLS:
        raise NotebookError(
            f"The notebook has {len(document['cells'])} cells; the limit is {MAX_CELLS}.",
            next_step="Split it into several notebooks.",
        )
    for index, raw in enumerate(document["cells"]):
        if not isinstance(raw, dict) or raw.get("cell_type") not in KINDS:
            raise NotebookError(f"Cell {index + 1} of the notebook is no code, Markdown or raw cell.")
    _check_depth(document)
    return document


def _cell(index: int, raw: dict[str, Any]) -> Cell:
    source = raw.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise NotebookError(f"Cell {index + 1} of the notebook has a source that is no text.")
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        raise NotebookError(
            f"Cell {index + 1} of the notebook holds a broken character (half of a surrogate pair).",
            next_step="Type that character anew and save the notebook.",
        ) from None
    tags = _mapping(raw.get("metadata")).get("tags")
    return Cell(
        kind=raw["cell_type"],
        source=source,
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
    )


def _stripped(raw: dict[str, Any]) -> dict[str, Any]:
    metadata = {k: v for k, v in _mapping(raw.get("metadata")).items() if k not in _VOLATILE_CELL}
    if raw["cell_type"] == "code":
        return dict(raw, metadata=metadata, outputs=[], execution_count=None)
    return dict({k: v for k, v in raw.items() if k not in ("outputs", "execution_count")}, metadata=metadata)


def _widgets_saved(document: dict[str, Any]) -> bool:
    return bool(_mapping(document.get("metadata")).get("widgets"))


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_depth(document: object) -> None:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise NotebookError(f"The notebook's JSON is nested more than {MAX_DEPTH} levels deep.")


def _no_constant(_text: str) -> float:
    raise ValueError("NaN and Infinity are no JSON")
