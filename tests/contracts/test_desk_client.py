"""The desk's clients against a real HTTP server: typed answers, safe retries, sentences, and no token anywhere."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from opensafely_lab.desk.client import Client
from opensafely_lab.desk.http import (
    BadReply,
    NoPermission,
    NotFound,
    NotSignedIn,
    RefusedThere,
    Unreachable,
    checked_url,
)
from opensafely_lab.desk.level4 import Level4Client
from opensafely_lab.errors import ErrorKind, LabError, UsageError
from opensafely_lab.wire.base import JobCode, JobState
from opensafely_lab.wire.site import Job, JobList, Layout, Me, Refusal, SubmitRequest, Workspace

TOKEN = "secret-token-of-the-analyst"
JOB = Job(
    id="a" * 16, project="demo", workspace="ws", backend="b", commit="c" * 40, action="report", parameters={"n": 1},
    state=JobState.PENDING, code=JobCode.CREATED, created_at=datetime(2026, 11, 21, tzinfo=UTC),
    updated_at=datetime(2026, 11, 21, tzinfo=UTC), author="ada",
)  # fmt: skip
REQUEST = SubmitRequest(
    idempotency_key="k" * 20, project="demo", workspace="ws", backends=["b"], commit="c" * 40, bundle="d" * 64,
    action="report", parameters={"n": 1, "bands": [1, 2], "on": True, "rate": 0.5, "drug": "x"}, requests="{}",
    layout=Layout(outputs=[], execution_counts={0: 1}), definitions={}, policy="opensafely",
)  # fmt: skip


class Site:
    """A site that does what a test tells it."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.seen: list[tuple[str, str]] = []
        self.authorizations: list[str | None] = []
        self.failures: list[Response] = []
        self.bundles: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.answer: Response | None = None
        app = self.app

        @app.middleware("http")
        async def noted(request: Request, call_next):
            self.seen.append((request.method, request.url.path))
            self.authorizations.append(request.headers.get("authorization"))
            if self.failures:
                return self.failures.pop(0)
            if self.answer is not None:
                return self.answer
            return await call_next(request)

        @app.get("/api/v1/me")
        def me() -> Me:
            return Me(
                user="ada", workspaces=[Workspace(project="demo", workspace="ws", backends=["b"], may_submit=True)]
            )

        @app.head("/api/v1/bundles/{sha}")
        def has(sha: str) -> Response:
            return Response(status_code=200 if sha in self.bundles else 404)

        @app.put("/api/v1/bundles/{sha}")
        async def put(sha: str, request: Request) -> Response:
            self.bundles[sha] = await request.body()
            return Response(status_code=201)

        @app.post("/api/v1/jobs")
        def submit(request: SubmitRequest) -> JobList:
            self.jobs.setdefault(request.idempotency_key, JOB)
            return JobList(jobs=[self.jobs[request.idempotency_key]])

        @app.get("/api/v1/jobs")
        def jobs(workspace: str) -> JobList:
            return JobList(jobs=[JOB] if workspace == "ws" else [])

        @app.get("/api/v1/jobs/{job}")
        def job(job: str) -> Response:
            if job != JOB.id:
                return JSONResponse(Refusal(code="not-found", sentence="Nothing.", next_step="").model_dump(), 404)
            return Response(JOB.model_dump_json(), media_type="application/json")

        @app.post("/api/v1/jobs/{job}/cancel")
        def cancel(job: str) -> Job:
            return JOB

        @app.get("/level4/jobs")
        def level4() -> dict[str, object]:
            return {"jobs": []}

        @app.get("/level4/jobs/{job}/result")
        def result(job: str) -> dict[str, str]:
            return {"id": job, "name": "report", "notebook": "{}", "disclosure": "{}"}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Site, str]]:
    site = Site()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(site.app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield site, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def site(served: tuple[Site, str]) -> Site:
    made = served[0]
    made.seen.clear()
    made.authorizations.clear()
    made.failures.clear()
    made.bundles.clear()
    made.jobs.clear()
    made.answer = None
    return made


@pytest.fixture
def client(served: tuple[Site, str]) -> Client:
    return Client(served[1] + "/", TOKEN, sleep=lambda _: None)


def refusal(status: int, **more: str) -> JSONResponse:
    said = {"code": "bundle-missing", "sentence": "No bundle.", "next_step": "Send it."} | more
    return JSONResponse(said, status)


def test_each_call_speaks_the_messages_of_the_wire_with_the_token_in_its_header(site: Site, client: Client) -> None:
    assert client.me().workspaces[0].may_submit
    assert client.submit(REQUEST) == [JOB]
    assert client.jobs("ws") == [JOB]
    assert client.job(JOB.id) == JOB
    assert client.cancel(JOB.id) == JOB
    assert set(site.authorizations) == {f"Bearer {TOKEN}"}


def test_a_bundle_is_sent_once_and_named_by_its_digest(site: Site, client: Client) -> None:
    digest = client.upload_bundle(b"data")
    assert digest == hashlib.sha256(b"data").hexdigest()
    assert site.bundles == {digest: b"data"}
    client.upload_bundle(b"data")
    assert [method for method, _ in site.seen] == ["HEAD", "PUT", "HEAD"]


def test_what_fails_for_a_moment_is_asked_again_and_makes_one_job(site: Site, client: Client) -> None:
    site.failures = [Response(status_code=503), Response(status_code=502)]
    assert client.submit(REQUEST) == [JOB]
    assert len(site.seen) == 3
    assert len(site.jobs) == 1


def test_a_refusal_is_told_in_the_sites_words_and_not_tried_again(site: Site, client: Client) -> None:
    site.answer = refusal(409, fix="commit")
    with pytest.raises(RefusedThere) as caught:
        client.submit(REQUEST)
    error = caught.value
    assert (error.code, error.sentence, error.next_step, error.fix) == (
        "bundle-missing",
        "No bundle.",
        "Send it.",
        "commit",
    )
    assert error.kind is ErrorKind.REFUSED
    assert len(site.seen) == 1
    assert RefusedThere.code == "refused"


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (Response(status_code=401), NotSignedIn, "does not know this desk's token"),
        (refusal(401), NotSignedIn, "does not know this desk's token"),
        (Response(status_code=403), NoPermission, "does not permit this"),
        (refusal(403, sentence="Not you."), NoPermission, "Not you."),
        (Response(status_code=404), NotFound, "knows nothing of that name"),
        (Response(status_code=500), Unreachable, "is not working at the moment"),
        (refusal(503, sentence="Back soon."), Unreachable, "Back soon."),
        (Response(status_code=418), BadReply, "cannot read"),
        (Response(status_code=422, content=b'{"detail": []}'), BadReply, "cannot read"),
        (Response(content=b"<html>"), BadReply, "cannot read"),
        (Response(content=b'{"user": "ada", "workspaces": [], "extra": 1}'), BadReply, "cannot read"),
        (Response(content=b"[" * 100_000), BadReply, "cannot read"),
        (RedirectResponse("http://127.0.0.1:9/steal"), BadReply, "cannot read"),
    ],
)
def test_every_other_answer_is_a_typed_error_with_a_sentence(site: Site, client: Client, answer, kind, told) -> None:
    site.answer = answer
    with pytest.raises(kind, match=told):
        client.me()


def test_a_missing_job_is_not_found_and_an_odd_id_is_not_sent(site: Site, client: Client) -> None:
    with pytest.raises(NotFound, match="Nothing"):
        client.job("z" * 16)
    for odd in ("../me", "A" * 16, "", "a" * 15 + "/"):
        with pytest.raises(UsageError):
            client.job(odd)
    with pytest.raises(UsageError):
        client.jobs("a b&c=d")
    assert len(site.seen) == 1


def test_a_site_that_is_down_is_told_with_its_address_and_what_to_do() -> None:
    waits: list[float] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", TOKEN, sleep=waits.append)
    with pytest.raises(Unreachable) as caught:
        client.me()
    assert str(caught.value) == (
        f"The jobs site does not answer at http://127.0.0.1:{port}. Is `opensafely-lab up` running?"
    )
    assert len(waits) == 2
    assert not client.healthy()


def test_an_answer_without_end_is_cut_off(site: Site, client: Client, monkeypatch) -> None:
    monkeypatch.setattr("opensafely_lab.desk.http.MAX_REPLY", 1000)
    site.answer = Response(content=b"x" * 100_000)
    with pytest.raises(BadReply):
        client.me()


def test_the_token_is_in_no_error_and_no_representation(site: Site, client: Client, tmp_path, monkeypatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password y\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert client.me().user == "ada"
    assert site.authorizations == [f"Bearer {TOKEN}"]
    told = [repr(client), repr(vars(client)["_service"]), repr(client._service._session.auth)]
    for answer in (Response(status_code=401), refusal(409), Response(content=b"<")):
        site.answer = answer
        with pytest.raises(LabError) as caught:
            client.me()
        told += [str(caught.value), repr(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
    assert TOKEN not in "".join(told)


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "http://", "http://example.org", "https://user:pass@example.org", "https://x?y=1", "http://[x"]
)  # fmt: skip
def test_addresses_that_would_send_the_token_astray_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url)


def test_addresses_on_this_computer_or_with_https_are_taken() -> None:
    for url in ("https://jobs.example.org/", "http://localhost:8000", "http://[::1]:80"):
        assert not checked_url(url).endswith("/")
    assert checked_url("http://site:8000", unsafe_plain_http=True) == "http://site:8000"


def test_level_4_is_asked_in_the_same_way(site: Site, served: tuple[Site, str]) -> None:
    level4 = Level4Client(served[1], TOKEN, sleep=lambda _: None)
    assert level4.jobs() == []
    assert level4.result("a" * 16).notebook == "{}"
    site.answer = Response(status_code=401)
    with pytest.raises(NotSignedIn, match="level 4 service does not know"):
        level4.jobs()
