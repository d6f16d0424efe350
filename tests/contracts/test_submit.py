"""Submit: each refusal a sentence with a next step, each repair on request, the same thing run once."""

from __future__ import annotations

import json
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from attrs import evolve

from opensafely_lab.desk import git
from opensafely_lab.desk.git import NotARepository, Repository
from opensafely_lab.desk.http import NoPermission, Unreachable
from opensafely_lab.desk.inspect import notebook_info
from opensafely_lab.desk.settings import NotRunning, SettingsDamaged, read_run_file, read_token, write_token
from opensafely_lab.desk.state import State
from opensafely_lab.desk.submit import Ask, DummyJob, DummyResult, Ports, Submission, Target, submit
from opensafely_lab.errors import LabError, Refused
from opensafely_lab.jobs.bundle import read
from opensafely_lab.wire.base import JobCode, JobState
from opensafely_lab.wire.lab import Stage
from opensafely_lab.wire.site import Job, Layout, Me, SubmitRequest, Workspace

PROJECT = """\
version: "5.0"
actions:
  generate_dataset:
    run: ehrql:v1 generate-dataset analysis/d.py --output output/dataset.arrow
    outputs: {highly_sensitive: {dataset: output/dataset.arrow}}
  report:
    run: notebook:v1 analysis/report.ipynb
    needs: [generate_dataset]
    config: {parameters: {n: {type: int, min: 1, max: 9}}}
"""
NOTEBOOK = PurePosixPath("analysis/report.ipynb")


def notebook(source: str = "n = 3", *, output: str | None = None) -> bytes:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    cell = {"cell_type": "code", "metadata": {}, "outputs": outputs, "execution_count": None}
    cells = [cell | {"source": source, "metadata": {"tags": ["parameters"]}}, cell | {"source": "n"}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


class FakeSite:
    """The site as `desk.client.Client` shows it (tests/contracts/test_desk_client.py has the real one)."""

    def __init__(self) -> None:
        self.may_submit = True
        self.down = False
        self.loses_answers = 0
        self.bundles: list[bytes] = []
        self.requests: list[SubmitRequest] = []

    def me(self) -> Me:
        if self.down:
            raise Unreachable("The jobs site does not answer.", next_step="Is `opensafely-lab up` running?")
        ours = Workspace(project="demo", workspace="ws", backends=["backend"], may_submit=self.may_submit)
        return Me(user="ada", workspaces=[ours])

    def upload_bundle(self, data: bytes) -> str:
        self.bundles.append(data)
        return "d" * 64

    def submit(self, request: SubmitRequest) -> list[Job]:
        self.requests.append(request)
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unreachable("The jobs site does not answer.", next_step="")
        now = datetime(2026, 11, 21, tzinfo=UTC)
        more = request.model_dump(include={"project", "workspace", "commit", "action", "parameters"})
        return [
            Job(id="a" * 16, backend="backend", state=JobState.PENDING, code=JobCode.CREATED, created_at=now,
                updated_at=now, author="ada", **more)
        ]  # fmt: skip


class FakeDummyRun:
    def __init__(self) -> None:
        self.fingerprint = "one"
        self.jobs: list[tuple[DummyJob, list[str]]] = []
        self.error: LabError | None = None

    def __call__(self, job: DummyJob, progress) -> DummyResult:
        self.jobs.append((job, sorted(p.name for p in job.study.rglob("*") if p.is_file())))
        progress(0.5)
        if self.error:
            raise self.error
        layout = Layout(outputs=[1], execution_counts={0: 1, 1: 3})
        return DummyResult('{"version":1,"requests":[]}', layout, {"generate_dataset": "e" * 64})


class Desk:
    def __init__(self, study: Path, state: Path) -> None:
        self.study, self.site, self.dummy = study, FakeSite(), FakeDummyRun()
        self.stages: list[tuple[Stage, float]] = []
        self.keys = iter(f"key-{n:016d}" for n in range(100))
        self.ports = Ports(
            site=self.site,
            dummy_run=self.dummy,
            state=state,
            target=Target("demo", "ws", ("backend",), "opensafely"),
            new_key=lambda: next(self.keys),
        )

    def submit(self, *fixes: str, path: Path | None = None, **more: object) -> Submission:
        ask = Ask(path or self.study / NOTEBOOK, fixes=fixes, **more)
        return submit(ask, self.ports, lambda stage, part: self.stages.append((stage, part)))

    def refused(self, *fixes: str, **more: object) -> LabError:
        with pytest.raises(LabError) as caught:
            self.submit(*fixes, **more)
        assert caught.value.sentence
        assert caught.value.next_step
        assert not self.site.requests
        return caught.value


@pytest.fixture
def desk(tmp_path: Path, monkeypatch) -> Desk:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("PYTHONPATH", str(Path(git.__file__).parents[2]))
    study = tmp_path / "study"
    (study / "analysis").mkdir(parents=True)
    (study / "project.yaml").write_text(PROJECT)
    (study / NOTEBOOK).write_bytes(notebook())
    git.create(study).commit_all("first")
    return Desk(study, tmp_path / "state")


def test_a_notebook_is_run_on_dummy_data_sent_and_becomes_a_job(desk: Desk) -> None:
    sent = desk.submit(parameters={"n": "5"})
    (request,) = desk.site.requests
    commit = Repository.find(desk.study).head().text
    assert request.commit == commit
    assert request.action == "report"
    assert request.parameters == {"n": 5}
    assert request.requests == '{"version":1,"requests":[]}'
    assert request.definitions == {"generate_dataset": "e" * 64}
    assert request.layout.execution_counts == {0: 1, 1: 3}
    assert set(read(desk.site.bundles[0], commit).files) == {"project.yaml", str(NOTEBOOK)}
    ((job, files),) = desk.dummy.jobs
    assert (job.action, job.parameters, job.commit) == ("report", {"n": 5}, commit)
    assert files == ["project.yaml", "report.ipynb"]
    assert sent.jobs[0].id == "a" * 16
    assert [stage for stage, _ in desk.stages] == [
        Stage.QUEUED, Stage.DUMMY_RUN, Stage.DUMMY_RUN, Stage.SENDING, Stage.SENDING, Stage.WAITING,
    ]  # fmt: skip
    assert list((desk.ports.state / "work").iterdir()) == []


def test_the_dummy_run_is_used_again_while_nothing_that_matters_changes(desk: Desk) -> None:
    assert not desk.submit().dummy_reused
    assert desk.submit().dummy_reused
    (desk.study / "notes.txt").write_text("untracked")
    assert desk.submit().dummy_reused
    assert not desk.submit(parameters={"n": "4"}).dummy_reused
    desk.dummy.fingerprint = "two"
    assert not desk.submit().dummy_reused
    (desk.study / NOTEBOOK).write_bytes(notebook("n = 3 # other"))
    assert not desk.submit("commit").dummy_reused
    assert len({r.idempotency_key for r in desk.site.requests}) == len(desk.site.requests)


def test_a_kept_dummy_run_that_is_damaged_is_run_again(desk: Desk) -> None:
    desk.submit()
    (kept,) = (desk.ports.state / "dummy-runs").iterdir()
    kept.write_bytes(b'{"requests": 3')
    assert not desk.submit().dummy_reused
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_dummy_run_that_fails_is_told_and_nothing_is_sent_or_kept(desk: Desk) -> None:
    desk.dummy.error = Refused("The notebook fails on dummy data in cell 2.", next_step="Mend it.")
    assert desk.refused() is desk.dummy.error
    assert not desk.site.bundles
    assert list((desk.ports.state / "dummy-runs").iterdir()) == []
    assert list((desk.ports.state / "work").iterdir()) == []


def test_an_answer_that_was_lost_leads_to_the_same_key_when_submitted_again(desk: Desk) -> None:
    desk.site.loses_answers = 1
    with pytest.raises(Unreachable):
        desk.submit()
    desk.submit()
    first, second = desk.site.requests
    assert first == second
    desk.submit()
    assert desk.site.requests[2].idempotency_key != first.idempotency_key


def test_uncommitted_changes_are_refused_until_commit_is_allowed(desk: Desk) -> None:
    (desk.study / NOTEBOOK).write_bytes(notebook("n = 4"))
    error = desk.refused()
    assert (error.code, error.fix) == ("dirty-tree", "commit")
    assert "1 file has changes that are not committed: analysis/report.ipynb" in error.sentence
    assert desk.submit("commit").checked.parameters == {"n": 4}
    assert not Repository.find(desk.study).dirty(NOTEBOOK)


def test_a_notebook_that_was_never_committed_is_a_change(desk: Desk) -> None:
    (desk.study / "project.yaml").write_text(PROJECT + "  other:\n    run: notebook:v1 other.ipynb\n")
    (desk.study / "other.ipynb").write_bytes(notebook())
    assert "other.ipynb, project.yaml" in desk.refused(path=desk.study / "other.ipynb").sentence
    assert desk.submit("commit", path=desk.study / "other.ipynb").checked.action.name == "other"


def history(study: Path) -> str:
    done = subprocess.run(["git", "log", "-p", "--all"], cwd=study, capture_output=True, text=True, check=True)
    return done.stdout


def test_saved_outputs_never_enter_a_commit_that_submit_makes(desk: Desk) -> None:
    (desk.study / NOTEBOOK).write_bytes(notebook("n = 4", output="patient 12345"))
    assert desk.refused().fix == "commit"
    error = desk.refused("commit")
    assert (error.code, error.fix) == ("saved-outputs", "strip")
    assert "12345" not in str(error)
    desk.submit("strip")
    assert b"12345" not in (read(desk.site.bundles[0], desk.site.requests[0].commit).file(NOTEBOOK) or b"")
    assert b"12345" in (desk.study / NOTEBOOK).read_bytes()
    assert "12345" not in history(desk.study)
    desk.submit()


def test_a_filter_that_does_not_work_is_noticed_before_the_commit(desk: Desk, monkeypatch) -> None:
    monkeypatch.setattr(git.stripfilter, "filter_command", lambda: "/nonexistent/python")
    (desk.study / NOTEBOOK).write_bytes(notebook("n = 4", output="patient 12345"))
    assert "could not be stripped" in desk.refused("commit", "strip").sentence
    assert "12345" not in history(desk.study)


def test_outputs_committed_before_are_refused_until_strip_is_allowed(desk: Desk) -> None:
    (desk.study / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    Repository.find(desk.study).commit_now("by hand")
    error = desk.refused("commit")
    assert (error.code, error.fix) == ("saved-outputs", "strip")
    desk.submit("strip")
    assert b"12345" not in (read(desk.site.bundles[0], desk.site.requests[0].commit).file(NOTEBOOK) or b"")
    assert b"12345" in (desk.study / NOTEBOOK).read_bytes()


def test_outputs_that_the_filter_keeps_out_of_commits_are_no_obstacle(desk: Desk) -> None:
    Repository.find(desk.study).install_filter(attributes=True)
    (desk.study / NOTEBOOK).write_bytes(notebook(output="patient 12345"))
    desk.submit("commit")
    assert b"12345" not in (read(desk.site.bundles[0], desk.site.requests[0].commit).file(NOTEBOOK) or b"")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"n": "10"}, "at most 9"),
        ({"n": "x"}, "a whole number"),
        ({"m": "1"}, "There is no parameter `m`"),
        ({"x=1; import os; os.system('id'); y": "1"}, "There is no parameter"),
    ],
)
def test_parameters_are_refused_before_anything_runs(desk: Desk, parameters, told) -> None:
    assert told in str(desk.refused(parameters=parameters))
    assert not desk.dummy.jobs


def test_what_is_no_study_or_no_action_is_a_sentence_each(desk: Desk, tmp_path: Path) -> None:
    assert desk.refused(path=tmp_path / "elsewhere.ipynb").code == "not-a-study"
    assert "has no action `x`" in desk.refused(action="x").sentence
    assert "runs no notebook" in desk.refused(action="generate_dataset").sentence
    assert "is run by no action" in desk.refused(path=desk.study / "new.ipynb").sentence
    (desk.study / "project.yaml").write_text("")
    assert desk.refused().code == "project-yaml"


def test_without_an_action_it_is_the_studys_only_notebook(desk: Desk) -> None:
    file = desk.study / "project.yaml"
    two = PROJECT + "  other:\n    run: notebook:v1 analysis/other.ipynb\n"
    file.write_text(two)
    assert "one of: report, other" in desk.refused(path=desk.study).next_step
    file.write_text(PROJECT[: PROJECT.index("  report:")])
    assert "No action of project.yaml runs a notebook" in desk.refused(path=desk.study).sentence
    file.write_text(PROJECT)
    assert desk.submit(path=desk.study).checked.action.name == "report"


def test_a_missing_or_broken_notebook_is_a_sentence_each(desk: Desk) -> None:
    (desk.study / NOTEBOOK).write_bytes(b"not json")
    assert "is not JSON text" in desk.refused("commit").sentence
    (desk.study / NOTEBOOK).unlink()
    assert "is not in the study" in desk.refused("commit", action="report").sentence


def test_a_study_must_be_a_repository_of_its_own(desk: Desk, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "project.yaml").write_text(PROJECT)
    with pytest.raises(NotARepository):
        desk.submit(path=bare, action="report")
    inner = desk.study / "inner"
    inner.mkdir()
    (inner / "project.yaml").write_text(PROJECT)
    assert "lies inside another git repository" in desk.refused(path=inner, action="report").sentence


def test_an_unreachable_site_and_missing_permission_come_before_the_dummy_run(desk: Desk) -> None:
    desk.site.down = True
    assert desk.refused().code == "unreachable"
    desk.site.down, desk.site.may_submit = False, False
    assert "may not submit to workspace ws" in desk.refused().sentence
    desk.site.may_submit = True
    desk.ports = evolve(desk.ports, target=Target("demo", "ws", ("elsewhere",), "opensafely"))
    with pytest.raises(NoPermission, match=r"not at backend elsewhere\. It is at: backend"):
        desk.submit()
    assert not desk.dummy.jobs


def test_a_state_folder_that_cannot_be_written_is_a_sentence_and_nothing_is_sent(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    desk.ports = evolve(desk.ports, state=tmp_path / "file")
    assert "cannot be written" in desk.refused().sentence


def test_what_is_run_is_the_commit_and_not_the_desk(desk: Desk) -> None:
    (desk.study / "analysis" / "helper.py").write_text("x = 1\n")
    desk.submit()
    assert "helper.py" not in desk.dummy.jobs[0][1]


def test_the_open_notebook_is_told_its_action_and_parameters_or_why_not(desk: Desk) -> None:
    info = notebook_info(desk.study / NOTEBOOK, "study/analysis/report.ipynb")
    assert (info.study, info.action, info.problem) == ("study", "report", None)
    (parameter,) = info.parameters
    assert (parameter.name, parameter.type, parameter.default, parameter.maximum) == ("n", "int", 3, 9)
    other = notebook_info(desk.study / "other.ipynb", "other.ipynb")
    assert other.problem is not None
    assert other.problem.code == "unknown-action"
    (desk.study / NOTEBOOK).write_bytes(notebook("n = f()"))
    broken = notebook_info(desk.study / NOTEBOOK, "x")
    assert (broken.action, broken.problem and broken.problem.code) == ("report", "notebook")


RUN = {"site": "http://127.0.0.1:1", "level4": None, "project": "demo", "workspace": "ws", "backend": "b"}


def test_run_json_and_the_tokens_beside_it_say_whom_the_desk_talks_to(tmp_path: Path) -> None:
    state = State(tmp_path)
    with pytest.raises(NotRunning, match="opensafely-lab up"):
        read_run_file(state)
    state.run_json.write_text(json.dumps(RUN))
    run = read_run_file(state)
    assert (run.site, run.backends, run.level4) == ("http://127.0.0.1:1", ("b",), None)
    for damage in ({"project": 3}, {"site": None}, {"backend": "../x"}, {"level4": 3}, {"backends": "b"}):
        state.run_json.write_text(json.dumps(RUN | damage))
        with pytest.raises(SettingsDamaged):
            read_run_file(state)


def test_a_token_is_used_only_from_a_file_that_its_owner_alone_can_read(tmp_path: Path) -> None:
    state = State(tmp_path)
    with pytest.raises(NotRunning, match="no token for the jobs site"):
        read_token(state, "site")
    path = write_token(state, "site", "t" * 20)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(state, "site") == "t" * 20
    path.chmod(0o644)
    with pytest.raises(SettingsDamaged, match="can be read by other users"):
        read_token(state, "site")
    write_token(state, "site", "short")
    with pytest.raises(SettingsDamaged, match="holds no token") as caught:
        read_token(state, "site")
    assert "short" not in str(caught.value)
    with pytest.raises(LabError):
        read_token(state, "../etc/passwd")
