"""`%opensafely` in a notebook: what it takes, which notebook it means, and that it never shows a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import opensafely_lab
from opensafely_lab.desk import magics
from opensafely_lab.desk.magics import NotSaved, opensafely, parse, running_notebook
from opensafely_lab.desk.widgets.progress import JOB_MIME, link
from opensafely_lab.errors import UsageError
from opensafely_lab.wire.lab import RunKind, RunRow, Stage

SHELL = SimpleNamespace(history_manager=SimpleNamespace(input_hist_raw=["", "%opensafely run"]))


def notebook(folder: Path, *sources: str) -> Path:
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate(sources)
    ]
    file = folder / "a.ipynb"
    file.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return file


def test_parameters_and_repairs_are_read_from_the_line() -> None:
    given = parse('submit -p drug naproxen -p age_bands "[50, 70]" --commit')
    assert given.what == "submit"
    assert given.parameter == [["drug", "naproxen"], ["age_bands", "[50, 70]"]]
    assert (given.commit, given.strip) == (True, False)


@pytest.mark.parametrize("line", ["", "sumbit", "run -p drug", "run --all", 'run -p a "b', "run -p a 1 -p a 2"])
def test_a_line_that_is_not_understood_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line)


@pytest.mark.parametrize("line", ["", "sumbit", "run", 'run -p a "b'])
def test_an_error_is_a_sentence_and_no_traceback(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    opensafely(line, shell=SHELL, environ={"OPENSAFELY_LAB_STATE": "/nowhere"})
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.strip()


@pytest.mark.parametrize("mode", ["dummy", "real"])
def test_in_an_unattended_kernel_it_does_nothing(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    opensafely("submit", shell=SHELL, environ={"OSL_RUN": mode})
    assert capsys.readouterr() == ("", "")


def test_in_an_unattended_kernel_it_is_there_without_the_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSL_RUN", "dummy")
    monkeypatch.setattr(magics, "register", None)
    known = {}
    shell = SimpleNamespace(register_magic_function=lambda function, kind, name: known.update({name: function}))
    opensafely_lab.load_ipython_extension(shell)
    assert known["opensafely"]("submit") is None


def test_the_notebook_is_the_one_of_the_session(tmp_path: Path) -> None:
    file = notebook(tmp_path, "x = 1", "%opensafely run\n")
    assert running_notebook({"JPY_SESSION_NAME": str(file)}, "%opensafely run") == file


def test_a_notebook_that_was_not_saved_with_this_cell_is_refused(tmp_path: Path) -> None:
    file = notebook(tmp_path, "x = 1")
    with pytest.raises(NotSaved) as refused:
        running_notebook({"JPY_SESSION_NAME": str(file)}, "%opensafely run")
    assert "Save" in refused.value.next_step


@pytest.mark.parametrize("name", ["", "console-1", "missing.ipynb"])
def test_a_kernel_without_a_notebook_says_where_to_go(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        running_notebook({"JPY_SESSION_NAME": str(tmp_path / name) if name else ""}, "")


def test_the_link_that_stays_in_the_notebook_holds_names_and_no_result() -> None:
    row = RunRow(
        id="a" * 16,
        kind=RunKind.SUBMITTED,
        action="bleeding",
        notebook="analysis/a.ipynb",
        backend="b",
        commit=None,
        parameters={"drug": "naproxen"},
        stage=Stage.DONE,
        progress=1.0,
        started="2026-03-01T10:00:00+00:00",
        problem=None,
        has_result=True,
        level="level4",
    )
    bundle = link(row)
    assert set(bundle) == {JOB_MIME, "text/plain"}
    said = bundle[JOB_MIME]
    assert isinstance(said, dict)
    assert set(said) == {"version", "id", "action", "kind", "sentence"}
