"""`opensafely-lab run` where a study may lie: no git, another folder, odd names; and its dataset made by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from by_hand import tables_in_result
from command_line import a_study, command

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]


@pytest.mark.parametrize("name", ["study", "Grüße an 東京  (2)", 'it\'s $HOME; `x` & "y"%'])
def test_a_study_runs_from_any_folder_by_relative_paths_without_git(tmp_path: Path, name: str) -> None:
    a_study(tmp_path / name)
    here = tmp_path / "somewhere else"
    here.mkdir()
    words = ["--project", os.path.join("..", name), "--out", "the result", "--state", "../state"]
    said = command(tmp_path, "run", "bleeding", *words, cwd=here, more={"PATH": "/nowhere"})
    assert said.code == 4, said.err
    assert f"Result: {here / 'the result' / 'result.ipynb'}" in said.out
    assert set(tables_in_result((here / "the result" / "result.ipynb").read_text())) == {
        "people prescribed",
        "people who bled",
    }
    assert not (tmp_path / name / ".git").exists()


def test_the_dataset_can_be_made_by_itself_and_the_notebook_then_runs(tmp_path: Path) -> None:
    study = a_study(tmp_path / "study")
    made = command(tmp_path, "run", "generate_dataset", "--state", tmp_path / "state", cwd=study)
    assert made.code == 0, made.err
    assert "generate_dataset on DUMMY DATA: wrote output/dataset.arrow" in made.out
    assert (study / "output" / "dataset.arrow").stat().st_size > 1000
    said = command(tmp_path, "run", "bleeding", "--state", tmp_path / "state", cwd=study)
    assert said.code == 4, said.err
    assert "DUMMY DATA" in said.out
