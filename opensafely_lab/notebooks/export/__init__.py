"""A result notebook as a page for people without Jupyter: one file that loads nothing and runs nothing.

`page(data)` is what `opensafely-lab export` writes; `jupyter nbconvert --to opensafely_html` does the
same through the entry point. It refuses a notebook that is not one of our results, and one of level 4:
only dummy and released results are exported (disclosure.md, decision 14). It reads no other file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from opensafely_lab.notebooks.export.document import Level4NotExported, NotAResult, ResultDocument, read

__all__ = ["Level4NotExported", "NotAResult", "ResultDocument", "page", "read"]


def page(result: ResultDocument) -> str:
    """The document as HTML. Equal documents give equal pages."""
    with _without("rfc3987_syntax"):
        from opensafely_lab.notebooks.export.exporter import render

    return render(result)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Importing nbconvert imports jsonschema, which takes a second to build a grammar that nobody here asks for."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
