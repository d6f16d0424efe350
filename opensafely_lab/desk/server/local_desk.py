"""The real desk of a Jupyter server: the store of runs, the jobs site, and the backend's level 4 service.

Two threads look for news: one at the store (often, it is cheap), one at the site and level 4. Tokens
are read from their files here and used here; a result of level 4 is fetched when it is asked for
and kept nowhere.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from opensafely_lab import __version__
from opensafely_lab.desk.begin import begin
from opensafely_lab.desk.inspect import notebook_info
from opensafely_lab.desk.runs import RunRecord, RunStore, worker_environment
from opensafely_lab.desk.server.rows import rows
from opensafely_lab.desk.settings import NotRunning, RunFile, read_run_file, read_token
from opensafely_lab.desk.state import State, default_state
from opensafely_lab.desk.submit import find_study
from opensafely_lab.errors import ErrorKind, LabError, Refused, UsageError
from opensafely_lab.pipeline.plan import PROJECT_FILE, read_project
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.lab import (
    CreateStudy,
    NotebookInfo,
    Result,
    RunList,
    RunRow,
    StartRun,
    Status,
    StudyCreated,
)
from opensafely_lab.wire.level4 import Level4Job, ResultDocument
from opensafely_lab.wire.site import Job, Me

SECONDS_BETWEEN_FILES = 0.3
SECONDS_FOR_NEWS = 20.0  # the site holds the question until there is some
SECONDS_FOR_RESULT = 0.5  # a job has succeeded, and level 4 does not list it yet
TRIES_FOR_RESULT = 40
SECONDS_WITHOUT_SITE = 5.0
SECONDS_UNWATCHED = 60.0
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
SANDBOX_SECONDS = 120
DEFAULT_TEMPLATE = "default"


class SiteLink(Protocol):
    def me(self) -> Me: ...
    def jobs(self, workspace: str, *, seen: datetime | None = None, wait: float = 0.0) -> list[Job]: ...
    def cancel(self, job: str) -> Job: ...


class Level4Link(Protocol):
    def jobs(self) -> list[Level4Job]: ...
    def result(self, job: str) -> ResultDocument: ...


@frozen
class Links:
    """Whom the desk can ask just now. `level4` is None where this desk has no level 4 token."""

    run: RunFile
    site: SiteLink
    level4: Level4Link | None


@frozen
class News:
    """What site and level 4 last said."""

    me: Me | None = None
    jobs: tuple[Job, ...] = ()
    level4: Mapping[str, Level4Job] = field(factory=dict)
    level4_answers: bool = False


class NoLevel4(LabError):
    code = "no-level4"
    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "This desk has no permission to read level 4 results.",
            next_step="Ask the lead of your project for level 4 access.",
        )


class NotSent(Refused):
    """A run on this computer, or one that has not come so far as to be a job."""

    code = "not-sent"

    def __init__(self) -> None:
        super().__init__(
            "This run is not with a backend, so there is no job to cancel.",
            next_step="A submitted run can be cancelled once it has been sent; a dummy run ends by itself.",
        )


def local_desk(root: Path) -> LocalDesk:
    """The desk as the server extension starts it."""
    state = State(default_state(os.environ, root=os.geteuid() == 0))
    return LocalDesk(root, RunStore(state), lambda: links(state), lambda: sandbox_status(state))


def links(state: State) -> Links:
    """Site and level 4 as `up` left word of them. Raises `NotRunning`, `StateError`."""
    from opensafely_lab.desk.client import Client
    from opensafely_lab.desk.level4 import Level4Client

    run = read_run_file(state)
    level4 = None
    if run.level4 is not None:
        with contextlib.suppress(NotRunning):
            level4 = Level4Client(run.level4, read_token(state, "level4"))
    return Links(run, Client(run.site, read_token(state, "site")), level4)


def sandbox_status(state: State) -> str:
    """ "ok", or what is missing. Asked in a process of its own: the sandbox dies with the thread that starts it."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "opensafely_lab.desk.worker", "--probe", str(state.folder)],
            env=worker_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SANDBOX_SECONDS,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "its self-test did not finish"
    return done.stdout.strip()[:500]


class LocalDesk:
    """See `desk.Desk`."""

    def __init__(self, root: Path, store: RunStore, connect: Callable[[], Links], sandbox: Callable[[], str]) -> None:
        self.root = root
        self.store = store
        self.connect = connect
        self.sandbox = sandbox
        self._news = News()
        self._links: Links | None = None
        self._sandbox = "not tested yet"
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._asked = threading.Event()
        for work in (self._watch_files, self._follow_services, self._test_sandbox):
            threading.Thread(target=work, name=f"opensafely{work.__name__}", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._asked.set()

    def status(self) -> Status:
        news = self._news
        links = self._links
        study = self._open_study()
        return Status(
            version=__version__,
            user=news.me.user if news.me else None,
            workspace=links.run.workspace if links else None,
            site_reachable=news.me is not None,
            backend_reachable=news.level4_answers,
            sandbox=self._sandbox,
            level4=links is not None and links.level4 is not None and news.level4_answers,
            study=study.name if study else None,
        )

    def notebook_info(self, path: str) -> NotebookInfo:
        return notebook_info(self._file(path), path)

    def runs(self) -> RunList:
        news = self._news
        records = [record for record in map(self._in_root, self.store.records()) if record.row.notebook]
        return RunList(runs=rows(records, news.jobs, news.level4, self._notebooks()))

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(changed)
        self._asked.set()

        def stop() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(changed)

        return stop

    def start(self, asked: StartRun) -> RunRow:
        file = self._file(asked.path)
        record = begin(self.store, file, asked.kind, asked.parameters, from_text=False, fixes=asked.fixes)
        self._tell()
        self._asked.set()
        return self._in_root(record).row

    def cancel(self, run: str) -> RunRow:
        job, _ = self._job_of(run)
        if job is None:
            raise NotSent
        links = self._links or self.connect()
        told = links.site.cancel(job)  # the site tells all who follow it, us included
        self._asked.set()
        mine = [self._in_root(record) for record in self.store.records() if record.job == job]
        return rows(mine, [told], self._news.level4, self._notebooks())[0]

    def result(self, run: str) -> Result:
        job, action = self._job_of(run)
        if job is None:
            return Result(id=run, name=action, level="dummy", notebook=self.store.result(run))
        links = self._links
        if links is None or links.level4 is None:
            raise NoLevel4
        document = links.level4.result(job)
        return Result(id=run, name=document.name, level="level4", notebook=document.notebook)

    def create_study(self, asked: CreateStudy) -> StudyCreated:
        from opensafely_lab.desk.new_study import first_notebook, make_study
        from opensafely_lab.desk.shipped import DEMO_TEMPLATE, templates

        name = DEMO_TEMPLATE if asked.template == DEFAULT_TEMPLATE else asked.template
        if name not in templates():
            raise UsageError("There is no template of that name.", next_step="Choose another one.")
        folder = self._file(asked.folder)
        if folder.exists():
            raise UsageError("There is something of that name already.", next_step="Choose another name.")
        make_study(folder, name)
        notebook = first_notebook(folder)
        where = asked.folder if notebook is None else f"{asked.folder}/{notebook}"
        return StudyCreated(folder=asked.folder, notebook=where)

    def _job_of(self, run: str) -> tuple[str | None, str]:
        """The site's job of a run begun here (None if it has none), or of a job known by its own id."""
        with contextlib.suppress(LabError):
            record = self.store.read(run)
            return record.job, record.row.action
        return run, ""

    def _in_root(self, record: RunRecord) -> RunRecord:
        """The record with its notebook as a Contents path; "" where Lab does not serve it."""
        path = os.path.relpath(Path(record.study, record.row.notebook), self.root)
        shown = "" if path.startswith("..") else path
        return record.model_copy(update={"row": record.row.model_copy(update={"notebook": shown})})

    def _file(self, path: str) -> Path:
        """A Contents path (checked by the handlers) as a file of this computer."""
        return self.root / path

    def _open_study(self) -> Path | None:
        """The study that Lab's root is, or lies in; else the only one below it."""
        with contextlib.suppress(LabError):
            return find_study(self.root)
        below = [found.parent for found in self.root.glob(f"*/{PROJECT_FILE}")]
        return below[0] if len(below) == 1 else None

    def _notebooks(self) -> dict[str, str]:
        study = self._open_study()
        found: dict[str, str] = {}
        if study is not None:
            with contextlib.suppress(LabError, OSError, ValueError):
                for action in read_project(study).actions.values():
                    if action.is_notebook:
                        found[action.name] = os.path.relpath(study / action.notebook, self.root)
        return {name: path for name, path in found.items() if not path.startswith("..")}

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for changed in listeners:
            changed()

    def _watch_files(self) -> None:
        seen: object = None
        while not self._closed.wait(SECONDS_BETWEEN_FILES):
            if not self._listeners:
                continue
            now = self.store.fingerprint()
            if now != seen:
                seen = now
                self._tell()

    def _follow_services(self) -> None:
        """Ask, tell, and ask again: the site answers when there is news, so there is no hurry in between."""
        patience = TRIES_FOR_RESULT
        while not self._closed.is_set():
            unread = any(job.code is JobCode.SUCCEEDED and job.id not in self._news.level4 for job in self._news.jobs)
            patience = patience - 1 if unread else TRIES_FOR_RESULT
            news = self._ask_services(SECONDS_FOR_RESULT if unread and patience > 0 else SECONDS_FOR_NEWS)
            if news != self._news:
                self._news = news
                self._tell()
            if news.me is None or not self._listeners:
                self._asked.wait(SECONDS_WITHOUT_SITE if self._listeners else SECONDS_UNWATCHED)
                self._asked.clear()

    def _ask_services(self, wait: float) -> News:
        """One round of questions. What does not answer is left as unknown; nothing is raised."""
        before = self._news
        try:
            if self._links is None:
                self._links = self.connect()
            links = self._links
            me = links.site.me()
            seen = max((job.updated_at for job in before.jobs), default=LONG_AGO)
            known = before.me is not None and bool(self._listeners)
            jobs = links.site.jobs(links.run.workspace, seen=seen, wait=wait if known else 0.0)
        except LabError:
            self._links = None  # `up` may have begun anew, at another address
            return News(jobs=before.jobs, level4=before.level4)
        level4, answers = before.level4, False
        if links.level4 is not None:
            with contextlib.suppress(LabError):
                level4 = {job.id: job for job in links.level4.jobs()}
                answers = True
        return News(me=me, jobs=tuple(jobs), level4=level4, level4_answers=answers)

    def _test_sandbox(self) -> None:
        self._sandbox = self.sandbox()
