"""The nbconvert exporter `opensafely_html`. Imported only when a page is made: nbconvert takes its time.

It runs no preprocessor, so that no option of `jupyter nbconvert` can make it execute anything, and takes
its template from this package alone, not from the working folder or a user's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert.exporters.exporter import Exporter
from nbformat import NotebookNode
from traitlets import default

from opensafely_lab.disclosure.outcome import REDACTED
from opensafely_lab.notebooks.export import clean
from opensafely_lab.notebooks.export.document import (
    FigureOutput,
    HeldOutput,
    Output,
    ResultCell,
    ResultDocument,
    TableOutput,
    document,
)

TEMPLATE = Path(__file__).parent / "template"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class OpensafelyHTMLExporter(Exporter):
    """A result notebook as one self-contained page."""

    output_mimetype = "text/html"

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".html"

    def _init_preprocessors(self) -> None:
        self._preprocessors = []

    def from_notebook_node(  # type: ignore[override] # as every exporter that makes text
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """Raises `NotAResult`, `Level4NotExported`."""
        resources = self._init_resources(resources)  # type: ignore[no-untyped-call]
        return render(document(nb)), resources


def render(result: ResultDocument) -> str:
    style = (TEMPLATE / "page.css").read_text("utf-8")
    return _environment().get_template("page.html.j2").render(result=result, style=style, policy=POLICY).lstrip()


def _environment() -> Environment:
    """Our own, because nbconvert's does not escape by itself."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"markdown": clean.markdown, "code": clean.code, "kind": kind}
    made.globals["REDACTED"] = REDACTED
    return made


def kind(part: Output | ResultCell) -> str:
    """The name under which the template draws it."""
    match part:
        case TableOutput():
            return "table"
        case FigureOutput():
            return "figure"
        case HeldOutput():
            return "held"
        case ResultCell():
            return part.kind
