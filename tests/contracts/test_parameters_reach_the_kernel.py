"""What papermill writes into the injected cell is the value that was bound, and stands where we say it does."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

import nbformat
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.errors import LabError
from opensafely_lab.notebooks.prepared import KERNEL_NAME, prepare
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.study.parameters import ParameterSpec, ParameterType, bind

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from papermill.parameterize import parameterize_notebook
    from papermill.translators import translate_parameters


def code(source: str, *tags: str) -> dict[str, Any]:
    metadata = {"tags": list(tags)}
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": [], "execution_count": None}


def submitted(*cells: dict[str, Any]) -> SubmittedNotebook:
    return SubmittedNotebook.parse(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}).encode())


values = st.sampled_from(list(ParameterType)).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        {
            "int": st.integers(-(2**53), 2**53),
            "float": st.floats(),
            "bool": st.booleans(),
            "str": st.text(),
            "date": st.dates().map(str),
        }[kind.item.value].flatmap(lambda v: st.just([v, v]) if kind.is_list else st.just(v)),
    )
)


@settings(deadline=None, max_examples=examples(300))
@given(values)
def test_a_bound_value_is_written_as_the_literal_of_that_very_value(typed: tuple[ParameterType, Any]) -> None:
    kind, value = typed
    try:
        bound = bind({"p": ParameterSpec("p", kind)}, {"p": value}, from_text=False)
    except LabError:
        return
    source = translate_parameters(KERNEL_NAME, "python", bound, "Parameters")
    (statement,) = ast.parse(source).body
    assert isinstance(statement, ast.Assign)
    assert ast.unparse(statement.targets[0]) == "p"
    written = ast.literal_eval(statement.value)
    assert written == bound["p"]
    assert type(written) is type(bound["p"])


@pytest.mark.parametrize(
    "cells",
    [
        [code("n = 1", "parameters"), code("n")],
        [code("1"), code(""), code("n = 1", "parameters"), code("n"), code("2", "skip-execution"), code("3")],
        [code("1"), code("n")],
        [code("n = 9", "injected-parameters"), code("n = 1", "parameters"), code("n")],
        [code("", "parameters"), code("n")],
    ],
)
def test_the_ordinals_are_the_cells_that_run_in_the_order_in_which_they_run(cells: list[dict[str, Any]]) -> None:
    prepared = prepare(submitted(*cells))
    document = nbformat.reads(prepared.notebook.decode(), as_version=4)
    for cell in document.cells:
        cell.metadata.setdefault("tags", [])  # as papermill does when it loads a notebook
    document.metadata["papermill"] = {}
    injected = parameterize_notebook(document, {"n": 2}, kernel_name=KERNEL_NAME, language="python")
    run = [
        cell
        for cell in injected.cells
        if cell.cell_type == "code" and cell.source.strip() and "skip-execution" not in cell.metadata.get("tags", [])
    ]
    assert len(run) == len(prepared.ordinals)
    for cell, ordinal in zip(run, prepared.ordinals, strict=True):
        if ordinal is None:
            assert cell.metadata.tags == ["injected-parameters"]
        else:
            assert cell.source == cells[ordinal]["source"]
