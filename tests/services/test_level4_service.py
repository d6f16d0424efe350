"""The level 4 service: who sees a result, and that each look is written down."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from fastapi.routing import APIRoute
from service_fakes import HERE, Http, put_database, served
from sqlalchemy import event, select, update

from opensafely_lab.access import Role
from opensafely_lab.backend import level4
from opensafely_lab.backend.settings import AgentSettings, Level4Settings
from opensafely_lab.backend.store import MIGRATIONS, Seed, Store, seed
from opensafely_lab.backend.tables import (
    Attempt,
    AuditEvent,
    Beat,
    FailureRow,
    GrantRow,
    JobRow,
    ProjectRow,
    ResultRow,
    TokenRow,
)
from opensafely_lab.service.tokens import new_token
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.level4 import Heartbeat, Level4Job, Level4JobList, ResultDocument
from opensafely_lab.wire.site import Refusal

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GOOD, FAILED, OTHERS, LATER, CANCELLED, RUNNING = (letter * 16 for letter in "gfolcr")
ROUTES = ["/level4/jobs", "/level4/jobs/{job}", "/level4/jobs/{job}/result"]


@define(slots=False)
class Scene:
    store: Store
    url: str
    analyst: Http
    other: Http
    author: Http  # a researcher without level 4 permission
    nobody: Http
    clock: list[datetime]

    def events(self) -> list[tuple[str, str, str | None, str | None, str]]:
        rows = self.store.read(lambda session: list(session.scalars(select(AuditEvent).order_by(AuditEvent.id))))
        return [(row.user, row.act, row.project, row.job, row.answer) for row in rows]


def job_row(job: str, project: str, code: str | None, tell_at: datetime | None) -> JobRow:
    return JobRow(
        id=job,
        assignment="{}",
        project=project,
        workspace="main",
        author="alice",
        action="bleeding",
        commit="0" * 40,
        parameters='{"index_date": "2010-01-01"}',
        bundle="0" * 64,
        received_at=NOW,
        cancelled=False,
        fetched=True,
        failed_fetches=0,
        code=code,
        ended_at=tell_at,
        tell_at=tell_at,
        tidy=True,
    )


def fill(store: Store) -> None:
    notebook, disclosure = store.level4.put(b'{"nbformat": 4}'), store.level4.put(b'{"outputs": []}')

    def write(session: Any) -> None:
        session.add_all(
            [
                job_row(GOOD, "gi-bleeding", "succeeded", NOW),
                job_row(FAILED, "gi-bleeding", "run-failed", NOW),
                job_row(OTHERS, "diabetes", "succeeded", NOW),
                job_row(LATER, "gi-bleeding", "succeeded", NOW + timedelta(seconds=8)),
                job_row(CANCELLED, "gi-bleeding", "cancelled", NOW),
                job_row(RUNNING, "gi-bleeding", None, None),
            ]
        )
        session.flush()
        for job in (GOOD, OTHERS, LATER):
            session.add(
                Attempt(run=f"run-{job}", job=job, began_at=NOW, ended_at=NOW, end="done", executor="x", layers="{}")
            )
            session.flush()
            session.add(ResultRow(job=job, run=f"run-{job}", name="gi.ipynb", notebook=notebook, disclosure=disclosure))
        session.add(FailureRow(job=FAILED, project="gi-bleeding", day="2026-11-21", failure_class="time-limit", cell=3))

    store.write(write)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    put_database(tmp_path / "backend.sqlite", MIGRATIONS)
    store = Store(tmp_path)
    store.migrate()
    seeds = [
        Seed("gi-bleeding", "analyst", new_token()),
        Seed("diabetes", "other", new_token()),
        Seed("gi-bleeding", "author", new_token(), roles=(Role.RESEARCHER,)),
    ]
    for each in seeds:
        store.write(lambda session, each=each: seed(session, each, NOW))
    fill(store)
    clock = [NOW]
    with served(level4.create_app(store, "demo", lambda: clock[0])) as url:
        yield Scene(store, url, *(Http(url, each.token) for each in seeds), Http(url), clock)


def test_the_routes_are_these_and_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.migrate()
    app = level4.create_app(store, "demo")
    assert [route.path for route in app.routes if isinstance(route, APIRoute)] == ["/health", *ROUTES]


def test_the_analyst_reads_the_result_of_a_job(scene: Scene) -> None:
    document = decode(ResultDocument, scene.analyst("GET", f"/level4/jobs/{GOOD}/result").content)
    assert (document.notebook, document.disclosure) == ('{"nbformat": 4}', '{"outputs": []}')
    job = decode(Level4Job, scene.analyst("GET", f"/level4/jobs/{GOOD}").content)
    assert (job.backend, job.succeeded, job.result, job.finished_day) == ("demo", True, True, "2026-11-21")
    failed = decode(Level4Job, scene.analyst("GET", f"/level4/jobs/{FAILED}").content)
    assert failed.failure is not None
    assert (failed.failure.failure_class, failed.failure.cell) == ("time-limit", 3)


def test_a_list_has_the_ended_jobs_of_the_analysts_projects_alone(scene: Scene) -> None:
    listed = decode(Level4JobList, scene.analyst("GET", "/level4/jobs").content)
    assert {job.id for job in listed.jobs} == {GOOD, FAILED}
    assert {job.id for job in decode(Level4JobList, scene.other("GET", "/level4/jobs").content).jobs} == {OTHERS}
    assert decode(Level4JobList, scene.author("GET", "/level4/jobs").content).jobs == []


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_answers_without_a_token_that_is_known(scene: Scene, path: str) -> None:
    answers = set()
    for value in (None, "Bearer x", f"Bearer {new_token()}", f"Basic {scene.analyst.token}", "Bearer " + "é" * 8):
        headers = {} if value is None else {"Authorization": value.encode()}
        answer = scene.nobody("GET", path.replace("{job}", GOOD), headers=headers)
        assert answer.status_code == 401
        answers.add((answer.content, tuple(sorted(answer.headers.items()))))
    assert len(answers) == 1
    scene.store.write(lambda session: session.execute(update(TokenRow).values(until=NOW)))
    assert scene.analyst("GET", path.replace("{job}", GOOD)).status_code == 401
    assert scene.events() == []


@pytest.mark.parametrize("path", ROUTES[1:])
def test_what_may_not_be_seen_looks_like_what_is_not_there(scene: Scene, path: str) -> None:
    hidden = [OTHERS, LATER, CANCELLED, RUNNING, "a" * 16]
    answers = [scene.analyst("GET", path.replace("{job}", job)) for job in hidden]
    answers += [scene.author("GET", path.replace("{job}", GOOD)), scene.other("GET", path.replace("{job}", GOOD))]
    assert {answer.status_code for answer in answers} == {404}
    assert len({(answer.content, tuple(sorted(answer.headers.items()))) for answer in answers}) == 1
    assert decode(Refusal, answers[0].content).next_step


def test_an_end_is_there_from_the_moment_at_which_it_may_be_told(scene: Scene) -> None:
    assert scene.analyst("GET", f"/level4/jobs/{LATER}/result").status_code == 404
    scene.clock[0] = NOW + timedelta(seconds=8)
    assert scene.analyst("GET", f"/level4/jobs/{LATER}/result").status_code == 200
    assert LATER in {job["id"] for job in scene.analyst("GET", "/level4/jobs").json()["jobs"]}


@pytest.mark.parametrize("table", [GrantRow, ProjectRow])
def test_access_ends_by_itself_when_permission_or_project_ends(scene: Scene, table: Any) -> None:
    scene.store.write(lambda session: session.execute(update(table).values(until=NOW + timedelta(hours=1))))
    assert scene.analyst("GET", f"/level4/jobs/{GOOD}/result").status_code == 200
    scene.clock[0] = NOW + timedelta(hours=1)
    assert scene.analyst("GET", f"/level4/jobs/{GOOD}/result").status_code == 404
    assert scene.analyst("GET", "/level4/jobs").json() == {"jobs": []}


def test_every_view_and_every_refusal_is_an_audit_event(scene: Scene) -> None:
    scene.analyst("GET", "/level4/jobs")
    scene.analyst("GET", f"/level4/jobs/{GOOD}")
    scene.analyst("GET", f"/level4/jobs/{GOOD}/result")
    scene.other("GET", f"/level4/jobs/{GOOD}/result")
    scene.author("GET", "/level4/jobs")
    assert scene.events() == [
        ("analyst", "list-jobs", "gi-bleeding", None, "shown"),
        ("analyst", "view-job", "gi-bleeding", GOOD, "shown"),
        ("analyst", "view-result", "gi-bleeding", GOOD, "shown"),
        ("other", "view-result", "gi-bleeding", GOOD, "refused"),
        ("author", "list-jobs", None, None, "refused"),
    ]


@pytest.mark.parametrize("path", ROUTES)
def test_what_cannot_be_written_down_is_not_shown(scene: Scene, path: str) -> None:
    def unwritable(_mapper: object, _connection: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    event.listen(AuditEvent, "before_insert", unwritable)
    try:
        answer = scene.analyst("GET", path.replace("{job}", GOOD))
    finally:
        event.remove(AuditEvent, "before_insert", unwritable)
    assert answer.status_code == 503
    assert b"nbformat" not in answer.content
    assert GOOD.encode() not in answer.content


def test_a_stored_result_that_was_changed_is_not_shown(scene: Scene) -> None:
    for path in scene.store.level4.folder.glob("[0-9a-f][0-9a-f]/*"):
        path.write_bytes(b'{"nbformat": 4, "changed": true}')
    answer = scene.analyst("GET", f"/level4/jobs/{GOOD}/result")
    assert (answer.status_code, decode(Refusal, answer.content).code) == (503, "store-damaged")


def test_health_says_whether_an_agent_is_alive_and_which_layers_it_has(scene: Scene) -> None:
    assert not decode(Heartbeat, scene.nobody("GET", "/health").content).ready

    def beat(session: Any) -> None:
        session.add(Beat(id=1, executor="sandbox", layers='{"seccomp": "on"}', ready=True, since=NOW, at=NOW))

    scene.store.write(beat)
    alive = decode(Heartbeat, scene.nobody("GET", "/health").content)
    assert (alive.ready, alive.executor, alive.layers) == (True, "sandbox", {"seccomp": "on"})
    scene.clock[0] = NOW + timedelta(minutes=1)
    assert not decode(Heartbeat, scene.nobody("GET", "/health").content).ready


# --- the wall


def test_the_backend_cannot_import_the_site() -> None:
    code = (
        "import sys, opensafely_lab.backend.agent, opensafely_lab.backend.level4, opensafely_lab.backend.loop;"
        "print([name for name in sys.modules if name.startswith(('opensafely_lab.site', 'opensafely_lab.desk'))])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parent.parent, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
    for file in (HERE.parent.parent / "opensafely_lab" / "backend").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith(("opensafely_lab.site", "opensafely_lab.desk"))], file


def test_no_setting_of_the_backend_is_a_place_of_the_site() -> None:
    assert set(Level4Settings.model_fields) == {"backend", "state", "log_file", "seed", "port", "port_file"}
    own = set(AgentSettings.model_fields) - set(Level4Settings.model_fields)
    assert own == {"site", "token_file", "data", "cache", "workers", "poll_seconds", "pause_seconds"}


@pytest.mark.parametrize(
    ("site", "fine"),
    [
        ("https://jobs.example.org", True),
        ("https://jobs.example.org/lab/", True),
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000/", True),
        ("http://jobs.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://127.0.0.1@example.org", False),
        ("https://user@example.org", False),
        ("file:///var/lib/site.sqlite", False),
        ("/var/lib/site.sqlite", False),
    ],
)
def test_a_token_goes_over_tls_or_stays_on_this_computer(tmp_path: Path, site: str, fine: bool) -> None:
    settings = {"backend": "demo", "state": str(tmp_path), "site": site, "token_file": "t", "data": "d"}
    if fine:
        assert not decode(AgentSettings, json.dumps(settings).encode()).site.endswith("/")
    else:
        with pytest.raises(Exception, match="site"):
            decode(AgentSettings, json.dumps(settings).encode())
