"""The site's routes. Each depends on a token first and reads a body afterwards; the rest is in `jobs` and `people`.

No `from __future__ import annotations` here: FastAPI reads the annotations, and they name what is local.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from opensafely_lab import __version__
from opensafely_lab.access import Person
from opensafely_lab.errors import UsageError
from opensafely_lab.service.blobs import Blobs, Incoming
from opensafely_lab.service.database import Database, utc_now
from opensafely_lab.service.http import NotThere, TooLarge, bearer, chunks, describe_body, json_body, new_app
from opensafely_lab.service.tokens import new_identifier
from opensafely_lab.site import jobs, people
from opensafely_lab.site.settings import SiteSettings
from opensafely_lab.site.tables import BundleRow
from opensafely_lab.site.waiting import Changes
from opensafely_lab.wire.base import Digest, Identifier, Moment, Name
from opensafely_lab.wire.site import AssignmentList, Health, Job, JobList, JobNotice, Me, SubmitRequest

MIGRATIONS = Path(__file__).parent / "migrations"
BUNDLE_SECONDS = 600.0
BUNDLE_HEADS = (b"# v2 git bundle\n", b"# v3 git bundle\n")
T = TypeVar("T")

Wait = Annotated[float, Query(ge=0)]
PathDigest = Annotated[Digest, InPath()]
PathIdentifier = Annotated[Identifier, InPath()]


class NotABundle(UsageError):
    code: ClassVar[str] = "not-a-bundle"

    def __init__(self) -> None:
        super().__init__(
            "What was sent is not the git bundle that its address says.",
            next_step="Submit again: the bundle is made and sent anew.",
        )


class Site:
    """The site's database, its store of bundles, and who waits for news."""

    def __init__(self, settings: SiteSettings, now: Callable[[], datetime], new_id: Callable[[], str]) -> None:
        self.settings = settings
        self.now = now
        self.new_id = new_id
        self.database = Database(settings.database)
        self.bundles = Blobs(settings.bundles)
        self.changes = Changes()

    def start(self) -> None:
        self.database.migrate(MIGRATIONS)
        self.bundles.clear_incoming()

    def read(self, do: Callable[[Session], T]) -> T:
        with self.database.reading() as session:
            return do(session)

    def write(self, do: Callable[[Session], T]) -> T:
        with self.database.writing() as session:
            return do(session)

    async def changed(self, do: Callable[[Session], T]) -> T:
        """Write, then ring."""
        value = await run_in_threadpool(self.write, do)
        self.changes.ring()
        return value

    def limit_wait(self, seconds: float) -> float:
        return min(seconds, self.settings.longest_wait_seconds)


def create_app(
    settings: SiteSettings, now: Callable[[], datetime] = utc_now, new_id: Callable[[], str] = new_identifier
) -> FastAPI:
    """The site as an application, with its database brought up to date. `app.state.site` is the `Site`."""
    site = Site(settings, now, new_id)
    site.start()
    app = new_app("OpenSAFELY jobs site", __version__)
    app.state.site = site

    async def user(request: Request) -> Person:
        token = bearer(request)
        return await run_in_threadpool(site.read, lambda session: people.user_of(session, token, now()))

    async def backend(request: Request) -> str:
        token = bearer(request)
        return await run_in_threadpool(site.read, lambda session: people.backend_of(session, token, now()))

    async def health() -> Health:
        return Health(version=__version__, ready=True)

    app.get("/health")(health)
    _desk_routes(app, site, user)
    _bundle_routes(app, site, user)
    _backend_routes(app, site, backend)
    return app


def _desk_routes(app: FastAPI, site: Site, user: Callable[..., object]) -> None:
    api, now = "/api/v1", site.now

    async def me(who: Annotated[Person, Depends(user)]) -> Me:
        return await run_in_threadpool(site.read, lambda session: people.me(session, who, now()))

    async def submit(
        who: Annotated[Person, Depends(user)],
        body: Annotated[SubmitRequest, Depends(json_body(SubmitRequest))],
        response: Response,
    ) -> JobList:
        made = await site.changed(lambda session: jobs.submit(session, who, body, now(), site.new_id))
        response.status_code = 201 if made.created else 200
        return made.jobs

    async def list_jobs(
        who: Annotated[Person, Depends(user)],
        workspace: Annotated[Name | None, Query()] = None,
        seen: Annotated[Moment | None, Query()] = None,
        wait: Wait = 0,
    ) -> JobList:
        """Jobs, newest first. With `wait` and `seen`: as soon as one is newer than that, or after `wait` seconds."""
        return await site.changes.until(
            lambda: site.read(lambda session: jobs.newest(session, who, workspace, now())),
            lambda found: seen is None or any(job.updated_at > seen for job in found.jobs),
            site.limit_wait(wait),
        )

    async def one_job(
        who: Annotated[Person, Depends(user)],
        job: PathIdentifier,
        seen: Annotated[Moment | None, Query()] = None,
        wait: Wait = 0,
    ) -> Job:
        """One job. With `wait` and `seen` (its `updated_at`): as soon as it has moved on, or after `wait` seconds."""
        return await site.changes.until(
            lambda: site.read(lambda session: jobs.one(session, who, job, now())),
            lambda found: seen is None or found.updated_at > seen,
            site.limit_wait(wait),
        )

    async def cancel(who: Annotated[Person, Depends(user)], job: PathIdentifier) -> Job:
        return await site.changed(lambda session: jobs.cancel(session, who, job, now()))

    app.get(f"{api}/me")(me)
    app.post(f"{api}/jobs", status_code=201, openapi_extra=describe_body(SubmitRequest))(submit)
    app.get(f"{api}/jobs")(list_jobs)
    app.get(f"{api}/jobs/{{job}}")(one_job)
    app.post(f"{api}/jobs/{{job}}/cancel")(cancel)


def _bundle_routes(app: FastAPI, site: Site, user: Callable[..., object]) -> None:
    path = "/api/v1/bundles/{sha256}"

    def known(who: Person, sha256: str) -> bool:
        return site.bundles.has(sha256) and (
            site.read(lambda session: session.get(BundleRow, (sha256, who.name))) is not None
        )

    def remember(who: Person, incoming: Incoming) -> None:
        """The file first, then the row: what a row names is there."""
        site.bundles.keep(incoming)

        def add(session: Session) -> None:
            if session.get(BundleRow, (incoming.sha256, who.name)) is None:
                session.add(
                    BundleRow(sha256=incoming.sha256, user=who.name, size=incoming.size, uploaded_at=site.now())
                )

        site.write(add)

    async def has_bundle(who: Annotated[Person, Depends(user)], sha256: PathDigest) -> Response:
        if not await run_in_threadpool(known, who, sha256):
            raise NotThere
        return Response(status_code=200)

    async def put_bundle(who: Annotated[Person, Depends(user)], sha256: PathDigest, request: Request) -> Response:
        """Take a bundle: counted, hashed and compared while it comes, kept whole or not at all."""
        if await run_in_threadpool(known, who, sha256):
            return Response(status_code=200)
        limit = site.settings.largest_bundle_mb << 20
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise TooLarge(limit)  # before a byte of it is read
        incoming = await run_in_threadpool(site.bundles.incoming)
        try:
            await _receive(request, incoming, limit, sha256)
            await run_in_threadpool(remember, who, incoming)
        finally:
            await run_in_threadpool(incoming.drop)
        return Response(status_code=201)

    app.head(path)(has_bundle)
    app.put(path, status_code=201)(put_bundle)


async def _receive(request: Request, incoming: Incoming, limit: int, sha256: str) -> None:
    head = b""
    async for chunk in chunks(request, limit, BUNDLE_SECONDS):
        if len(head) < len(BUNDLE_HEADS[0]):
            head += chunk[: len(BUNDLE_HEADS[0])]
            if not any(whole.startswith(head[: len(whole)]) for whole in BUNDLE_HEADS):
                raise NotABundle
        await run_in_threadpool(incoming.write, chunk)
    if incoming.sha256 != sha256 or len(head) < len(BUNDLE_HEADS[0]):
        raise NotABundle


def _backend_routes(app: FastAPI, site: Site, backend: Callable[..., object]) -> None:
    api, now = "/api/v1/backend", site.now

    async def assignments(
        who: Annotated[str, Depends(backend)], seen: Annotated[int, Query(ge=0, le=2**62)] = 0, wait: Wait = 0
    ) -> AssignmentList:
        """Open work with news since `seen`; with `wait`, as soon as there is some, or after `wait` seconds."""

        def read() -> AssignmentList:
            if site.read(lambda session: jobs.without_permission(session, who, now())):
                site.write(lambda session: jobs.refuse_ended_permissions(session, who, now()))
            return site.read(lambda session: jobs.offer(session, who, seen))

        return await site.changes.until(read, lambda found: bool(found.assignments), site.limit_wait(wait))

    async def bundle(who: Annotated[str, Depends(backend)], sha256: PathDigest) -> FileResponse:
        if not await run_in_threadpool(
            site.read, lambda session: jobs.may_fetch_bundle(session, who, sha256)
        ) or not site.bundles.has(sha256):
            raise NotThere
        return FileResponse(site.bundles.path(sha256), media_type="application/octet-stream")

    async def notice(
        who: Annotated[str, Depends(backend)], body: Annotated[JobNotice, Depends(json_body(JobNotice))]
    ) -> Response:
        await site.changed(lambda session: jobs.take_notice(session, who, body, now()))
        return Response(status_code=204)

    app.get(f"{api}/assignments")(assignments)
    app.get(f"{api}/bundles/{{sha256}}", response_class=FileResponse)(bundle)
    app.post(f"{api}/notices", status_code=204, openapi_extra=describe_body(JobNotice))(notice)
