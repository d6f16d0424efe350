"""A local run sees the working copy as a commit would be: no outputs, no links, no dot folders, not too much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opensafely_lab.pipeline import snapshot
from opensafely_lab.pipeline.snapshot import StudyTooLarge, take
from opensafely_lab.study.project import parse_project

PROJECT = parse_project(
    """\
version: "5.0"
actions:
  people:
    run: ehrql:v1 generate-dataset analysis/people.py --output output/people.arrow
    outputs: {highly_sensitive: {dataset: output/people.arrow}}
  plots:
    run: python:v2 analysis/plot.py
    needs: [people]
    outputs: {moderately_sensitive: {plots: "output/plots/*.png"}}
"""
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def put(study: Path, *paths: str) -> None:
    for path in paths:
        (study / path).parent.mkdir(parents=True, exist_ok=True)
        (study / path).write_text(path)


def taken(study: Path) -> list[str]:
    into = study.parent / "into"
    take(study, PROJECT, into)
    assert all(path.is_dir() or path.is_file() for path in into.rglob("*"))
    assert not any(path.is_symlink() for path in into.rglob("*"))
    return sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file())


def test_code_codelists_and_dummy_tables_are_there_as_they_are(study: Path) -> None:
    paths = ["analysis/people.py", "codelists/a.csv", "dummy_tables/patients.csv", "project.yaml"]
    put(study, *paths)
    assert taken(study) == paths
    assert (study.parent / "into" / "codelists" / "a.csv").read_text() == "codelists/a.csv"


def test_what_an_action_makes_stays_behind_and_what_lies_beside_it_does_not(study: Path) -> None:
    put(study, "output/people.arrow", "output/plots/a.png", "output/plots/a.svg", "output/plots/deep/a.png")
    put(study, "output/b.csv")
    assert taken(study) == ["output/b.csv", "output/plots/a.svg", "output/plots/deep/a.png"]


def test_folders_that_hold_no_study_stay_behind(study: Path) -> None:
    put(study, ".git/config", ".venv/x.py", ".ipynb_checkpoints/a.ipynb", "__pycache__/a.pyc", "node_modules/a.js")
    put(study, "venv/lib/a.py", "mine/pyvenv.cfg", "mine/lib/a.py", "metadata/log.txt", "analysis/__pycache__/b.pyc")
    put(study, ".python-version", "analysis/.hidden.py", "analysis/a.py")
    assert taken(study) == [".python-version", "analysis/.hidden.py", "analysis/a.py"]


def test_links_and_what_is_no_plain_file_stay_behind(study: Path) -> None:
    put(study, "analysis/a.py")
    put(study.parent / "outside", "secret.txt")
    (study / "link.txt").symlink_to(study.parent / "outside" / "secret.txt")
    (study / "linked").symlink_to(study.parent / "outside")
    (study / "inside.py").symlink_to("analysis/a.py")
    (study / "dangling").symlink_to("nowhere")
    os.mkfifo(study / "pipe")
    assert taken(study) == ["analysis/a.py"]


def test_a_study_of_too_many_files_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_STUDY_FILES", 3)
    put(study, "a", "b", "c", ".git/d", "output/people.arrow")
    assert taken(study) == ["a", "b", "c"], "what stays behind does not count"
    put(study, "d")
    with pytest.raises(StudyTooLarge) as refused:
        take(study, PROJECT, study.parent / "again")
    assert refused.value.next_step == "Move data and environments out of the study's folder."


def test_a_study_of_too_many_bytes_is_refused_before_they_are_copied(study: Path) -> None:
    study.mkdir()
    with (study / "data.csv").open("wb") as file:
        file.truncate(snapshot.LARGEST_STUDY_BYTES + 1)
    with pytest.raises(StudyTooLarge):
        take(study, PROJECT, study.parent / "into")
    assert list((study.parent / "into").iterdir()) == []


def test_a_place_that_is_there_already_is_not_used(study: Path) -> None:
    put(study, "a")
    with pytest.raises(FileExistsError):
        take(study, PROJECT, study)
