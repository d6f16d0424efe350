"""A submitted notebook as it goes into the sandbox: our kernel, our metadata, its source.

Nothing of the file but the cells' source and the `parameters` and `skip-execution` tags goes in, so a
notebook cannot name its own kernel, language or widgets.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from attrs import frozen

from opensafely_lab.notebooks.source import PARAMETERS_TAG, Cell, SubmittedNotebook, write

KERNEL_NAME = "python3"
SKIP_TAG = "skip-execution"  # nbclient's own: a cell so tagged is passed over
MAX_LITERALS = 5_000
MAX_LITERAL = 1_000


@frozen
class Prepared:
    """`ordinals[n]` is the index, in the submitted source, of the n-th code cell that the kernel executes.

    None stands for the cell of parameter values that papermill injects.
    """

    notebook: bytes
    ordinals: tuple[int | None, ...]


def prepare(notebook: SubmittedNotebook, *, injects: bool = True) -> Prepared:
    """The notebook for the sandbox. `injects` says that papermill is given parameters, and so adds a cell.

    papermill injects after the first cell tagged `parameters`, at the top where there is none; nbclient
    passes over blank cells and those tagged `skip-execution`.
    """
    parameters_cell = notebook.parameters_cell
    ordinals: list[int | None] = [None] if injects and parameters_cell is None else []
    cells = []
    for index, cell in enumerate(notebook.cells):
        is_parameters = index == parameters_cell
        cells.append(_cell(index, cell, is_parameters=is_parameters))
        if runs(cell):
            ordinals.append(index)
        if injects and is_parameters:
            ordinals.append(None)
    document = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "OpenSAFELY job", "language": "python", "name": KERNEL_NAME},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return Prepared(write(document), tuple(ordinals))


def runs(cell: Cell) -> bool:
    """Whether nbclient sends this cell to the kernel."""
    return cell.kind == "code" and bool(cell.source.strip()) and SKIP_TAG not in cell.tags


def string_literals(notebook: SubmittedNotebook) -> frozenset[str]:
    """The texts written in the notebook's code. Lines for IPython (`%`, `!`, `?`) are passed over."""
    found: set[str] = set()
    for cell in notebook.cells:
        if cell.kind == "code":
            for text in _strings(cell.source):
                if len(found) >= MAX_LITERALS:
                    return frozenset(found)
                if text and len(text) <= MAX_LITERAL:
                    found.add(text)
    return frozenset(found)


def literals_beside(notebook: SubmittedNotebook, columns: Collection[str]) -> dict[str, frozenset[str]]:
    """For each column, the texts that the code compares it with, or names in one call or mapping with it.

    In `df.sex == "F"`, `df.region.isin(["East", "London"])` and `{"region": ["East", "London"]}` these are
    what the column's values may be.
    """
    found: dict[str, set[str]] = {column: set() for column in columns}
    for cell in notebook.cells:
        tree = _parsed(cell.source) if cell.kind == "code" else None
        if tree is not None:
            try:
                _beside(tree, found)
            except RecursionError:
                continue
    return {column: frozenset(texts) for column, texts in found.items() if texts}


def _beside(node: ast.AST, found: dict[str, set[str]]) -> tuple[set[str], set[str]]:
    """The columns and the texts below `node`; they meet in the smallest part that holds both."""
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        return set(), set()  # name="table 1" is about the call
    if isinstance(node, ast.Dict):
        pairs = [_beside(ast.Tuple([k, v] if k else [v]), found) for k, v in zip(node.keys, node.values, strict=True)]
        return set().union(*(c for c, _ in pairs)), set().union(*(t for _, t in pairs))
    columns: set[str] = set()
    texts: set[str] = set()
    if isinstance(node, ast.Attribute) and node.attr in found:
        columns.add(node.attr)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) <= MAX_LITERAL:
        (columns if node.value in found else texts).add(node.value)
    for child in ast.iter_child_nodes(node):
        below_columns, below_texts = _beside(child, found)
        columns |= below_columns
        texts |= below_texts
    if isinstance(node, ast.Compare | ast.Call | ast.Tuple) and columns and texts:
        for column in columns:
            found[column] |= texts
        return set(), set()
    return columns, texts


def _strings(source: str) -> Iterator[str]:
    tree = _parsed(source)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _parsed(source: str) -> ast.AST | None:
    """The code of a cell without IPython's own lines; None where it is no Python."""
    python = "\n".join("" if line.lstrip()[:1] in ("%", "!", "?") else line for line in source.split("\n"))
    try:
        return ast.parse(python)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _cell(index: int, cell: Cell, *, is_parameters: bool) -> dict[str, object]:
    tags = [PARAMETERS_TAG] if is_parameters else []
    if cell.kind == "code" and SKIP_TAG in cell.tags:
        tags.append(SKIP_TAG)
    prepared: dict[str, object] = {
        "cell_type": cell.kind,
        "id": f"cell-{index}",
        "metadata": {"tags": tags} if tags else {},
        "source": cell.source,
    }
    if cell.kind == "code":
        prepared.update(execution_count=None, outputs=[])
    return prepared
