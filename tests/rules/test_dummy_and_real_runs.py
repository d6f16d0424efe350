"""The chain: a dummy run fixes what is asked; a real run shows what the gate computes of just that, or one code."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve
from chain_scene import (
    DATASET,
    RECORDED,
    SHOWN,
    Scene,
    Steps,
    definition,
    failed,
    patients_csv,
    plot,
    ran,
    rows,
    table,
    trusted_steps,
)

from opensafely_lab.disclosure.requests import Request
from opensafely_lab.ehrql.loader import DefinitionError
from opensafely_lab.errors import LabError, PlatformError
from opensafely_lab.expressions.nodes import Column, Literal, call
from opensafely_lab.expressions.schema import ValueType
from opensafely_lab.jobs.executors.protocol import EndKind, ExecutorUnavailable, RunEnd
from opensafely_lab.pipeline import child
from opensafely_lab.pipeline.chain import DefinitionChanged, DummyRunFailed, dummy_dataset
from opensafely_lab.pipeline.extracts import DummyDataUnusable
from opensafely_lab.pipeline.ports import Phase
from opensafely_lab.pipeline.sandboxed import RunCancelled


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return trusted_steps(monkeypatch)


@pytest.fixture
def scene(tmp_path: Path, asked: Steps) -> Scene:
    return Scene(tmp_path)


WOMEN = call("eq", Column("sex", ValueType.STR), Literal("female", ValueType.STR))


# --- both succeed


def test_a_dummy_run_fixes_the_requests_the_layout_and_the_definitions(scene: Scene) -> None:
    done = scene.dummy()
    assert done.authorised == scene.authorised()
    assert done.authorised.requests.requests == (table(),)
    assert done.authorised.layout.outputs == (2,)
    assert dict(done.authorised.layout.execution_counts) == {1: 1, 2: 2}
    assert list(done.authorised.definitions) == ["people"]
    record = json.loads(done.shown.disclosure)
    assert record["data"] == "dummy"
    assert rows(done.shown.disclosure) == [
        ["female", "10"],
        ["male", "30"],
        ["intersex", "[REDACTED]"],
        ["unknown", "[REDACTED]"],
    ]
    assert done.layers == {"isolation": "none, it is a test"}


def test_a_real_run_shows_what_the_gate_computes_on_the_records(scene: Scene) -> None:
    done = scene.real()
    assert done.failed is None
    assert done.shown is not None
    assert rows(done.shown.disclosure) == SHOWN
    assert json.loads(done.shown.disclosure)["data"] == "real"
    assert [str(name) for name, _ in done.shown.files] == ["result.ipynb", "tables/01-by-sex.csv", "disclosure.json"]


def test_a_job_gets_the_study_and_its_extracts_and_nothing_else(scene: Scene) -> None:
    scene.real(scene.dummy().authorised)
    runs = [spec for spec in scene.executor.prepared if "opensafely_lab.notebooks.execute" in spec.argv]
    assert [[str(mount.inside) for mount in spec.mounts] for spec in runs] == [["/study", "/inputs/0/people.arrow"]] * 2
    assert [job["inputs"] for job in scene.jobs] == [{DATASET: "/inputs/0/people.arrow"}] * 2
    assert scene.modes == ["dummy", "real"]
    assert all(spec.mounts[0].host == scene.study for spec in runs)
    definitions = [spec for spec in scene.executor.prepared if spec not in runs]
    assert [[str(mount.inside) for mount in spec.mounts] for spec in definitions] == [["/study"]] * 2, "no data"


def test_the_phases_are_told_in_order(scene: Scene) -> None:
    told: list[Phase] = []
    authorised = scene.dummy(notify=told.append).authorised
    scene.real(authorised, notify=told.append)
    assert told == [Phase.PREPARING, Phase.EXECUTING, Phase.CHECKING] * 2


def test_the_layout_of_the_result_is_that_of_the_dummy_run_whatever_the_real_one_wrote(scene: Scene) -> None:
    """Else a notebook could choose, by what is in the records, which of its cells get a placeholder."""
    plain = scene.real().shown
    scene.left["real"] = ran(
        outputs=(0, 1, 2, 3), cells_json=b'{"outputs": [0, 1], "execution_counts": {"0": 9, "1": 7}}'
    )
    assert scene.real().shown == plain


def test_the_executed_notebook_is_kept_as_bytes_and_shows_in_no_representation(scene: Scene) -> None:
    done = scene.real()
    assert done.executed == b"patient 17 lives in Hay-on-Wye"
    assert "Hay" not in repr(done)
    assert done.shown is not None
    assert all(b"Hay" not in data for _, data in done.shown.files)


def test_a_notebook_that_asks_for_nothing_needs_no_gate(scene: Scene, asked: Steps) -> None:
    scene.left = {mode: ran(requests_json=b"") for mode in ("dummy", "real")}
    done = scene.real()
    assert done.shown is not None
    assert json.loads(done.shown.disclosure)["outputs"] == []
    assert "gate" not in [task for task, _ in asked]


# --- definitions


def test_a_definition_that_reads_otherwise_behind_the_wall_is_refused_before_any_record_is_read(
    scene: Scene, asked: Steps
) -> None:
    authorised = scene.authorised()
    scene.definitions = [definition("female")]
    with pytest.raises(DefinitionChanged) as refused:
        scene.real(authorised)
    assert "people" in refused.value.sentence
    assert asked == []
    assert scene.modes == []
    assert scene.is_clean


@pytest.mark.parametrize("change", [{}, {"other": "f" * 64}], ids=["one fewer", "one more"])
def test_each_definition_must_have_been_authorised_and_each_authorised_one_be_there(
    scene: Scene, change: dict[str, str]
) -> None:
    authorised = scene.authorised()
    definitions = {**authorised.definitions, **change} if change else {}
    with pytest.raises(DefinitionChanged):
        scene.real(evolve(authorised, definitions=definitions))
    assert scene.modes == []


@pytest.mark.parametrize("answer", [b"", b"rubbish", b'{"error": {"sentence": "There is no such file."}}'])
def test_a_definition_without_an_answer_of_its_own_is_told_and_leaves_nothing(scene: Scene, answer: bytes) -> None:
    scene.definitions = [answer]
    with pytest.raises(DefinitionError) as refused:
        scene.dummy()
    assert "analysis/people.py" in refused.value.sentence
    assert scene.modes == []
    assert scene.is_clean


def test_mistakes_in_dummy_tables_are_told(scene: Scene) -> None:
    (scene.study / "dummy_tables" / "patients.csv").write_text("patient_id,sex\n1,female\n")
    with pytest.raises(DummyDataUnusable) as refused:
        scene.dummy()
    assert "patients" in refused.value.sentence
    assert scene.is_clean


def test_mistakes_in_the_records_are_not_told(scene: Scene) -> None:
    authorised = scene.authorised()
    (scene.records / "patients.csv").write_text("patient_id,sex\n4711,female\n")
    with pytest.raises(child.ChildFailed) as broken:
        scene.real(authorised)
    assert str(broken.value).startswith("A trusted step on the records failed.")
    assert scene.modes == []
    assert scene.is_clean


# --- requests


@pytest.mark.parametrize(
    "real",
    [
        (table(), table("another", id=1)),
        (),
        (table("renamed"),),
        (table(cell=3),),
        (table(where=WOMEN),),
        (table(column="ses"),),
        (table(), plot()),
    ],
    ids=["one more", "dropped", "renamed", "in another cell", "of fewer people", "another column", "a plot more"],
)
def test_a_real_run_that_asks_for_something_else_shows_nothing(
    scene: Scene, asked: Steps, real: tuple[Request, ...]
) -> None:
    authorised = scene.authorised()
    scene.left["real"] = ran(*real) if real else ran(requests_json=b'{"version": 1, "requests": []}')
    done = scene.real(authorised)
    assert done.shown is None
    assert done.failed is not None
    assert (done.failed.failure_class, done.failed.cell, done.failed.detail) == ("requests-differ", None, None)
    assert [task for task, _ in asked] == ["extract"], "the gate is not even asked"
    assert scene.is_clean


def test_two_requests_in_another_order_are_another_list(scene: Scene) -> None:
    one, two = ("by sex", "again"), ("again", "by sex")
    for mode, names in (("dummy", one), ("real", two)):
        scene.left[mode] = ran(*(table(name, id=number) for number, name in enumerate(names)))
    done = scene.real()
    assert done.failed is not None
    assert done.failed.failure_class == "requests-differ"


def test_the_same_list_written_in_other_words_is_the_same(scene: Scene) -> None:
    listed = json.loads(scene.left["dummy"].control["requests.json"])
    scene.left["real"] = ran(requests_json=json.dumps(listed, indent=4).encode())
    assert scene.real().shown is not None


# --- runs that fail

LOST, TIME, MEMORY = (RunEnd(kind, None) for kind in (EndKind.LOST, EndKind.TIME, EndKind.MEMORY))


@pytest.mark.parametrize(
    ("end", "told"),
    [(None, "ValueError"), (LOST, "ValueError"), (TIME, "time-limit"), (MEMORY, "memory-limit")],
    ids=["exit", "lost", "time", "memory"],
)
def test_a_real_run_that_fails_shows_nothing_and_keeps_a_class_and_a_cell(
    scene: Scene, asked: Steps, end: RunEnd | None, told: str
) -> None:
    authorised = scene.authorised()
    scene.left["real"] = failed("ValueError", 3, **({"end": end} if end else {}))
    done = scene.real(authorised)
    assert done.shown is None
    assert done.failed is not None
    assert (done.failed.failure_class, done.failed.cell) == (told, 3)
    assert [task for task, _ in asked] == ["extract"]
    assert scene.is_clean


def test_a_notebook_that_fails_on_dummy_data_is_told_its_whole_error(scene: Scene) -> None:
    scene.left["dummy"] = failed("KeyError", 1)
    with pytest.raises(DummyRunFailed) as broken:
        scene.dummy()
    assert broken.value.sentence == "The notebook fails on dummy data in cell 2 (KeyError)."
    assert broken.value.detail == "KeyError: patient 17 is 93"
    assert scene.is_clean


def test_a_list_of_requests_that_cannot_be_read_is_told_on_dummy_data_alone(scene: Scene) -> None:
    scene.left["dummy"] = ran(requests_json=b'{"version": 7}')
    with pytest.raises(LabError) as refused:
        scene.dummy()
    assert refused.value.code == "bad-requests"
    assert scene.is_clean
    scene.left = {"dummy": ran(), "real": scene.left["dummy"]}
    done = scene.real()
    assert done.shown is None
    assert done.failed is not None
    assert (done.failed.failure_class, done.failed.detail) == ("other-error", None)
    assert scene.is_clean


def test_an_executor_that_is_not_confidential_never_gets_real_data(scene: Scene, asked: Steps) -> None:
    authorised = scene.authorised()
    scene.executor.confidential = False
    prepared = len(scene.executor.prepared)
    with pytest.raises(ExecutorUnavailable):
        scene.real(authorised)
    assert len(scene.executor.prepared) == prepared
    assert asked == []
    assert scene.dummy().shown.files, "dummy data may be run there"


def test_an_executor_that_lacks_a_layer_runs_nothing(scene: Scene) -> None:
    scene.executor.available = False
    with pytest.raises(ExecutorUnavailable):
        scene.dummy()
    assert scene.executor.prepared == []
    assert scene.is_clean


def test_a_cancelled_run_is_ended_and_leaves_nothing(scene: Scene) -> None:
    authorised = scene.authorised()
    ended = len(scene.executor.prepared) + 1  # after the definition, in the notebook
    scene.ports = evolve(scene.ports, cancelled=lambda: len(scene.executor.prepared) > ended)
    scene.executor.wait = lambda run, timeout=None: FakeExecutorWait(scene, run)  # type: ignore[method-assign]
    with pytest.raises(RunCancelled):
        scene.real(authorised)
    assert scene.modes == [], "it ended before it could leave anything"
    assert scene.is_clean


def FakeExecutorWait(scene: Scene, run: str) -> object:
    """As if each question whether it has ended were the last."""
    return type(scene.executor).wait(scene.executor, run, None)


def test_without_records_a_study_that_needs_them_is_not_run(scene: Scene) -> None:
    with pytest.raises(PlatformError, match="no records"):
        scene.real(records=None)
    assert scene.modes == []
    assert scene.is_clean


# --- whatever happens


@pytest.mark.parametrize("step", ["extract", "gate"])
@pytest.mark.parametrize("mode", ["dummy", "real"])
def test_a_trusted_step_that_fails_leaves_nothing_behind(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: str, mode: str
) -> None:
    authorised = scene.authorised()
    trusted_steps(monkeypatch, fails=lambda task: task == step)
    with pytest.raises(child.ChildFailed):
        scene.dummy() if mode == "dummy" else scene.real(authorised)
    assert scene.is_clean


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_interrupted_leaves_no_extract_behind(scene: Scene, error: type[BaseException]) -> None:
    authorised = scene.authorised()

    def interrupt(phase: Phase) -> None:
        if phase is Phase.EXECUTING:
            assert list(scene.ports.scratch.rglob("people.arrow"))
            raise error

    with pytest.raises(error):
        scene.real(authorised, notify=interrupt)
    assert scene.is_clean


def test_extracts_lie_in_a_folder_that_nobody_else_can_enter(scene: Scene) -> None:
    modes = []

    def look(phase: Phase) -> None:
        if phase is Phase.EXECUTING:
            (extract,) = scene.ports.scratch.rglob("people.arrow")
            modes.extend(folder.stat().st_mode & 0o777 for folder in (extract.parent, extract.parent.parent))

    scene.dummy(notify=look)
    assert modes == [0o700, 0o700]


# --- what the gate holds


def test_what_the_gate_holds_is_a_placeholder_and_the_rest_goes_on(scene: Scene) -> None:
    asks = (table("no such column", column="postcode"), evolve(plot(id=1, of=0), name="its bars"), table("good", id=2))
    scene.left = {mode: ran(*asks) for mode in ("dummy", "real")}
    done = scene.real()
    assert done.shown is not None
    assert done.shown.held
    outputs = json.loads(done.shown.disclosure)["outputs"]
    assert [output["verdict"] for output in outputs] == ["held", "held", "verified"]
    assert {output["sentence"] for output in outputs[:2]} == {"This output is held back."}
    assert [str(name) for name, _ in done.shown.files] == ["result.ipynb", "tables/03-good.csv", "disclosure.json"]


def test_a_request_of_a_dataset_that_is_no_input_is_held(scene: Scene) -> None:
    elsewhere = evolve(table(), dataset="output/other.arrow")
    scene.left = {mode: ran(elsewhere, outputs=()) for mode in ("dummy", "real")}
    done = scene.real()
    assert done.shown is not None
    assert done.shown.held
    assert [output["verdict"] for output in json.loads(done.shown.disclosure)["outputs"]] == ["held"]


def test_a_figure_is_a_file_beside_its_table(scene: Scene) -> None:
    scene.left = {mode: ran(table(), plot(), outputs=()) for mode in ("dummy", "real")}
    done = scene.real()
    assert done.shown is not None
    assert not done.shown.held
    assert done.shown.file(PurePosixPath("figures/02-bars.png")).startswith(b"\x89PNG")


# --- ready extracts


def test_of_a_ready_extract_a_dummy_run_sees_the_schema_and_no_row(scene: Scene, asked: Steps) -> None:
    file = scene.folder / "handed-in.csv"
    file.write_text("patient_id,sex,town\n" + "".join(f"{n},female,Hay-on-Wye\n" for n in range(4711, 4731)))
    (scene.study / "project.yaml").write_text(
        (scene.study / "project.yaml").read_text().replace("--dummy-tables dummy_tables", "")
    )
    scene.left["dummy"] = ran(requests_json=b"")
    scene.dummy(given={PurePosixPath(DATASET): file})
    assert [task for task, _ in asked] == ["describe", "dummy"]
    assert "Hay-on-Wye" not in json.dumps(asked[1][1])
    assert "4711" not in json.dumps(asked[1][1])
    assert scene.evaluated == 0, "its definition is not needed"
    (mount,) = [m for spec in scene.executor.prepared for m in spec.mounts if "/inputs" in str(m.inside)]
    assert mount.host != file


def test_a_real_run_reads_a_ready_extract_where_it_lies(scene: Scene) -> None:
    file = scene.folder / "handed-in.csv"
    file.write_text(patients_csv(RECORDED))
    given = {PurePosixPath(DATASET): file}
    scene.left = {mode: ran(requests_json=b"") for mode in ("dummy", "real")}
    scene.real(scene.dummy(given=given).authorised, records=None, given=given)
    mounts = [m for spec in scene.executor.prepared[-1:] for m in spec.mounts if "/inputs" in str(m.inside)]
    assert [mount.host for mount in mounts] == [file]
    assert file.read_text() == patients_csv(RECORDED)


# --- a dummy dataset for the desk


def test_a_dummy_dataset_is_put_into_the_study_whole(scene: Scene) -> None:
    (wanted,) = scene.plan().inputs
    output = scene.study / DATASET
    dummy_dataset(scene.study, wanted, output, scene.ports)
    assert output.read_bytes().startswith(b"ARROW1")
    assert [path.name for path in output.parent.iterdir()] == ["people.arrow"]
    before = output.stat().st_ino
    dummy_dataset(scene.study, wanted, output, scene.ports)
    assert output.stat().st_ino != before, "replaced, never written in place"
    assert scene.is_clean


def test_a_dummy_dataset_that_cannot_be_made_leaves_the_old_one(scene: Scene) -> None:
    (wanted,) = scene.plan().inputs
    output = scene.study / DATASET
    output.parent.mkdir()
    output.write_bytes(b"the old one")
    scene.definitions = [b""]
    with pytest.raises(DefinitionError):
        dummy_dataset(scene.study, wanted, output, scene.ports)
    assert output.read_bytes() == b"the old one"
    assert scene.is_clean
