"""The agent against a site: what it runs, what it refuses, what it tells, what it leaves behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from attrs import define, evolve, field
from requests.adapters import HTTPAdapter
from service_fakes import (
    OTHER_COMMIT,
    PATIENT,
    FakeWork,
    Http,
    bundle_of,
    fake_unpack,
    put_database,
    served,
    sha256,
    wait_until,
)
from sqlalchemy import select, update

from opensafely_lab.access import Role
from opensafely_lab.backend import jobs, policies
from opensafely_lab.backend.loop import Agent, AlreadyThere, Frame
from opensafely_lab.backend.site_link import SiteLink
from opensafely_lab.backend.store import MIGRATIONS, Seed, Store, seed
from opensafely_lab.backend.tables import (
    Attempt,
    Beat,
    FailureRow,
    GrantRow,
    JobRow,
    KeptFile,
    Notice,
    ProjectRow,
    ResultRow,
)
from opensafely_lab.backend.work import WorkResult
from opensafely_lab.disclosure.policy import POLICIES, Policy
from opensafely_lab.jobs import bundle
from opensafely_lab.service.database import utc_now
from opensafely_lab.service.tokens import new_token
from opensafely_lab.site.app import MIGRATIONS as SITE_MIGRATIONS
from opensafely_lab.site.app import create_app
from opensafely_lab.site.people import Seed as SiteSeed
from opensafely_lab.site.people import seed as seed_site
from opensafely_lab.site.settings import SiteSettings
from opensafely_lab.site.tables import Submission
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import AssignmentList, JobNotice

PROMPT = {name: evolve(policy, result_step_seconds=0.0) for name, policy in POLICIES.items()}


@define(slots=False)
class Recorder(HTTPAdapter):
    """Writes down all that goes between agent and site."""

    traffic: list[tuple[str, str, bytes, int, bytes]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        HTTPAdapter.__init__(self)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        answer = super().send(request, *args, **kwargs)
        body = request.body or b""
        self.traffic.append(
            (
                str(request.method),
                str(request.url),
                body.encode() if isinstance(body, str) else body,
                answer.status_code,
                answer.content,
            )
        )
        return answer


@define(slots=False)
class Scene:
    folder: Path
    site: Any
    url: str
    author: Http
    backend_token: str
    store: Store
    work: FakeWork
    recorder: Recorder = field(factory=Recorder)
    agents: list[tuple[Agent, threading.Thread]] = field(factory=list)

    def session(self) -> requests.Session:
        session = requests.Session()
        session.mount("http://", self.recorder)
        return session

    def start(self, policies: Mapping[str, Policy] = PROMPT, **changes: Any) -> Agent:
        frame = Frame(
            **{
                "backend": "demo",
                "store": self.store,
                "new_link": lambda: SiteLink(self.url, self.backend_token, self.session),
                "work": self.work,
                "unpack": fake_unpack,
                "policies": policies,
                "poll_seconds": 1,
                "pause_seconds": 0.05,
            }
            | changes
        )
        agent = Agent(frame)
        thread = threading.Thread(target=agent.run, args=(self.folder / "backend",), daemon=True)
        thread.start()
        self.agents.append((agent, thread))
        return agent

    def stop(self) -> None:
        for agent, thread in self.agents:
            agent.stop()
            thread.join(60)
            assert not thread.is_alive(), "the next one would find the folder taken"
        self.agents.clear()

    def submit(self, mode: str = "succeed", **changes: Any) -> str:
        number = len(self.site.read(lambda session: session.scalars(select(Submission)).all()))
        job = self.author.submit(idempotency_key=f"{number:016d}", parameters={"mode": mode}, **changes)
        return str(job["id"])

    def end(self, job: str) -> str:
        return str(self.author.wait_for_end(job)["code"])

    def rows(self, table: Any) -> list[Any]:
        return self.store.read(lambda session: list(session.scalars(select(table))))

    def code(self, job: str) -> str | None:
        """How the job ended at the backend, if it has."""
        row = self.store.read(lambda session: session.get(JobRow, job))
        return None if row is None else row.code

    def tidied(self, job: str) -> None:
        wait_until(lambda: self.store.read(lambda session: session.get_one(JobRow, job).tidy), what="tidying")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "site").mkdir(mode=0o700)
    put_database(tmp_path / "site" / "site.sqlite", SITE_MIGRATIONS)
    app = create_app(SiteSettings(state=str(tmp_path / "site"), longest_wait_seconds=1))
    people = SiteSeed("alice", "gi-bleeding", "main", "demo", new_token(), new_token())
    app.state.site.write(lambda session: seed_site(session, people, utc_now()))
    (tmp_path / "backend").mkdir(mode=0o700)
    put_database(tmp_path / "backend" / "backend.sqlite", MIGRATIONS)
    store = Store(tmp_path / "backend")
    store.migrate()
    store.write(lambda session: seed(session, Seed("gi-bleeding", "alice", new_token()), utc_now()))
    with served(app) as url:
        made = Scene(
            tmp_path,
            app.state.site,
            url,
            Http(url, people.user_token),
            people.backend_token,
            store,
            FakeWork(tmp_path / "runs.txt"),
        )
        yield made
        made.stop()


# --- ends


@pytest.mark.parametrize(("mode", "code"), [("succeed", "succeeded"), ("fail", "run-failed")])
def test_a_job_runs_once_and_ends_as_its_work_says(scene: Scene, mode: str, code: str) -> None:
    scene.start()
    job = scene.submit(mode)
    assert scene.end(job) == code
    scene.tidied(job)
    [attempt] = scene.rows(Attempt)
    assert (attempt.end, attempt.executor) == ("done", "fake")
    assert json.loads(attempt.layers) == {"isolation": "none, it is a test"}
    assert scene.work.runs.read_text().split() == [attempt.run]


@pytest.mark.slow
def test_several_jobs_run_oldest_first_and_each_once(scene: Scene) -> None:
    all_jobs = [scene.submit() for _ in range(5)]
    scene.start(workers=2)
    assert [scene.end(job) for job in all_jobs] == ["succeeded"] * 5
    assert len(scene.work.runs.read_text().split()) == 5


@pytest.mark.parametrize("mode", ["raise", pytest.param("exit", marks=pytest.mark.slow)])
def test_what_breaks_is_tried_three_times_and_its_text_stays_inside(
    scene: Scene, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start()
    job = scene.submit(mode)
    assert scene.end(job) == "platform-error"
    assert [attempt.end for attempt in scene.rows(Attempt)] == ["broken"] * 3
    scene.tidied(job)
    scene.stop()
    everything_outside = [
        *(part for each in scene.recorder.traffic for part in (each[1].encode(), each[2], each[4])),
        *contents(scene.folder / "site"),
        caplog.text.encode(),
        *contents(scene.folder / "backend"),
    ]
    assert all(b"7be19c40d2" not in part for part in everything_outside)


def contents(folder: Path) -> Iterator[bytes]:
    """Of every file; one that is gone when its turn comes (a database's journal) holds nothing any more."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            yield path.read_bytes()


@pytest.mark.parametrize("mode", ["succeed", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fail", "raise"))])
def test_what_goes_to_the_site_is_a_question_or_a_code_from_the_list(scene: Scene, mode: str) -> None:
    scene.start()
    scene.end(scene.submit(mode))
    scene.stop()
    kinds = set()
    for method, url, body, status, answer in scene.recorder.traffic:
        path = urlsplit(url).path.removeprefix("/api/v1/backend")
        if (method, path) == ("GET", "/assignments"):
            assert (body, status) == (b"", 200)
            decode(AssignmentList, answer)
        elif method == "GET" and path == f"/bundles/{sha256(bundle_of())}":
            assert (body, status, answer) == (b"", 200, bundle_of())
        else:
            assert (method, path, status, answer) == ("POST", "/notices", 204, b"")
            notice = decode(JobNotice, body)
            assert json.loads(body) == {"job": notice.job, "state": notice.state.value, "code": notice.code.value}
        kinds.add(path.split("/")[1])
    assert kinds == {"assignments", "bundles", "notices"}


def test_what_an_attempt_wrote_is_gone_afterwards_but_for_what_is_kept(scene: Scene) -> None:
    scene.start()
    job = scene.submit()
    scene.end(job)
    scene.tidied(job)
    assert list(scene.store.scratch.iterdir()) == []
    assert not scene.store.bundles.has(sha256(bundle_of()))
    [kept] = scene.rows(KeptFile)
    assert (kept.name, scene.store.kept.get(kept.sha256)) == ("executed.ipynb", PATIENT.encode())
    for path in (scene.folder / "backend" / "level4").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    for path in (scene.folder / "backend" / "level3").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


# --- refusals


@pytest.mark.parametrize(
    "change",
    [
        update(GrantRow).values(until=utc_now()),
        update(GrantRow).values(role=Role.COLLABORATOR.value).where(GrantRow.role == Role.RESEARCHER.value),
        update(ProjectRow).values(until=utc_now()),
        update(ProjectRow).values(policy="stricter"),
    ],
    ids=["ended grant", "other role", "ended project", "other policy"],
)
def test_a_job_that_our_own_list_does_not_allow_is_refused_and_never_run(scene: Scene, change: Any) -> None:
    scene.store.write(lambda session: session.execute(change))
    scene.start()
    assert scene.end(scene.submit()) == "refused-by-backend"
    assert not scene.work.runs.exists()


def test_a_bundle_without_the_commit_is_refused(scene: Scene) -> None:
    scene.start()
    assert scene.end(scene.submit(commit=OTHER_COMMIT)) == "refused-by-backend"
    assert not scene.work.runs.exists()


def test_a_bundle_that_is_not_what_was_asked_for_never_runs(scene: Scene) -> None:
    job = scene.submit()
    scene.site.bundles.path(sha256(bundle_of())).write_bytes(bundle_of(OTHER_COMMIT))
    scene.start()
    assert scene.end(job) == "refused-by-backend"
    assert not scene.work.runs.exists()


def test_a_bundle_that_was_changed_in_our_own_store_is_fetched_again(scene: Scene) -> None:
    path = scene.store.bundles.path(sha256(bundle_of()))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"changed")
    scene.start()
    assert scene.end(scene.submit()) == "succeeded"


def test_without_a_ready_executor_no_job_begins_and_none_is_lost(scene: Scene) -> None:
    scene.work.ready = False
    scene.start()
    job = scene.submit()
    scene.author.wait_for(job, lambda found: found["code"] == "waiting")
    wait_until(lambda: scene.rows(Beat))
    time.sleep(0.3)
    assert not scene.work.runs.exists()
    assert [beat.ready for beat in scene.rows(Beat)] == [False]
    scene.stop()
    scene.work.ready = True
    scene.start()
    assert scene.end(job) == "succeeded"


def test_a_second_agent_on_the_same_folder_is_refused(scene: Scene) -> None:
    agent = scene.start()
    wait_until(lambda: scene.rows(Beat))
    with pytest.raises(AlreadyThere):
        Agent(agent._frame).run(scene.folder / "backend")


def test_progress_is_told_when_it_is_made_and_not_with_the_next_news(scene: Scene) -> None:
    told = threading.Event()

    def unpack(data: bytes, commit: str, into: Path) -> None:
        told.wait(60)
        fake_unpack(data, commit, into)

    scene.start(unpack=unpack)
    job = scene.submit("wait")
    scene.author.wait_for(job, lambda found: found["code"] == "preparing")
    wait_until(lambda: len([notice for notice in scene.rows(Notice) if notice.sent_at]) == 2)
    told.set()
    scene.author.wait_for(job, lambda found: found["code"] == "executing", 20)
    scene.author("POST", f"/api/v1/jobs/{job}/cancel")
    assert scene.end(job) == "cancelled"


# --- cancelling and stopping


def test_a_job_that_runs_is_cancelled(scene: Scene) -> None:
    scene.start()
    job = scene.submit("wait")
    wait_until(scene.work.runs.exists)
    scene.author("POST", f"/api/v1/jobs/{job}/cancel")
    assert scene.end(job) == "cancelled"
    scene.tidied(job)
    assert scene.rows(ResultRow) == []


def test_a_job_that_waits_is_cancelled_without_being_run(scene: Scene) -> None:
    job = scene.submit()
    scene.author("POST", f"/api/v1/jobs/{job}/cancel")
    scene.start()
    assert scene.end(job) == "cancelled"
    assert not scene.work.runs.exists()


@pytest.mark.slow
def test_an_agent_that_is_asked_to_stop_ends_what_runs_and_it_does_not_count(scene: Scene) -> None:
    job = scene.submit("wait")
    for _ in range(4):
        runs = scene.work.runs.read_text().split() if scene.work.runs.exists() else []
        scene.start()
        wait_until(lambda before=runs: scene.work.runs.exists() and scene.work.runs.read_text().split() != before)
        scene.stop()
    assert [attempt.end for attempt in scene.rows(Attempt)] == ["stopped"] * 4
    scene.start()
    scene.author("POST", f"/api/v1/jobs/{job}/cancel")
    assert scene.end(job) == "cancelled"


# --- slots


SLOTS = {name: evolve(policy, result_step_seconds=0.5) for name, policy in POLICIES.items()}


def test_an_end_is_told_at_a_slot_and_progress_not_at_all(scene: Scene) -> None:
    clock = [utc_now()]
    scene.start(policies=SLOTS, now=lambda: clock[0])
    job = scene.submit()
    wait_until(lambda: scene.code(job))
    scene.author.wait_for(job, lambda found: found["code"] == "preparing")
    time.sleep(0.6)  # by any other clock than the agent's it would be time
    assert scene.author.job(job)["code"] == "preparing"
    clock[0] += timedelta(seconds=0.5)
    assert scene.end(job) == "succeeded"
    [row], [attempt] = scene.rows(JobRow), scene.rows(Attempt)
    assert row.tell_at - attempt.began_at == timedelta(seconds=0.5)
    wait_until(lambda: all(notice.sent_at for notice in scene.rows(Notice)))
    told = {notice.code: notice.sent_at for notice in scene.rows(Notice)}
    assert set(told) == {"waiting", "preparing", "succeeded"}
    assert told["succeeded"] >= row.tell_at


def test_a_cancel_before_an_end_is_told_wins_so_that_it_is_no_clock(scene: Scene) -> None:
    scene.start(policies={name: evolve(policy, result_step_seconds=60.0) for name, policy in POLICIES.items()})
    job = scene.submit()
    wait_until(lambda: scene.code(job) == "succeeded")
    assert len(scene.rows(ResultRow)) == 1
    scene.author("POST", f"/api/v1/jobs/{job}/cancel")
    assert scene.end(job) == "cancelled"
    assert scene.rows(ResultRow) == []
    assert [row.code for row in scene.rows(JobRow)] == ["cancelled"]


def test_records_that_do_not_say_that_they_are_synthetic_have_slots(tmp_path: Path) -> None:
    for text in (None, "", "[]", '{"synthetic": "true"}', '{"synthetic": 1}', '{"synthetic": false}'):
        if text is not None:
            (tmp_path / "manifest.json").write_text(text)
        assert policies.policies_for(tmp_path)["opensafely"].result_step_seconds > 0
    (tmp_path / "manifest.json").write_text('{"synthetic": true}')
    assert policies.policies_for(tmp_path)["opensafely"].result_step_seconds == 0


# --- failures and their budget


def test_class_and_cell_of_failures_are_kept_within_the_days_budget_alone(scene: Scene) -> None:
    tight = {"opensafely": evolve(PROMPT["opensafely"], failure_details_per_day=2)}
    day = [utc_now()]
    scene.start(policies=tight, now=lambda: day[0])
    for _ in range(4):
        assert scene.end(scene.submit("fail")) == "run-failed"
    assert [(row.failure_class, row.cell) for row in scene.rows(FailureRow)] == [("memory-limit", 4)] * 2
    day[0] += timedelta(days=1)
    assert scene.end(scene.submit("fail")) == "run-failed"
    assert len(scene.rows(FailureRow)) == 3


# --- when things around it break


def test_a_full_disk_ends_the_job_as_ours_and_nothing_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_data: bytes) -> str:
        raise OSError(28, f"No space left on device {PATIENT}")

    monkeypatch.setattr(scene.store.level4, "put", full)
    scene.start()
    job = scene.submit()
    assert scene.end(job) == "platform-error"
    assert scene.rows(ResultRow) == []
    assert "OSError" in caplog.text
    assert "7be19c40d2" not in caplog.text
    monkeypatch.undo()
    assert scene.end(scene.submit()) == "succeeded"


def test_a_level_4_store_that_cannot_be_written_ends_the_job_as_ours(scene: Scene) -> None:
    scene.start()
    wait_until(lambda: scene.rows(Beat))
    shutil.rmtree(scene.folder / "backend" / "level4")
    (scene.folder / "backend" / "level4").write_text("a file where a folder should be")
    assert scene.end(scene.submit()) == "platform-error"


def test_a_database_that_cannot_be_written_for_a_while_delays_the_job_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    original = jobs.end_attempt
    failures = []

    def end_attempt(*arguments: Any) -> None:
        if not failures:
            failures.append(1)
            broken.set()
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(jobs, "end_attempt", end_attempt)
    scene.start()
    assert scene.end(scene.submit()) == "succeeded"
    assert [attempt.end for attempt in scene.rows(Attempt)] == ["broken", "done"]
    assert broken.is_set()


def test_a_site_that_is_down_delays_the_notices_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    down = threading.Event()
    send = Recorder.send

    def unreachable(self: Recorder, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if down.is_set():
            raise requests.ConnectionError("down")
        return send(self, request, *args, **kwargs)

    monkeypatch.setattr(Recorder, "send", unreachable)
    scene.work.at = lambda step: down.set() if step == "working" else None
    scene.start()
    job = scene.submit()
    wait_until(lambda: scene.code(job) == "succeeded")
    assert scene.author.job(job)["state"] != "succeeded"
    down.clear()
    scene.work.at = lambda _step: None
    assert scene.end(job) == "succeeded"
    wait_until(lambda: all(notice.sent_at is not None for notice in scene.rows(Notice)))


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>a proxy says hello</html>"),
        *(
            pytest.param(answer, marks=pytest.mark.slow)
            for answer in (
                (200, b'{"assignments": [], "revision": 1, "command": "rm"}'),
                (500, b""),
                (302, b""),
                (200, b"[" * 100_000),
            )
        ),
    ],
    ids=range(5),
)
def test_a_site_that_answers_rubbish_is_asked_again_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes]
) -> None:
    lies = [3]
    send = Recorder.send

    def lying(self: Recorder, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        found = send(self, request, *args, **kwargs)
        if lies[0] > 0:
            lies[0] -= 1
            found.status_code, found._content = answer
            found.headers["Location"] = "http://127.0.0.1:9/"
        return found

    monkeypatch.setattr(Recorder, "send", lying)
    scene.start()
    assert scene.end(scene.submit()) == "succeeded"


# --- work that lies


def bad_result(scene: Scene, change: Callable[[Any, Any], Any]) -> None:
    original = scene.work.run
    scene.work.run = lambda order, tell: change(order, original(order, tell))  # type: ignore[method-assign]


def test_work_that_keeps_a_link_out_of_its_folder_keeps_nothing(scene: Scene, tmp_path: Path) -> None:
    secret = tmp_path / "backend" / "backend.sqlite"

    def link(order: Any, result: Any) -> Any:
        (order.scratch / "link").symlink_to(secret)
        return evolve(result, kept={"link": order.scratch / "link"})

    bad_result(scene, link)
    scene.start()
    assert scene.end(scene.submit()) == "platform-error"
    assert scene.rows(KeptFile) == []


def test_work_that_says_cancelled_unasked_is_not_believed_for_ever(scene: Scene) -> None:
    bad_result(scene, lambda _order, result: evolve(result, code=JobCode.CANCELLED))
    scene.start()
    assert scene.end(scene.submit()) == "platform-error"


def test_the_time_of_a_row_is_a_moment_in_utc(scene: Scene) -> None:
    scene.start()
    scene.end(scene.submit())
    [row] = scene.rows(JobRow)
    assert isinstance(row.received_at, datetime)
    assert row.received_at.utcoffset() == timedelta(0)


# --- real bundles


def study(folder: Path) -> tuple[str, bytes]:
    """A commit with one file, and its bundle."""
    git = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    folder.mkdir()
    (folder / "project.yaml").write_text("version: '5.0'\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "One"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    return commit, bundle.make(folder, commit)


def test_the_work_gets_the_files_of_the_commit_and_another_commit_is_refused(scene: Scene, tmp_path: Path) -> None:
    commit, data = study(tmp_path / "study")
    seen = []

    def run(order: Any, _tell: Any) -> WorkResult:
        seen.append((order.checkout / "project.yaml").read_text())
        return WorkResult(JobCode.RUN_FAILED, "fake", {})

    scene.work.run = run  # type: ignore[method-assign]
    scene.author.upload(data)
    scene.start(unpack=bundle.unpack)
    assert scene.end(scene.submit(commit=commit, bundle=sha256(data))) == "run-failed"
    assert seen == ["version: '5.0'\n"]
    assert scene.end(scene.submit(commit=OTHER_COMMIT, bundle=sha256(data))) == "refused-by-backend"
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    scene.author.upload(damaged)
    assert scene.end(scene.submit(commit=commit, bundle=sha256(damaged))) == "refused-by-backend"
    assert len(seen) == 1
