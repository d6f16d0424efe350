"""Everything that can be wrong with a study is told before anything runs: a sentence and a next step each."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import pytest
from chain_scene import DATASET, PROJECT, SOURCES, Scene, notebook

from opensafely_lab.errors import LabError
from opensafely_lab.notebooks.source import MAX_BYTES
from opensafely_lab.pipeline.plan import LARGEST_PROJECT_FILE, CannotPlan, Plan, load_plan, read_inside, read_project


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return Scene(tmp_path).study


def plan(study: Path, action: str = "report", *, from_text: bool = True, **given: object) -> Plan:
    return load_plan(study, action, given, from_text=from_text)


def refused(study: Path, action: str = "report", **given: object) -> LabError:
    with pytest.raises(LabError) as caught:
        plan(study, action, **given)
    assert caught.value.next_step, "a next step"
    assert caught.value.exit_code in (2, 3)
    return caught.value


# --- what a plan is


def test_a_plan_names_the_notebook_its_parameters_and_its_inputs(study: Path) -> None:
    made = plan(study, minimum_age="65")
    assert dict(made.parameters) == {"minimum_age": 65}
    assert [cell.source for cell in made.notebook.cells] == list(SOURCES)
    assert [(wanted.action, str(wanted.output)) for wanted in made.inputs] == [("people", DATASET)]
    assert made.prepared.ordinals == (0, None, 1, 2, 3), "papermill adds a cell after the parameters"


def test_parameters_left_out_are_the_notebooks_own(study: Path) -> None:
    assert dict(plan(study).parameters) == {"minimum_age": 18}


def test_a_notebook_without_parameters_gets_no_cell_more(study: Path) -> None:
    (study / "project.yaml").write_text(PROJECT[: PROJECT.index("    config:")])
    document = json.loads(notebook())
    document["cells"][0]["metadata"] = {}
    (study / "analysis" / "report.ipynb").write_text(json.dumps(document))
    assert plan(study).prepared.ordinals == (0, 1, 2, 3)


# --- the folder and its project.yaml


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "There is no folder" in refused(tmp_path / "nowhere").sentence


def test_a_folder_that_is_no_study_is_told_how_to_make_one(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert "There is no project.yaml" in error.sentence
    assert "opensafely-lab init" in error.next_step


@pytest.mark.parametrize("text", ["", "version: '5.0'\n", "[1, 2", "\x00", "actions: {}\n"])
def test_an_empty_or_broken_project_is_told(study: Path, text: str) -> None:
    (study / "project.yaml").write_text(text)
    assert refused(study).code == "project-yaml"


def test_a_project_that_is_no_text_is_told(study: Path) -> None:
    (study / "project.yaml").write_bytes(b"\xff\xfe\x00v")
    assert refused(study).code == "project-yaml"


def test_a_project_of_megabytes_is_not_read(study: Path) -> None:
    with (study / "project.yaml").open("wb") as file:
        file.truncate(LARGEST_PROJECT_FILE + 1)
    assert refused(study).sentence == "project.yaml is larger than 1 MB."


def test_the_name_of_no_action_and_of_one_that_runs_no_notebook_are_told(study: Path) -> None:
    assert refused(study, "nothing").code == "unknown-action"
    assert "runs no notebook" in refused(study, "people").sentence


# --- the notebook


def test_a_missing_notebook_is_told_with_its_action(study: Path) -> None:
    (study / "analysis" / "report.ipynb").unlink()
    error = refused(study)
    assert error.sentence == "The notebook analysis/report.ipynb of the action report is not in the study."


@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b'{"nbformat": 3}', b"\xff", b"[" * 10_000])
def test_a_file_that_is_no_notebook_is_told_by_its_path(study: Path, data: bytes) -> None:
    (study / "analysis" / "report.ipynb").write_bytes(data)
    error = refused(study)
    assert error.code == "notebook"
    assert error.sentence.startswith("analysis/report.ipynb: ")


def test_a_notebook_of_many_megabytes_is_not_read(study: Path) -> None:
    with (study / "analysis" / "report.ipynb").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    assert "is larger than 10 MB" in refused(study).sentence


# --- parameters


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"minimum_age": "old"}, "a whole number"),
        ({"minimum_age": "121"}, "at most 120"),
        ({"age": "18"}, "age"),
        ({"minimum_age": "9" * 100_000}, "minimum_age"),
    ],
)
def test_unknown_and_badly_typed_parameters_are_told(study: Path, given: dict[str, object], told: str) -> None:
    assert told in str(refused(study, **given))


def test_a_parameter_that_the_project_alone_knows_is_told(study: Path) -> None:
    (study / "project.yaml").write_text(PROJECT.replace("minimum_age:", "maximum_age:"))
    assert "that the notebook does not declare" in refused(study).sentence


def test_a_text_is_no_number_where_values_come_as_json(study: Path) -> None:
    with pytest.raises(LabError, match="a whole number"):
        plan(study, from_text=False, minimum_age="65")
    assert dict(plan(study, from_text=False, minimum_age=65).parameters) == {"minimum_age": 65}


# --- a checkout is somebody else's files


@pytest.mark.parametrize("link", ["project.yaml", "analysis", "analysis/report.ipynb"])
def test_a_link_is_not_followed_wherever_it_stands(study: Path, link: str) -> None:
    """Not even to a file of the study: what is read is what is in the commit, as a file."""
    moved = study.parent / "moved"
    (study / link).rename(moved)
    (study / link).symlink_to(moved)
    assert "a link, which is not followed" in refused(study).sentence


@pytest.mark.parametrize("name", ["project.yaml", "analysis/report.ipynb"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket"])
def test_what_is_no_plain_file_is_told_and_never_waited_for(study: Path, name: str, kind: str) -> None:
    (study / name).unlink()
    match kind:
        case "folder":
            (study / name).mkdir()
        case "pipe":
            os.mkfifo(study / name)
        case "socket":
            import socket

            here = os.getcwd()
            os.chdir((study / name).parent)  # a socket's path is short
            try:
                socket.socket(socket.AF_UNIX).bind(Path(name).name)
            finally:
                os.chdir(here)
    assert refused(study).code == "cannot-plan"


def test_a_file_inside_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_inside(tmp_path, PurePosixPath("a"), 5, "") == b"12345"
    with pytest.raises(CannotPlan):
        read_inside(tmp_path, PurePosixPath("a"), 4, "Make it smaller.")
    assert read_inside(tmp_path, PurePosixPath("b"), 5, "") is None
    assert read_inside(tmp_path, PurePosixPath("no/such/folder"), 5, "") is None


def test_a_study_may_lie_behind_a_link_of_its_owners(study: Path) -> None:
    link = study.parent / "shortcut"
    link.symlink_to(study)
    assert list(read_project(link).actions) == ["people", "report"]
