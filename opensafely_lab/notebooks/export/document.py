"""A result notebook as values: what `notebooks.result.build` wrote, read back strictly. No I/O.

The file may have been saved anew by Jupyter, or written by somebody who means harm: whatever is not of
the form that we write is refused or, if it is an output of another kind, left out with a word about it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, cast

from attrs import frozen

from opensafely_lab.disclosure.outcome import ShownTable
from opensafely_lab.errors import Refused
from opensafely_lab.notebooks.result import (
    BANNER_CELL,
    FIGURE_MIME,
    HELD_MIME,
    MEANINGS,
    MIME_VERSION,
    PARAMETERS_CELL,
    TABLE_MIME,
    TITLES,
    Level,
    value_text,
)
from opensafely_lab.study.parameters import ParameterValue

LARGEST_RESULT = 64 << 20
LARGEST_PICTURE = 16 << 20
MOST_CELLS = 4_000
LONGEST_VALUE = 300  # of a parameter: as in the result's own table of them
PNG = b"\x89PNG\r\n\x1a\n"
FACTS = {
    "action": "Action",
    "notebook": "Notebook",
    "project": "Project",
    "workspace": "Workspace",
    "backend": "Backend",
    "commit": "Commit",
    "policy": "Policy",
    "finished_day": "Finished",
}
NOT_OURS = "An output that is not shown: it is not of a kind that a result has."


class NotAResult(Refused):
    """A file that `notebooks.result` did not write. Its text is not repeated."""

    code = "not-a-result"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"This is not a result of OpenSAFELY Lab: {why}.",
            next_step="Name the result.ipynb that `opensafely-lab run --out` wrote.",
        )


class Level4NotExported(Refused):
    code = "level4"

    def __init__(self) -> None:
        super().__init__(
            "This result is of level 4, not released; only released results and those of dummy data are exported.",
            next_step="Read it in the panel of JupyterLab, and ask for its release before anybody else sees it.",
        )


@frozen
class Heading:
    """What stands at the top. The words for the level are ours, whatever the file says."""

    level: Level
    facts: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return TITLES[self.level]

    @property
    def meaning(self) -> str:
        return MEANINGS[self.level]


@frozen
class TableOutput:
    name: str
    sentence: str
    table: ShownTable


@frozen
class FigureOutput:
    name: str
    sentence: str
    png: str  # base64 of what begins as a PNG does


@frozen
class HeldOutput:
    sentence: str
    next_step: str = ""


Output = TableOutput | FigureOutput | HeldOutput


@frozen
class ResultCell:
    kind: str  # "code", "markdown" or "raw"
    source: str
    count: int | None = None
    outputs: tuple[Output, ...] = ()


@frozen
class ResultDocument:
    heading: Heading
    cells: tuple[ResultCell, ...]


def read(data: bytes) -> ResultDocument:
    """The document in the bytes of an .ipynb. Raises `NotAResult`, `Level4NotExported`."""
    if len(data) > LARGEST_RESULT:
        raise NotAResult(f"it is larger than {LARGEST_RESULT >> 20} MB")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotAResult("it is not JSON text") from None
    return document(value)


def document(notebook: object) -> ResultDocument:
    """The document in a notebook's JSON. Raises `NotAResult`, `Level4NotExported`."""
    top = _mapping(notebook)
    ours = _mapping(_mapping(top.get("metadata")).get("opensafely"))
    raw_cells = top.get("cells")
    if top.get("nbformat") != 4 or not isinstance(raw_cells, list) or len(raw_cells) > MOST_CELLS or not ours:
        raise NotAResult("no run has left its mark in it")
    heading = _heading(ours)
    if heading.level == "level4":
        raise Level4NotExported
    first = _mapping(raw_cells[0] if raw_cells else None)
    if first.get("id") != BANNER_CELL:
        raise NotAResult("its banner is missing")
    told = (BANNER_CELL, PARAMETERS_CELL)
    cells = [_cell(_mapping(raw), heading.level) for raw in raw_cells if _mapping(raw).get("id") not in told]
    return ResultDocument(heading, tuple(cells))


def _heading(ours: Mapping[str, Any]) -> Heading:
    level = next((known for known in TITLES if known == ours.get("level")), None)
    if level is None:
        raise NotAResult("it does not say of which level it is")
    parameters = ours.get("parameters", {})
    if not isinstance(parameters, dict):
        raise NotAResult("its parameters cannot be read")
    facts = [(word, _text(ours[name])) for name, word in FACTS.items() if name in ours]
    values = [(_text(name), _value(value)) for name, value in parameters.items()]
    return Heading(level, tuple(facts), tuple(values))


def _value(value: object) -> str:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise NotAResult("its parameters cannot be read")
    text = value_text(cast(ParameterValue, value))
    return _text(text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…")


def _cell(raw: Mapping[str, Any], level: Level) -> ResultCell:
    kind = raw.get("cell_type")
    if kind not in ("code", "markdown", "raw"):
        raise NotAResult("it has a cell that is no code, Markdown or raw cell")
    source = _lines(raw.get("source"))
    if kind != "code":
        return ResultCell(kind, source)
    count, outputs = raw.get("execution_count"), raw.get("outputs", [])
    if not isinstance(outputs, list) or not (count is None or type(count) is int):
        raise NotAResult("the outputs of a cell cannot be read")
    return ResultCell(kind, source, count, tuple(_output(_mapping(output), level) for output in outputs))


def _output(raw: Mapping[str, Any], level: Level) -> Output:
    """Cut to what we write: any other kind of output is told of, and none of it is looked at."""
    data = raw.get("data")
    if raw.get("output_type") != "display_data" or not isinstance(data, dict):
        return HeldOutput(NOT_OURS)
    if TABLE_MIME in data:
        said = _said(data[TABLE_MIME], level)
        return TableOutput(_text(said["name"]), _text(said["sentence"]), _table(said))
    if FIGURE_MIME in data:
        said = _said(data[FIGURE_MIME], level)
        return FigureOutput(_text(said["name"]), _text(said["sentence"]), _png(data.get("image/png")))
    if HELD_MIME in data:
        said = _mapping(data[HELD_MIME])
        return HeldOutput(_text(said.get("sentence")), _text(said.get("next_step", "")))
    return HeldOutput(NOT_OURS)


def _said(value: object, level: Level) -> Mapping[str, Any]:
    """What goes with every table and figure; nothing of another level than the banner's is among them."""
    said = _mapping(value)
    if said.get("version") != MIME_VERSION or not {"name", "sentence"} <= set(said):
        raise NotAResult("one of its outputs cannot be read")
    if said.get("level") != level:
        raise NotAResult("one of its outputs is of another level than its banner")
    return said


def _table(said: Mapping[str, Any]) -> ShownTable:
    columns, rows = _texts(said.get("columns")), said.get("rows")
    labels, totals = said.get("label_columns"), said.get("total_rows", [])
    if not isinstance(rows, list) or type(labels) is not int or not 0 <= labels <= len(columns):
        raise NotAResult("one of its tables cannot be read")
    shown = tuple(_texts(row) for row in rows)
    if any(len(row) != len(columns) for row in shown):
        raise NotAResult("one of its tables cannot be read")
    if not isinstance(totals, list) or not all(type(at) is int and 0 <= at < len(shown) for at in totals):
        raise NotAResult("one of its tables cannot be read")
    return ShownTable(columns, labels, shown, tuple(totals))


def _png(value: object) -> str:
    """Base64 of a PNG, made anew: nothing else goes into the address of a picture."""
    text = "".join(_lines(value).split())
    try:
        picture = base64.b64decode(text, validate=True) if len(text) <= LARGEST_PICTURE * 2 else b""
    except (binascii.Error, ValueError):
        picture = b""
    if not picture.startswith(PNG) or len(picture) > LARGEST_PICTURE:
        raise NotAResult("one of its figures is no PNG picture")
    return base64.b64encode(picture).decode("ascii")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _lines(value: object) -> str:
    """nbformat writes text as one string or as a list of lines."""
    return "".join(_texts(value)) if isinstance(value, list) else _text(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise NotAResult("text is missing where there must be some")
    return tuple(_text(item) for item in value)


def _text(value: object) -> str:
    """Text that can be written as UTF-8 (half of a surrogate pair cannot)."""
    if not isinstance(value, str):
        raise NotAResult("text is missing where there must be some")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise NotAResult("it holds a broken character") from None
    return value
