"""`opensafely-lab run`: what it checks first, what it tells, what it leaves in --out, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from chain_scene import (
    DATASET,
    RECORDED,
    SHOWN,
    Scene,
    failed,
    patients_csv,
    ran,
    rows,
    table,
    trusted_steps,
)
from fake_executor import Left

from opensafely_lab.desk import local
from opensafely_lab.desk.local import Order, RealRunFailed, RefusedBeforeRunning, make_dummy_datasets, parse_extract
from opensafely_lab.errors import LabError, UsageError
from opensafely_lab.jobs.executors.protocol import EndKind, ExecutorUnavailable, RunEnd
from opensafely_lab.pipeline import shown
from opensafely_lab.pipeline.chain import DummyRunFailed
from opensafely_lab.pipeline.ports import Ports
from opensafely_lab.pipeline.shown import OutNotEmpty, OutNotWritable

Run = Callable[..., int]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    trusted_steps(monkeypatch)
    made = Scene(tmp_path)
    made.left = {mode: ran(outputs=()) for mode in ("dummy", "real")}
    return made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(scene: Scene, said: list[str]) -> Run:
    def run(action: str = "report", **order: object) -> int:
        made = Order(action, scene.study, **order)  # type: ignore[arg-type]
        return local.run(made, lambda: scene.ports, said.append)

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- on dummy data


def test_a_run_on_dummy_data_shows_what_a_real_one_would_and_says_that_it_is_none(
    scene: Scene, run: Run, said: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(out=out) == 0
    assert files(out) == ["disclosure.json", "result.ipynb", "tables/01-by-sex.csv"]
    assert said[0] == "report on DUMMY DATA"
    assert said[1].startswith("  by sex: verified, hidden. 2 cells hidden")
    assert said[-1] == f"Result: {out}/result.ipynb"
    assert scene.modes == ["dummy"]
    assert scene.is_clean


def test_without_out_nothing_is_written_and_the_next_step_is_told(scene: Scene, run: Run, said: list[str]) -> None:
    before = files(scene.folder)
    assert run() == 0
    assert said[-1] == "Keep the result with --out DIR."
    assert files(scene.folder) == before


def test_what_a_cell_writes_by_itself_is_told_as_held_with_its_own_exit_code(
    scene: Scene, run: Run, said: list[str]
) -> None:
    scene.left["dummy"] = ran(outputs=(2,))
    assert run() == 4
    assert any(line.startswith("  cell 3: held.") for line in said)


def test_a_notebook_that_does_nothing_is_told_so(scene: Scene, run: Run, said: list[str]) -> None:
    scene.left["dummy"] = ran(requests_json=b"", outputs=())
    assert run() == 0
    assert "  The notebook asked for nothing and wrote nothing." in said


def test_a_notebook_that_fails_tells_its_error(scene: Scene, run: Run) -> None:
    scene.left["dummy"] = failed("KeyError", 1)
    with pytest.raises(DummyRunFailed) as broken:
        run()
    assert broken.value.exit_code == 1
    assert broken.value.detail


def test_a_job_sees_the_study_as_a_commit_of_it_would_be(scene: Scene, run: Run) -> None:
    (scene.study / "output").mkdir()
    (scene.study / DATASET).write_text("made earlier")
    seen: list[list[str]] = []
    left = scene.executor.left

    def look(spec: object) -> Left:
        seen.append(files(spec.mounts[0].host))  # type: ignore[attr-defined]
        return left(spec)  # type: ignore[arg-type]

    scene.executor.left = look
    run()
    expected = ["analysis/people.py", "analysis/report.ipynb", "dummy_tables/patients.csv", "project.yaml"]
    assert seen == [expected] * 2


def test_what_an_earlier_run_left_is_removed_first(scene: Scene, run: Run) -> None:
    run()
    assert scene.executor.reaped == 1


def test_an_executor_that_is_no_sandbox_says_so(scene: Scene, run: Run, said: list[str]) -> None:
    scene.executor.confidential = False
    assert run() == 0
    assert said[-1].startswith("UNSAFE")


# --- as the backend would


def test_with_records_the_numbers_are_theirs_after_a_dummy_run(
    scene: Scene, run: Run, said: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(data=scene.records, out=out) == 0
    assert rows((out / "disclosure.json").read_bytes()) == SHOWN
    assert said[0] == "report on the records"
    assert scene.modes == ["dummy", "real"]
    assert scene.is_clean


def test_with_a_ready_extract_no_records_are_needed(scene: Scene, run: Run, tmp_path: Path) -> None:
    scene.left = {mode: ran(requests_json=b"", outputs=()) for mode in ("dummy", "real")}
    file = tmp_path / "handed-in.csv"
    file.write_text(patients_csv(RECORDED))
    assert run(extracts=[(DATASET, file)]) == 0
    assert scene.modes == ["dummy", "real"]


FAILURES: dict[str, Left] = {
    "an exception": failed("KeyError", 1),
    "another": failed("ValueError", 3),
    "time": failed(end=RunEnd(EndKind.TIME, None)),
    "memory": failed(end=RunEnd(EndKind.MEMORY, None)),
    "lost": Left(end=RunEnd(EndKind.LOST, None)),
    "rubbish": Left({"status.json": b"patient 4711"}, RunEnd(EndKind.EXITED, 139)),
    "another list": ran(table("renamed"), outputs=()),
    "no list": ran(requests_json=b"patient 4711", outputs=()),
    "no layout": ran(cells_json=b"patient 4711"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_run_on_records_that_fails_is_told_in_the_same_words_whatever_the_reason(
    scene: Scene, run: Run, said: list[str], tmp_path: Path, failure: str
) -> None:
    scene.left["real"] = FAILURES[failure]
    with pytest.raises(RealRunFailed) as broken:
        run(data=scene.records, out=tmp_path / "out")
    assert (str(broken.value), broken.value.exit_code) == (str(RealRunFailed()), 1)
    assert not hasattr(broken.value, "detail")
    assert said == []
    assert not (tmp_path / "out").exists()
    assert scene.is_clean


def test_a_notebook_that_fails_on_dummy_data_is_refused_before_any_record_is_read(scene: Scene, run: Run) -> None:
    scene.left["dummy"] = failed("KeyError", 1)
    with pytest.raises(RefusedBeforeRunning) as refused:
        run(data=scene.records)
    assert refused.value.exit_code == 3
    assert refused.value.detail, "of dummy data the whole error is told"
    assert scene.modes == ["dummy"]


def test_without_a_sandbox_no_record_is_read(scene: Scene, run: Run, said: list[str]) -> None:
    scene.executor.confidential = False
    with pytest.raises(ExecutorUnavailable):
        run(data=scene.records)
    assert said == []
    assert scene.modes == ["dummy"]


def test_a_full_disk_at_the_end_is_told_and_leaves_nothing(
    scene: Scene, run: Run, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shown.os, "fsync", full)
    with pytest.raises(OutNotWritable) as refused:
        run(data=scene.records, out=tmp_path / "out")
    assert refused.value.exit_code == 5
    assert not (tmp_path / "out").exists()
    assert said == []


# --- mistakes that need no sandbox to be found


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"data": Path("nowhere")}, "--data does not name a folder"),
        ({"extracts": [("output/x.csv", Path("nowhere"))]}, "is not there"),
        ({"extracts": [("/output/x.csv", Path(__file__))]}, "inside the study"),
        ({"extracts": [("../x.csv", Path(__file__))]}, "inside the study"),
        ({"extracts": [("", Path(__file__))]}, "inside the study"),
        ({"extracts": [("x.csv", Path(__file__))] * 2}, "each once"),
        ({"parameters": [("minimum_age", "1"), ("minimum_age", "2")]}, "given twice"),
        ({"parameters": [("minimum_age", "old")]}, "a whole number"),
        ({"action": "nothing"}, "nothing"),
        ({"project": Path("nowhere")}, "There is no folder"),
    ],
)
def test_mistakes_are_told_before_a_sandbox_is_made(scene: Scene, order: dict[str, object], told: str) -> None:
    def no_ports() -> Ports:
        pytest.fail("a sandbox was made")

    with pytest.raises(LabError) as refused:
        local.run(evolve(Order("report", scene.study), **order), no_ports, pytest.fail)
    assert told in refused.value.sentence
    assert refused.value.next_step
    assert refused.value.exit_code in (2, 3)


def test_a_folder_for_the_result_that_is_full_is_refused_first(scene: Scene, run: Run) -> None:
    with pytest.raises(OutNotEmpty):
        run(out=scene.records)
    assert scene.modes == []


@pytest.mark.parametrize("text", ["", "=", "x=", "=x", "output/people.arrow"])
def test_an_extract_is_a_path_and_a_file(text: str) -> None:
    with pytest.raises(UsageError):
        parse_extract(text)


def test_the_file_of_an_extract_may_have_an_equals_sign() -> None:
    assert parse_extract("a.csv=b=c.csv") == ("a.csv", Path("b=c.csv"))


# --- datasets


def test_an_action_that_makes_a_dataset_makes_it_of_dummy_data_in_the_study(
    scene: Scene, run: Run, said: list[str]
) -> None:
    assert run("people") == 0
    assert (scene.study / DATASET).read_bytes().startswith(b"ARROW1")
    assert said == [f"people on DUMMY DATA: wrote {DATASET}"]
    assert scene.modes == []
    assert scene.is_clean


@pytest.mark.parametrize("order", ["data", "out", "parameters", "extracts"])
def test_a_dataset_of_real_records_is_never_made_here(scene: Scene, run: Run, tmp_path: Path, order: str) -> None:
    options = {
        "data": scene.records,
        "out": tmp_path / "out",
        "parameters": [("a", "b")],
        "extracts": [(DATASET, scene.records / "patients.csv")],
    }
    with pytest.raises(UsageError, match="dummy data alone"):
        run("people", **{order: options[order]})
    assert not (scene.study / "output").exists()
    assert scene.executor.prepared == []


def test_datasets_that_are_missing_are_made_and_those_that_are_there_are_kept(scene: Scene) -> None:
    assert [str(path) for path in make_dummy_datasets(scene.study, scene.ports)] == [DATASET]
    (scene.study / DATASET).write_bytes(b"mine")
    assert make_dummy_datasets(scene.study, scene.ports) == ()
    assert (scene.study / DATASET).read_bytes() == b"mine"


def test_the_summary_names_every_output_of_the_record(scene: Scene, run: Run, said: list[str], tmp_path: Path) -> None:
    asks = (table(), table("no such column", id=1, column="postcode"))
    scene.left = {mode: ran(*asks, outputs=(2, 3)) for mode in ("dummy", "real")}
    assert run(data=scene.records, out=tmp_path / "out") == 4
    record = json.loads((tmp_path / "out" / "disclosure.json").read_text())
    assert [line.split(":")[0].strip() for line in said[1:-1]] == ["by sex", "no such column", "cell 3", "cell 4"]
    assert len(record["outputs"]) + len(record["placeholders"]) == len(said[1:-1])
