"""The site over HTTP: who is answered, what is refused, and what happens once however often it is sent."""

from __future__ import annotations

import http.client
import io
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from fastapi.routing import APIRoute
from service_fakes import COMMIT, PATIENT, Http, bundle_of, put_database, served, sha256, submission
from sqlalchemy import update

from opensafely_lab.access import Role
from opensafely_lab.service.database import utc_now
from opensafely_lab.service.tokens import new_token
from opensafely_lab.site.app import MIGRATIONS, create_app
from opensafely_lab.site.people import Seed, seed
from opensafely_lab.site.settings import SiteSettings
from opensafely_lab.site.tables import GrantRow, ProjectRow, TokenRow
from opensafely_lab.wire.base import ENDS, MOVES, STATE_OF, JobCode
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.site import AssignmentList, Health, Job, JobList, Me, Refusal


@define
class Running:
    folder: Path
    site: Any
    url: str
    author: Http
    other: Http  # of another project and backend
    reader: Http  # level 4 alone, in the author's project
    backend: Http
    other_backend: Http
    nobody: Http

    def code(self, job: str, code: str) -> int:
        body = {"job": job, "state": STATE_OF[JobCode(code)].value, "code": code}
        return self.backend("POST", "/api/v1/backend/notices", json=body).status_code


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A site for tests that are refused: nothing of theirs may be left in it."""
    with running_site(tmp_path_factory.mktemp("shared")) as made:
        yield made
        assert made.author("GET", "/api/v1/jobs").json() == {"jobs": []}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    with running_site(tmp_path) as made:
        yield made


@contextmanager
def running_site(tmp_path: Path) -> Iterator[Running]:
    put_database(tmp_path / "site.sqlite", MIGRATIONS)
    app = create_app(SiteSettings(state=str(tmp_path), largest_bundle_mb=1, longest_wait_seconds=3))
    site = app.state.site
    seeds = [
        Seed("alice", "gi-bleeding", "main", "demo", new_token(), new_token()),
        Seed("mallory", "diabetes", "main", "other", new_token(), new_token()),
    ]
    seeds.append(
        Seed("reader", "gi-bleeding", "main", "demo", new_token(), seeds[0].backend_token, roles=(Role.LEVEL4,))
    )
    for each in seeds:
        site.write(lambda session, each=each: seed(session, each, utc_now()))
    with served(app) as url:
        yield Running(
            tmp_path,
            site,
            url,
            Http(url, seeds[0].user_token),
            Http(url, seeds[1].user_token),
            Http(url, seeds[2].user_token),
            Http(url, seeds[0].backend_token),
            Http(url, seeds[1].backend_token),
            Http(url),
        )


def refusal(answer: Any) -> Refusal:
    return decode(Refusal, answer.content)


# --- every route, from the route table


def routes(app: Any) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
        if route.path != "/health"
    ]


ROUTES = [
    ("GET", "/api/v1/me"),
    ("POST", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{job}"),
    ("POST", "/api/v1/jobs/{job}/cancel"),
    ("HEAD", "/api/v1/bundles/{sha256}"),
    ("PUT", "/api/v1/bundles/{sha256}"),
    ("GET", "/api/v1/backend/assignments"),
    ("GET", "/api/v1/backend/bundles/{sha256}"),
    ("POST", "/api/v1/backend/notices"),
]


def test_the_routes_are_these_and_no_others(tmp_path: Path) -> None:
    assert sorted(routes(create_app(SiteSettings(state=str(tmp_path))))) == sorted(ROUTES)


def address(path: str) -> str:
    return path.replace("{job}", "a" * 16).replace("{sha256}", "0" * 64)


BAD_AUTHORISATIONS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer " + "x" * 5000,
    "Basic YWxpY2U6",
    "bearer eyJhbGciOiJub25lIn0.e30.",
    "Bearer osl_' OR 1=1 --",
    "Bearer " + new_token(),
    "Token " + new_token(),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_without_a_token_that_is_known(shared: Running, method: str, path: str) -> None:
    answers = set()
    for value in BAD_AUTHORISATIONS:
        answer = shared.nobody(
            method, address(path), headers={} if value is None else {"Authorization": value}, data=b"{"
        )
        assert answer.status_code == 401, (value, answer.text)
        headers = {name: text for name, text in answer.headers.items() if name != "date"}  # the clock goes on
        answers.add((answer.content, tuple(sorted(headers.items()))))
    assert len(answers) == 1


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_takes_a_token_from_the_address_or_a_cookie(shared: Running, method: str, path: str) -> None:
    for token in (shared.author.token, shared.backend.token):
        question = {"token": token, "access_token": token, "authorization": f"Bearer {token}"}
        answer = shared.nobody(method, address(path), params=question, cookies={"token": str(token)})
        assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_backends_token_opens_no_desk_route_and_a_persons_no_backend_route(
    shared: Running, method: str, path: str
) -> None:
    wrong = shared.author if path.startswith("/api/v1/backend") else shared.backend
    assert wrong(method, address(path), data=b"{").status_code == 401


def test_a_token_that_has_ended_is_no_token(run: Running) -> None:
    run.site.write(lambda session: session.execute(update(TokenRow).values(until=utc_now())))
    for method, path in ROUTES:
        who = run.backend if path.startswith("/api/v1/backend") else run.author
        assert who(method, address(path), data=b"{").status_code == 401


def test_another_projects_job_looks_like_one_that_is_not_there(run: Running) -> None:
    job = run.author.submit()["id"]
    for method, path in (("GET", "/api/v1/jobs/{}"), ("POST", "/api/v1/jobs/{}/cancel")):
        theirs = run.other(method, path.format(job))
        absent = run.other(method, path.format("a" * 16))
        assert theirs.status_code == absent.status_code == 404
        assert theirs.content == absent.content
        assert dict(theirs.headers) == dict(absent.headers)
    assert run.other("GET", "/api/v1/jobs").json() == {"jobs": []}
    assert run.other("GET", "/api/v1/jobs", params={"workspace": "main"}).json() == {"jobs": []}


def test_another_project_looks_like_one_that_is_not_there(shared: Running) -> None:
    shared.other.upload()
    asked = [{"project": "gi-bleeding"}, {"project": "no-such"}, {"project": "diabetes", "workspace": "no-such"}]
    answers = [shared.other("POST", "/api/v1/jobs", json=submission(**changes)) for changes in asked]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


def test_level_4_permission_alone_lets_nobody_submit_or_cancel(run: Running) -> None:
    job = run.author.submit()["id"]
    run.reader.upload()
    assert run.reader("GET", f"/api/v1/jobs/{job}").status_code == 200
    assert run.reader("POST", "/api/v1/jobs", json=submission()).status_code == 403
    assert run.reader("POST", f"/api/v1/jobs/{job}/cancel").status_code == 404
    assert run.reader("GET", "/api/v1/me").json()["workspaces"][0]["may_submit"] is False


def test_a_backend_sees_and_moves_its_own_jobs_alone(run: Running) -> None:
    job = run.author.submit()["id"]
    assert run.other_backend("GET", "/api/v1/backend/assignments").json()["assignments"] == []
    bundle = f"/api/v1/backend/bundles/{sha256(bundle_of())}"
    assert run.other_backend("GET", bundle).status_code == 404
    assert run.backend("GET", bundle).content == bundle_of()
    body = {"job": job, "state": "succeeded", "code": "succeeded"}
    assert run.other_backend("POST", "/api/v1/backend/notices", json=body).status_code == 404
    assert run.author.job(job)["code"] == "created"


def test_what_is_nowhere_is_refused_in_the_same_shape(shared: Running) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("DELETE", "/api/v1/jobs"),
        ("GET", "/api/v1/../x"),
    ):
        answer = shared.author(method, path)
        assert answer.status_code in {404, 405}
        assert refusal(answer).code == "not-found"


def test_health_tells_a_version_and_nothing_else(shared: Running) -> None:
    assert decode(Health, shared.nobody("GET", "/health").content).ready


# --- rubbish


RUBBISH = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\x00" * 100,
    b"[" * 100_000,
    b'{"a":' * 10_000,
    b"9" * 100_000,
    json.dumps(submission(project="../../etc")).encode(),
    json.dumps(submission(extra=1)).encode(),
    json.dumps(submission(parameters={"x=1; import os": 1})).encode(),
    json.dumps(submission(parameters={"x": float("nan")})).encode(),
    json.dumps(submission(parameters={"x": 10**400})).encode(),
    json.dumps(submission(commit="HEAD")).encode(),
]


@pytest.mark.parametrize("data", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_is_refused_with_a_sentence_and_changes_nothing(shared: Running, data: bytes) -> None:
    for who, path in ((shared.author, "/api/v1/jobs"), (shared.backend, "/api/v1/backend/notices")):
        answer = who("POST", path, data=data)
        assert answer.status_code == 400, answer.text
        assert refusal(answer).next_step
    assert shared.author("GET", "/api/v1/jobs").json() == {"jobs": []}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/jobs/..%2f..%2fetc",
        "/api/v1/jobs/AAAAAAAAAAAAAAAA",
        "/api/v1/jobs/" + "a" * 17,
        "/api/v1/jobs?workspace=../x",
        "/api/v1/jobs?wait=-1",
        "/api/v1/jobs?wait=nan",
        "/api/v1/jobs?seen=yesterday",
        "/api/v1/jobs?seen=2026-01-01T00:00:00",
    ],
)
def test_an_address_or_question_that_is_not_as_agreed_is_refused(shared: Running, path: str) -> None:
    answer = shared.author("GET", path)
    assert answer.status_code in {400, 404}
    assert refusal(answer).sentence


def test_a_body_that_never_ends_is_cut_off(run: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * (1 << 20)

    answer = None
    try:
        answer = run.author("POST", "/api/v1/jobs", data=endless())
    except OSError:  # the site has hung up
        return
    assert answer.status_code == 413


def test_a_body_that_stops_half_way_is_refused_and_the_site_goes_on(run: Running) -> None:
    connection = http.client.HTTPConnection(run.url.removeprefix("http://"))
    connection.putrequest("PUT", f"/api/v1/bundles/{sha256(bundle_of())}")
    connection.putheader("Authorization", f"Bearer {run.author.token}")
    connection.putheader("Content-Length", str(len(bundle_of())))
    connection.endheaders(bundle_of()[:20])
    connection.close()
    run.author.upload()
    assert list((run.folder / "bundles" / "incoming").iterdir()) == []


# --- bundles


def test_a_bundle_is_kept_once_under_its_digest_and_is_private(run: Running) -> None:
    path = f"/api/v1/bundles/{sha256(bundle_of())}"
    assert run.author("HEAD", path).status_code == 404
    assert run.author("PUT", path, data=bundle_of()).status_code == 201
    assert run.author("PUT", path, data=bundle_of()).status_code == 200
    assert run.author("HEAD", path).status_code == 200
    stored = run.site.bundles.path(sha256(bundle_of()))
    assert stored.read_bytes() == bundle_of()
    assert stored.stat().st_mode & 0o777 == 0o600
    assert run.folder.joinpath("site.sqlite").stat().st_mode & 0o777 == 0o600


def test_that_somebody_else_uploaded_a_bundle_is_not_told(run: Running) -> None:
    run.author.upload()
    path = f"/api/v1/bundles/{sha256(bundle_of())}"
    assert run.other("HEAD", path).status_code == 404
    assert run.other("PUT", path, data=bundle_of()).status_code == 201


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        (sha256(b"other"), bundle_of(), 400),
        (sha256(b"# v2 git bundl"), b"# v2 git bundl", 400),
        (sha256(b""), b"", 400),
        (sha256(b"PK\x03\x04"), b"PK\x03\x04", 400),
        (sha256(bundle_of(padding=2 << 20)), bundle_of(padding=2 << 20), 413),
    ],
)
def test_what_is_not_the_bundle_it_says_is_not_kept(shared: Running, name: str, data: bytes, status: int) -> None:
    whole = shared.author("PUT", f"/api/v1/bundles/{name}", data=data)
    assert whole.status_code == status
    in_parts = shared.author("PUT", f"/api/v1/bundles/{name}", data=iter([data[:7], data[7:]]) if data else b"")
    assert in_parts.status_code == status
    assert not shared.site.bundles.path(name).exists()
    assert list((shared.folder / "bundles" / "incoming").iterdir()) == []


# --- submitting


def test_a_submission_becomes_one_job_for_each_backend(run: Running) -> None:
    job = run.author.submit()
    found = decode(Job, json.dumps(job).encode())
    assert (found.state.value, found.code.value, found.author, found.commit) == ("pending", "created", "alice", COMMIT)
    assert found.parameters == submission()["parameters"]
    assert decode(JobList, run.author("GET", "/api/v1/jobs").content).jobs == [found]
    assert decode(JobList, run.author("GET", "/api/v1/jobs?workspace=other").content).jobs == []
    assert decode(Me, run.author("GET", "/api/v1/me").content).workspaces[0].may_submit


def test_the_same_request_again_gives_the_same_jobs(run: Running) -> None:
    job = run.author.submit()
    shuffled = json.dumps(dict(reversed(submission().items())), indent=3)
    answer = run.author("POST", "/api/v1/jobs", data=shuffled)
    assert answer.status_code == 200
    assert answer.json()["jobs"] == [job]


@pytest.mark.parametrize(
    "change", [{"parameters": {}}, {"commit": "d" * 40}, {"action": "other"}, {"requests": '{"version": 1}'}]
)
def test_the_same_key_for_another_request_is_refused(run: Running, change: dict[str, Any]) -> None:
    run.author.submit()
    answer = run.author("POST", "/api/v1/jobs", json=submission(**change))
    assert (answer.status_code, refusal(answer).code) == (409, "key-used")
    assert len(run.author("GET", "/api/v1/jobs").json()["jobs"]) == 1


def test_sent_many_times_at_once_it_is_one_job(run: Running) -> None:
    run.author.upload()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: run.author("POST", "/api/v1/jobs", json=submission()), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [201]
    assert len({answer.json()["jobs"][0]["id"] for answer in answers}) == 1
    assert len(run.backend("GET", "/api/v1/backend/assignments").json()["assignments"]) == 1


def test_two_people_may_use_the_same_key(run: Running) -> None:
    run.author.submit()
    run.other.upload()
    answer = run.other("POST", "/api/v1/jobs", json=submission(project="diabetes", backends=["other"]))
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"backends": ["other"]}, "not-at-backend"),
        ({"backends": ["demo", "no-such"]}, "not-at-backend"),
        ({"policy": "lax"}, "other-policy"),
        ({"bundle": "1" * 64}, "bundle-missing"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_before_it_is_a_job(
    run: Running, change: dict[str, Any], code: str
) -> None:
    run.author.upload()
    answer = run.author("POST", "/api/v1/jobs", json=submission(**change))
    assert (answer.status_code, refusal(answer).code) == (409, code)
    assert refusal(answer).next_step
    assert run.author("GET", "/api/v1/jobs").json() == {"jobs": []}


def test_a_bundle_that_somebody_else_uploaded_is_not_the_authors_code(run: Running) -> None:
    run.other.upload()
    answer = run.author("POST", "/api/v1/jobs", json=submission())
    assert refusal(answer).code == "bundle-missing"


@pytest.mark.parametrize("table", [GrantRow, ProjectRow])
def test_a_permission_that_ends_while_a_job_waits_ends_the_job(run: Running, table: Any) -> None:
    job = run.author.submit()["id"]
    run.site.write(lambda session: session.execute(update(table).values(until=utc_now())))
    assert run.backend("GET", "/api/v1/backend/assignments").json()["assignments"] == []
    run.site.write(lambda session: session.execute(update(table).values(until=None)))
    assert run.author.job(job)["code"] == "refused-by-backend"


# --- notices


def test_notices_move_a_job_forwards_and_late_or_repeated_ones_do_nothing(run: Running) -> None:
    for index, first in enumerate(JobCode):
        if first is JobCode.CREATED:
            continue
        job = run.author.submit(idempotency_key=f"{index:016d}")["id"]
        assert run.code(job, first) == 204
        before = run.author.job(job)
        assert before["code"] == first
        for second in set(JobCode) - {JobCode.CREATED} - MOVES[first]:
            assert run.code(job, second) == 204
            assert run.author.job(job) == before


def test_all_notices_at_once_and_in_any_order_end_a_job_once(run: Running) -> None:
    job = run.author.submit()["id"]
    codes = [code for code in JobCode if code is not JobCode.CREATED] * 3
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda code: run.code(job, code), codes)) == {204}
    with sqlite3.connect(run.folder / "site.sqlite") as database:
        moves = [JobCode(row[0]) for row in database.execute("select code from job_events order by id")]
    assert moves[0] is JobCode.CREATED
    assert all(later in MOVES[earlier] for earlier, later in pairwise(moves))
    assert sum(code in ENDS for code in moves) == 1
    assert run.author.job(job)["code"] == moves[-1]


def test_a_notice_has_no_room_for_what_a_run_says(run: Running) -> None:
    job = run.author.submit()["id"]
    body: dict[str, Any] = {"job": job, "state": "failed", "code": "run-failed"}
    for extra in ({"message": PATIENT}, {"code": PATIENT}, {"state": PATIENT}, {"job": PATIENT}):
        answer = run.backend("POST", "/api/v1/backend/notices", json=body | extra)
        assert answer.status_code == 400
        assert "7be19c40d2" not in answer.text
    assert b"7be19c40d2" not in b"".join(path.read_bytes() for path in run.folder.glob("site.sqlite*"))


# --- waiting


def test_a_desk_that_waits_hears_of_a_move_at_once(run: Running) -> None:
    job = run.author.submit()
    threading.Timer(0.3, run.code, (job["id"], "executing")).start()
    began = time.monotonic()
    found = run.author("GET", f"/api/v1/jobs/{job['id']}", params={"seen": job["updated_at"], "wait": 3}).json()
    assert found["code"] == "executing"
    assert 0.2 < time.monotonic() - began < 2.9, "sooner than it had to be answered"
    threading.Timer(0.3, run.code, (job["id"], "succeeded")).start()
    listed = run.author("GET", "/api/v1/jobs", params={"seen": found["updated_at"], "wait": 3}).json()
    assert listed["jobs"][0]["code"] == "succeeded"


def test_a_wait_without_news_ends_with_what_is(run: Running) -> None:
    job = run.author.submit()
    answer = run.author("GET", f"/api/v1/jobs/{job['id']}", params={"seen": job["updated_at"], "wait": 0.3})
    assert answer.json() == job


def test_an_agent_that_waits_hears_of_a_job_and_of_a_cancel_at_once(run: Running) -> None:
    run.author.upload()
    threading.Timer(0.3, run.author, ("POST", "/api/v1/jobs"), {"json": submission()}).start()
    first = decode(AssignmentList, run.backend("GET", "/api/v1/backend/assignments?wait=3").content)
    assert [each.cancelled for each in first.assignments] == [False]
    assert first.assignments[0].request.model_dump(mode="json") == submission()
    path = f"/api/v1/backend/assignments?wait=3&seen={first.revision}"
    threading.Timer(0.3, run.author, ("POST", f"/api/v1/jobs/{first.assignments[0].job}/cancel")).start()
    second = decode(AssignmentList, run.backend("GET", path).content)
    assert [each.cancelled for each in second.assignments] == [True]
    assert second.revision > first.revision


def test_a_job_that_has_ended_is_not_offered_and_its_cancel_does_nothing(run: Running) -> None:
    job = run.author.submit()["id"]
    run.code(job, "succeeded")
    ended = run.author.job(job)
    assert run.author("POST", f"/api/v1/jobs/{job}/cancel").json() == ended
    assert run.backend("GET", "/api/v1/backend/assignments").json()["assignments"] == []


def test_every_change_is_later_than_all_before_it(run: Running) -> None:
    behind = datetime(2001, 1, 1, tzinfo=UTC)
    run.site.now = lambda: behind + timedelta(seconds=1)  # a clock that was set back
    jobs = [run.author.submit(idempotency_key=f"{n:016d}")["updated_at"] for n in range(3)]
    assert len(set(jobs)) == 3
    assert jobs == sorted(jobs)


# --- what is kept and said


def test_neither_tokens_nor_bodies_nor_questions_are_kept_or_logged(
    run: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    job = run.author.submit(parameters={"secret": "the-parameter"})["id"]
    run.author("GET", f"/api/v1/jobs/{job}?workspace=the-question")
    run.author("POST", "/api/v1/jobs", data=b"the-body")
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("opensafely_lab"))
    assert "/api/v1/jobs/{job}" in logged
    for text in (str(run.author.token), "the-parameter", "the-question", "the-body", job):
        assert text not in logged
    stored = b"".join(path.read_bytes() for path in run.folder.glob("site.sqlite*"))
    for token in (run.author.token, run.backend.token):
        assert str(token).encode() not in stored


def test_an_error_of_ours_is_one_sentence_and_its_text_is_nowhere(
    run: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError(PATIENT)

    monkeypatch.setattr("opensafely_lab.site.people.me", broken)
    answer = run.author("GET", "/api/v1/me")
    assert answer.status_code == 503
    assert refusal(answer).sentence
    for text in (answer.text, caplog.text):
        assert "7be19c40d2" not in text
    assert re.search(r"unexpected: RuntimeError at .*site/app.py:\d+", caplog.text)


def test_the_openapi_description_can_be_made(run: Running, tmp_path: Path) -> None:
    described = create_app(SiteSettings(state=str(tmp_path / "again"))).openapi()
    assert set(described["paths"]) == {path for _, path in ROUTES} | {"/health"}
    assert io.StringIO(json.dumps(described)).read()


def test_nothing_is_recorded_for_telemetry_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    app = create_app(SiteSettings(state=str(tmp_path)))
    native = getattr(app, "_native_telemetry", None)  # FastAPI of 2026 has it, older ones do not
    assert native is None or not native.enabled()
