"""A case as the product meets it: a study with one notebook action and the case's cells in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from attacks.cases import PATIENTS, Run
from attacks.neutral import LEVELS, in_product_words

ACTION = "attack"
NOTEBOOK = "attack.ipynb"  # at the top: atk-25 looks for notebooks in the working folder

PROJECT = f"""\
version: "5.0"
actions:
  {ACTION}:
    run: notebook:v1 {NOTEBOOK}
"""

PROLOGUE = f"""\
import pandas as pd, numpy as np
df = pd.read_csv('{PATIENTS}', parse_dates=['died_date'])"""


def code_cells(run: Run) -> list[str]:
    """The source of the code cells, in order: prologue, the case's own, one for each declared aggregate."""
    cells = [PROLOGUE, *run.cells]
    declared = [cell for cell in map(in_product_words, run.declares) if cell is not None]
    if declared:
        cells.append(f"from opensafely_lab import safe\ndata = safe.dataset('{PATIENTS}')\nLEVELS = {LEVELS!r}")
    return [*cells, *declared]


def write(run: Run, folder: Path, *, last: Iterable[str] = ()) -> tuple[str, ...]:
    """Make the study in `folder`; returns the sources in it. `last` are cells for a run that is only to prove."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.yaml").write_text(PROJECT)
    sources = [*code_cells(run), *last]
    cells = [_markdown(number, text) for number, text in enumerate(run.markdown)]
    cells += [_code(number, text) for number, text in enumerate(sources)]
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / NOTEBOOK).write_text(json.dumps(notebook, indent=1) + "\n")
    return (*run.markdown, *sources)


def _code(number: int, source: str) -> dict[str, object]:
    return {
        "cell_type": "code",
        "id": f"code-{number}",
        "metadata": {},
        "source": source,
        "execution_count": None,
        "outputs": [],
    }


def _markdown(number: int, source: str) -> dict[str, object]:
    return {"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": source}
