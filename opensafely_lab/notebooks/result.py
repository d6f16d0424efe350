"""The result notebook: the submitted source, and under it only what the gate made.

1. The analyst's cells come from the submitted source, as text; attachments and metadata are left out.
2. A cell's outcomes stand under it in the order of the requests.
3. A code cell that had other output in the dummy run (`layout.outputs`) gets one placeholder, whether or
   not it wrote anything in the real run. Execution numbers come from the dummy run as well.
Nothing of the executed notebook is used, so equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import frozen

from opensafely_lab.disclosure.outcome import (
    PLACEHOLDER_NEXT_STEP,
    PLACEHOLDER_SENTENCE,
    Outcome,
    ShownTable,
    Verdict,
)
from opensafely_lab.notebooks.source import Cell, SubmittedNotebook, write
from opensafely_lab.study.parameters import ParameterValue

TABLE_MIME = "application/vnd.opensafely.table+json"
FIGURE_MIME = "application/vnd.opensafely.figure+json"
HELD_MIME = "application/vnd.opensafely.held+json"
MIME_VERSION = 1

# The cells that say what the metadata says too: viewers with a banner of their own leave them out.
BANNER_CELL = "osl-banner"
PARAMETERS_CELL = "osl-parameters"

Level = Literal["dummy", "level4", "released"]
TITLES: Mapping[Level, str] = {
    "dummy": "DUMMY DATA",
    "level4": "Level 4 - not released",
    "released": "Released",
}
MEANINGS: Mapping[Level, str] = {
    "dummy": "Every number below was computed on invented patients. It says nothing about real people.",
    "level4": (
        "These are redacted results for the members of this project. "
        "They must not be copied out or shared until two checkers have released them."
    ),
    "released": "Two checkers have approved these results for release.",
}
_BOLD = ' style="font-weight:bold"'


class Layout(Protocol):
    """What the dummy run fixed (`wire.site.Layout` is one)."""

    @property
    def outputs(self) -> Sequence[int]: ...

    @property
    def execution_counts(self) -> Mapping[int, int]: ...


@frozen
class Banner:
    """What stands at the top: how far the numbers may go, and what they are of. All of it is ours."""

    level: Level
    action: str
    notebook: str
    policy: str
    commit: str | None = None
    backend: str | None = None
    project: str | None = None
    workspace: str | None = None
    finished_day: str | None = None

    def fields(self) -> dict[str, str]:
        """For the notebook's metadata and the panel; what is not known is left out."""
        known = {
            "level": self.level,
            "title": TITLES[self.level],
            "meaning": MEANINGS[self.level],
            "action": self.action,
            "notebook": self.notebook,
            "policy": self.policy,
            "commit": self.commit,
            "backend": self.backend,
            "project": self.project,
            "workspace": self.workspace,
            "finished_day": self.finished_day,
        }
        return {name: text for name, text in known.items() if text is not None}


def build(
    notebook: SubmittedNotebook,
    *,
    parameters: Mapping[str, ParameterValue],
    outcomes: Sequence[Outcome],
    layout: Layout,
    banner: Banner,
) -> bytes:
    """The .ipynb (format 4.5) that the analyst reads."""
    under: dict[int, list[Outcome]] = {}
    elsewhere: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: o.request):
        is_code = 0 <= outcome.cell < len(notebook.cells) and notebook.cells[outcome.cell].kind == "code"
        (under.setdefault(outcome.cell, []) if is_code else elsewhere).append(outcome)
    placeholders = set(layout.outputs)
    cells = [_markdown(BANNER_CELL, _banner_text(banner)), *_parameter_cells(parameters)]
    for index, cell in enumerate(notebook.cells):
        outputs = [_output(outcome, banner.level) for outcome in under.get(index, [])]
        if cell.kind == "code" and index in placeholders:
            outputs.append(held(PLACEHOLDER_SENTENCE, PLACEHOLDER_NEXT_STEP))
        cells.append(_cell(index, cell, outputs, layout.execution_counts.get(index)))
    if elsewhere:
        # A request made by no cell of the source: shown, at the end, rather than lost.
        shown = [_output(outcome, banner.level) for outcome in elsewhere]
        cells.append(_code("osl-elsewhere", "# Asked for outside the cells above", shown, None))
    return write(
        {
            "cells": cells,
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
                "opensafely": {**banner.fields(), "parameters": dict(parameters)},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def held(sentence: str, next_step: str) -> dict[str, Any]:
    """A placeholder as a notebook output."""
    data = {
        HELD_MIME: {"version": MIME_VERSION, "sentence": sentence, "next_step": next_step},
        "text/plain": f"[not shown] {sentence} {next_step}".strip(),
    }
    return _display(data)


def table_html(name: str, table: ShownTable, sentence: str, level: Level) -> str:
    """An accessible table of text for viewers that do not know our type. Every word in it is escaped.

    Totals are bold. Quiet is 70 % of whatever the viewer writes with, which every usual theme can be read at.
    """
    caption = html.escape(f"{name}. {sentence} ({TITLES[level]})")
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = "".join(_row_html(table, number) for number in range(len(table.rows)))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row_html(table: ShownTable, number: int) -> str:
    total, repeated = number in table.total_rows, table.repeated(number)
    cells = []
    for place, text in enumerate(table.rows[number]):
        if place >= table.label_columns:
            cells.append(f"<td>{html.escape(text)}</td>")
            continue
        quiet = ";opacity:0.7" if place < repeated else ""
        weight = "bold" if total and place >= repeated else "normal"
        cells.append(f'<th scope="row" style="font-weight:{weight}{quiet}">{html.escape(text)}</th>')
    return f"<tr{_BOLD if total else ''}>{''.join(cells)}</tr>"


def table_text(table: ShownTable) -> str:
    """The table in columns of plain text; labels to the left, numbers to the right."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.columns))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if at < table.label_columns else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _output(outcome: Outcome, level: Level) -> dict[str, Any]:
    if outcome.verdict is Verdict.HELD or (outcome.table is None and outcome.figure is None):
        return held(f"{outcome.name}: {outcome.sentence}", "")
    said = {
        "version": MIME_VERSION,
        "name": outcome.name,
        "verdict": outcome.verdict.value,
        "treatment": outcome.treatment.value,
        "sentence": outcome.sentence,
        "level": level,
    }
    heading = f"{outcome.name} ({TITLES[level]})"
    if outcome.figure is not None:
        return _display(
            {
                FIGURE_MIME: said,
                "image/png": base64.b64encode(outcome.figure).decode("ascii"),
                "text/plain": f"[figure] {heading}\n{outcome.sentence}".strip(),
            }
        )
    table = outcome.table
    if table is None:
        raise TypeError("an outcome that is shown has a table or a figure")
    return _display(
        {
            TABLE_MIME: {
                **said,
                "columns": list(table.columns),
                "label_columns": table.label_columns,
                "rows": [list(row) for row in table.rows],
                "total_rows": list(table.total_rows),
            },
            "text/html": table_html(outcome.name, table, outcome.sentence, level),
            "text/plain": f"{heading}\n{table_text(table)}\n{outcome.sentence}".strip(),
        }
    )


def _banner_text(banner: Banner) -> str:
    facts = [f"Action {_code_span(banner.action)}, notebook {_code_span(banner.notebook)}"]
    if banner.project and banner.workspace:
        facts.append(f"project {_code_span(banner.project)}, workspace {_code_span(banner.workspace)}")
    if banner.backend:
        facts.append(f"backend {_code_span(banner.backend)}")
    if banner.commit:
        facts.append(f"commit {_code_span(banner.commit)}")
    facts.append(f"policy {_code_span(banner.policy)}")
    return f"**{TITLES[banner.level]}**\n\n{MEANINGS[banner.level]}\n\n{', '.join(facts)}."


def _parameter_cells(parameters: Mapping[str, ParameterValue]) -> list[dict[str, Any]]:
    if not parameters:
        return []
    rows = "\n".join(f"| {_code_span(name)} | {_code_span(value_text(value))} |" for name, value in parameters.items())
    return [_markdown(PARAMETERS_CELL, f"| Parameter | Value |\n| --- | --- |\n{rows}")]


def value_text(value: ParameterValue) -> str:
    """A parameter as people read it."""
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code_span(text: str) -> str:
    """Text that Markdown shows as it is: no markup in it works, no table or code span can be left."""
    flat = " ".join(text.split())[:300] or " "
    return f"<code>{''.join(_entity(char) for char in flat)}</code>"


def _entity(char: str) -> str:
    return char if char.isalnum() or char in " .,-/" else f"&#{ord(char)};"


def _cell(index: int, cell: Cell, outputs: list[dict[str, Any]], count: int | None) -> dict[str, Any]:
    if cell.kind == "code":
        return _code(f"cell-{index}", cell.source, outputs, count)
    return {"cell_type": cell.kind, "id": f"cell-{index}", "metadata": {}, "source": cell.source}


def _markdown(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def _code(name: str, source: str, outputs: list[dict[str, Any]], count: int | None) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {},
        "source": source,
        "execution_count": count,
        "outputs": outputs,
    }


def _display(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": {}}
